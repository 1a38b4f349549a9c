//! A server on loopback that costs as little as it can: a thread for each
//! connection, HTTP/1.1 with keep-alive, events in the format of
//! `chat.completion.chunk`.
//!
//! What it says depends on the path. `/v1/chat/completions` echoes the last
//! message at once. `/slow/SHAPE/SEED/v1/chat/completions` takes the number that
//! the message begins with, waits as long as [`Shape::delay`] says for it, and
//! answers with that number; the pieces of its answer are spread over that time.
//! `/arrivals` tells when the requests before it came, and forgets them.

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

use crate::prose::Random;

/// Text in one event of an echo, about. Models send less at a time, but then
/// the server would be what is measured.
pub(crate) const PIECE: usize = 1024;

/// Pieces of a slow answer.
const SLOW_PIECES: u32 = 4;

const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
    transfer-encoding: chunked\r\n\r\n";

/// How the times of answers are spread.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// 20 to 2,000 ms, each as likely.
    Even,
    /// Always so many milliseconds.
    Constant(u64),
    /// So many milliseconds in the middle, a third more or less for most.
    LogNormal(u64),
    /// So many milliseconds for half of them, and for one in a hundred ten times as long and more.
    HeavyTail(u64),
    /// What was measured for requests of so many characters: P50, P95 and P99 of 320, 480 and
    /// 520 ms for a thousand, 850, 1,200 and 1,500 for ten thousand, 4,100, 6,800 and 7,500 for a
    /// hundred thousand.
    Measured(u64),
}

impl Shape {
    /// The shape as a part of a path.
    pub(crate) fn path(self) -> String {
        match self {
            Self::Even => "even-0".to_owned(),
            Self::Constant(ms) => format!("constant-{ms}"),
            Self::LogNormal(ms) => format!("lognormal-{ms}"),
            Self::HeavyTail(ms) => format!("heavy-{ms}"),
            Self::Measured(characters) => format!("measured-{characters}"),
        }
    }

    fn parse(text: &str) -> Self {
        let (name, number) = text.split_once('-').unwrap_or((text, ""));
        let number = number.parse().unwrap_or_default();
        match name {
            "constant" => Self::Constant(number),
            "lognormal" => Self::LogNormal(number),
            "heavy" => Self::HeavyTail(number),
            "measured" => Self::Measured(number),
            _ => Self::Even,
        }
    }

    /// The time that the answer to message `number` takes.
    #[expect(clippy::cast_precision_loss, reason = "delays are far below 2^53 µs")]
    pub(crate) fn delay(self, seed: u64, number: u64) -> Duration {
        let mut random = Random(seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let mut part = || (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let ms = match self {
            Self::Even => 20.0 + part() * 1980.0,
            Self::Constant(ms) => ms as f64,
            Self::LogNormal(ms) => {
                // The sum of twelve even parts is as good as normal.
                let normal: f64 = (0..12).map(|_| part()).sum::<f64>() - 6.0;
                ms as f64 * (normal * 0.3).exp()
            }
            // Pareto with an index of one and a half: P50 is 1.6 of the least, P99 21.5.
            Self::HeavyTail(ms) => ms as f64 / 1.6 * (1.0 - part()).max(1e-3).powf(-1.0 / 1.5),
            Self::Measured(characters) => {
                let known = [
                    [320.0, 480.0, 520.0],
                    [850.0, 1200.0, 1500.0],
                    [4100.0, 6800.0, 7500.0],
                ];
                let size = (characters.max(1000) as f64 / 1000.0).log10().min(2.0);
                let below = usize::from(size >= 1.0);
                let share = size - if size < 1.0 { 0.0 } else { 1.0 };
                let at = |point: usize| {
                    let [low, high] = [known[below][point], known[below + 1][point]];
                    low * f64::powf(high / low, share)
                };
                // Straight between the known points, and from half of the middle on.
                match part() {
                    part @ 0.0..0.5 => at(0) * (0.5 + part),
                    part @ 0.5..0.95 => at(0) + (at(1) - at(0)) * (part - 0.5) / 0.45,
                    part => at(1) + (at(2) - at(1)) * (part - 0.95) / 0.04,
                }
            }
        };
        Duration::from_secs_f64(ms / 1000.0)
    }
}

/// When requests that take their time came.
static ARRIVALS: Mutex<Vec<Instant>> = Mutex::new(Vec::new());

/// What the server has seen since it was asked last: seconds from the first.
pub(crate) fn arrivals(address: &str) -> Vec<f64> {
    let host = address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).expect("the server");
    let request = format!("GET /arrivals HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .expect("the server listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("its answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("its answer's body");
    body.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Writes what has arrived, and forgets it.
fn tell_arrivals(stream: &mut TcpStream) -> io::Result<()> {
    let mut arrivals = std::mem::take(&mut *ARRIVALS.lock().expect("nobody panics with it"));
    arrivals.sort();
    let first = arrivals.first().copied();
    let mut body = String::new();
    for (arrived, first) in arrivals.iter().zip(first.into_iter().cycle()) {
        let _ = std::fmt::Write::write_fmt(
            &mut body,
            format_args!("{:.6}\n", arrived.duration_since(first).as_secs_f64()),
        );
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
            return tell_arrivals(&mut stream);
        }
        if let Some(rest) = request.path.strip_prefix("/slow/") {
            let arrived = Instant::now();
            ARRIVALS
                .lock()
                .expect("nobody panics with it")
                .push(arrived);
            let mut parts = rest.split('/');
            let shape = Shape::parse(parts.next().unwrap_or_default());
            let seed = parts.next().and_then(|seed| seed.parse().ok());
            let times = (shape, seed.unwrap_or_default());
            slow(&mut stream, request.body, times, &mut out)?;
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

/// Writes the answer that takes its time.
fn slow(
    stream: &mut TcpStream,
    body: &[u8],
    (shape, seed): (Shape, u64),
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let began = Instant::now();
    let number: String = last_content(body)
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .map(|byte| char::from(*byte))
        .collect();
    let whole = shape.delay(seed, number.parse().unwrap_or_default());
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
