//! A provider with a Batch API on loopback, as `OpenAI`'s reference describes it: files, batches in
//! every state, answers in files of their own. What is wrong with an upload is a failed test.
//!
//! A test says how the batches go, what becomes of each line, and what goes wrong with which
//! request. The provider counts how often each chunk was submitted, in whatever way.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use crate::server::{Answer, Gate, Request, Server};

/// What becomes of a line of a batch.
#[derive(Clone, Debug)]
pub(crate) enum Line {
    /// A whole reply.
    Reply(String),
    /// One that reached its length limit.
    Cut(String),
    /// An error of the request's own.
    Error(u16, Value),
    /// It was not begun before the batch's time was over.
    Expired,
    /// Nothing is said of it.
    Silent,
}

/// What goes wrong with a request for a file or a batch.
#[derive(Clone)]
pub(crate) enum Fault {
    /// This answer, and nothing is done.
    Answer(&'static str, &'static str, &'static str),
    /// It is done, and the answer never comes.
    Lost,
    /// It is done, and the answer waits.
    Held(Gate),
    /// The answer comes.
    None,
}

pub(crate) struct File {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) is_deleted: bool,
}

pub(crate) struct Batch {
    pub(crate) id: String,
    pub(crate) input: String,
    pub(crate) metadata: Value,
    states: VecDeque<&'static str>,
    state: &'static str,
    output: Option<String>,
    error: Option<String>,
    counts: [usize; 3],
}

impl Batch {
    /// The next look finds it completed.
    pub(crate) fn finish_next(&mut self) {
        self.states = VecDeque::from(["completed"]);
    }
}

type Judge = Box<dyn Fn(&str, usize) -> Line + Send>;

pub(crate) struct State {
    /// The states that each batch goes through, one at each look.
    pub(crate) states: Vec<&'static str>,
    /// What becomes of a chunk, and of each time that it was submitted, from 1.
    pub(crate) judge: Judge,
    /// Why batches fail as a whole.
    pub(crate) errors: Value,
    pub(crate) on_upload: VecDeque<Fault>,
    pub(crate) on_create: VecDeque<Fault>,
    pub(crate) on_look: VecDeque<Fault>,
    pub(crate) files: Vec<File>,
    pub(crate) batches: Vec<Batch>,
    /// How often each chunk was submitted in a batch that was started, and how often otherwise.
    pub(crate) submitted: BTreeMap<String, usize>,
    pub(crate) asked: BTreeMap<String, usize>,
}

/// The provider; its server ends when it is dropped.
pub(crate) struct Provider {
    state: Arc<Mutex<State>>,
    pub(crate) server: Server,
}

impl Provider {
    /// Repeats every chunk; batches go through these states.
    pub(crate) fn new(states: &[&'static str]) -> Self {
        let state = Arc::new(Mutex::new(State::new(states)));
        let server = Server::start({
            let state = Arc::clone(&state);
            move |request: &Request| {
                let mut state = state.lock().unwrap();
                state.serve(request)
            }
        });
        Self { state, server }
    }

    pub(crate) fn judge(self, judge: impl Fn(&str, usize) -> Line + Send + 'static) -> Self {
        self.state().judge = Box::new(judge);
        self
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Every chunk of these was submitted once, and nothing else was asked.
    #[track_caller]
    pub(crate) fn once_each<'a>(&self, chunks: impl IntoIterator<Item = &'a str>) {
        let expected: BTreeMap<String, usize> = chunks
            .into_iter()
            .map(|chunk| (chunk.to_owned(), 1))
            .collect();
        let state = self.state();
        assert_eq!(state.submitted, expected);
        assert_eq!(state.asked, BTreeMap::new());
    }

    /// How many batches were started.
    pub(crate) fn batches(&self) -> usize {
        self.state().batches.len()
    }
}

impl State {
    /// Nothing is there yet.
    pub(crate) fn new(states: &[&'static str]) -> Self {
        Self {
            states: states.to_vec(),
            judge: Box::new(|text, _| Line::Reply(text.to_owned())),
            errors: Value::Null,
            on_upload: VecDeque::new(),
            on_create: VecDeque::new(),
            on_look: VecDeque::new(),
            files: Vec::new(),
            batches: Vec::new(),
            submitted: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    pub(crate) fn serve(&mut self, request: &Request) -> Answer {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
        match (request.method.as_str(), &parts[..]) {
            ("POST", ["chat", "completions"] | ["responses"]) => {
                *self.asked.entry(request.text.clone()).or_default() += 1;
                request.echo()
            }
            ("POST", ["files"]) => {
                let fault = self.on_upload.pop_front().unwrap_or(Fault::None);
                self.faulty(fault, |state| state.upload(request))
            }
            ("DELETE", ["files", id]) => match self.file(id) {
                Some(file) => {
                    file.is_deleted = true;
                    Answer::json(
                        "200 OK",
                        &json!({"id": id, "object": "file", "deleted": true}),
                    )
                }
                None => missing("file"),
            },
            ("GET", ["files", id, "content"]) => match self.file(id) {
                Some(file) => Answer::plain(
                    "200 OK",
                    "Content-Type: application/octet-stream\r\n",
                    &file.text,
                ),
                None => missing("file"),
            },
            ("POST", ["batches"]) => {
                let fault = self.on_create.pop_front().unwrap_or(Fault::None);
                self.faulty(fault, |state| state.create(&request.body))
            }
            ("GET", ["batches"]) => self.list(query),
            ("GET", ["batches", id]) => {
                let fault = self.on_look.pop_front().unwrap_or(Fault::None);
                self.faulty(fault, |state| state.look(id))
            }
            ("POST", ["batches", id, "cancel"]) => self.cancel(id),
            _ => missing("path"),
        }
    }

    fn faulty(&mut self, fault: Fault, act: impl FnOnce(&mut Self) -> Answer) -> Answer {
        match fault {
            Fault::None => act(self),
            Fault::Answer(status, headers, body) => Answer::plain(
                status,
                &format!("Content-Type: application/json\r\n{headers}"),
                body,
            ),
            Fault::Lost => {
                act(self);
                Answer::nothing().reset()
            }
            Fault::Held(gate) => act(self).behind(&gate),
        }
    }

    fn file(&mut self, id: &str) -> Option<&mut File> {
        self.files
            .iter_mut()
            .find(|file| file.id == id && !file.is_deleted)
    }

    /// Takes a form apart (RFC 7578) and looks at every line of its file.
    fn upload(&mut self, request: &Request) -> Answer {
        let kind = request.header("content-type").unwrap();
        let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
        let Value::String(body) = &request.body else {
            panic!("a form is no JSON")
        };
        let end = format!("\r\n--{boundary}--\r\n");
        let body = body.strip_suffix(&end).expect("the form's end");
        let between = format!("\r\n--{boundary}\r\n");
        let parts: Vec<(&str, &str)> = body
            .strip_prefix(&between[2..])
            .expect("the form's beginning")
            .split(&between)
            .map(|part| part.split_once("\r\n\r\n").unwrap())
            .collect();
        let [(purpose, batch), (head, text)] = parts[..] else {
            panic!("{} parts", parts.len())
        };
        assert!(purpose.contains("name=\"purpose\"") && batch == "batch");
        assert!(head.contains("name=\"file\""));
        let (_, name) = head.split_once("filename=\"").unwrap();
        let name = name.split('"').next().unwrap();
        let mut ids = HashSet::new();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let id = line["custom_id"].as_str().unwrap().to_owned();
            assert!(id.len() <= 64 && ids.insert(id.clone()), "{id}");
            assert_eq!(line["method"], "POST");
            let body = line["body"].as_object().unwrap();
            assert!(body["model"].is_string());
            assert!(!body.contains_key("stream") && !body.contains_key("stream_options"));
        }
        let id = format!("file-{}", self.files.len() + 1);
        self.add_file(&id, name, text.to_owned());
        Answer::json(
            "200 OK",
            &json!({"id": id, "object": "file", "bytes": text.len(), "created_at": 1,
                "filename": name, "purpose": "batch", "status": "processed"}),
        )
    }

    fn add_file(&mut self, id: &str, name: &str, text: String) {
        self.files.push(File {
            id: id.to_owned(),
            name: name.to_owned(),
            text,
            is_deleted: false,
        });
    }

    fn create(&mut self, body: &Value) -> Answer {
        assert_eq!(body["completion_window"], "24h");
        let metadata = body["metadata"].as_object().unwrap();
        assert!(metadata.values().all(Value::is_string));
        let input = body["input_file_id"].as_str().unwrap().to_owned();
        let endpoint = body["endpoint"].as_str().unwrap().to_owned();
        let Some(file) = self.file(&input) else {
            return missing("file");
        };
        let lines: Vec<Value> = file
            .text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        for line in &lines {
            assert_eq!(line["url"], endpoint.as_str());
            *self.submitted.entry(chunk(line)).or_default() += 1;
        }
        let id = format!("batch_{}", self.batches.len() + 1);
        self.batches.push(Batch {
            id: id.clone(),
            input,
            metadata: body["metadata"].clone(),
            states: self.states.iter().copied().collect(),
            state: "validating",
            output: None,
            error: None,
            counts: [lines.len(), 0, 0],
        });
        self.show(self.batches.len() - 1)
    }

    fn show(&self, at: usize) -> Answer {
        Answer::json("200 OK", &self.value(at))
    }

    fn value(&self, at: usize) -> Value {
        let batch = &self.batches[at];
        let [total, completed, failed] = batch.counts;
        let errors = match batch.state {
            "failed" => self.errors.clone(),
            _ => Value::Null,
        };
        json!({
            "id": batch.id, "object": "batch", "endpoint": "/v1/chat/completions",
            "errors": errors, "input_file_id": batch.input, "completion_window": "24h",
            "status": batch.state, "output_file_id": batch.output, "error_file_id": batch.error,
            "created_at": 4_000_000_000_u64, "in_progress_at": null, "expires_at": 4_000_086_400_u64,
            "request_counts": {"total": total, "completed": completed, "failed": failed},
            "metadata": batch.metadata,
        })
    }

    fn list(&self, query: &str) -> Answer {
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        // A page of a few, so that it takes several.
        let newest: Vec<usize> = (0..self.batches.len()).rev().collect();
        let from = value("after").map_or(0, |after| {
            let at = newest.iter().position(|at| self.batches[*at].id == after);
            at.expect("a batch of the page before") + 1
        });
        let page: Vec<Value> = newest[from..]
            .iter()
            .take(2)
            .map(|at| self.value(*at))
            .collect();
        let has_more = newest.len() > from + page.len();
        let end = |value: Option<&Value>| value.map_or(Value::Null, |batch| batch["id"].clone());
        Answer::json(
            "200 OK",
            &json!({"object": "list", "first_id": end(page.first()), "last_id": end(page.last()),
                "has_more": has_more, "data": page}),
        )
    }

    fn look(&mut self, id: &str) -> Answer {
        let Some(at) = self.batches.iter().position(|batch| batch.id == id) else {
            return missing("batch");
        };
        let batch = &mut self.batches[at];
        let next = if batch.state == "cancelling" {
            Some("cancelled")
        } else if matches!(
            batch.state,
            "cancelled" | "completed" | "expired" | "failed"
        ) {
            None
        } else {
            batch.states.pop_front()
        };
        if let Some(state) = next {
            batch.state = state;
            if matches!(state, "completed" | "expired" | "cancelled") {
                self.finish(at);
            }
        }
        self.show(at)
    }

    /// Writes the files of a batch that is over, in an order of their own.
    fn finish(&mut self, at: usize) {
        let (input, state) = (self.batches[at].input.clone(), self.batches[at].state);
        let text = self
            .file(&input)
            .map_or(String::new(), |file| file.text.clone());
        let (mut outputs, mut errors) = (String::new(), String::new());
        for (number, line) in text.lines().rev().enumerate() {
            let line: Value = serde_json::from_str(line).unwrap();
            let text = chunk(&line);
            let times = self.submitted[&text];
            // What was cancelled had answered every second.
            let fate = if state == "cancelled" && number % 2 == 0 {
                Line::Silent
            } else {
                (self.judge)(&text, times)
            };
            let name = line["custom_id"].as_str().unwrap();
            let id = format!("batch_req_{number}");
            let whole = |text: &str, reason: &str| {
                let body = reply(&line, text, reason);
                json!({"id": id, "custom_id": name, "error": null,
                    "response": {"status_code": 200, "request_id": "req_1", "body": body}})
            };
            let (out, value) = match fate {
                Line::Silent => continue,
                Line::Reply(text) => (&mut outputs, whole(&text, "stop")),
                Line::Cut(text) => (&mut outputs, whole(&text, "length")),
                Line::Error(status, body) => (
                    &mut errors,
                    json!({"id": id, "custom_id": name, "error": null,
                        "response": {"status_code": status, "request_id": "req_2", "body": body}}),
                ),
                Line::Expired => (
                    &mut errors,
                    json!({"id": id, "custom_id": name, "response": null, "error": {
                        "code": "batch_expired",
                        "message": "This request could not be executed before the completion window expired."}}),
                ),
            };
            let _ = writeln!(out, "{value}");
        }
        let counts = [outputs.lines().count(), errors.lines().count()];
        let number = self.files.len();
        let mut add = |text: String, name: &str| {
            (!text.is_empty()).then(|| {
                let id = format!("file-{name}-{number}-{at}");
                self.add_file(&id, name, text);
                id
            })
        };
        let (output, error) = (add(outputs, "output"), add(errors, "errors"));
        let batch = &mut self.batches[at];
        (batch.output, batch.error) = (output, error);
        batch.counts = [batch.counts[0], counts[0], counts[1]];
    }

    fn cancel(&mut self, id: &str) -> Answer {
        let Some(at) = self.batches.iter().position(|batch| batch.id == id) else {
            return missing("batch");
        };
        let batch = &mut self.batches[at];
        if matches!(
            batch.state,
            "completed" | "expired" | "failed" | "cancelled"
        ) {
            let message = format!("Cannot cancel a batch with status '{}'.", batch.state);
            return Answer::error("409 Conflict", "invalid_request_error", &message);
        }
        batch.state = "cancelling";
        self.show(at)
    }
}

/// The chunk of a line: its last message.
fn chunk(line: &Value) -> String {
    let body = &line["body"];
    let messages = body["messages"].as_array().or(body["input"].as_array());
    let last = messages.unwrap().last().unwrap();
    last["content"].as_str().unwrap().to_owned()
}

fn reply(line: &Value, text: &str, reason: &str) -> Value {
    let usage = line.to_string().len();
    if line["url"] == "/v1/responses" {
        let status = if reason == "stop" {
            "completed"
        } else {
            "incomplete"
        };
        let content = json!([{"type": "output_text", "text": text, "annotations": []}]);
        return json!({"id": "resp_1", "object": "response", "status": status, "model": "test",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [{"type": "message", "role": "assistant", "content": content}],
            "usage": {"input_tokens": usage, "output_tokens": 3, "total_tokens": usage + 3}});
    }
    json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "test",
        "choices": [{"index": 0, "finish_reason": reason, "logprobs": null,
            "message": {"role": "assistant", "content": text, "refusal": null}}],
        "usage": {"prompt_tokens": usage, "completion_tokens": 3, "total_tokens": usage + 3}})
}

fn missing(what: &str) -> Answer {
    Answer::error(
        "404 Not Found",
        "invalid_request_error",
        &format!("No such {what}"),
    )
}
