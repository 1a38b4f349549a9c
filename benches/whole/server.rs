//! A server on loopback that costs as little as it can: a thread for each
//! connection, HTTP/1.1 with keep-alive, events in the format of
//! `chat.completion.chunk`.
//!
//! What it says depends on the path. `/v1/chat/completions` echoes the last
//! message at once. `/slow/SHAPE/SEED/v1/chat/completions` takes the number that
//! the message begins with, waits as long as [`Shape::delay`] says for it, and
//! answers with that number; the pieces of its answer are spread over that time.
//! `/tokens/N/v1/chat/completions` answers at once with N pieces of a token each.
//! `/arrivals` tells when the slow requests before it came and how long each
//! really took, and forgets them.

#![expect(
    clippy::print_stdout,
    reason = "the address goes to the process that started this one"
)]

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use memchr::memmem;

use crate::shape::Shape;

/// Text in one event of an echo, about. Models send less at a time, but then
/// the server would be what is measured.
pub(crate) const PIECE: usize = 1024;

/// Pieces of a slow answer.
const SLOW_PIECES: u32 = 4;

const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
    transfer-encoding: chunked\r\n\r\n";

/// A slow request as the server saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// The number that its message began with.
    pub(crate) number: u64,
    /// When the request was there, in seconds from the first.
    pub(crate) at: f64,
    /// Seconds from then until the last of its answer was sent. Sleeping takes longer than was
    /// asked, the more so where all processors are busy.
    pub(crate) took: f64,
}

/// Slow requests: their numbers, when they came, how long they took.
static SEEN: Mutex<Vec<(u64, Instant, Duration)>> = Mutex::new(Vec::new());

/// What the server has seen since it was asked last, by the time of arrival.
pub(crate) fn seen(address: &str) -> Vec<Seen> {
    let host = address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).expect("the server");
    let request = format!("GET /arrivals HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .expect("the server listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("its answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("its answer's body");
    let line = |line: &str| {
        let mut words = line.split(' ');
        Some(Seen {
            number: words.next()?.parse().ok()?,
            at: words.next()?.parse().ok()?,
            took: words.next()?.parse().ok()?,
        })
    };
    body.lines().filter_map(line).collect()
}

/// Writes what was seen, and forgets it.
fn tell_seen(stream: &mut TcpStream) -> io::Result<()> {
    let mut seen = std::mem::take(&mut *SEEN.lock().expect("nobody panics with it"));
    seen.sort_by_key(|(_, at, _)| *at);
    let mut body = String::new();
    for (number, at, took) in &seen {
        let at = at.duration_since(seen[0].1).as_secs_f64();
        let line = format_args!("{number} {at:.6} {:.6}\n", took.as_secs_f64());
        let _ = std::fmt::Write::write_fmt(&mut body, line);
    }
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// Serves until this process is ended.
pub(crate) fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    println!("http://{}", listener.local_addr().expect("its address"));
    for stream in listener.incoming().flatten() {
        thread::spawn(move || {
            // A client that leaves is no error.
            let _ = talk(stream);
        });
    }
}

fn talk(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = Reader::default();
    let mut out = Vec::new();
    while let Some(request) = reader.request(&mut stream)? {
        out.clear();
        if request.path == "/arrivals" {
            return tell_seen(&mut stream);
        }
        if let Some(rest) = request.path.strip_prefix("/slow/") {
            let mut parts = rest.split('/');
            let shape = Shape::parse(parts.next().unwrap_or_default());
            let seed = parts.next().and_then(|seed| seed.parse().ok());
            let times = (shape, seed.unwrap_or_default());
            slow(&mut stream, request.body, times, &mut out)?;
        } else if let Some(rest) = request.path.strip_prefix("/tokens/") {
            let count = rest.split('/').next().and_then(|count| count.parse().ok());
            tokens(request.body, count.unwrap_or_default(), &mut out);
            stream.write_all(&out)?;
        } else {
            echo(request.body, &mut out);
            stream.write_all(&out)?;
        }
    }
    Ok(())
}

/// Writes the answer that repeats the last message.
pub(crate) fn echo(body: &[u8], out: &mut Vec<u8>) {
    let content = last_content(body);
    if !contains(body, b"\"stream\":true") {
        plain(content, out);
        return;
    }
    out.extend_from_slice(HEAD);
    delta(b"\"role\":\"assistant\",\"content\":\"\"", out);
    let mut rest = content;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(piece_end(rest));
        text(piece, out);
        rest = after;
    }
    end(body, out);
}

/// Writes the answer that has a piece for each of its tokens.
fn tokens(body: &[u8], count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(HEAD);
    delta(b"\"role\":\"assistant\",\"content\":\"\"", out);
    for word in [" the", " river", " runs", " to", " sea"]
        .iter()
        .cycle()
        .take(count)
    {
        text(word.as_bytes(), out);
    }
    end(body, out);
}

/// Writes the answer that takes its time.
fn slow(
    stream: &mut TcpStream,
    body: &[u8],
    (shape, seed): (Shape, u64),
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let began = Instant::now();
    let content = last_content(body);
    let digits = content.iter().take_while(|byte| byte.is_ascii_digit());
    let number: String = digits.map(|byte| char::from(*byte)).collect();
    let value = number.parse().unwrap_or_default();
    let whole = shape.delay(seed, value, content.len());
    out.extend_from_slice(HEAD);
    delta(b"\"role\":\"assistant\",\"content\":\"\"", out);
    for piece in 0..SLOW_PIECES {
        stream.write_all(out)?;
        out.clear();
        // Counted from the beginning, so that what sleeping takes too long does not add up.
        let until = whole * (piece + 1) / SLOW_PIECES;
        thread::sleep(until.saturating_sub(began.elapsed()));
        match piece {
            0 => text(b"reply ", out),
            1 => text(b"to ", out),
            2 => text(b"line ", out),
            _ => text(number.as_bytes(), out),
        }
    }
    end(body, out);
    let one = (value, began, began.elapsed());
    SEEN.lock().expect("nobody panics with it").push(one);
    stream.write_all(out)
}

fn text(piece: &[u8], out: &mut Vec<u8>) {
    let mut fields = Vec::with_capacity(piece.len() + 16);
    fields.extend_from_slice(b"\"content\":\"");
    fields.extend_from_slice(piece);
    fields.push(b'"');
    delta(&fields, out);
}

fn delta(fields: &[u8], out: &mut Vec<u8>) {
    event(
        &[
            b"{\"id\":\"chatcmpl-benchmark\",\"object\":\"chat.completion.chunk\",\"created\":1,\
              \"model\":\"echo\",\"choices\":[{\"index\":0,\"delta\":{",
            fields,
            b"},\"finish_reason\":null}]}",
        ],
        out,
    );
}

/// The finish reason, the usage if it was asked for, and the end of the body.
fn end(body: &[u8], out: &mut Vec<u8>) {
    event(
        &[b"{\"id\":\"chatcmpl-benchmark\",\"object\":\"chat.completion.chunk\",\"created\":1,\
            \"model\":\"echo\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}"],
        out,
    );
    if contains(body, b"\"include_usage\":true") {
        let usage = format!(
            "{{\"id\":\"chatcmpl-benchmark\",\"object\":\"chat.completion.chunk\",\"created\":1,\
             \"model\":\"echo\",\"choices\":[],\"usage\":{}}}",
            usage(body)
        );
        event(&[usage.as_bytes()], out);
    }
    event(&[b"[DONE]"], out);
    out.extend_from_slice(b"0\r\n\r\n");
}

/// One event as one chunk of the body.
fn event(parts: &[&[u8]], out: &mut Vec<u8>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let _ = write!(out, "{:x}\r\ndata: ", length + 8);
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\n\n\r\n");
}

/// The answer of a request that asks for no stream.
fn plain(content: &[u8], out: &mut Vec<u8>) {
    let before = b"{\"id\":\"chatcmpl-benchmark\",\"object\":\"chat.completion\",\"created\":1,\
        \"model\":\"echo\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"";
    let after = format!(
        "\"}},\"finish_reason\":\"stop\"}}],\"usage\":{}}}",
        usage(content)
    );
    let _ = write!(
        out,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        before.len() + content.len() + after.len()
    );
    out.extend_from_slice(before);
    out.extend_from_slice(content);
    out.extend_from_slice(after.as_bytes());
}

/// Bytes in place of tokens: never fewer, so that no client takes its input for dropped.
fn usage(body: &[u8]) -> String {
    let tokens = body.len();
    format!(
        "{{\"prompt_tokens\":{tokens},\"completion_tokens\":1,\"total_tokens\":{}}}",
        tokens + 1
    )
}

/// The text of the last message as it stands in the JSON, escapes and all: it
/// goes back the same way. Inside a string these quotes would be escaped, so
/// what is found is the field.
fn last_content(body: &[u8]) -> &[u8] {
    let field = b"\"content\":\"";
    let Some(at) = memmem::rfind(body, field) else {
        return b"";
    };
    let content = &body[at + field.len()..];
    let mut end = 0;
    while end < content.len() && content[end] != b'"' {
        end += if content[end] == b'\\' { 2 } else { 1 };
    }
    content.get(..end).unwrap_or_default()
}

/// Where a piece can end: not inside a character, not inside an escape.
fn piece_end(content: &[u8]) -> usize {
    let mut end = 0;
    while end < content.len() {
        let byte = content[end];
        if end >= PIECE && byte & 0xc0 != 0x80 {
            return end;
        }
        end += match byte {
            b'\\' if content.get(end + 1) == Some(&b'u') => 6,
            b'\\' => 2,
            _ => 1,
        };
    }
    content.len()
}

fn contains(body: &[u8], field: &[u8]) -> bool {
    memmem::find(body, field).is_some()
}

/// A request as far as it matters here.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) path: String,
    pub(crate) body: &'a [u8],
}

/// Reads the requests of one connection.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    buffer: Vec<u8>,
    /// Bytes of the request before, which are still in the buffer.
    used: usize,
}

impl Reader {
    /// The next request; none when the client has closed.
    pub(crate) fn request(&mut self, stream: &mut TcpStream) -> io::Result<Option<Request<'_>>> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let head_end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.read(stream)? {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).into_owned();
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        if header("expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let length: usize = header("content-length")
            .and_then(|value| value.parse().ok())
            .unwrap_or(0);
        self.used = head_end + length;
        while self.buffer.len() < self.used {
            if !self.read(stream)? {
                return Ok(None);
            }
        }
        Ok(Some(Request {
            path: head.split(' ').nth(1).unwrap_or_default().to_owned(),
            body: &self.buffer[head_end..self.used],
        }))
    }

    fn read(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        let mut bytes = [0; 16 * 1024];
        let length = stream.read(&mut bytes)?;
        self.buffer.extend_from_slice(&bytes[..length]);
        Ok(length > 0)
    }
}
