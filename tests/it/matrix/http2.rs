//! HTTP/2 over TLS: streams that are reset and connections that are told to go away.
//!
//! A stream is one request; a connection carries many, and when it is told to go away those that the
//! server had not begun are not counted by it.

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use hyper::{Request, Response};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

use crate::harness::{Folder, Gptpipe, Random, gptpipe};
use crate::matrix::{CHUNKS, PROBABILITIES, at_once, meets, text, told, undisturbed};
use crate::tls::identity;

/// What the server does wrong.
#[derive(Clone, Copy)]
enum Fault {
    /// The stream is reset before its headers.
    Unanswered(Reason),
    /// The stream is reset after its headers.
    Begun(Reason),
    /// The stream is reset in the middle of an event.
    Broken(Reason),
    /// The stream ends properly in the middle of an event.
    Short,
    /// The whole connection is told to go away, and ends.
    GoAway(Reason),
    /// The connection is told to go away once it has answered what was begun.
    Graceful,
}

/// What a run meets, chunk by chunk in turn.
struct Row {
    name: &'static str,
    faults: &'static [Fault],
    jobs: &'static str,
}

const ROWS: [Row; 6] = [
    Row {
        name: "HTTP/2, a reset before the headers",
        faults: &[
            Fault::Unanswered(Reason::REFUSED_STREAM),
            Fault::Unanswered(Reason::INTERNAL_ERROR),
        ],
        jobs: "64",
    },
    Row {
        name: "HTTP/2, a reset after the headers",
        faults: &[Fault::Begun(Reason::INTERNAL_ERROR)],
        jobs: "64",
    },
    Row {
        name: "HTTP/2, a reset in an event",
        faults: &[
            Fault::Broken(Reason::INTERNAL_ERROR),
            Fault::Broken(Reason::CANCEL),
            Fault::Broken(Reason::NO_ERROR),
        ],
        jobs: "64",
    },
    Row {
        name: "HTTP/2, a proper end in an event",
        faults: &[Fault::Short],
        jobs: "64",
    },
    Row {
        name: "HTTP/2, GOAWAY before the reply",
        faults: &[
            Fault::GoAway(Reason::INTERNAL_ERROR),
            Fault::GoAway(Reason::ENHANCE_YOUR_CALM),
        ],
        // One at a time, so that nothing else is in flight on the connection that goes.
        jobs: "1",
    },
    Row {
        name: "HTTP/2, GOAWAY after the reply",
        faults: &[Fault::Graceful],
        jobs: "8",
    },
];

impl Row {
    fn fault(&self, number: usize) -> Fault {
        self.faults[number % self.faults.len()]
    }

    /// A run in which chunks meet the faults with this probability.
    fn run(&'static self, probability: f64, seed: usize) {
        let name = self.name;
        let began = Instant::now();
        let server = Server::start(Script::new(self, probability, seed));
        // Each connection takes its time without optimization.
        let outcome = server.trusted(self.jobs).patient().run();
        outcome.ok().stdout(undisturbed());
        let asked = server.script.asked.lock().unwrap().clone();
        let mut faults = 0;
        for number in 0..CHUNKS {
            let is_harmless = matches!(self.fault(number), Fault::Graceful);
            let has_failed = meets(seed, number, probability) && !is_harmless;
            faults += usize::from(has_failed);
            let times = asked.iter().filter(|asked| **asked == number).count();
            let scene = format!("{name}, p = {probability}, seed {seed}");
            outcome.must(
                times == 1 + usize::from(has_failed),
                &format!("{scene}: chunk {number} was asked about {times} times"),
            );
        }
        told(&format!(
            "  {name}, p = {probability}: {} requests = {CHUNKS} chunks + {faults} faults in {:.1} s",
            asked.len(),
            began.elapsed().as_secs_f64()
        ));
    }
}

#[test]
fn streams_and_connections() {
    let seed = Random::new().below(1 << 31);
    let runs = ROWS
        .iter()
        .flat_map(|row| PROBABILITIES.map(|probability| (row, probability)));
    at_once(runs.map(|(row, probability)| move || row.run(probability, seed)));
}

#[test]
fn handshakes_that_break_off() {
    let mut script = Script::new(&ROWS[0], 0.0, 0);
    script.refused = 40;
    let server = Server::start(script);
    let outcome = server.trusted("16").args(["-v"]).run();
    outcome.status(0).stdout(undisturbed());
    let failed = |line: &&str| line.contains(" failed after ") && line.contains("cannot connect");
    let told = outcome.stderr.lines().filter(failed).count();
    outcome.must(told == 40, "each of the 40 is told of, and no other");
    let mut asked = server.script.asked.lock().unwrap().clone();
    asked.sort_unstable();
    outcome.must(
        asked.into_iter().eq(0..CHUNKS),
        "each chunk is asked about once",
    );
}

#[test]
fn a_certificate_that_nobody_vouches_for() {
    let server = Server::start(Script::new(&ROWS[0], 0.0, 0));
    let other = Server::start(Script::new(&ROWS[0], 0.0, 0));
    let outcome = server
        .trusted("1")
        .env("SSL_CERT_FILE", other.authority())
        .run();
    outcome
        .status(255)
        .stdout("")
        .one_message()
        .says("error: chunk 1 (bytes 0-33, line 1 of standard input) failed: no secure connection");
    assert!(server.script.asked.lock().unwrap().is_empty());
    assert_eq!(
        server.connections.load(Ordering::SeqCst),
        1,
        "it is tried once"
    );
}

/// Repeats every chunk, but for those that meet the fault.
struct Server {
    url: String,
    folder: Folder,
    script: Arc<Script>,
    connections: Arc<AtomicUsize>,
    _stop: oneshot::Sender<()>,
}

struct Script {
    row: &'static Row,
    probability: f64,
    seed: usize,
    /// So many connections end before they are secure.
    refused: usize,
    /// The chunks that were asked about, in order.
    asked: Mutex<Vec<usize>>,
    met: Mutex<HashSet<usize>>,
}

impl Script {
    fn new(row: &'static Row, probability: f64, seed: usize) -> Self {
        Self {
            row,
            probability,
            seed,
            refused: 0,
            asked: Mutex::default(),
            met: Mutex::default(),
        }
    }
}

impl Server {
    fn start(script: Script) -> Self {
        let (config, authority) = identity(&["127.0.0.1"], &["h2"]);
        let folder = Folder::new();
        folder.write("authority.pem", authority);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://{}/v1", listener.local_addr().unwrap());
        let script = Arc::new(script);
        let (stop, stopped) = oneshot::channel();
        let connections = Arc::<AtomicUsize>::default();
        thread::spawn({
            let (script, accepted) = (Arc::clone(&script), Arc::clone(&connections));
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                    let acceptor = TlsAcceptor::from(config);
                    let accept = async {
                        let mut refused = script.refused;
                        while let Ok((stream, _)) = listener.accept().await {
                            accepted.fetch_add(1, Ordering::SeqCst);
                            if refused > 0 {
                                refused -= 1;
                                continue;
                            }
                            tokio::spawn(connection(acceptor.clone(), stream, Arc::clone(&script)));
                        }
                    };
                    tokio::select! {
                        _ = stopped => {}
                        () = accept => {}
                    }
                });
            }
        });
        Self {
            url,
            folder,
            script,
            connections,
            _stop: stop,
        }
    }

    fn authority(&self) -> PathBuf {
        self.folder.path.join("authority.pem")
    }

    /// A run that trusts its authority.
    fn trusted(&self, jobs: &str) -> Gptpipe {
        gptpipe()
            .env("SSL_CERT_FILE", self.authority())
            .args(["p", "-b", "line", "-j", jobs, "--base-url", &self.url])
            .input(text())
    }
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, script: Arc<Script>) {
    // An error here is a client that left.
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let mut builder = Builder::new();
    builder.max_concurrent_streams(100);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    let (goes, mut going) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else {
                    return;
                };
                let (script, goes) = (Arc::clone(&script), goes.clone());
                tokio::spawn(async move {
                    // An error here is a stream that the client gave up.
                    let _ = answer(request, respond, &script, &goes).await;
                });
            }
            Some(reason) = going.recv() => match reason {
                Reason::NO_ERROR => connection.graceful_shutdown(),
                reason => connection.abrupt_shutdown(reason),
            }
        }
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    script: &Script,
    goes: &mpsc::UnboundedSender<Reason>,
) -> Result<(), h2::Error> {
    let mut stream = request.into_body();
    let mut body = Vec::new();
    while let Some(bytes) = stream.data().await {
        let bytes = bytes?;
        stream.flow_control().release_capacity(bytes.len())?;
        body.extend_from_slice(&bytes);
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let text = body["messages"][1]["content"].as_str().unwrap();
    let number: usize = text[..3].parse().unwrap();
    script.asked.lock().unwrap().push(number);
    let is_met =
        meets(script.seed, number, script.probability) && script.met.lock().unwrap().insert(number);
    let fault = is_met.then(|| script.row.fault(number));
    match fault {
        Some(Fault::Unanswered(reason)) => {
            respond.send_reset(reason);
            return Ok(());
        }
        Some(Fault::GoAway(reason)) => {
            let _ = goes.send(reason);
            // Its stream ends with the connection.
            let _ = std::future::poll_fn(|context| respond.poll_reset(context)).await;
            return Ok(());
        }
        _ => {}
    }
    let head = Response::builder()
        .header("content-type", "text/event-stream")
        .body(())
        .unwrap();
    let mut reply = respond.send_response(head, false)?;
    let event = |delta: Value, reason: Value| {
        let event = json!({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
        format!("data: {event}\n\n")
    };
    let delta = event(json!({"content": text}), Value::Null);
    match fault {
        Some(Fault::Begun(reason)) => {
            sent().await;
            reply.send_reset(reason);
        }
        Some(Fault::Broken(reason)) => {
            reply.send_data(Bytes::from(delta + "data: {\"choi"), false)?;
            sent().await;
            reply.send_reset(reason);
        }
        Some(Fault::Short) => {
            reply.send_data(Bytes::from(delta + "data: {\"choi"), true)?;
        }
        _ => {
            let end = event(json!({}), json!("stop"));
            reply.send_data(Bytes::from(delta + &end + "data: [DONE]\n\n"), true)?;
            if matches!(fault, Some(Fault::Graceful)) {
                let _ = goes.send(Reason::NO_ERROR);
            }
        }
    }
    Ok(())
}

/// Lets what was sent go out: a reset throws away what has not.
async fn sent() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}
