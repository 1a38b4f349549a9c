//! The Batch API: files of requests that the provider answers within a day, at half the price
//! (`OpenAI`'s API reference, "Batch" and "Files").
//!
//! It uploads files, starts, watches and cancels batches, and fetches what came of them; `line` says
//! what is in the files. When to do what is decided elsewhere; nothing is sent twice here but what
//! was refused for its key.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Client as HttpClient, RequestBuilder, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::address::beside;
use crate::api::client::{Client, MAX_ERROR, MAX_PLAIN};
use crate::api::credentials::hide;
use crate::api::event::Api;
use crate::api::failure::{Failure, Kind};
use crate::api::fault;
use crate::api::line::path;
use crate::api::silence::Watched;
use crate::secret::secret::Secret;

/// Time that any answer may take to begin, besides that for what is uploaded.
const PATIENCE: Duration = Duration::from_mins(2);

/// Bytes that are uploaded in a second on the slowest line that is waited for.
const SLOWEST: u64 = 32 * 1024;

/// Bytes that are read from a file at a time.
const PIECE: usize = 64 * 1024;

/// The name of the batch's own mark among its metadata.
const MARK: &str = "gptpipe";

/// Batches of a page of their list, and the most pages that are looked at.
const PAGE: usize = 100;
const PAGES: usize = 100;

/// What a file of requests may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Requests.
    pub requests: usize,
    /// Bytes.
    pub bytes: u64,
}

/// `OpenAI`'s bounds, which others have taken over ("Create batch").
pub const BOUNDS: Bounds = Bounds {
    requests: 50_000,
    bytes: 200_000_000,
};

/// How far a batch is, as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is checked, worked on, finished or being cancelled.
    Waiting,
    /// The file was refused; nothing was answered.
    Failed,
    /// Every request was answered or failed.
    Completed,
    /// Its time is over; some may be answered.
    Expired,
    /// It was cancelled; some may be answered.
    Cancelled,
}

/// What the server says of a batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The server's name for it.
    pub id: String,
    /// How far it is.
    pub state: State,
    /// That in the server's own word.
    pub word: String,
    /// Requests in it, those answered and those failed.
    pub counts: Counts,
    /// The file of its answers.
    pub output_file: Option<String>,
    /// The file of its failed requests.
    pub error_file: Option<String>,
    /// Why it failed as a whole.
    pub failure: Option<Failure>,
}

/// Requests of a batch.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Counts {
    /// All.
    pub total: u64,
    /// Answered.
    pub completed: u64,
    /// Failed.
    pub failed: u64,
}

#[derive(Deserialize)]
struct Wire {
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    created_at: Option<u64>,
    #[serde(default)]
    input_file_id: Option<String>,
    #[serde(default)]
    output_file_id: Option<String>,
    #[serde(default)]
    error_file_id: Option<String>,
    #[serde(default)]
    errors: Value,
    #[serde(default)]
    request_counts: Option<Counts>,
    #[serde(default)]
    metadata: Value,
}

impl Wire {
    fn read(self) -> Batch {
        let state = match self.status.as_str() {
            "failed" => State::Failed,
            "completed" => State::Completed,
            "expired" => State::Expired,
            "cancelled" => State::Cancelled,
            _ => State::Waiting,
        };
        // Some leave a name empty where others leave it out.
        let named = |file: Option<String>| file.filter(|id| !id.is_empty());
        Batch {
            failure: (state == State::Failed).then(|| refused(&self.errors)),
            id: self.id,
            state,
            word: self.status,
            counts: self.request_counts.unwrap_or_default(),
            output_file: named(self.output_file_id),
            error_file: named(self.error_file_id),
        }
    }
}

/// Why a batch failed as a whole: the first of its errors.
fn refused(errors: &Value) -> Failure {
    let list = errors["data"].as_array().or(errors.as_array());
    let first = list.and_then(|list| list.first()).unwrap_or(errors);
    let mut failure = fault::from_event(&json!({"error": first}).to_string());
    // The limit of tokens that may wait in all batches of a model: others have to be done first.
    let waits = failure.code.as_deref() == Some("token_limit_exceeded")
        || failure.message.contains("nqueued token limit");
    failure.kind = match failure.kind {
        _ if waits => Kind::RateLimit,
        Kind::EventError | Kind::Malformed => Kind::BadRequest,
        kind => kind,
    };
    if let Some(line) = first["line"].as_u64() {
        failure.message = format!("line {line}: {}", failure.message);
    }
    failure
}

#[derive(Deserialize)]
struct Listed {
    data: Vec<Wire>,
    #[serde(default)]
    has_more: bool,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

/// A file that is to be uploaded.
#[derive(Debug)]
pub struct Upload<'a> {
    /// Its contents.
    pub file: &'a File,
    /// Its length in bytes.
    pub bytes: u64,
    /// What the server is to call it.
    pub name: &'a str,
}

impl Client {
    /// Uploads a file of requests; gives the server's name for it.
    ///
    /// # Errors
    /// What the server or the connection did.
    pub async fn upload(&self, upload: &Upload<'_>) -> Result<String, Failure> {
        let boundary = format!("gptpipe-{:032x}", fastrand::u128(..));
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
             --{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\n\
             Content-Type: application/jsonl\r\n\r\n",
            upload.name
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let length = head.len() as u64 + upload.bytes + tail.len() as u64;
        let build = |http: &HttpClient| {
            let mut file = upload.file.try_clone()?;
            file.rewind()?;
            let ends = [&head, &tail].map(|text| {
                let bytes = Bytes::from(text.clone());
                stream::iter([io::Result::Ok(bytes)])
            });
            let [head, tail] = ends;
            let body = Body::wrap_stream(head.chain(pieces(file)).chain(tail));
            let kind = format!("multipart/form-data; boundary={boundary}");
            Ok(http
                .post(beside(&self.url, "/files"))
                .header(CONTENT_TYPE, kind)
                .header(CONTENT_LENGTH, length)
                .body(body))
        };
        let patience = PATIENCE + Duration::from_secs(upload.bytes / SLOWEST);
        let named: Named = self.json(patience, build).await?;
        Ok(named.id)
    }

    /// Starts a batch of the requests in an uploaded file. By its mark it is found again.
    ///
    /// # Errors
    /// What the server or the connection did; it may be started all the same.
    pub async fn create_batch(&self, api: Api, file: &str, mark: &str) -> Result<Batch, Failure> {
        let body = json!({
            "input_file_id": file,
            "endpoint": path(api),
            "completion_window": "24h",
            "metadata": {MARK: mark},
        });
        let body = body.to_string();
        let build = |http: &HttpClient| {
            let mut request = http.post(beside(&self.url, "/batches")).body(body.clone());
            if let Some(name) = &self.idempotency_header {
                request = request.header(name, mark);
            }
            Ok(request)
        };
        let wire: Wire = self.json(PATIENCE, build).await?;
        Ok(wire.read())
    }

    /// How far a batch is.
    ///
    /// # Errors
    /// What the server or the connection did.
    pub async fn batch(&self, id: &str) -> Result<Batch, Failure> {
        let url = beside(&self.url, &format!("/batches/{id}"));
        let wire: Wire = self
            .json(PATIENCE, |http| Ok(http.get(url.clone())))
            .await?;
        Ok(wire.read())
    }

    /// Asks for a batch to be cancelled.
    ///
    /// # Errors
    /// What the server or the connection did; a batch that is over cannot be cancelled.
    pub async fn cancel_batch(&self, id: &str) -> Result<Batch, Failure> {
        let url = beside(&self.url, &format!("/batches/{id}/cancel"));
        let wire: Wire = self
            .json(PATIENCE, |http| Ok(http.post(url.clone())))
            .await?;
        Ok(wire.read())
    }

    /// Looks for the batch with a mark, or of a file, among those started since then, in seconds
    /// since 1970.
    ///
    /// # Errors
    /// What the server or the connection did.
    pub async fn find_batch(
        &self,
        mark: &str,
        file: Option<&str>,
        since: u64,
    ) -> Result<Option<Batch>, Failure> {
        let mut after: Option<String> = None;
        for _ in 0..PAGES {
            let mut url = beside(&self.url, "/batches");
            url.query_pairs_mut()
                .append_pair("limit", &PAGE.to_string());
            if let Some(after) = &after {
                url.query_pairs_mut().append_pair("after", after);
            }
            let page: Listed = self
                .json(PATIENCE, |http| Ok(http.get(url.clone())))
                .await?;
            let last = page.data.last();
            // The newest come first.
            let is_past = last.is_none_or(|last| last.created_at.is_some_and(|at| at < since));
            after = last.map(|last| last.id.clone());
            let found = page.data.into_iter().find(|batch| {
                batch.metadata[MARK] == mark
                    || file.is_some() && batch.input_file_id.as_deref() == file
            });
            if found.is_some() {
                return Ok(found.map(Wire::read));
            }
            if is_past || !page.has_more {
                break;
            }
        }
        Ok(None)
    }

    /// Writes the contents of a file of answers into `out`.
    ///
    /// # Errors
    /// What the server, the connection or the disk did.
    pub async fn download(&self, file: &str, out: &mut File) -> Result<(), Failure> {
        let url = beside(&self.url, &format!("/files/{file}/content"));
        let failed = |error: &io::Error| disk(error);
        out.rewind()
            .and_then(|()| out.set_len(0))
            .map_err(|error| failed(&error))?;
        let response = self
            .answered(PATIENCE, |http| Ok(http.get(url.clone())))
            .await?;
        let mut watched = Watched::new(response.bytes_stream(), self.timeout);
        while let Some(bytes) = watched.next().await {
            out.write_all(&bytes?).map_err(|error| failed(&error))?;
        }
        out.rewind().map_err(|error| failed(&error))
    }

    /// Takes a file away at the server.
    ///
    /// # Errors
    /// What the server or the connection did.
    pub async fn delete_file(&self, file: &str) -> Result<(), Failure> {
        let url = beside(&self.url, &format!("/files/{file}"));
        self.answered(PATIENCE, |http| Ok(http.delete(url.clone())))
            .await
            .map(drop)
    }

    /// A document in answer to a request.
    async fn json<T: DeserializeOwned>(
        &self,
        patience: Duration,
        build: impl Fn(&HttpClient) -> io::Result<RequestBuilder>,
    ) -> Result<T, Failure> {
        let response = self.answered(patience, build).await?;
        let (body, end) = self.read(response, MAX_PLAIN).await;
        end?;
        serde_json::from_slice(&body).map_err(|_| Failure::new(Kind::NotApi, ""))
    }

    /// Sends a request with the key, once more with another when that is refused.
    async fn answered(
        &self,
        patience: Duration,
        build: impl Fn(&HttpClient) -> io::Result<RequestBuilder>,
    ) -> Result<Response, Failure> {
        let key = self.credentials.get().await?;
        let failure = match self.once(patience, &build, key.as_ref()).await {
            Ok(response) => return Ok(response),
            Err(failure) => hide(failure, key.as_ref()),
        };
        if failure.kind != Kind::Auth || failure.status != Some(401) {
            return Err(failure);
        }
        let Some(key) = self.credentials.renew(key.as_ref()).await? else {
            return Err(self.credentials.refused(failure));
        };
        let result = self.once(patience, &build, Some(&key)).await;
        result.map_err(|failure| self.credentials.refused(hide(failure, Some(&key))))
    }

    async fn once(
        &self,
        patience: Duration,
        build: &impl Fn(&HttpClient) -> io::Result<RequestBuilder>,
        key: Option<&Secret>,
    ) -> Result<Response, Failure> {
        let mut request = build(&self.http).map_err(|error| disk(&error))?;
        if let Some(key) = key {
            let (name, value) = self.credentials.header(key)?;
            request = request.header(name, value);
        }
        let response = self.response(request, patience).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let header = |name: &str| {
            let value = headers.get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let (body, _) = self.read(response, MAX_ERROR).await;
        Err(fault::from_response(status, &header, &body))
    }
}

/// A failure of this machine's own disk.
fn disk(error: &io::Error) -> Failure {
    let mut failure = Failure::new(Kind::Busy, &crate::error::reason(error));
    failure.should_retry = Some(false);
    failure
}

/// The contents of a file in pieces, from where it stands. It was just written, so that reading it
/// waits for nothing.
fn pieces(file: File) -> impl futures::Stream<Item = io::Result<Bytes>> + Send {
    stream::try_unfold(file, |mut file| async move {
        let mut piece = vec![0; PIECE];
        let length = file.read(&mut piece)?;
        piece.truncate(length);
        Ok((length > 0).then(|| (Bytes::from(piece), file)))
    })
    .into_stream()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_file_says_why() {
        let errors = json!({"object": "list", "data": [
            {"code": "invalid_json_line", "message": "not JSON", "param": null, "line": 3}]});
        let failure = refused(&errors);
        assert_eq!(failure.kind, Kind::BadRequest);
        assert!(
            failure.to_string().contains("line 3: not JSON"),
            "{failure}"
        );
        let errors = json!({"data": [{"code": "token_limit_exceeded", "message": "later"}]});
        assert_eq!(refused(&errors).kind, Kind::RateLimit);
        assert_eq!(refused(&Value::Null).kind, Kind::BadRequest);
    }
}
