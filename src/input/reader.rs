//! The reading end: files and standard input, held to UTF-8 text, pushed
//! through the chunker.
//!
//! Everything here blocks and runs on a thread of its own: a read of standard
//! input cannot be cancelled, and on the runtime it would keep the process from
//! ending. The consumer's channel is bounded, so when nobody takes chunks,
//! nothing is read.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Looks, Role};
use crate::input::chunk::{Chunk, ChunkerOptions};
use crate::input::chunker::Chunker;

/// Bytes asked for at a time; a pipe of Linux holds as many.
const READ_BYTES: usize = 64 * 1024;

/// Bytes asked for until as many come: most inputs are short, and memory that is not touched costs nothing.
const FIRST_BYTES: usize = 4 * 1024;

/// Chunks that are handed on together at most, however short they are.
const TOGETHER: usize = 256;

/// Files that are held open until their turn; the others are opened again, so
/// that more files can be named than a process may hold open.
const HELD_OPEN: usize = 64;

/// Where text comes from.
#[derive(Debug)]
pub struct Source {
    pub(super) name: Arc<str>,
    pub(super) from: From,
}

#[derive(Debug)]
pub(super) enum From {
    Stdin,
    Open(File),
    Path(OsString),
}

impl Source {
    /// Standard input.
    #[must_use]
    pub fn stdin() -> Self {
        Self {
            name: Arc::from("standard input"),
            from: From::Stdin,
        }
    }
}

/// Opens every operand, so that one that cannot be read is told before anything
/// is sent; none means standard input.
///
/// # Errors
/// [`Error::NoInput`] for the first that cannot be opened or is a directory.
pub fn open(operands: &[OsString]) -> Result<Vec<Source>, Error> {
    if operands.is_empty() {
        return Ok(vec![Source::stdin()]);
    }
    let mut held = 0;
    let mut sources = Vec::with_capacity(operands.len());
    for operand in operands {
        if operand == "-" {
            sources.push(Source::stdin());
            continue;
        }
        let name: Arc<str> = Arc::from(operand.to_string_lossy());
        let file = open_file(operand, &name)?;
        let is_regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        // What is no regular file, such as a pipe from `<(…)`, can be opened only once.
        let from = if is_regular && held >= HELD_OPEN {
            From::Path(operand.clone())
        } else {
            held += 1;
            From::Open(file)
        };
        sources.push(Source { name, from });
    }
    Ok(sources)
}

fn open_file(path: &OsString, name: &str) -> Result<File, Error> {
    let refused = |source| Error::NoInput {
        file: name.to_owned(),
        source,
        role: Role::Text,
    };
    let file = File::open(path).map_err(refused)?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(refused(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    Ok(file)
}

/// A chunk and where it comes from.
#[derive(Debug)]
pub struct Piece {
    /// The file, as the user named it; what messages call the piece where its line is 0.
    pub file: Arc<str>,
    /// The chunk.
    pub chunk: Chunk,
    /// Whether this is no chunk but the end of the file.
    pub is_end: bool,
}

/// Reads all sources to their ends and hands on their chunks, those that one
/// read completes together, and where `tells_ends`, the end of each. `send` says
/// whether anybody still takes them.
///
/// # Errors
/// [`Error::NoInput`] when reading fails, [`Error::NotText`] where the input is
/// not UTF-8 text or has a NUL.
pub fn read(
    sources: Vec<Source>,
    options: &ChunkerOptions,
    flush_after: Option<Duration>,
    tells_ends: bool,
    mut send: impl FnMut(Vec<Piece>) -> bool,
) -> Result<(), Error> {
    for Source { name, from } in sources {
        let input: Box<dyn Read + Send> = match from {
            From::Stdin => Box::new(io::stdin()),
            From::Open(file) => Box::new(file),
            From::Path(path) => Box::new(open_file(&path, &name)?),
        };
        let mut feed = Feed::new(input, flush_after, &name)?;
        let mut chunker = Chunker::new(*options);
        let mut text = Utf8::default();
        let is_wanted = loop {
            let event = feed.next().map_err(|source| Error::NoInput {
                file: name.to_string(),
                source,
                role: Role::Text,
            })?;
            let is_end = matches!(event, Event::End);
            let result = match event {
                Event::Bytes(bytes) => text.push(bytes, |text| chunker.push(text)),
                Event::Pause => {
                    chunker.flush();
                    Ok(())
                }
                // After a character without its end, what was begun stays unsent.
                Event::End => text.finish().inspect(|()| chunker.finish()),
            };
            let mut pieces = chunker.by_ref().map(|chunk| Piece {
                file: Arc::clone(&name),
                chunk,
                is_end: false,
            });
            let is_wanted = loop {
                let together: Vec<Piece> = pieces.by_ref().take(TOGETHER).collect();
                if together.is_empty() {
                    break true;
                }
                if !send(together) {
                    break false;
                }
            };
            result.map_err(|at| at.into_error(&name))?;
            if is_end || !is_wanted {
                break is_wanted;
            }
        };
        let end = || Piece {
            file: name,
            chunk: Chunk::default(),
            is_end: true,
        };
        if !is_wanted || tells_ends && !send(vec![end()]) {
            return Ok(());
        }
    }
    Ok(())
}

/// What reading brings.
enum Event<'a> {
    Bytes(&'a [u8]),
    /// Nothing came for the time that `--flush-after` names.
    Pause,
    End,
}

/// Reads, and notices a pause where one is asked for: a blocking read has no
/// time limit, so the reading then happens on a second thread.
enum Feed {
    Direct {
        input: Box<dyn Read + Send>,
        buffer: Vec<u8>,
    },
    Watched {
        reads: Receiver<io::Result<Vec<u8>>>,
        pause: Duration,
        is_paused: bool,
        current: Vec<u8>,
    },
}

impl Feed {
    fn new(
        mut input: Box<dyn Read + Send>,
        flush_after: Option<Duration>,
        name: &str,
    ) -> Result<Self, Error> {
        let mut buffer = vec![0; FIRST_BYTES];
        let Some(pause) = flush_after else {
            return Ok(Self::Direct { input, buffer });
        };
        let (sender, reads) = sync_channel(1);
        thread::Builder::new()
            .name(format!("read {name}"))
            .spawn(move || {
                loop {
                    let read = read_some(&mut input, &mut buffer);
                    let is_last = !matches!(read, Ok(1..));
                    let read = read.map(|length| buffer[..length].to_vec());
                    if sender.send(read).is_err() || is_last {
                        return;
                    }
                }
            })
            .map_err(|source| Error::System {
                what: "start a thread",
                source,
            })?;
        Ok(Self::Watched {
            reads,
            pause,
            is_paused: false,
            current: Vec::new(),
        })
    }

    fn next(&mut self) -> io::Result<Event<'_>> {
        match self {
            Self::Direct { input, buffer } => match read_some(input, buffer)? {
                0 => Ok(Event::End),
                length => Ok(Event::Bytes(&buffer[..length])),
            },
            Self::Watched {
                reads,
                pause,
                is_paused,
                current,
            } => {
                // One pause is told once; after it there is nothing more to send.
                let read = if *is_paused {
                    reads.recv().map_err(|_| RecvTimeoutError::Disconnected)
                } else {
                    reads.recv_timeout(*pause)
                };
                *is_paused = matches!(read, Err(RecvTimeoutError::Timeout));
                match read {
                    Ok(bytes) => *current = bytes?,
                    Err(RecvTimeoutError::Timeout) => return Ok(Event::Pause),
                    Err(RecvTimeoutError::Disconnected) => current.clear(),
                }
                if current.is_empty() {
                    return Ok(Event::End);
                }
                Ok(Event::Bytes(current))
            }
        }
    }
}

/// Reads to the beginning of `buffer`, which grows where more may have been there than it holds.
fn read_some(input: &mut dyn Read, buffer: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(length) if length == buffer.len() => {
                buffer.resize(READ_BYTES, 0);
                return Ok(length);
            }
            result => return result,
        }
    }
}

/// Where input stops being text.
#[derive(Debug, Eq, PartialEq)]
struct NotText {
    offset: u64,
    line: u64,
    looks: Looks,
}

/// Bytes held to UTF-8, also where a character is split between two reads.
#[derive(Debug, Default)]
struct Utf8 {
    /// The beginning of a character whose end has not come; at most 3 bytes.
    carry: Vec<u8>,
    /// Bytes and line ends of the text handed on.
    offset: u64,
    lines: u64,
}

/// The text of a file that is read as a whole, such as a prompt's, held to the same as input.
///
/// # Errors
/// [`Error::NotText`] where it is not UTF-8 text or has a NUL.
pub fn text(bytes: &[u8], file: &str) -> Result<String, Error> {
    let (mut utf8, mut text) = (Utf8::default(), String::new());
    utf8.push(bytes, |part| text.push_str(part))
        .and_then(|()| utf8.finish())
        .map_err(|at| at.into_error(file))?;
    Ok(text)
}

impl NotText {
    fn into_error(self, file: &str) -> Error {
        Error::NotText {
            file: file.to_owned(),
            offset: self.offset,
            line: self.line,
            looks: self.looks,
        }
    }
}

impl Utf8 {
    /// Hands on the text in `bytes`, as far as it is text.
    fn push(&mut self, bytes: &[u8], mut take: impl FnMut(&str)) -> Result<(), NotText> {
        let mut rest = bytes;
        if self.offset == 0 && self.carry.len() + rest.len() >= 2 {
            let mark = [&self.carry, &rest[..rest.len().min(2)]].concat();
            if mark.starts_with(&[0xff, 0xfe]) || mark.starts_with(&[0xfe, 0xff]) {
                return Err(self.wrong_at(&[], Looks::Utf16));
            }
        } else if self.offset == 0 && matches!(rest, [0xff | 0xfe]) {
            // The other half of the mark may come with the next read.
            self.carry = rest.to_vec();
            return Ok(());
        }
        while !self.carry.is_empty() && !rest.is_empty() {
            self.carry.push(rest[0]);
            rest = &rest[1..];
            let carry = std::mem::take(&mut self.carry);
            match std::str::from_utf8(&carry) {
                Ok(text) => self.hand_on(text, &mut take)?,
                Err(error) if error.error_len().is_none() => self.carry = carry,
                Err(_) => return Err(self.wrong_at(&[], Looks::Other)),
            }
        }
        match std::str::from_utf8(rest) {
            Ok(text) => self.hand_on(text, &mut take),
            Err(error) => {
                let (good, bad) = rest.split_at(error.valid_up_to());
                if let Ok(text) = std::str::from_utf8(good) {
                    self.hand_on(text, &mut take)?;
                }
                if error.error_len().is_some() {
                    return Err(self.wrong_at(&[], Looks::Other));
                }
                self.carry = bad.to_vec();
                Ok(())
            }
        }
    }

    /// The end of input: a character that was begun will not end.
    fn finish(&self) -> Result<(), NotText> {
        if self.carry.is_empty() {
            Ok(())
        } else {
            Err(self.wrong_at(&[], Looks::Other))
        }
    }

    fn hand_on(&mut self, text: &str, take: &mut impl FnMut(&str)) -> Result<(), NotText> {
        if let Some(at) = memchr::memchr(0, text.as_bytes()) {
            take(&text[..at]);
            return Err(self.wrong_at(&text.as_bytes()[..at], Looks::Binary));
        }
        self.offset += text.len() as u64;
        self.lines += memchr::memchr_iter(b'\n', text.as_bytes()).count() as u64;
        take(text);
        Ok(())
    }

    fn wrong_at(&self, before: &[u8], looks: Looks) -> NotText {
        let lines = memchr::memchr_iter(b'\n', before).count() as u64;
        NotText {
            offset: self.offset + before.len() as u64,
            line: self.lines + lines + 1,
            looks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes `bytes` in pieces of `size` and returns the text and the verdict.
    fn decode(bytes: &[u8], size: usize) -> (String, Result<(), NotText>) {
        let mut utf8 = Utf8::default();
        let mut text = String::new();
        for piece in bytes.chunks(size) {
            if let Err(wrong) = utf8.push(piece, |part| text.push_str(part)) {
                return (text, Err(wrong));
            }
        }
        let end = utf8.finish();
        (text, end)
    }

    #[test]
    fn text_does_not_depend_on_the_reads() {
        let text = "grüße, 日本語 and 🚀\nin one 👨‍👩‍👧 line\r\n";
        for size in 1..=text.len() {
            assert_eq!(
                decode(text.as_bytes(), size),
                (text.to_owned(), Ok(())),
                "reads of {size}"
            );
        }
    }

    #[test]
    fn tells_the_first_wrong_byte_whatever_the_reads() {
        let cases: [(&[u8], u64, u64, Looks); 9] = [
            (b"ab\ncd\xff", 5, 2, Looks::Other),
            (b"\xc3", 0, 1, Looks::Other),
            (b"a\n\n\xe6\x97", 3, 3, Looks::Other),
            (b"\xe6\x97x", 0, 1, Looks::Other),
            (b"\xed\xa0\x80", 0, 1, Looks::Other),
            (b"text\nmore\0x", 9, 2, Looks::Binary),
            (b"\xff\xfeh\0i\0", 0, 1, Looks::Utf16),
            (b"\xfe\xff\0h", 0, 1, Looks::Utf16),
            (b"\xff", 0, 1, Looks::Other),
        ];
        for (bytes, offset, line, looks) in cases {
            for size in 1..=bytes.len() {
                let (_, end) = decode(bytes, size);
                assert_eq!(
                    end,
                    Err(NotText {
                        offset,
                        line,
                        looks
                    }),
                    "{bytes:?} by {size}"
                );
            }
        }
    }
}
