//! Standard output, or files that are replaced, written from a thread of its own.
//!
//! A slow pager or a full pipe blocks that thread and nothing else: requests in
//! flight go on, and the bounded channel holds the rest of the program back. It
//! flushes when nothing more is at hand. A reader that leaves is noticed at
//! once, even while the server is silent, since every reply still asked for
//! costs money.

use std::io::{self, Write};
use std::thread;

use tokio::sync::{mpsc, oneshot};

use crate::error::Error;
use crate::output::replace::{self, Replaced, Replacement, Staged};

/// Pieces of output that may wait for a slow reader.
const WAITING: usize = 16;

/// Bytes that are gathered into one write.
const GATHERED: usize = 64 * 1024;

/// The sending side of standard output.
#[derive(Debug)]
pub struct Writer {
    sender: Option<mpsc::Sender<Note>>,
    failures: mpsc::Receiver<Error>,
    done: oneshot::Receiver<()>,
}

/// What the thread that writes is told.
#[derive(Debug)]
enum Note {
    Text(String),
    /// The text of a file is complete; whether it may take the file's place, and who waits for that.
    End(bool, oneshot::Sender<Result<Replaced, Error>>),
}

impl Writer {
    /// Starts the thread that writes to standard output.
    ///
    /// # Errors
    /// [`Error::System`] when there can be no thread.
    pub fn start() -> Result<Self, Error> {
        let (tell, failures) = mpsc::channel(2);
        watch_reader(&tell)?;
        Self::on(tell, failures, |receiver| {
            write_all(receiver).map_err(failure)
        })
    }

    /// Starts the thread that writes in place of these files, one after the other.
    ///
    /// # Errors
    /// [`Error::System`] when there can be no thread.
    pub fn in_place(files: Vec<Replacement>) -> Result<Self, Error> {
        let (tell, failures) = mpsc::channel(2);
        Self::on(tell, failures, |receiver| write_files(receiver, files))
    }

    fn on(
        tell: mpsc::Sender<Error>,
        failures: mpsc::Receiver<Error>,
        work: impl FnOnce(mpsc::Receiver<Note>) -> Result<(), Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let (tell_done, done) = oneshot::channel();
        spawn("write", move || match work(receiver) {
            Ok(()) => {
                let _ = tell_done.send(());
            }
            // Nobody waits for a failure only when the run is over already.
            Err(error) => {
                let _ = tell.blocking_send(error);
            }
        })?;
        Ok(Self {
            sender: Some(sender),
            failures,
            done,
        })
    }

    /// Hands text over to be written; waits while the reader is slow.
    ///
    /// # Errors
    /// What [`Writer::failed`] says.
    pub async fn write(&mut self, text: String) -> Result<(), Error> {
        if text.is_empty() {
            return Ok(());
        }
        let Some(sender) = &self.sender else {
            return Ok(());
        };
        tokio::select! {
            biased;
            Some(failure) = self.failures.recv() => Err(failure),
            sent = sender.send(Note::Text(text)) => match sent {
                Ok(()) => Ok(()),
                Err(_) => Err(self.failed().await),
            },
        }
    }

    /// Says that a file's text is complete and, if it `is_whole`, has it take the file's place.
    ///
    /// # Errors
    /// [`Error::Replace`] when it cannot.
    pub async fn end_file(&mut self, is_whole: bool) -> Result<Replaced, Error> {
        let (done, wait) = oneshot::channel();
        let is_sent = match &self.sender {
            Some(sender) => sender.send(Note::End(is_whole, done)).await.is_ok(),
            None => false,
        };
        match wait.await {
            Ok(replaced) if is_sent => replaced,
            _ => Err(self.failed().await),
        }
    }

    /// Waits until writing fails; forever when it does not.
    pub async fn failed(&mut self) -> Error {
        match self.failures.recv().await {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// [`Error::Output`] when the last bytes could not be written,
    /// [`Error::ReaderLeft`] when nobody takes them.
    pub async fn finish(mut self) -> Result<(), Error> {
        self.sender = None;
        tokio::select! {
            biased;
            Ok(()) = &mut self.done => Ok(()),
            Some(failure) = self.failures.recv() => Err(failure),
            else => Ok(()),
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(64 * 1024)
        .spawn(work)
        .map(drop)
        .map_err(|source| Error::System {
            what: "start a thread",
            source,
        })
}

fn write_all(mut receiver: mpsc::Receiver<Note>) -> io::Result<()> {
    let mut stdout = stdout()?;
    while let Some(note) = receiver.blocking_recv() {
        let Note::Text(mut text) = note else {
            continue;
        };
        while text.len() < GATHERED {
            match receiver.try_recv() {
                Ok(Note::Text(more)) => text.push_str(&more),
                Ok(Note::End(..)) => {}
                Err(_) => break,
            }
        }
        stdout.write_all(text.as_bytes())?;
        if receiver.is_empty() {
            stdout.flush()?;
        }
    }
    stdout.flush()
}

/// Writes for one file after the other. What was begun and not ended is left out.
fn write_files(mut receiver: mpsc::Receiver<Note>, files: Vec<Replacement>) -> Result<(), Error> {
    for file in files {
        let failed = |source: io::Error| replace::failed(file.name(), &source);
        let mut staged = Staged::begin(&file).map_err(failed)?;
        loop {
            match receiver.blocking_recv() {
                Some(Note::Text(text)) => staged.write(&text).map_err(failed)?,
                Some(Note::End(is_whole, done)) => {
                    let replaced = if is_whole {
                        staged.replace(&file).map_err(failed)
                    } else {
                        Ok(Replaced::Left)
                    };
                    let _ = done.send(replaced);
                    break;
                }
                None => return Ok(()),
            }
        }
    }
    Ok(())
}

/// Standard output as a file: the standard library's own handle takes every byte
/// without a word where the descriptor cannot be written.
#[cfg(unix)]
fn stdout() -> io::Result<impl Write> {
    use std::os::fd::AsFd;
    let descriptor = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(std::fs::File::from(descriptor))
}

#[cfg(not(unix))]
fn stdout() -> io::Result<impl Write> {
    Ok(io::stdout().lock())
}

/// What Windows says of a pipe that it has taken down (`ERROR_PIPE_NOT_CONNECTED`); the standard library has no kind
/// for it.
const NOT_CONNECTED: i32 = 233;

fn failure(source: io::Error) -> Error {
    let is_taken_down = cfg!(windows) && source.raw_os_error() == Some(NOT_CONNECTED);
    if source.kind() == io::ErrorKind::BrokenPipe || is_taken_down {
        Error::ReaderLeft
    } else {
        Error::Output(source)
    }
}

/// Watches a pipe for its reader's leaving: an empty `poll` reports nothing but
/// errors, and a pipe without a reader is one (poll(2)).
#[cfg(unix)]
fn watch_reader(tell: &mpsc::Sender<Error>) -> Result<(), Error> {
    use rustix::event::{PollFd, PollFlags, poll};
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileTypeExt;

    let is_pipe = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|stdout| std::fs::File::from(stdout).metadata())
        .is_ok_and(|metadata| metadata.file_type().is_fifo() || metadata.file_type().is_socket());
    if !is_pipe {
        return Ok(());
    }
    let tell = tell.clone();
    spawn("watch", move || {
        let stdout = io::stdout();
        loop {
            let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
            match poll(&mut watched, None) {
                Ok(_) if watched[0].revents().intersects(PollFlags::ERR) => {
                    let _ = tell.blocking_send(Error::ReaderLeft);
                    return;
                }
                Err(rustix::io::Errno::INTR) => {}
                // Hang-ups of sockets and anything unknown are left to the next write.
                Ok(_) | Err(_) => return,
            }
        }
    })
}

#[cfg(not(unix))]
fn watch_reader(_tell: &mpsc::Sender<Error>) -> Result<(), Error> {
    Ok(())
}
