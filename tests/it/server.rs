//! A scripted OpenAI-compatible server on 127.0.0.1, on plain sockets, so that it can do what real
//! servers do wrong.
//!
//! A script is a function from a [`Request`] to an [`Answer`]. The server counts, remembers and can
//! be waited for; a script that panics fails its test when the server is dropped.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};

use crate::harness::HANGS;

/// What the program asked.
#[derive(Debug)]
pub(crate) struct Request {
    /// Its place in the order of arrival, from 0.
    pub(crate) ordinal: usize,
    /// When it had come.
    pub(crate) arrived: Instant,
    /// Its connection, from 0, and its place there, from 0.
    pub(crate) connection: usize,
    pub(crate) ordinal_there: usize,
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names are in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// A string where it is no JSON.
    pub(crate) body: Value,
    /// The last message of the user: the chunk.
    pub(crate) text: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    /// Bytes of all messages; what they make in tokens is never more.
    fn bytes(&self) -> usize {
        let content = |message: &Value| message["content"].as_str().map_or(0, str::len);
        let messages = self.body["messages"]
            .as_array()
            .or(self.body["input"].as_array());
        let instructions = self.body["instructions"].as_str().map_or(0, str::len);
        instructions + messages.into_iter().flatten().map(content).sum::<usize>()
    }

    fn is_chat(&self) -> bool {
        !self.path.ends_with("/responses")
    }

    /// A stream that has begun.
    pub(crate) fn stream(&self) -> Answer {
        let mut answer = Answer::new(self.is_chat());
        answer.is_chunked = true;
        answer.head(
            "200 OK",
            "Content-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n",
        );
        answer.wants_usage = self.body["stream_options"]["include_usage"] == true;
        answer.prompt_tokens = self.bytes();
        answer
    }

    /// A whole reply in these pieces.
    pub(crate) fn reply<'a>(&self, pieces: impl IntoIterator<Item = &'a str>) -> Answer {
        let mut answer = self.stream();
        for piece in pieces {
            answer = answer.delta(piece);
        }
        answer.finish("stop")
    }

    /// The chunk, said again: in a few pieces, sent at once.
    pub(crate) fn echo(&self) -> Answer {
        let middle = (0..=self.text.len() / 2)
            .rev()
            .find(|at| self.text.is_char_boundary(*at));
        let (first, second) = self.text.split_at(middle.unwrap_or(0));
        let mut answer = self.reply([first, second]);
        answer.gather();
        answer
    }
}

/// Opened by the test; whoever waits at it goes on.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

enum Step {
    Bytes(Vec<u8>),
    Pause(Duration),
    Wait(Gate),
    /// Nothing more comes until the client leaves.
    Stall,
    Reset,
    Close,
}

/// What the server does about a request.
pub(crate) struct Answer {
    steps: Vec<Step>,
    is_chat: bool,
    is_chunked: bool,
    wants_usage: bool,
    prompt_tokens: usize,
    line_end: &'static str,
    text: String,
}

impl Answer {
    fn new(is_chat: bool) -> Self {
        Self {
            steps: Vec::new(),
            is_chat,
            is_chunked: false,
            wants_usage: false,
            prompt_tokens: 0,
            line_end: "\n",
            text: String::new(),
        }
    }

    /// Not one byte yet.
    pub(crate) fn nothing() -> Self {
        Self::new(true)
    }

    /// One document.
    pub(crate) fn plain(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut answer = Self::new(true);
        answer.head(
            status,
            &format!("{headers}Content-Length: {}\r\n", body.len()),
        );
        answer.steps.push(Step::Bytes(body.to_vec()));
        answer.gather();
        answer
    }

    /// One JSON document.
    pub(crate) fn json(status: &str, body: &Value) -> Self {
        Self::plain(
            status,
            "Content-Type: application/json\r\n",
            body.to_string(),
        )
    }

    /// An error as `OpenAI` words it.
    pub(crate) fn error(status: &str, code: &str, message: &str) -> Self {
        let error =
            json!({"error": {"message": message, "type": code, "param": null, "code": code}});
        Self::json(status, &error)
    }

    /// These bytes as they are, and then the connection's end.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        let mut answer = Self::new(true);
        answer.steps.push(Step::Bytes(bytes.into()));
        answer.close()
    }

    fn head(&mut self, status: &str, headers: &str) {
        self.steps.push(Step::Bytes(
            format!("HTTP/1.1 {status}\r\n{headers}\r\n").into_bytes(),
        ));
    }

    fn gather(&mut self) {
        let mut all = Vec::new();
        for step in std::mem::take(&mut self.steps) {
            if let Step::Bytes(bytes) = step {
                all.extend(bytes);
            }
        }
        self.steps.push(Step::Bytes(all));
    }

    /// Further headers of an answer that was put together already.
    pub(crate) fn headers(mut self, headers: &str) -> Self {
        if let Some(Step::Bytes(bytes)) = self.steps.first_mut() {
            let line = bytes.windows(2).position(|two| two == b"\r\n").unwrap() + 2;
            bytes.splice(line..line, headers.bytes());
        }
        self
    }

    /// What the server says of the prompt's tokens.
    pub(crate) fn counted(mut self, prompt_tokens: usize) -> Self {
        self.prompt_tokens = prompt_tokens;
        self
    }

    /// Everything that is sent.
    pub(crate) fn bytes(mut self) -> Vec<u8> {
        self.gather();
        match self.steps.pop() {
            Some(Step::Bytes(bytes)) => bytes,
            _ => Vec::new(),
        }
    }

    /// Only so many bytes of it, sent at once.
    pub(crate) fn cut(self, length: usize) -> Self {
        let mut answer = Self::new(self.is_chat);
        let mut bytes = self.bytes();
        bytes.truncate(length);
        answer.steps.push(Step::Bytes(bytes));
        answer
    }

    /// A piece of a body, framed as it has to be.
    pub(crate) fn body(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.steps.push(Step::Bytes(if self.is_chunked {
            [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
        } else {
            bytes.to_vec()
        }));
        self
    }

    /// Ends every line of the events that follow.
    pub(crate) fn line_end(mut self, line_end: &'static str) -> Self {
        self.line_end = line_end;
        self
    }

    /// One event with this data.
    pub(crate) fn event(self, data: &str) -> Self {
        let event = self.event_bytes(data);
        self.body(event)
    }

    fn event_bytes(&self, data: &str) -> Vec<u8> {
        format!("data: {data}{0}{0}", self.line_end).into_bytes()
    }

    /// A piece of the reply.
    pub(crate) fn delta(mut self, text: &str) -> Self {
        self.text.push_str(text);
        let data = if self.is_chat {
            json!({
                "id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "test",
                "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}],
            })
        } else {
            json!({"type": "response.output_text.delta", "item_id": "1", "output_index": 0, "delta": text})
        };
        self.event(&data.to_string())
    }

    /// The reason of the end, and everything that follows it.
    pub(crate) fn finish(self, reason: &str) -> Self {
        let mut events: Vec<String> = Vec::new();
        if self.is_chat {
            events.push(
                json!({
                    "id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "test",
                    "choices": [{"index": 0, "delta": {}, "finish_reason": reason}],
                })
                .to_string(),
            );
            if self.wants_usage {
                let prompt = self.prompt_tokens;
                let usage = json!({
                    "prompt_tokens": prompt, "completion_tokens": 5, "total_tokens": prompt + 5,
                });
                let event =
                    json!({"id": "chatcmpl-1", "model": "test", "choices": [], "usage": usage});
                events.push(event.to_string());
            }
            events.push("[DONE]".to_owned());
        } else {
            let (status, details) = match reason {
                "stop" => ("completed", Value::Null),
                "length" => ("incomplete", json!({"reason": "max_output_tokens"})),
                reason => ("incomplete", json!({"reason": reason})),
            };
            let content = json!([{"type": "output_text", "text": self.text}]);
            let response = json!({
                "id": "resp_1", "object": "response", "model": "test", "status": status,
                "incomplete_details": details,
                "output": [{"type": "message", "role": "assistant", "content": content}],
                "usage": {
                    "input_tokens": self.prompt_tokens, "output_tokens": 5,
                    "total_tokens": self.prompt_tokens + 5,
                },
            });
            let event = json!({"type": format!("response.{status}"), "response": response});
            events.push(event.to_string());
        }
        let bytes: Vec<u8> = events
            .iter()
            .flat_map(|data| self.event_bytes(data))
            .collect();
        let mut answer = self.body(bytes);
        // In one piece: once the client has it, the request is over for both.
        let Some(Step::Bytes(last)) = answer.steps.last_mut() else {
            unreachable!()
        };
        last.extend(b"0\r\n\r\n");
        answer
    }

    /// The body's proper end.
    pub(crate) fn end(mut self) -> Self {
        self.steps.push(Step::Bytes(b"0\r\n\r\n".to_vec()));
        self
    }

    pub(crate) fn pause(mut self, duration: Duration) -> Self {
        self.steps.push(Step::Pause(duration));
        self
    }

    pub(crate) fn wait(mut self, gate: &Gate) -> Self {
        self.steps.push(Step::Wait(gate.clone()));
        self
    }

    /// Waits at the gate before anything else.
    pub(crate) fn behind(mut self, gate: &Gate) -> Self {
        self.steps.insert(0, Step::Wait(gate.clone()));
        self
    }

    /// Pauses before anything else.
    pub(crate) fn after(mut self, duration: Duration) -> Self {
        self.steps.insert(0, Step::Pause(duration));
        self
    }

    pub(crate) fn stall(mut self) -> Self {
        self.steps.push(Step::Stall);
        self
    }

    /// The connection breaks (RST).
    pub(crate) fn reset(mut self) -> Self {
        self.steps.push(Step::Reset);
        self
    }

    /// The connection ends (FIN), announced or not.
    pub(crate) fn close(mut self) -> Self {
        self.steps.push(Step::Close);
        self
    }
}

/// What the server has seen.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) requests: Vec<Arc<Request>>,
    /// Requests that came, also those that were not kept.
    pub(crate) calls: usize,
    pub(crate) in_flight: usize,
    pub(crate) most_in_flight: usize,
    /// Requests that the client left before their answers were sent.
    pub(crate) aborted: usize,
    pub(crate) connections: usize,
}

type Script = Box<dyn Fn(&Request) -> Answer + Send + Sync>;

struct Shared {
    script: Script,
    keeps_requests: bool,
    log: Mutex<Log>,
    changed: Condvar,
    is_over: AtomicBool,
    open: Mutex<Vec<Weak<TcpStream>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The server; it ends when it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::launch(Box::new(script), true)
    }

    /// Repeats every chunk.
    pub(crate) fn echo() -> Self {
        Self::start(Request::echo)
    }

    /// As [`Server::start`], but forgets the requests, for runs with much text.
    pub(crate) fn forgetful(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::launch(Box::new(script), false)
    }

    fn launch(script: Script, keeps_requests: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::on(listener, script, keeps_requests)
    }

    fn on(listener: TcpListener, script: Script, keeps_requests: bool) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script,
            keeps_requests,
            log: Mutex::default(),
            changed: Condvar::new(),
            is_over: AtomicBool::new(false),
            open: Mutex::default(),
            threads: Mutex::default(),
        });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// The base URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn calls(&self) -> usize {
        self.log(|log| log.calls)
    }

    pub(crate) fn requests(&self) -> Vec<Arc<Request>> {
        self.log(|log| log.requests.clone())
    }

    /// The only request that came.
    #[track_caller]
    pub(crate) fn only_request(&self) -> Arc<Request> {
        let requests = self.requests();
        assert_eq!(
            requests.len(),
            1,
            "the server must be asked once: {requests:?}"
        );
        Arc::clone(&requests[0])
    }

    pub(crate) fn log<T>(&self, read: impl FnOnce(&Log) -> T) -> T {
        read(&self.shared.log.lock().unwrap())
    }

    /// Waits until the server has seen what is waited for.
    #[track_caller]
    pub(crate) fn wait(&self, has_seen: impl Fn(&Log) -> bool) {
        let end = Instant::now() + HANGS;
        let mut log = self.shared.log.lock().unwrap();
        while !has_seen(&log) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "the server never saw what was waited for: {} calls, {} in flight, {} aborted",
                log.calls,
                log.in_flight,
                log.aborted
            );
            log = self.shared.changed.wait_timeout(log, left).unwrap().0;
        }
    }

    /// Waits until no more requests come. That can end too soon, so use it only before a check
    /// that something has *not* happened.
    pub(crate) fn settle(&self) {
        let mut log = self.shared.log.lock().unwrap();
        loop {
            let (calls, timeout);
            (calls, (log, timeout)) = (
                log.calls,
                self.shared
                    .changed
                    .wait_timeout(log, Duration::from_millis(300))
                    .unwrap(),
            );
            if timeout.timed_out() && log.calls == calls {
                return;
            }
        }
    }
}

/// A port of the test's own where nobody listens yet: connections to it are refused.
pub(crate) struct Closed(Socket);

impl Closed {
    pub(crate) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).unwrap();
        Self(socket)
    }

    /// The base URL of the server that may come.
    pub(crate) fn url(&self) -> String {
        let address = self.0.local_addr().unwrap().as_socket().unwrap();
        format!("http://{address}/v1")
    }

    /// Opens: from now on requests are answered.
    pub(crate) fn open(
        self,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Server {
        self.0.listen(128).unwrap();
        Server::on(self.0.into(), Box::new(script), true)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        let mut is_right = self.acceptor.take().unwrap().join().is_ok();
        for stream in self
            .shared
            .open
            .lock()
            .unwrap()
            .iter()
            .filter_map(Weak::upgrade)
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let threads = std::mem::take(&mut *self.shared.threads.lock().unwrap());
        for thread in threads {
            is_right &= thread.join().is_ok();
        }
        assert!(
            is_right || thread::panicking(),
            "the server's script panicked"
        );
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connection = 0;
    while let Ok((stream, _)) = listener.accept() {
        if shared.is_over.load(Ordering::SeqCst) {
            return;
        }
        let stream = Arc::new(stream);
        shared.open.lock().unwrap().push(Arc::downgrade(&stream));
        shared.log.lock().unwrap().connections += 1;
        let thread = thread::spawn({
            let shared = Arc::clone(shared);
            // An error here is a client that left; the log tells of it.
            move || drop(serve(&stream, connection, &shared))
        });
        shared.threads.lock().unwrap().push(thread);
        connection += 1;
    }
}

/// Holds a request's place among those in flight.
struct InFlight<'a> {
    shared: &'a Shared,
    is_counted: bool,
}

impl InFlight<'_> {
    fn end(&mut self, is_aborted: bool) {
        if std::mem::take(&mut self.is_counted) {
            let mut log = self.shared.log.lock().unwrap();
            log.in_flight -= 1;
            log.aborted += usize::from(is_aborted);
            self.shared.changed.notify_all();
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.end(true);
    }
}

fn serve(stream: &Arc<TcpStream>, connection: usize, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(&**stream);
    let mut ordinal_there = 0;
    while let Some(mut request) = read(&mut reader)? {
        request.connection = connection;
        request.ordinal_there = ordinal_there;
        ordinal_there += 1;
        let request = {
            let mut log = shared.log.lock().unwrap();
            request.ordinal = log.calls;
            log.calls += 1;
            log.in_flight += 1;
            log.most_in_flight = log.most_in_flight.max(log.in_flight);
            let request = Arc::new(request);
            if shared.keeps_requests {
                log.requests.push(Arc::clone(&request));
            }
            shared.changed.notify_all();
            request
        };
        let mut in_flight = InFlight {
            shared,
            is_counted: true,
        };
        let answer = (shared.script)(&request);
        if !perform(answer, stream, &mut in_flight)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Does the steps; tells whether the connection lives on.
fn perform(
    answer: Answer,
    socket: &Arc<TcpStream>,
    in_flight: &mut InFlight<'_>,
) -> io::Result<bool> {
    let mut stream = &**socket;
    let is_bytes = |step: &Step| matches!(step, Step::Bytes(_));
    let last = answer.steps.iter().rposition(is_bytes);
    let breaks = answer
        .steps
        .iter()
        .any(|step| matches!(step, Step::Stall | Step::Reset));
    for (at, step) in answer.steps.into_iter().enumerate() {
        match step {
            Step::Bytes(bytes) => {
                // With the last bytes the client may begin another request at once.
                if Some(at) == last && !breaks {
                    in_flight.end(false);
                }
                stream.write_all(&bytes)?;
            }
            Step::Pause(duration) => thread::sleep(duration),
            Step::Wait(gate) => wait_at(&gate, socket)?,
            Step::Stall => {
                stream.read_exact(&mut [0])?;
            }
            Step::Reset => {
                in_flight.end(false);
                SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
                // Nothing is sent by this; it wakes whoever else holds the socket, and the last
                // one to let go of it breaks the connection.
                stream.shutdown(Shutdown::Read)?;
                return Ok(false);
            }
            Step::Close => {
                in_flight.end(false);
                stream.shutdown(Shutdown::Both)?;
                return Ok(false);
            }
        }
    }
    in_flight.end(false);
    Ok(true)
}

/// Waits until the gate is opened; an error when the client leaves before that.
fn wait_at(gate: &Gate, stream: &Arc<TcpStream>) -> io::Result<()> {
    if *gate.0.0.lock().unwrap() {
        return Ok(());
    }
    let has_left = Arc::new(AtomicBool::new(false));
    thread::spawn({
        let (gate, stream, has_left) = (gate.clone(), Arc::clone(stream), Arc::clone(&has_left));
        move || {
            // Bytes here are the next request: then this one is over, and nobody waits any more.
            if !matches!(stream.peek(&mut [0]), Ok(1..)) {
                let _opened = gate.0.0.lock().unwrap();
                has_left.store(true, Ordering::SeqCst);
                gate.0.1.notify_all();
            }
        }
    });
    let mut is_open = gate.0.0.lock().unwrap();
    while !*is_open {
        if has_left.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        is_open = gate.0.1.wait(is_open).unwrap();
    }
    Ok(())
}

/// Reads a request (RFC 9112, with a length, as clients send it); none at the connection's end.
fn read(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().unwrap())];
    reader.read_exact(&mut body)?;
    let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
    let body: Value = serde_json::from_slice(&body).unwrap_or_else(|_| text());
    let messages = body["messages"].as_array().or(body["input"].as_array());
    let last = messages.and_then(|messages| messages.last());
    let text = last
        .and_then(|message| message["content"].as_str())
        .unwrap_or_default()
        .to_owned();
    Ok(Some(Request {
        ordinal: 0,
        arrived: Instant::now(),
        connection: 0,
        ordinal_there: 0,
        method,
        path,
        headers,
        body,
        text,
    }))
}
