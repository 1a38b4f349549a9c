//! Bytes off the wire → server-sent events.
//!
//! The parsing is `eventsource-stream`'s; this room stands guard in front of it. Version 0.2.3 panics on a
//! byte order mark, drops a last event that no blank line ends, gives up on one invalid byte, searches a long
//! event again for every read, and holds whatever a server sends. [`Lines`] takes these occasions away: it hands
//! on whole lines only, as UTF-8, ended by LF, few at a time, and none without bound.
//!
//! The format is WHATWG HTML §9.2, "Server-sent events".

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use eventsource_stream::{Event, EventStreamError, Eventsource};
use futures::stream::{self, Stream, StreamExt};
use memchr::{memchr, memchr2};

/// The longest event that is accepted, in bytes.
pub const MAX_EVENT: usize = 16 << 20;

/// How much text is handed on at a time. `eventsource-stream` copies all that is left of it for every line that
/// it takes out, so this bounds the copying; only a single line may be longer.
const PIECE: usize = 8 << 10;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Why the bytes ended early.
#[derive(Debug, PartialEq, Eq)]
pub enum Broken<E> {
    /// The connection failed.
    Transport(E),
    /// One event was longer than [`MAX_EVENT`].
    TooLong,
}

impl<E: fmt::Display> fmt::Display for Broken<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) => error.fmt(f),
            Self::TooLong => write!(f, "one event is longer than {} MiB", MAX_EVENT >> 20),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Broken<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Transport(error) => Some(error),
            Self::TooLong => None,
        }
    }
}

/// Cuts bytes into lines fit for `eventsource-stream`, however the reads cut them.
#[derive(Debug)]
pub struct Lines {
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
    /// Bytes of the event under way that were handed on already.
    event: usize,
    limit: usize,
    at_start: bool,
    after_cr: bool,
    ready: VecDeque<String>,
}

impl Lines {
    /// No line may exceed `limit` bytes, nor all lines of one event together.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            rest: Vec::new(),
            event: 0,
            limit,
            at_start: true,
            after_cr: false,
            ready: VecDeque::new(),
        }
    }

    /// Takes what one read brought.
    ///
    /// # Errors
    /// [`TooLong`] when the event under way exceeds the limit. The lines before it can still be taken.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        // CR LF is one line end, also if a read ends between the two.
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = memchr2(b'\r', b'\n', bytes) {
            self.line_end(&bytes[..end])?;
            let is_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if is_cr {
                self.after_cr = bytes.is_empty();
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
        }
        self.check(bytes.len())?;
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes the end of the body: a last event that nothing ended is ended here, where the standard would
    /// drop it. Whether it is a whole one shows in its JSON.
    ///
    /// # Errors
    /// [`TooLong`], as for [`Lines::push`].
    pub fn finish(&mut self) -> Result<(), TooLong> {
        self.line_end(b"")?;
        self.line(b"")
    }

    /// The next piece: whole lines.
    pub fn take(&mut self) -> Option<String> {
        self.ready.pop_front()
    }

    fn check(&self, more: usize) -> Result<(), TooLong> {
        if self.event + self.rest.len() + more > self.limit {
            return Err(TooLong);
        }
        Ok(())
    }

    fn line_end(&mut self, tail: &[u8]) -> Result<(), TooLong> {
        self.check(tail.len())?;
        if self.rest.is_empty() {
            return self.line(tail);
        }
        let mut line = std::mem::take(&mut self.rest);
        line.extend_from_slice(tail);
        self.line(&line)?;
        // The room is kept for the next line, unless it was a giant's.
        if line.capacity() <= PIECE {
            line.clear();
            self.rest = line;
        }
        Ok(())
    }

    fn line(&mut self, mut line: &[u8]) -> Result<(), TooLong> {
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix(BOM).unwrap_or(line);
        }
        if line.is_empty() {
            self.event = 0;
        } else if is_field(line, b"data") || is_field(line, b"event") {
            self.check(line.len())?;
            self.event += line.len() + 1;
        } else {
            // Comments, `id`, `retry` and unknown fields mean nothing here. Handed on they would cost: the
            // parser copies the last id into every event, and panics if a second mark follows the first.
            return Ok(());
        }
        // Nearly every line is text, and found to be that much faster than by what replaces what is not.
        match std::str::from_utf8(line) {
            Ok(text) => self.append(text),
            Err(_) => self.append(&String::from_utf8_lossy(line)),
        }
        Ok(())
    }

    fn append(&mut self, line: &str) {
        match self.ready.back_mut() {
            Some(piece) if piece.len() + line.len() < PIECE => piece.push_str(line),
            _ => {
                // Its line end, and that of the blank line that mostly follows.
                let mut piece = String::with_capacity(line.len() + 2);
                piece.push_str(line);
                self.ready.push_back(piece);
            }
        }
        if let Some(piece) = self.ready.back_mut() {
            piece.push('\n');
        }
    }
}

/// An event exceeded the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

fn is_field(line: &[u8], name: &[u8]) -> bool {
    line.strip_prefix(name)
        .is_some_and(|rest| matches!(rest.first(), None | Some(b':')))
}

/// Puts [`Lines`] in front of a body: what comes out can be given to `eventsource-stream`.
pub fn guard<S, E>(body: S) -> impl Stream<Item = Result<String, Broken<E>>>
where
    S: Stream<Item = Result<Bytes, E>>,
{
    struct State<S, E> {
        body: Pin<Box<S>>,
        lines: Lines,
        is_over: bool,
        error: Option<Broken<E>>,
    }
    let state = State {
        body: Box::pin(body),
        lines: Lines::new(MAX_EVENT),
        is_over: false,
        error: None,
    };
    stream::unfold(state, |mut state| async move {
        loop {
            if let Some(piece) = state.lines.take() {
                return Some((Ok(piece), state));
            }
            if let Some(error) = state.error.take() {
                return Some((Err(error), state));
            }
            if state.is_over {
                return None;
            }
            let taken = match state.body.next().await {
                Some(Ok(bytes)) => state.lines.push(&bytes),
                Some(Err(error)) => {
                    state.is_over = true;
                    state.error = Some(Broken::Transport(error));
                    continue;
                }
                None => {
                    state.is_over = true;
                    state.lines.finish()
                }
            };
            if taken == Err(TooLong) {
                state.is_over = true;
                state.error = Some(Broken::TooLong);
            }
        }
    })
}

/// The events of a body, each with its name and its data. The name is `message` or empty where there is none.
///
/// An event that is one line of data, as nearly all are, is that line; for any other there is the parser, which
/// copies each event several times and would take a third of the time of a stream at full speed.
pub fn events<S, E>(body: S) -> impl Stream<Item = Result<Event, EventStreamError<Broken<E>>>>
where
    S: Stream<Item = Result<Bytes, E>>,
{
    struct State<S> {
        pieces: Pin<Box<S>>,
        piece: String,
        /// Where in the piece the next event begins.
        at: usize,
        /// The lines of an event under way that is for the parser.
        lines: Vec<String>,
    }
    let state = State {
        pieces: Box::pin(guard(body)),
        piece: String::new(),
        at: 0,
        lines: Vec::new(),
    };
    stream::unfold(state, |mut state| async move {
        loop {
            let rest = &state.piece[state.at..];
            if rest.is_empty() {
                match state.pieces.next().await? {
                    Ok(piece) => (state.piece, state.at) = (piece, 0),
                    Err(error) => return Some((Err(EventStreamError::Transport(error)), state)),
                }
            } else if state.lines.is_empty()
                && let Some((data, length)) = one_line(rest)
            {
                let data = data.to_owned();
                let event = Event {
                    data,
                    ..Event::default()
                };
                state.at += length;
                return Some((Ok(event), state));
            } else {
                let blank = if rest.starts_with('\n') {
                    Some(1)
                } else {
                    rest.find("\n\n").map(|at| at + 2)
                };
                let length = blank.unwrap_or(rest.len());
                state.lines.push(rest[..length].to_owned());
                state.at += length;
                if blank.is_some() {
                    let lines = std::mem::take(&mut state.lines).into_iter().map(Ok);
                    let mut parsed = stream::iter(lines).eventsource();
                    if let Some(event) = parsed.next().await {
                        return Some((event, state));
                    }
                }
            }
        }
    })
}

/// The data of an event that is nothing but one line of it, and the event's length.
fn one_line(text: &str) -> Option<(&str, usize)> {
    let data = text.strip_prefix("data:")?;
    let end = memchr(b'\n', data.as_bytes())?;
    let (data, after) = data.split_at(end);
    after.starts_with("\n\n").then(|| {
        (
            data.strip_prefix(' ').unwrap_or(data),
            "data:".len() + end + 2,
        )
    })
}
