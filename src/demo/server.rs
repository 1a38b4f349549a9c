//! HTTP on loopback: routes, the key, the size limit and the pace.
//!
//! Everything that is wrong with a request is answered before a stream begins,
//! as a real server does, so a stream that began always ends whole. Reading the
//! body and choosing the reply run on the blocking pool, because the runtime
//! has one thread and the client lives on it too. A stream is made as it is
//! read: a reader that leaves or waits costs nothing.

use std::collections::hash_map::DefaultHasher;
use std::convert::Infallible;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Sleep, sleep};

use crate::demo::prompt::Task;
use crate::demo::refusal::Refusal;
use crate::demo::reply::{self, Part, Reply};
use crate::demo::request::{Api, Conversation};
use crate::demo::summary::summarize;

/// The largest request body, far above any chunk.
const MAX_BODY: usize = 32 << 20;

/// How fast the server speaks.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The shortest wait before the first piece of a reply.
    pub first: Duration,
    /// The mean wait before each further piece, which is a word or two
    /// Chinese characters.
    pub per_piece: Duration,
}

impl Pace {
    /// As fast as a hosted model: a first piece after 150 to 300 ms, then about
    /// 60 pieces a second.
    #[must_use]
    pub fn believable() -> Self {
        Self {
            first: Duration::from_millis(150),
            per_piece: Duration::from_millis(16),
        }
    }

    /// Without any wait, for tests.
    #[must_use]
    pub fn none() -> Self {
        Self {
            first: Duration::ZERO,
            per_piece: Duration::ZERO,
        }
    }
}

/// The waits of one reply. They vary a little, as real ones do, but by the
/// content alone, so that the same run takes the same time again.
struct Rhythm {
    pace: Pace,
    state: u64,
    input_bytes: usize,
}

impl Rhythm {
    /// The wait before `part`.
    fn wait(&mut self, part: Part) -> Duration {
        match part {
            Part::Envelope => Duration::ZERO,
            Part::First => {
                // Half of the spread is chance, half grows with the input.
                let grown = self.input_bytes.min(16 << 10) * 500 / (16 << 10);
                let grown = u32::try_from(grown).unwrap_or(500);
                self.pace.first * (1000 + self.chance(500) + grown) / 1000
            }
            Part::Next => self.pace.per_piece * (750 + self.chance(500)) / 1000,
        }
    }

    /// A number below `bound`: the next of a `SplitMix64` sequence.
    fn chance(&mut self, bound: u32) -> u32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((mixed ^ (mixed >> 31)) % u64::from(bound)).unwrap_or(0)
    }
}

/// What all connections share.
pub(super) struct Service {
    framing: String,
    key: String,
    pace: Pace,
    /// Replies so far; keeps the ids of identical requests apart.
    replies: AtomicU64,
}

impl Service {
    pub(super) fn new(framing: &str, key: &str, pace: Pace) -> Self {
        Self {
            framing: framing.trim().to_owned(),
            key: key.to_owned(),
            pace,
            replies: AtomicU64::new(0),
        }
    }

    /// Whether the request carries the key of this run.
    fn is_authorized(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes) else {
            return false;
        };
        let Some((scheme, key)) = value.split_at_checked("Bearer ".len()) else {
            return false;
        };
        // Looks at every byte, whatever the first difference is, so that the
        // time tells nothing.
        let differing = key
            .iter()
            .zip(self.key.as_bytes())
            .fold(0, |seen, (given, own)| seen | (given ^ own));
        scheme.eq_ignore_ascii_case(b"Bearer ") && key.len() == self.key.len() && differing == 0
    }

    async fn respond(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Refusal> {
        if !self.is_authorized(request.headers()) {
            return Err(Refusal::unauthorized());
        }
        let (api, allowed) = match request.uri().path() {
            "/v1/chat/completions" => (Some(Api::Chat), "POST"),
            "/v1/responses" => (Some(Api::Responses), "POST"),
            "/v1/models" => (None, "GET"),
            path => return Err(Refusal::unknown_path(request.method(), path)),
        };
        if request.method().as_str() != allowed {
            return Err(Refusal::wrong_method(request.method(), allowed));
        }
        let Some(api) = api else {
            return Ok(json_answer(StatusCode::OK, &reply::models()));
        };
        let body = read_body(request).await?;
        let service = Arc::clone(&self);
        let (reply, rhythm, stream) = spawn_blocking(move || service.reply(api, &body))
            .await
            .map_err(|_| Refusal::internal())??;
        Ok(if stream {
            event_answer(reply, rhythm)
        } else {
            whole_answer(&reply, rhythm).await
        })
    }

    /// Reads one request and makes its reply. Slow for large bodies.
    fn reply(&self, api: Api, body: &[u8]) -> Result<(Reply, Rhythm, bool), Refusal> {
        let body: Value =
            serde_json::from_slice(body).map_err(|error| Refusal::bad_json(&error))?;
        let conversation = Conversation::read(api, &body)?;
        let text = self.answer(&conversation).ok_or_else(Refusal::cannot)?;
        let mut hasher = DefaultHasher::new();
        (&conversation.system, &conversation.user).hash(&mut hasher);
        let rhythm = Rhythm {
            pace: self.pace,
            state: hasher.finish(),
            input_bytes: conversation.user.len(),
        };
        let number = self.replies.fetch_add(1, Ordering::Relaxed);
        let stream = conversation.stream;
        let reply = Reply::new(&conversation, text, rhythm.state ^ number);
        Ok((reply, rhythm, stream))
    }

    /// The reply to a conversation, or nothing if it takes a language model.
    fn answer(&self, conversation: &Conversation) -> Option<String> {
        // Without a prompt in the system message the last user message is the
        // prompt itself, and there is no text to work on.
        let system = conversation.system.trim();
        let prompt = system.strip_prefix(&self.framing).unwrap_or(system).trim();
        if conversation.wants_structure || conversation.user.trim().is_empty() {
            return None;
        }
        match Task::from_prompt(prompt)? {
            Task::Echo => Some(conversation.user.clone()),
            Task::Summarize(wish) => summarize(&conversation.user, &wish),
        }
    }
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, service: Arc<Service>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(converse(stream, Arc::clone(&service)));
            }
            // Out of file descriptors, most likely; one of ours will be free soon.
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Answers the requests of one connection.
async fn converse(stream: TcpStream, service: Arc<Service>) {
    // Events are small; held back they would arrive in bursts. Without the
    // option they still arrive.
    let _ = stream.set_nodelay(true);
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move {
            let answer = service.respond(request).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(|refusal| error_answer(&refusal)))
        }
    });
    // A connection that breaks is the client's to notice.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

/// The whole body, if it is not too large.
async fn read_body(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let announced = request.headers().get(CONTENT_LENGTH);
    let announced = announced
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(Refusal::too_large(MAX_BODY));
    }
    match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Refusal::too_large(MAX_BODY))
        }
        Err(_) => Err(Refusal::broken_body()),
    }
}

type Answer = Response<Either<Full<Bytes>, Events>>;

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let mut answer = Response::new(Either::Left(Full::from(body.to_string())));
    *answer.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}

fn error_answer(refusal: &Refusal) -> Answer {
    let mut answer = json_answer(refusal.status, &refusal.body());
    if let Some(allowed) = refusal.allowed {
        let allowed = HeaderValue::from_static(allowed);
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}

async fn whole_answer(reply: &Reply, mut rhythm: Rhythm) -> Answer {
    let mut wait = rhythm.wait(Part::First);
    for _ in 1..reply.pieces() {
        wait += rhythm.wait(Part::Next);
    }
    pause(wait).await;
    json_answer(StatusCode::OK, &reply.whole())
}

fn event_answer(reply: Reply, rhythm: Rhythm) -> Answer {
    let events = Events {
        parts: Box::new(reply.into_events()),
        rhythm,
        waiting: None,
    };
    let mut answer = Response::new(Either::Right(events));
    let headers = answer.headers_mut();
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}

/// Waits, but not at all for no time: a timer is at least a millisecond.
async fn pause(wait: Duration) {
    if !wait.is_zero() {
        sleep(wait).await;
    }
}

/// The body of a stream: each event after its wait.
struct Events {
    parts: Box<dyn Iterator<Item = (Part, Bytes)> + Send>,
    rhythm: Rhythm,
    waiting: Option<(Pin<Box<Sleep>>, Bytes)>,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.waiting.is_none() {
            let Some((part, event)) = self.parts.next() else {
                return Poll::Ready(None);
            };
            let wait = self.rhythm.wait(part);
            if wait.is_zero() {
                return Poll::Ready(Some(Ok(Frame::data(event))));
            }
            self.waiting = Some((Box::pin(sleep(wait)), event));
        }
        if let Some((timer, _)) = &mut self.waiting {
            ready!(timer.as_mut().poll(context));
        }
        let event = self.waiting.take().map(|(_, event)| event);
        Poll::Ready(event.map(|event| Ok(Frame::data(event))))
    }
}
