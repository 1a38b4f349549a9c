//! One request and its reply, over reqwest.
//!
//! It sends a body, reads the stream that comes back and says how it ended. Who
//! is asked, how often and how many at a time is decided elsewhere.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{RequestBuilder, Response, Url};
use tokio::time::timeout;

use crate::api::address::{endpoint, host, is_loopback};
pub use crate::api::credentials::Auth;
use crate::api::credentials::{Credentials, header_of, hide, hide_in_reply};
use crate::api::event::{Api, Decoder, End, Step};
use crate::api::failure::{Failure, Kind, Wait};
use crate::api::plain::{Body, decode_plain};
use crate::api::reply::Reply;
use crate::api::retry_after::refill;
use crate::api::sending::{Announced, OnSend};
use crate::api::silence::Watched;
use crate::api::sse;
use crate::api::{fault, http, transport};
use crate::error::Error;
use crate::secret::secret::Secret;
use crate::secret::source::Keys;

/// The first byte may take this many times as long as any other: servers queue
/// requests before they say anything.
const FIRST_BYTE_FACTOR: u32 = 5;

/// How long the end of a body is waited for after the end of its events.
const END_TIMEOUT: Duration = Duration::from_millis(10);

/// The most that is read of an answer that is no stream.
pub(super) const MAX_PLAIN: usize = 64 << 20;

/// The most that is read of an error's body.
pub(super) const MAX_ERROR: usize = 64 << 10;

/// Whom to ask, and how.
#[derive(Debug)]
pub struct ClientOptions {
    /// Address of the API, up to and with `/v1`.
    pub base_url: String,
    /// Kind of API.
    pub api: Api,
    /// What proves the end of a stream.
    pub end: End,
    /// Where the key comes from, if there is one.
    pub keys: Arc<Keys>,
    /// Whether a key may travel unencrypted to another machine.
    pub allows_http: bool,
    /// The header that carries it.
    pub auth: Auth,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// Silence after which the server is given up.
    pub timeout: Duration,
    /// Connections that are kept open.
    pub jobs: usize,
    /// The header that names a request over all its attempts, where the server takes one
    /// (draft-ietf-httpapi-idempotency-key-header).
    pub idempotency_header: Option<String>,
}

/// A request as it is sent once.
#[derive(Clone, Debug)]
pub struct Attempt<'a> {
    /// What is sent.
    pub body: Bytes,
    /// What names the request over all its attempts.
    pub idempotency_key: Option<&'a str>,
    /// Whether the connection must be one that was not used before.
    pub is_fresh: bool,
    /// Told each time that a connection takes it.
    pub on_send: Option<OnSend>,
}

/// Asks one server.
#[derive(Debug)]
pub struct Client {
    pub(super) http: reqwest::Client,
    make: Make,
    /// Keeps no connection, for what failed on one that was kept.
    fresh: OnceLock<reqwest::Client>,
    pub(super) url: Url,
    api: Api,
    end: End,
    pub(super) credentials: Credentials,
    pub(super) timeout: Duration,
    pub(super) idempotency_header: Option<HeaderName>,
}

/// What both HTTP clients are made of.
#[derive(Debug)]
struct Make {
    headers: HeaderMap,
    url: Url,
}

impl Make {
    /// A client that keeps so many unused connections.
    fn client(&self, kept: usize) -> reqwest::Result<reqwest::Client> {
        http::builder(&self.url)
            .default_headers(self.headers.clone())
            .pool_max_idle_per_host(kept)
            .build()
    }
}

impl Client {
    /// Gets ready to ask; connects to nothing yet.
    ///
    /// # Errors
    /// [`Error::Usage`] for an address, a header or a key that cannot be used,
    /// and for a key that would travel in the clear.
    pub fn new(options: ClientOptions) -> Result<Self, Error> {
        let url = endpoint(&options.base_url, options.api)?;
        let is_exposed = url.scheme() == "http" && !is_loopback(&url);
        if is_exposed && !options.allows_http && options.keys.may_be_found() {
            return Err(Error::usage_hint(
                format!("the key would travel unencrypted to {}", host(&url)),
                "use https://, or unset the key if the server needs none; `allow-http = true` in the \
                 profile sends it all the same",
            ));
        }
        if let Some(key) = options.keys.given() {
            header_of(options.auth, key)?;
        }
        let make = Make {
            headers: headers(&options)?,
            url: url.clone(),
        };
        let http = make
            .client(options.jobs)
            .map_err(|error| Error::usage(transport::from_transport(&error).to_string()))?;
        let idempotency_header = options
            .idempotency_header
            .as_deref()
            .map(|name| {
                HeaderName::try_from(name)
                    .map_err(|_| Error::usage(format!("`{name}` is no header")))
            })
            .transpose()?;
        Ok(Self {
            http,
            make,
            fresh: OnceLock::new(),
            url,
            api: options.api,
            end: options.end,
            credentials: Credentials::new(options.keys, options.auth),
            timeout: options.timeout,
            idempotency_header,
        })
    }

    /// Host and port, for messages.
    #[must_use]
    pub fn host(&self) -> String {
        host(&self.url)
    }

    /// What tells this key at this host from others; the key cannot be found out from it. It is looked for
    /// only now.
    ///
    /// # Errors
    /// When there is none where one is needed.
    pub async fn identity(&self) -> Result<[u8; 32], Failure> {
        self.credentials.identity(&self.host()).await
    }

    /// What tells this key from others in records; `None` before [`Client::identity`] was asked for, and without a
    /// key.
    #[must_use]
    pub fn key_fingerprint(&self) -> Option<String> {
        self.credentials.fingerprint()
    }

    /// What is to be told besides, each once.
    #[must_use]
    pub fn take_notes(&self) -> Vec<String> {
        self.credentials.keys.take_notes()
    }

    /// The address that requests go to.
    #[must_use]
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Sends a request and reads the reply; `on_text` gets its text as it comes. When the server refuses the key
    /// and there is another, the request is sent once more with that.
    ///
    /// # Errors
    /// When no whole reply came.
    pub async fn ask(
        &self,
        attempt: Attempt<'_>,
        mut on_text: impl FnMut(&str),
    ) -> Result<Reply, Failure> {
        let key = self.credentials.get().await?;
        let failure = match self.attempt(&attempt, key.as_ref(), &mut on_text).await {
            Ok(reply) => return Ok(hide_in_reply(reply, key.as_ref())),
            Err(failure) => hide(failure, key.as_ref()),
        };
        if failure.kind != Kind::Auth || failure.status != Some(401) {
            return Err(failure);
        }
        let Some(key) = self.credentials.renew(key.as_ref()).await? else {
            return Err(self.credentials.refused(failure));
        };
        let result = self.attempt(&attempt, Some(&key), &mut on_text).await;
        result
            .map(|reply| hide_in_reply(reply, Some(&key)))
            .map_err(|failure| self.credentials.refused(hide(failure, Some(&key))))
    }

    async fn attempt(
        &self,
        attempt: &Attempt<'_>,
        key: Option<&Secret>,
        on_text: impl FnMut(&str),
    ) -> Result<Reply, Failure> {
        let response = self.send(attempt, key).await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let header = |name: &str| {
            let value = headers.get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        if !response.status().is_success() {
            // The status tells enough, should the rest of the body not come.
            let (body, _) = self.read(response, MAX_ERROR).await;
            return Err(fault::from_response(status, &header, &body));
        }
        let result = match Body::of(header(CONTENT_TYPE.as_str()).as_deref()) {
            Body::Events => self.stream(response, on_text).await,
            Body::Plain => {
                let (body, end) = self.read(response, MAX_PLAIN).await;
                end.and_then(|()| decode_plain(self.api, &body))
            }
        };
        match result {
            Ok(mut reply) => {
                let usage = reply.usage.unwrap_or_default();
                let tokens = usage.prompt_tokens.saturating_add(usage.completion_tokens);
                reply.refill = refill(&header, tokens);
                Ok(reply)
            }
            Err(mut failure) => {
                failure.request_id = failure.request_id.or_else(|| fault::request_id(&header));
                Err(failure)
            }
        }
    }

    async fn send(&self, attempt: &Attempt<'_>, key: Option<&Secret>) -> Result<Response, Failure> {
        let http = if attempt.is_fresh {
            self.fresh()
        } else {
            &self.http
        };
        let body = attempt.body.clone();
        let body = match &attempt.on_send {
            Some(on_send) => reqwest::Body::wrap(Announced::new(body, on_send.clone())),
            None => body.into(),
        };
        let mut request = http.post(self.url.clone()).body(body);
        if let Some(key) = key {
            let (name, value) = self.credentials.header(key)?;
            request = request.header(name, value);
        }
        if let (Some(name), Some(key)) = (&self.idempotency_header, attempt.idempotency_key) {
            request = request.header(name, key);
        }
        let patience = self.timeout.saturating_mul(FIRST_BYTE_FACTOR);
        self.response(request, patience).await
    }

    /// Sends what was put together and waits so long for the head of the response.
    pub(super) async fn response(
        &self,
        request: RequestBuilder,
        patience: Duration,
    ) -> Result<Response, Failure> {
        self.credentials.note_sending();
        match timeout(patience, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let mut failure = transport::from_transport(&error);
                if failure.kind == Kind::Cut {
                    failure.kind = Kind::Closed;
                }
                Err(failure)
            }
            Err(_) => Err(Failure::new(Kind::Timeout(Wait::FirstByte), &self.host())),
        }
    }

    /// The client whose every request has a connection of its own. Where it cannot be made, the
    /// other one will have to do.
    fn fresh(&self) -> &reqwest::Client {
        self.fresh
            .get_or_init(|| self.make.client(0).unwrap_or_else(|_| self.http.clone()))
    }

    /// Reads a stream of events to the reply's end.
    async fn stream(
        &self,
        response: Response,
        mut on_text: impl FnMut(&str),
    ) -> Result<Reply, Failure> {
        let mut decoder = Decoder::new(self.api, self.end);
        let body = Watched::new(response.bytes_stream(), self.timeout);
        let mut events = sse::events(body);
        loop {
            let event = match events.next().await {
                Some(Ok(event)) => event,
                Some(Err(error)) => return decoder.cut(transport::from_events(error)),
                None => return decoder.finish(),
            };
            match decoder.event(&event.event, &event.data)? {
                Step::Delta(text) => on_text(text),
                Step::Alive => {}
                Step::End => {
                    // What is left is the mark of the body's end. A connection is used again only
                    // if that was read; it is here already, or it is not waited for.
                    let _ = timeout(END_TIMEOUT, events.next()).await;
                    return decoder.finish();
                }
            }
        }
    }

    /// Reads a body, at most `limit` bytes of it.
    pub(super) async fn read(
        &self,
        response: Response,
        limit: usize,
    ) -> (Bytes, Result<(), Failure>) {
        let mut body = BytesMut::new();
        let mut watched = Watched::new(response.bytes_stream(), self.timeout);
        while body.len() < limit {
            match watched.next().await {
                Some(Ok(bytes)) => body.extend_from_slice(&bytes),
                Some(Err(failure)) => return (body.freeze(), Err(failure)),
                None => break,
            }
        }
        (body.freeze(), Ok(()))
    }
}

fn headers(options: &ClientOptions) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        "accept",
        HeaderValue::from_static("text/event-stream, application/json"),
    );
    // A compressed stream comes in bursts; what is compressed unasked is read all the same.
    headers.insert("accept-encoding", HeaderValue::from_static("identity"));
    for (name, value) in &options.headers {
        let header = HeaderName::try_from(name.as_str())
            .ok()
            .zip(HeaderValue::try_from(value.as_str()).ok());
        let Some((name, value)) = header else {
            return Err(Error::usage(format!(
                "`{name}` is no header, or its value is none"
            )));
        };
        headers.insert(name, value);
    }
    Ok(headers)
}
