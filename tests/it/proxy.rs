//! Proxies on loopback: HTTP CONNECT (RFC 9110, section 9.3.6) and SOCKS 5 (RFC 1928). Whatever host
//! is asked for, they connect to the one port that the test names, and remember what was asked for.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Connect,
    /// CONNECT, refused without a password.
    Locked,
    Socks,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub(crate) fn start(kind: Kind, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        // It ends with the test's process; until then nobody else knows the port.
        thread::spawn({
            let asked = Arc::clone(&asked);
            move || {
                for stream in listener.incoming().flatten() {
                    let asked = Arc::clone(&asked);
                    thread::spawn(move || drop(serve(kind, &stream, port, &asked)));
                }
            }
        });
        Self { address, asked }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The hosts and ports that were asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(kind: Kind, client: &TcpStream, port: u16, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut writer = client;
    let (target, greeting): (String, &[u8]) = if kind == Kind::Socks {
        let mut head = [0; 2];
        reader.read_exact(&mut head)?;
        reader.read_exact(&mut vec![0; head[1].into()])?;
        writer.write_all(&[5, 0])?;
        // Version, CONNECT, reserved, address by name, its length.
        let mut head = [0; 5];
        reader.read_exact(&mut head)?;
        assert_eq!(
            head[..4],
            [5, 1, 0, 3],
            "the name has to be looked up by the proxy"
        );
        let mut name = vec![0; usize::from(head[4]) + 2];
        reader.read_exact(&mut name)?;
        let port = u16::from_be_bytes([name[name.len() - 2], name[name.len() - 1]]);
        name.truncate(name.len() - 2);
        (
            format!("{}:{port}", String::from_utf8_lossy(&name)),
            &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        )
    } else {
        let mut first = String::new();
        reader.read_line(&mut first)?;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? <= 2 {
                break;
            }
        }
        let target = first
            .strip_prefix("CONNECT ")
            .and_then(|rest| rest.split(' ').next());
        (
            target.unwrap_or("no CONNECT").to_owned(),
            b"HTTP/1.1 200 Connection established\r\n\r\n",
        )
    };
    asked.lock().unwrap().push(target);
    if kind == Kind::Locked {
        return writer.write_all(
            b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
        );
    }
    writer.write_all(greeting)?;
    let server = TcpStream::connect(("127.0.0.1", port))?;
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let back = thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Write);
    });
    let _ = io::copy(&mut reader, &mut &server);
    let _ = server.shutdown(Shutdown::Write);
    let _ = back.join();
    Ok(())
}
