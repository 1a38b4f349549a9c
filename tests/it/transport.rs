//! What lies between the program and a server: TLS and HTTP/2, proxies, redirects; and that no key
//! goes where it should not.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Folder, Gptpipe, gptpipe, lines};
use crate::proxy::{Kind, Proxy};
use crate::server::{Answer, Server};
use crate::tls::identity;

/// What a request over TLS looked like.
#[derive(Clone, Debug)]
struct Seen {
    version: Version,
    host: String,
    authorization: Option<String>,
}

/// A server that repeats every chunk over TLS, with a certificate for these names by an authority of
/// its own. A chunk `break` is broken off.
pub(crate) struct TlsServer {
    address: SocketAddr,
    authority: PathBuf,
    seen: Arc<Mutex<Vec<Seen>>>,
    _stop: oneshot::Sender<()>,
    _folder: Folder,
}

impl TlsServer {
    pub(crate) fn start(names: &[&str], protocols: &[&str]) -> Self {
        let (config, authority) = identity(names, protocols);
        let folder = Folder::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (stop, stopped) = oneshot::channel();
        let server = Self {
            address: listener.local_addr().unwrap(),
            authority: folder.write("authority.pem", authority),
            seen: Arc::clone(&seen),
            _stop: stop,
            _folder: folder,
        };
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener, TlsAcceptor::from(config), seen) => {}
                }
            });
        });
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The program, told to trust this server's authority.
    fn trusted(&self) -> Gptpipe {
        gptpipe()
            .env("SSL_CERT_FILE", &self.authority)
            .env("GPTPIPE_API_KEY", KEY)
            .arg("p")
    }
}

const KEY: &str = "tls-test-key";

async fn accept(
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let service = service_fn(move |request| answer(request, Arc::clone(&seen)));
            let io = TokioIo::new(stream);
            if is_http2 {
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder
                    .max_concurrent_streams(4)
                    .serve_connection(io, service)
                    .await;
            } else {
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(io, service)
                    .await;
            }
        });
    }
}

type Frames = Vec<Result<Frame<Bytes>, io::Error>>;

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Seen>>>,
) -> Result<
    Response<StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, io::Error>>>>>,
    Infallible,
> {
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    seen.lock().unwrap().push(Seen {
        version: request.version(),
        host: request
            .uri()
            .host()
            .map(str::to_owned)
            .or(header("host"))
            .unwrap_or_default(),
        authorization: header("authorization"),
    });
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let text = body["messages"][1]["content"].as_str().unwrap();
    let delta = json!({"choices": [{"index": 0, "delta": {"content": text}}]});
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let frame = |text: String| Ok(Frame::data(Bytes::from(text)));
    let last = match text {
        "break" => Err(io::Error::other("broken off")),
        _ => frame(format!("data: {end}\n\ndata: [DONE]\n\n")),
    };
    let frames: Frames = vec![frame(format!("data: {delta}\n\n")), last];
    let response = Response::builder().header("content-type", "text/event-stream");
    Ok(response
        .body(StreamBody::new(stream::iter(frames)))
        .unwrap())
}

#[test]
fn tls_and_http2() {
    let server = TlsServer::start(&["localhost", "127.0.0.1"], &["h2", "http/1.1"]);
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{}/v1", server.port());
        let run = server
            .trusted()
            .args(["-b", "line", "-j", "8", "--base-url", &url])
            .input(lines(40))
            .run();
        run.ok().stdout(lines(40));
    }
    for seen in server.seen() {
        assert_eq!(seen.version, Version::HTTP_2);
        assert_eq!(seen.authorization.as_deref(), Some("Bearer tls-test-key"));
    }
    assert_eq!(server.seen().len(), 80);
}

#[test]
fn tls_and_http1() {
    let server = TlsServer::start(&["127.0.0.1"], &["http/1.1"]);
    let url = format!("https://127.0.0.1:{}/v1", server.port());
    server
        .trusted()
        .args(["-b", "line", "--base-url", &url])
        .input(lines(20))
        .run()
        .ok()
        .stdout(lines(20));
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.version == Version::HTTP_11)
    );
}

#[test]
fn a_stream_broken_off_is_a_passing_fault() {
    for protocol in ["h2", "http/1.1"] {
        let server = TlsServer::start(&["127.0.0.1"], &[protocol]);
        let url = format!("https://127.0.0.1:{}/v1", server.port());
        let run = server
            .trusted()
            .args(["--base-url", &url])
            .once()
            .input("break")
            .run();
        run.status(75)
            .stdout("")
            .one_message()
            .says("the server broke off before it answered");
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let server = TlsServer::start(&["127.0.0.1"], &["h2"]);
    let other = TlsServer::start(&["elsewhere.test"], &["h2"]);
    let url = |server: &TlsServer| format!("https://127.0.0.1:{}/v1", server.port());
    // Another authority, and none at all.
    let run = other
        .trusted()
        .args(["--base-url", &url(&server)])
        .input("secret text")
        .run();
    run.status(255)
        .stdout("")
        .one_message()
        .says("no secure connection")
        .says("certificate");
    let run = gptpipe()
        .args(["p", "--base-url", &url(&server)])
        .input("secret text")
        .run();
    run.status(255)
        .stdout("")
        .one_message()
        .says("no secure connection");
    // The right authority for another name.
    let run = other
        .trusted()
        .args(["--base-url", &url(&other)])
        .input("secret text")
        .run();
    run.status(255)
        .stdout("")
        .one_message()
        .says("no secure connection");
    assert!(server.seen().is_empty() && other.seen().is_empty());
}

#[test]
fn https_where_there_is_none() {
    let server = Server::start(|_| Answer::nothing().close());
    let url = format!("https://127.0.0.1:{}/v1", server.port());
    let run = gptpipe()
        .args(["p", "--base-url", &url])
        .once()
        .input("text")
        .run();
    run.must(matches!(run.code, Some(75 | 255)), "it must fail")
        .stdout("")
        .one_message();
}

#[test]
fn https_goes_through_a_proxy() {
    let server = TlsServer::start(&["api.test"], &["h2"]);
    for (kind, variable, scheme) in [
        (Kind::Connect, "HTTPS_PROXY", "http"),
        (Kind::Connect, "https_proxy", "http"),
        (Kind::Connect, "ALL_PROXY", "http"),
        (Kind::Socks, "ALL_PROXY", "socks5h"),
        (Kind::Socks, "HTTPS_PROXY", "socks5h"),
    ] {
        let proxy = Proxy::start(kind, server.port());
        let run = server
            .trusted()
            .env(variable, format!("{scheme}://{}", proxy.address()));
        let run = run
            .args(["-b", "line", "--base-url", "https://api.test/v1"])
            .input(lines(5))
            .run();
        run.ok().stdout(lines(5));
        let asked = proxy.asked();
        assert!(
            !asked.is_empty() && asked.iter().all(|host| host == "api.test:443"),
            "{asked:?}"
        );
    }
    assert!(server.seen().iter().all(|seen| seen.host == "api.test"));
}

#[test]
fn a_proxy_that_refuses_is_told_apart() {
    let server = TlsServer::start(&["api.test"], &["h2"]);
    let locked = Proxy::start(Kind::Locked, server.port());
    let run = server
        .trusted()
        .env("HTTPS_PROXY", format!("http://{}", locked.address()));
    let run = run
        .args(["--base-url", "https://api.test/v1"])
        .input("text")
        .run();
    run.status(255)
        .stdout("")
        .one_message()
        .says("the proxy failed")
        .says("HTTPS_PROXY");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let run = server
        .trusted()
        .env("HTTPS_PROXY", format!("http://{nobody}"));
    let run = run
        .args(["--base-url", "https://api.test/v1"])
        .once()
        .input("text")
        .run();
    run.status(75).stdout("").one_message();
    assert!(server.seen().is_empty());
}

#[test]
fn http_goes_through_a_proxy() {
    let proxy = Server::echo();
    let address = format!("http://127.0.0.1:{}", proxy.port());
    let run = gptpipe()
        .env("http_proxy", &address)
        .args(["p", "--base-url", "http://api.test/v1"]);
    run.input("text\n").run().ok().stdout("text\n");
    assert_eq!(
        proxy.only_request().path,
        "http://api.test/v1/chat/completions"
    );
}

/// 0.0.0.0 reaches this machine too, but it is not a loopback address.
#[test]
#[cfg(target_os = "linux")]
fn no_proxy_names_what_is_asked_directly() {
    let (server, proxy) = (Server::echo(), Server::echo());
    let url = format!("http://0.0.0.0:{}/v1", server.port());
    let run = |no_proxy: &str| {
        let run = gptpipe().env("HTTP_PROXY", format!("http://127.0.0.1:{}", proxy.port()));
        run.env("NO_PROXY", no_proxy)
            .args(["p", "--base-url", &url])
            .input("text\n")
            .run()
            .ok()
            .stdout("text\n");
        (server.calls(), proxy.calls())
    };
    assert_eq!(run(""), (0, 1));
    assert_eq!(run("other.test,0.0.0.0"), (1, 1));
}

#[test]
fn a_server_on_this_machine_is_never_asked_through_a_proxy() {
    let (server, proxy) = (Server::echo(), Server::echo());
    let address = format!("http://127.0.0.1:{}", proxy.port());
    for host in ["127.0.0.1", "localhost"] {
        let run = gptpipe()
            .env("HTTP_PROXY", &address)
            .env("ALL_PROXY", &address);
        let url = format!("http://{host}:{}/v1", server.port());
        run.args(["p", "--base-url", &url])
            .input("text\n")
            .run()
            .ok()
            .stdout("text\n");
    }
    assert_eq!((server.calls(), proxy.calls()), (2, 0));
}

#[test]
fn a_redirect_is_not_followed() {
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let elsewhere = Server::echo();
        let location = format!("Location: {}/chat/completions\r\n", elsewhere.url());
        let server = Server::start(move |_| Answer::plain(status, &location, ""));
        let run = gptpipe()
            .ask(&server)
            .env("GPTPIPE_API_KEY", KEY)
            .arg("p")
            .input("secret text")
            .run();
        run.status(255)
            .stdout("")
            .one_message()
            .says("the server redirects, which is not followed");
        assert_eq!((server.calls(), elsewhere.calls()), (1, 0));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_key_never_travels_in_the_clear() {
    let server = Server::echo();
    let url = format!("http://0.0.0.0:{}/v1", server.port());
    for (key, address) in [
        ("GPTPIPE_API_KEY", "GPTPIPE_BASE_URL"),
        ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
    ] {
        let run = gptpipe()
            .env(key, KEY)
            .env(address, &url)
            .arg("p")
            .input("text")
            .run();
        run.status(2)
            .stdout("")
            .one_message()
            .says("the key would travel unencrypted to 0.0.0.0");
        run.says("https://").never_says(KEY);
    }
    let run = gptpipe()
        .env("GPTPIPE_API_KEY", KEY)
        .args(["p", "--base-url", "http://api.test/v1"]);
    run.input("text")
        .run()
        .status(2)
        .says("the key would travel unencrypted to api.test");
    assert_eq!(server.calls(), 0);
    // Who wants it so all the same is warned.
    let allowed = format!("[profiles.near]\nbase-url = '{url}'\nmodel = 'm'\nallow-http = true\n");
    let run = gptpipe()
        .config(&allowed)
        .env("GPTPIPE_API_KEY", KEY)
        .args(["p", "-P", "near"]);
    run.input("text")
        .run()
        .status(0)
        .one_message()
        .says("can be read on the way");
    assert_eq!(
        server.only_request().header("authorization"),
        Some(format!("Bearer {KEY}").as_str())
    );
    gptpipe()
        .arg("--no-cache")
        .args(["p", "--base-url", &url])
        .input("text")
        .run()
        .ok()
        .stdout("text");
}

#[test]
fn an_address_that_is_none() {
    for (url, words) in [
        ("api.openai.com/v1", "is no base URL"),
        ("ftp://127.0.0.1/v1", "is no base URL"),
        (
            "https://user:canary@api.test/v1",
            "has a user name or password in it",
        ),
    ] {
        let run = gptpipe().args(["p", "--base-url", url]).input("text").run();
        run.status(2)
            .stdout("")
            .one_message()
            .says(words)
            .says("hint: ")
            .never_says("canary");
    }
}
