//! Connections that fail, over real sockets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::api::failure::{Failure, Kind, Wait};
use crate::api::transport::from_transport;

/// A server that does this with its first connection; its port.
fn server(act: impl FnOnce(&mut TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        act(&mut stream);
    });
    port
}

fn client() -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .read_timeout(Duration::from_millis(300))
}

fn get(client: reqwest::ClientBuilder, url: &str) -> Failure {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = client.tls_certs_only([]).build().unwrap();
    let result = runtime.block_on(async { client.get(url).send().await?.bytes().await });
    let failure = from_transport(&result.unwrap_err());
    let shown = format!("{failure} {failure:?}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("secret=1"),
        "{shown}"
    );
    failure
}

fn kind(port: u16) -> Kind {
    get(
        client(),
        &format!("http://me:hunter2@127.0.0.1:{port}/v1?secret=1"),
    )
    .kind
}

#[test]
fn every_way_to_fail_has_its_kind() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let wait = || thread::sleep(Duration::from_secs(2));

    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    assert_eq!(kind(closed), Kind::Connect);
    assert_eq!(kind(server(|_| {})), Kind::Cut);
    assert_eq!(
        kind(server(move |stream| stream.write_all(head).unwrap())),
        Kind::Cut
    );
    assert_eq!(
        kind(server(move |stream| stream.write_all(&head[..20]).unwrap())),
        Kind::Cut
    );
    assert_eq!(
        kind(server(move |_| wait())),
        Kind::Timeout(Wait::FirstByte)
    );
    let stalled = server(move |stream| {
        stream.write_all(head).unwrap();
        wait();
    });
    assert_eq!(kind(stalled), Kind::Timeout(Wait::Idle));
    assert_eq!(
        kind(server(|stream| stream
            .write_all(b"SSH-2.0-OpenSSH_9.2\r\n")
            .unwrap())),
        Kind::NotApi
    );

    let plain = server(|stream| {
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
    });
    assert_eq!(
        get(
            client(),
            &format!("https://me:hunter2@127.0.0.1:{plain}/?secret=1")
        )
        .kind,
        Kind::Tls
    );
    assert_eq!(
        get(client(), "http://hunter2@nowhere.invalid/?secret=1").kind,
        Kind::Dns
    );
    assert_eq!(
        get(client(), "gopher://hunter2@nowhere.invalid/?secret=1").kind,
        Kind::Url
    );

    let proxy = server(|stream| {
        stream
            .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            .unwrap();
    });
    let proxy = reqwest::Proxy::all(format!("http://127.0.0.1:{proxy}")).unwrap();
    let failure = get(
        client().proxy(proxy),
        "https://me:hunter2@nowhere.invalid/?secret=1",
    );
    assert_eq!((failure.kind, failure.status), (Kind::Proxy, Some(407)));
    let proxy = server(|stream| {
        stream
            .write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            .unwrap();
    });
    let proxy = reqwest::Proxy::all(format!("http://127.0.0.1:{proxy}")).unwrap();
    let failure = get(client().proxy(proxy), "https://nowhere.invalid/");
    assert_eq!((failure.kind, failure.status), (Kind::Proxy, None));
}
