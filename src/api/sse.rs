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
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use eventsource_stream::{Event, EventStreamError, Eventsource};
use futures::stream::{self, Stream, StreamExt};
use memchr::{memchr, memchr2};

/// The longest event that is accepted, in bytes.
pub const MAX_EVENT: usize = 16 << 20;

/// How much text is handed on at a time. `eventsource-stream` copies all that is left of it for every line that
/// it takes out, so this bounds the copying; only a single line may be longer.
const PIECE: usize = 8 << 10;

/// What ends an event: its last line's end, and a line without anything.
const BLANK: &str = "\n\n";

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
pub fn guard<S>(body: S) -> Guard<S> {
    Guard {
        body,
        lines: Lines::new(MAX_EVENT),
        is_too_long: false,
        is_over: false,
    }
}

/// The lines of a body, some whole ones at a time.
#[derive(Debug)]
pub struct Guard<S> {
    body: S,
    lines: Lines,
    is_too_long: bool,
    is_over: bool,
}

impl<S, E> Stream for Guard<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    type Item = Result<String, Broken<E>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(piece) = self.lines.take() {
                return Poll::Ready(Some(Ok(piece)));
            }
            if std::mem::take(&mut self.is_too_long) {
                return Poll::Ready(Some(Err(Broken::TooLong)));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            let taken = match ready!(self.body.poll_next_unpin(context)) {
                Some(Ok(bytes)) => self.lines.push(&bytes),
                Some(Err(error)) => {
                    self.is_over = true;
                    return Poll::Ready(Some(Err(Broken::Transport(error))));
                }
                None => {
                    self.is_over = true;
                    self.lines.finish()
                }
            };
            if taken == Err(TooLong) {
                (self.is_over, self.is_too_long) = (true, true);
            }
        }
    }
}

/// The events of a body, each with its name and its data. The name is `message` or empty where there is none.
///
/// An event that is one line of data, as nearly all are, is that line; for any other there is the parser, which
/// copies each event several times and would take a third of the time of a stream at full speed.
pub fn events<S>(body: S) -> Events<S> {
    Events {
        pieces: guard(body),
        piece: String::new(),
        at: 0,
        lines: Vec::new(),
    }
}

/// The events of a body; see [`events`].
///
/// This and [`Guard`] are written out, because the state of `unfold` is moved in and out for each event.
#[derive(Debug)]
pub struct Events<S> {
    pieces: Guard<S>,
    piece: String,
    /// Where in the piece the next event begins.
    at: usize,
    /// The lines of an event under way that is for the parser.
    lines: Vec<String>,
}

impl<S> Events<S> {
    /// The next event of the piece if it is one line of data.
    fn one_line(&mut self) -> Option<Event> {
        let (data, length) = one_line(&self.piece[self.at..])?;
        let end = self.at + length - BLANK.len();
        let start = end - data.len();
        let data = if end + BLANK.len() == self.piece.len() {
            // Servers send most events one by one; then the piece becomes the data.
            self.at = 0;
            let mut piece = std::mem::take(&mut self.piece);
            piece.truncate(end);
            piece.drain(..start);
            piece
        } else {
            self.at += length;
            self.piece[start..end].to_owned()
        };
        Some(Event {
            data,
            ..Event::default()
        })
    }
}

impl<S, E> Stream for Events<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    type Item = Result<Event, EventStreamError<Broken<E>>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if this.at == this.piece.len() {
                match ready!(this.pieces.poll_next_unpin(context)) {
                    Some(Ok(piece)) => (this.piece, this.at) = (piece, 0),
                    Some(Err(error)) => {
                        return Poll::Ready(Some(Err(EventStreamError::Transport(error))));
                    }
                    None => return Poll::Ready(None),
                }
                continue;
            }
            if this.lines.is_empty()
                && let Some(event) = this.one_line()
            {
                return Poll::Ready(Some(Ok(event)));
            }
            let rest = &this.piece[this.at..];
            let blank = if rest.starts_with('\n') {
                Some(1)
            } else {
                rest.find(BLANK).map(|at| at + BLANK.len())
            };
            let length = blank.unwrap_or(rest.len());
            this.lines.push(rest[..length].to_owned());
            this.at += length;
            if blank.is_some() {
                let lines = std::mem::take(&mut this.lines).into_iter().map(Ok);
                let mut parsed = stream::iter(lines).eventsource();
                if let Some(event) = ready!(parsed.poll_next_unpin(context)) {
                    return Poll::Ready(Some(event));
                }
            }
        }
    }
}

/// The data of an event that is nothing but one line of it, and the event's length.
fn one_line(text: &str) -> Option<(&str, usize)> {
    let data = text.strip_prefix("data:")?;
    let end = memchr(b'\n', data.as_bytes())?;
    let (data, after) = data.split_at(end);
    after.starts_with(BLANK).then(|| {
        (
            data.strip_prefix(' ').unwrap_or(data),
            "data:".len() + end + BLANK.len(),
        )
    })
}
