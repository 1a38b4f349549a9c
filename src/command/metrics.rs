//! `gptpipe metrics`: the totals for Prometheus, once or for each that asks.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

use crate::error::reason;
use crate::report::log::LedgerPlace;
use crate::report::metrics::{Format, exposition, write_file};

/// Where they are served, as most exporters do.
const PATH: &str = "/metrics";

/// The totals as they are now.
///
/// # Errors
/// That the ledger cannot be read, in words.
pub fn current(place: &LedgerPlace, format: Format) -> Result<String, String> {
    let (ledger, _) = place.open_current()?;
    Ok(exposition(ledger.totals()?, format))
}

/// Puts the totals into a file. One process at a time, from the look at them to the file, so that no
/// older totals come into the place of later ones.
///
/// # Errors
/// What went wrong, in words.
pub fn replace(file: &Path, place: &LedgerPlace) -> Result<(), String> {
    let lock = File::open(&place.journals);
    if let Ok(lock) = &lock {
        // Where there are no locks, the last one wins.
        let _ = lock.lock();
    }
    let text = current(place, Format::Text)?;
    write_file(file, &text).map_err(|error| {
        format!(
            "the metrics cannot be written to `{}`: {}",
            file.display(),
            reason(&error)
        )
    })
}

/// Serves the totals until it is dropped; `ready` learns where.
///
/// # Errors
/// That the address cannot be had.
pub async fn serve(
    place: LedgerPlace,
    address: SocketAddr,
    ready: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    ready(listener.local_addr()?);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Too many open files, for example: those that are served go on meanwhile.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let place = place.clone();
        let service = service_fn(move |request| answer(place.clone(), request));
        tokio::spawn(async move {
            let mut server = http1::Builder::new();
            // Who connects and says nothing is not kept for ever.
            server.timer(TokioTimer::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    place: LedgerPlace,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != PATH {
        let text = format!("the metrics are at {PATH}\n");
        return Ok(plain(StatusCode::NOT_FOUND, text));
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned());
        let allow = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allow);
        return Ok(response);
    }
    let wants_open = request
        .headers()
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/openmetrics-text"));
    let format = if wants_open {
        Format::OpenMetrics
    } else {
        Format::Text
    };
    // It waits for files and for other processes.
    let text = spawn_blocking(move || current(&place, format)).await;
    Ok(match text {
        Ok(Ok(text)) => {
            let mut response = plain(StatusCode::OK, text);
            let kind = HeaderValue::from_static(format.content_type());
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Ok(Err(words)) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{words}\n")),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "failed\n".to_owned()),
    })
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
