//! An OpenAI-compatible server inside the process, for a first run without
//! key or network.
//!
//! `--demo` sends the real client here, so chunks, streaming, order, cache and
//! progress are the real ones; only the replies come from a plain extractive
//! summariser in place of a language model. Whatever it cannot do it refuses
//! as an API error, so that nothing false is passed off as an answer.
//!
//! `server` speaks HTTP; `request`, `reply` and `refusal` know the JSON of both
//! APIs; `prompt` reads what is wanted, `passage` takes a text apart, and
//! `summary` chooses from it.

mod passage;
mod prompt;
mod refusal;
mod reply;
mod request;
mod server;
mod summary;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::Ipv4Addr;
use std::process;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::demo::prompt::Task;
pub use crate::demo::server::Pace;
use crate::demo::server::{Service, serve};

/// Whether the demo can do what a prompt asks.
#[must_use]
pub fn understands(prompt: &str) -> bool {
    Task::from_prompt(prompt).is_some()
}

/// A running demo server; dropping it closes the port and every connection.
pub struct DemoServer {
    base_url: String,
    key: String,
    task: JoinHandle<()>,
}

impl DemoServer {
    /// Where the API is: `http://127.0.0.1:PORT/v1`.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The bearer key of this run; without it the server answers 401.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// Leaves the key out, as every output of the program does.
impl fmt::Debug for DemoServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DemoServer")
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}

impl Drop for DemoServer {
    fn drop(&mut self) {
        // The task owns the listener and all connections; they end with it.
        self.task.abort();
    }
}

/// Starts the server on a free port of the loopback interface, on the runtime
/// of the caller.
///
/// `framing` is what the caller puts before the user's prompt in the system
/// message. It is taken off before the prompt is read: words of the framing are
/// not the user's wishes.
///
/// # Errors
/// The system refused the socket.
pub async fn start(framing: &str, pace: Pace) -> io::Result<DemoServer> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    let key = made_up_key();
    let service = Arc::new(Service::new(framing, &key, pace));
    Ok(DemoServer {
        base_url: format!("http://{}:{port}/v1", Ipv4Addr::LOCALHOST),
        key,
        task: tokio::spawn(serve(listener, service)),
    })
}

/// A key that other users of the machine cannot guess: loopback is open to all
/// of them. `RandomState` is keyed by the system's random source.
fn made_up_key() -> String {
    let random = RandomState::new();
    let seed = (process::id(), SystemTime::now());
    let high = random.hash_one((seed, "high"));
    let low = random.hash_one((seed, "low"));
    format!("demo-{high:016x}{low:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::{Duration, Instant};

    const FRAMING: &str = "You summarize nothing; you are a filter.";
    const TEXT: &str = "Bread needs flour, water and time. The flour gives bread its taste. \
                        My neighbour has a dog. Time gives bread its crumb and its crust. \
                        The dog is brown. Some people add seeds to it. He barks.";

    async fn server() -> DemoServer {
        start(FRAMING, Pace::none()).await.expect("a port")
    }

    fn address(server: &DemoServer) -> String {
        let url = server.base_url();
        let url = url.strip_prefix("http://").expect("plain HTTP");
        url.strip_suffix("/v1").expect("a version").to_owned()
    }

    /// Sends a request as it is and gives status, head and body.
    async fn raw(server: &DemoServer, request: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(address(server))
            .await
            .expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head[9..12].parse().expect("a status");
        let is_chunked = head.contains("transfer-encoding: chunked");
        let body = if is_chunked {
            dechunked(body)
        } else {
            body.to_owned()
        };
        (status, head.to_owned(), body)
    }

    fn dechunked(mut rest: &str) -> String {
        let mut body = String::new();
        while let Some((size, after)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).expect("a size");
            body.push_str(&after[..size]);
            rest = &after[size + 2..];
        }
        body
    }

    async fn call(server: &DemoServer, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: demo\r\nAuthorization: Bearer {}\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            server.key(),
            body.len(),
        );
        let (status, head, body) = raw(server, &request).await;
        if head.contains("text/event-stream") {
            let events = body.split_terminator("\n\n").map(|event| {
                let data = event.rsplit_once("data: ").expect("data").1;
                serde_json::from_str(data).unwrap_or_else(|_| json!(data))
            });
            return (status, events.collect());
        }
        (status, serde_json::from_str(&body).expect("JSON"))
    }

    fn chat(prompt: &str, text: &str) -> Value {
        json!({
            "model": "anything",
            "messages": [
                { "role": "system", "content": format!("{FRAMING}\n\n{prompt}") },
                { "role": "user", "content": "summarize: an earlier message" },
                { "role": "user", "content": text },
            ],
        })
    }

    fn responses(prompt: &str, text: &str) -> Value {
        json!({
            "model": "anything",
            "instructions": format!("{FRAMING}\n\n{prompt}"),
            "input": [{ "role": "user", "content": [{ "type": "input_text", "text": text }] }],
        })
    }

    fn with(mut body: Value, name: &str, value: Value) -> String {
        body[name] = value;
        body.to_string()
    }

    async fn post_chat(server: &DemoServer, body: &str) -> (u16, Value) {
        call(server, "POST", "/v1/chat/completions", body).await
    }

    fn joined<'a>(pieces: impl Iterator<Item = &'a Value>) -> String {
        pieces.filter_map(Value::as_str).collect()
    }

    #[tokio::test]
    async fn chat_whole() {
        let server = server().await;
        let (status, reply) = post_chat(&server, &chat("summarize", TEXT).to_string()).await;
        assert_eq!(status, 200);
        assert_eq!(reply["object"], "chat.completion");
        assert_eq!(reply["model"], "demo");
        let choice = &reply["choices"][0];
        assert_eq!(choice["finish_reason"], "stop");
        assert_eq!(choice["message"]["role"], "assistant");
        let text = choice["message"]["content"].as_str().expect("text");
        assert!(
            text.starts_with("Bread needs flour") && text.len() < TEXT.len() / 2,
            "{text}"
        );
        let usage = &reply["usage"];
        let sum = usage["prompt_tokens"]
            .as_u64()
            .zip(usage["completion_tokens"].as_u64());
        assert_eq!(
            usage["total_tokens"].as_u64(),
            sum.map(|(input, output)| input + output)
        );
    }

    #[tokio::test]
    async fn chat_streamed_is_the_same_reply() {
        let server = server().await;
        let body = chat("summarize", TEXT);
        let (_, whole) = post_chat(&server, &body.to_string()).await;
        let mut body = body;
        body["stream_options"] = json!({ "include_usage": true });
        let (status, events) = post_chat(&server, &with(body, "stream", json!(true))).await;
        assert_eq!(status, 200);
        let events = events.as_array().expect("events");
        let [first, .., finish, usage, done] = events.as_slice() else {
            panic!("too few events: {events:?}");
        };
        assert_eq!(first["object"], "chat.completion.chunk");
        assert_eq!(first["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(first["usage"], Value::Null);
        assert_eq!(finish["choices"][0]["finish_reason"], "stop");
        assert_eq!(finish["choices"][0]["delta"], json!({}));
        assert_eq!(usage["choices"], json!([]));
        assert_eq!(usage["usage"], whole["usage"]);
        assert_eq!(done, "[DONE]");
        let text = joined(
            events
                .iter()
                .map(|event| &event["choices"][0]["delta"]["content"]),
        );
        assert_eq!(text, whole["choices"][0]["message"]["content"]);
        assert!(events.len() > 9, "one piece is no stream");
    }

    #[tokio::test]
    async fn chat_streamed_gives_usage_only_when_asked() {
        let server = server().await;
        let body = with(chat("echo", "One two."), "stream", json!(true));
        let (_, events) = post_chat(&server, &body).await;
        let events = events.as_array().expect("events");
        assert!(events.iter().all(|event| event.get("usage").is_none()));
        assert_eq!(events.len(), 5);
    }

    #[tokio::test]
    async fn responses_whole_and_streamed_are_the_same() {
        let server = server().await;
        let body = responses("总结", TEXT);
        let path = "/v1/responses";
        let (status, whole) = call(&server, "POST", path, &body.to_string()).await;
        assert_eq!(status, 200);
        assert_eq!(whole["object"], "response");
        assert_eq!(whole["status"], "completed");
        let text = whole["output"][0]["content"][0]["text"]
            .as_str()
            .expect("text");

        let body = with(body, "stream", json!(true));
        let (_, events) = call(&server, "POST", path, &body).await;
        let events = events.as_array().expect("events");
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], number);
        }
        let is_delta = |event: &&Value| event["type"] == "response.output_text.delta";
        let others = events.iter().filter(|event| !is_delta(event));
        let others: Vec<&Value> = others.map(|event| &event["type"]).collect();
        assert_eq!(
            others,
            [
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.content_part.added",
                "response.output_text.done",
                "response.content_part.done",
                "response.output_item.done",
                "response.completed",
            ],
        );
        let deltas = events.iter().filter(is_delta).map(|event| &event["delta"]);
        assert_eq!(joined(deltas), text);
        let last = &events[events.len() - 1]["response"];
        assert_eq!(last["output"][0]["content"][0]["text"], text);
        assert_eq!(last["usage"], whole["usage"]);
        assert!(last["usage"]["output_tokens"].as_u64() > Some(0));
    }

    #[tokio::test]
    async fn an_echo_is_verbatim() {
        let server = server().await;
        let odd = "  a\r\n\t汉字，👩‍👧 e\u{301} \u{0} “x”\n\n   ".repeat(9);
        let (_, reply) = post_chat(&server, &chat("echo", &odd).to_string()).await;
        assert_eq!(reply["choices"][0]["message"]["content"], odd);
        let body = with(chat("cat", &odd), "stream", json!(true));
        let (_, events) = post_chat(&server, &body).await;
        let events = events.as_array().expect("events");
        let text = joined(
            events
                .iter()
                .map(|event| &event["choices"][0]["delta"]["content"]),
        );
        assert_eq!(text, odd);
    }

    #[tokio::test]
    async fn an_output_limit_cuts_and_says_so() {
        let server = server().await;
        let body = with(chat("echo", "One two three four."), "max_tokens", json!(2));
        let (_, reply) = post_chat(&server, &body).await;
        assert_eq!(reply["choices"][0]["finish_reason"], "length");
        assert_eq!(reply["choices"][0]["message"]["content"], "One two");
        assert_eq!(reply["usage"]["completion_tokens"], 2);
        let body = with(
            responses("echo", "One two three."),
            "max_output_tokens",
            json!(1),
        );
        let (_, reply) = call(&server, "POST", "/v1/responses", &body).await;
        assert_eq!(reply["status"], "incomplete");
        assert_eq!(reply["incomplete_details"]["reason"], "max_output_tokens");
    }

    #[tokio::test]
    async fn what_it_cannot_do_is_refused() {
        let server = server().await;
        let schema = json!({ "type": "json_schema" });
        for body in [
            chat("translate to German", TEXT).to_string(),
            chat("", TEXT).to_string(),
            chat("summarize", " \n").to_string(),
            with(chat("translate", TEXT), "stream", json!(true)),
            with(chat("summarize", TEXT), "response_format", schema),
            json!({ "messages": [{ "role": "user", "content": "summarize" }] }).to_string(),
            json!({ "messages": [{ "role": "system", "content": "summarize" }] }).to_string(),
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] })
                .to_string(),
        ] {
            let (status, reply) = post_chat(&server, &body).await;
            assert_eq!(status, 400, "{body}");
            assert_eq!(reply["error"]["code"], "demo_cannot", "{body}");
            assert_eq!(reply["error"]["type"], "invalid_request_error");
            let message = reply["error"]["message"].as_str().expect("a message");
            assert!(message.contains("not a language model") && !message.contains("  "));
        }
    }

    #[tokio::test]
    async fn errors_have_the_shape_of_the_api() {
        let server = server().await;
        let good = chat("summarize", TEXT).to_string();
        for (method, path, body, expected) in [
            ("POST", "/v1/chat/completions", "{", 400),
            ("POST", "/v1/chat/completions", "{}", 400),
            ("POST", "/v1/chat/completions", r#"{"messages":[]}"#, 400),
            ("POST", "/v1/chat/completions", r#"{"messages":[{}]}"#, 400),
            ("POST", "/v1/responses", "[]", 400),
            ("POST", "/v1/embeddings", &good, 404),
            ("GET", "/", "", 404),
            ("GET", "/v1/chat/completions", "", 405),
            ("POST", "/v1/models", "", 405),
        ] {
            let (status, reply) = call(&server, method, path, body).await;
            assert_eq!(status, expected, "{method} {path} {body}");
            assert!(reply["error"]["message"].is_string());
            assert_eq!(reply["error"]["type"], "invalid_request_error");
        }
    }

    #[tokio::test]
    async fn a_body_too_large_is_refused() {
        let server = server().await;
        let head = format!(
            "POST /v1/responses HTTP/1.1\r\nHost: demo\r\nAuthorization: Bearer {}\r\n\
             Connection: close\r\n",
            server.key(),
        );
        let announced = format!("{head}Content-Length: {}\r\n\r\n", (32 << 20) + 1);
        assert_eq!(raw(&server, &announced).await.0, 413);
    }

    #[tokio::test]
    async fn the_only_model_is_listed() {
        let server = server().await;
        let (status, models) = call(&server, "GET", "/v1/models", "").await;
        assert_eq!((status, &models["data"][0]["id"]), (200, &json!("demo")));
        assert_eq!(models["object"], "list");
    }

    #[tokio::test]
    async fn without_the_key_nothing_is_answered() {
        let server = server().await;
        let other = start(FRAMING, Pace::none()).await.expect("a port");
        assert_ne!(server.key(), other.key());
        for header in [
            String::new(),
            "Authorization: Bearer\r\n".to_owned(),
            "Authorization: Bearer \r\n".to_owned(),
            format!("Authorization: Bearer {}\r\n", other.key()),
            format!("Authorization: Bearer {}x\r\n", server.key()),
            format!("Authorization: {}\r\n", server.key()),
        ] {
            for path in ["/v1/models", "/v1/nothing"] {
                let request =
                    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n");
                let (status, _, body) = raw(&server, &request).await;
                assert_eq!(status, 401);
                let body: Value = serde_json::from_str(&body).expect("JSON");
                assert_eq!(body["error"]["code"], "invalid_api_key");
            }
        }
        assert!(!format!("{server:?}").contains(server.key()));
    }

    #[tokio::test]
    async fn dropping_it_closes_port_and_connections() {
        let server = server().await;
        let address = address(&server);
        let mut open = TcpStream::connect(&address).await.expect("a connection");
        // An answer proves that the connection was accepted.
        open.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .expect("written");
        let mut bytes = [0; 1024];
        assert!(open.read(&mut bytes).await.expect("an answer") > 0);
        drop(server);
        while !matches!(open.read(&mut bytes).await, Ok(0) | Err(_)) {}
        assert!(TcpStream::connect(&address).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_is_believable_and_the_same_each_time() {
        let server = start(FRAMING, Pace::believable()).await.expect("a port");
        let mut times = Vec::new();
        for stream in [true, true, false] {
            let body = with(chat("echo", &"word ".repeat(101)), "stream", json!(stream));
            let begun = Instant::now();
            assert_eq!(post_chat(&server, &body).await.0, 200);
            times.push(begun.elapsed());
        }
        for time in &times {
            // The first piece after 150 to 300 ms, then a hundred at 12 to 20 ms.
            assert!(*time > Duration::from_millis(1350), "{times:?}");
            assert!(*time < Duration::from_millis(2500), "{times:?}");
        }
        assert_eq!(times[0], times[1]);
    }
}
