//! From the input to pieces with what is known about them: the threads that read, cut and look up.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use tokio::sync::mpsc;

use crate::config::settings::Config;
use crate::error::Error;
use crate::input::chunk::{By, Chunk, ChunkerOptions};
use crate::input::reader::{self, Piece, Source};
use crate::input::token::Encoding;
use crate::pipeline::found::{Found, look_up};
use crate::pipeline::recall::Recall;

/// Tokens of chunks that are cut ahead of the requests: enough that two threads do not have to
/// wait for each other at every chunk.
const CUT_AHEAD: usize = 32_000;

/// Pieces of the input with what is known about them, as they are cut.
pub(super) type Pieces = mpsc::Receiver<Result<Found, Error>>;

/// Reads of which the pieces wait to be looked up.
const READ_AHEAD: usize = 2;

/// Has what was cut looked up; gives what comes of it, and the threads that are to be waited for.
pub(super) type Begin = Box<dyn FnOnce(Recall) -> (Pieces, Vec<JoinHandle<()>>)>;

/// Reads, cuts and looks up what was cut.
pub(super) fn pieces(
    config: &Config,
    sources: Option<Vec<Source>>,
    prompt: String,
    encoding: Encoding,
    recall: Recall,
) -> Result<(Pieces, Vec<JoinHandle<()>>), Error> {
    read(config, sources, prompt, encoding).map(|begin| begin(recall))
}

/// Starts to read and cut, while others find out what is remembered; without input there is no thread.
pub(super) fn read(
    config: &Config,
    sources: Option<Vec<Source>>,
    prompt: String,
    encoding: Encoding,
) -> Result<Begin, Error> {
    let ahead = match config.by {
        By::File => 2,
        By::Line | By::Paragraph => 64,
        By::Sentence => (CUT_AHEAD / config.chunk_tokens.get()).clamp(2, 64),
    };
    let Some(sources) = sources else {
        return Ok(Box::new(move |recall| {
            (single("the request", prompt, &recall), Vec::new())
        }));
    };
    let (sender, receiver) = mpsc::channel(ahead);
    let options = ChunkerOptions {
        by: config.by,
        max_tokens: config.chunk_tokens.get(),
        encoding,
        context_tokens: config.context,
    };
    let flush_after = config.flush_after;
    let tells_ends = config.in_place.is_some();
    let (tell, told) = sync_channel(1);
    let cutter = spawn("cut", move || {
        let mut finder = Finder {
            told,
            recall: None,
            sender,
            thread: None,
        };
        let result = reader::read(sources, &options, flush_after, tells_ends, |pieces| {
            finder.find(Ok(pieces))
        });
        if let Err(error) = result {
            finder.find(Err(error));
        }
        finder.join();
    })?;
    Ok(Box::new(move |recall| {
        let _ = tell.send(recall);
        (receiver, vec![cutter])
    }))
}

/// What one read brought.
type Cut = Result<Vec<Piece>, Error>;

/// Looks up what was cut. A thread that waits for a database or hashes does not cut meanwhile, so it has one of its own;
/// but not for the first pieces, which are all that most runs have.
struct Finder {
    /// What is remembered, once that is known.
    told: Receiver<Recall>,
    recall: Option<Recall>,
    sender: mpsc::Sender<Result<Found, Error>>,
    thread: Option<(SyncSender<Cut>, JoinHandle<()>)>,
}

impl Finder {
    /// Says whether anybody still wants what is found.
    fn find(&mut self, pieces: Cut) -> bool {
        let Some(recall) = &self.recall else {
            let Ok(recall) = self.told.recv() else {
                return false;
            };
            let is_wanted = send(pieces, &recall, &self.sender);
            self.recall = Some(recall);
            return is_wanted;
        };
        if self.thread.is_none() {
            let (cut, read) = sync_channel(READ_AHEAD);
            let (recall, sender) = (recall.clone(), self.sender.clone());
            let work = move || {
                let _ = read
                    .into_iter()
                    .all(|pieces| send(pieces, &recall, &sender));
            };
            match spawn("look up", work) {
                Ok(thread) => self.thread = Some((cut, thread)),
                Err(error) => {
                    let _ = self.sender.blocking_send(Err(error));
                    return false;
                }
            }
        }
        let thread = self.thread.as_ref();
        thread.is_some_and(|(cut, _)| cut.send(pieces).is_ok())
    }

    /// Waits until all is found.
    fn join(self) {
        if let Some((cut, thread)) = self.thread {
            drop(cut);
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

fn send(pieces: Cut, recall: &Recall, sender: &mpsc::Sender<Result<Found, Error>>) -> bool {
    match pieces {
        Ok(pieces) => look_up(pieces, recall, |found| {
            sender.blocking_send(Ok(found)).is_ok()
        }),
        Err(error) => sender.blocking_send(Err(error)).is_ok(),
    }
}

/// Waits for the threads that read. One that broke off looks like the end of input; a short output
/// must not pass for a whole one.
pub(super) fn join(cutters: Vec<JoinHandle<()>>) -> Result<(), Error> {
    if cutters.into_iter().any(|cutter| cutter.join().is_err()) {
        return Err(Error::System {
            what: "read to the end",
            source: io::Error::other("the thread that cuts the input broke off"),
        });
    }
    Ok(())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|source| Error::System {
            what: "start a thread",
            source,
        })
}

/// One piece of text that is no part of a file; `name` is what messages call it.
pub(super) fn single(name: &str, text: String, recall: &Recall) -> Pieces {
    let (sender, receiver) = mpsc::channel(1);
    let piece = Piece {
        file: Arc::from(name),
        chunk: Chunk {
            text,
            ..Chunk::default()
        },
        is_end: false,
    };
    // There is room for one.
    look_up(vec![piece], recall, |found| {
        sender.try_send(Ok(found)).is_ok()
    });
    receiver
}
