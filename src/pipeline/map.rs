//! The map: every chunk asked about, several at a time, replies in order.
//!
//! Each request runs as a task of its own, because futures inside `buffered`
//! are polled only while somebody asks for the next item: during a slow write
//! their timers would run out. `buffered` holds the tasks in order, over a
//! window that is wider than the number of requests in flight, so that a slow
//! head holds back output and not requests. Permits are taken before the next
//! chunk is, so memory depends on window and chunk size, never on the input.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::api::client::Client;
use crate::api::failure::{Failure, Kind};
use crate::api::reply::Reply;
use crate::api::request::Template;
use crate::error::Error;
use crate::input::reader::Piece;
use crate::output::format::Formatter;
use crate::output::writer::Writer;
use crate::pipeline::place::Place;
use crate::pipeline::task::{Live, Outcome, Task};
use crate::report::message::Reporter;
use crate::report::progress::Snapshot;

/// Finished replies that may wait for a slow head, as a multiple of the
/// requests in flight.
const WINDOW_FACTOR: usize = 8;

/// The narrowest window, so that few jobs are not held back sooner than many.
const WINDOW_MIN: usize = 64;

/// Bytes of ready text that are handed over even if more is ready.
const GATHERED: usize = 64 * 1024;

/// Time between two looks at how far things are, while somebody watches.
const TICK: Duration = Duration::from_millis(100);

/// What a run of the map needs to know.
#[derive(Clone, Copy, Debug)]
pub struct MapOptions {
    /// Requests in flight at most.
    pub jobs: usize,
    /// Whether the reply that is next in order is shown as it arrives.
    pub is_live: bool,
    /// Whether a reply that reached its length limit is written: the user set the limit.
    pub keeps_cut: bool,
}

impl MapOptions {
    /// Whether a failed request's reply is written all the same, and the run goes on.
    fn keeps(self, failure: &Failure) -> bool {
        self.keeps_cut && failure.kind == Kind::Length && failure.partial.is_some()
    }
}

/// How far a run came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Chunks whose replies were handed to the writer.
    pub written: u64,
    /// Of these, replies that were cut at the user's limit.
    pub cut: u64,
    /// Chunks that were read.
    pub known: u64,
    /// Tokens that the server counted, in and out.
    pub tokens: u64,
}

/// The parts that a run works with.
#[derive(Debug)]
pub struct Map<'a> {
    /// Whom to ask.
    pub client: Arc<Client>,
    /// The requests but for their chunks.
    pub template: Arc<Template>,
    /// Puts replies together.
    pub formatter: &'a mut Formatter,
    /// Standard output.
    pub writer: &'a mut Writer,
    /// Standard error.
    pub reporter: &'a mut Reporter,
    /// How far the run is; it stays right when the run is dropped.
    pub tally: &'a mut Tally,
    /// Text that is written with what is ready after it; empty at first.
    pub pending: String,
}

/// A chunk on its way, in its place in the order.
enum Item {
    /// White space alone; nothing was asked.
    Gap(String),
    /// A chunk's reply.
    Reply(Place, Box<Outcome>),
    /// The input ended badly.
    Error(Error),
}

/// The head of the order while it is shown live.
struct Showing {
    place: Place,
    live: Arc<Live>,
    has_begun: bool,
}

impl Map<'_> {
    /// Asks about every chunk and writes the replies in order.
    ///
    /// # Errors
    /// The first failure in the order of the input; what stands before it has
    /// been handed to the writer.
    pub async fn run(
        mut self,
        pieces: mpsc::Receiver<Result<Piece, Error>>,
        options: MapOptions,
    ) -> Result<(), Error> {
        let permits = Arc::new(Semaphore::new(options.jobs));
        let shown = RefCell::new(VecDeque::new());
        let grown = Arc::new(Notify::new());
        let known = RefCell::new((0, false));
        let items = self.items(pieces, options, &permits, &grown, &shown, &known);
        let mut items = std::pin::pin!(items);
        let mut tick = tokio::time::interval(TICK);
        loop {
            self.tally.known = known.borrow().0;
            self.reporter.progress.update(Snapshot {
                done: self.tally.written,
                known: known.borrow().0,
                is_all_known: known.borrow().1,
                in_flight: options.jobs - permits.available_permits().min(options.jobs),
                tokens: self.tally.tokens,
            });
            let head = shown
                .borrow()
                .front()
                .map(|showing: &Showing| Arc::clone(&showing.live));
            // What is ready together goes out together, so that a short reply and its line end are
            // one write and stay whole beside those of other processes.
            let ready = items.next().now_or_never();
            if ready.is_none() || self.pending.len() >= GATHERED {
                self.flush().await?;
            }
            let item = if let Some(item) = ready {
                item
            } else {
                tokio::select! {
                    biased;
                    failure = self.writer.failed() => return Err(failure),
                    item = items.next() => item,
                    _ = tick.tick(), if self.reporter.progress.is_shown() => continue,
                    () = head_grown(head.as_deref(), &grown) => {
                        // It leaves its place only while it is shown: its item has not come yet.
                        let head = shown.borrow_mut().pop_front();
                        if let Some(mut showing) = head {
                            self.show(&mut showing);
                            shown.borrow_mut().push_front(showing);
                        }
                        continue;
                    }
                }
            };
            let Some(item) = item else {
                return self.flush().await;
            };
            match item {
                Item::Gap(gap) => {
                    let mut out = String::new();
                    self.formatter.gap(&gap, &mut out);
                    self.write(&out);
                }
                Item::Error(error) => {
                    self.flush().await?;
                    return Err(error);
                }
                Item::Reply(place, outcome) => {
                    let showing = shown.borrow_mut().pop_front();
                    self.reply(place, *outcome, showing, options).await?;
                }
            }
        }
    }

    /// The replies in the order of their chunks.
    fn items<'s>(
        &self,
        pieces: mpsc::Receiver<Result<Piece, Error>>,
        options: MapOptions,
        permits: &Arc<Semaphore>,
        grown: &Arc<Notify>,
        shown: &'s RefCell<VecDeque<Showing>>,
        known: &'s RefCell<(u64, bool)>,
    ) -> impl Stream<Item = Item> + 's {
        let (client, template) = (Arc::clone(&self.client), Arc::clone(&self.template));
        let (permits, grown) = (Arc::clone(permits), Arc::clone(grown));
        let is_over = Arc::new(AtomicBool::new(false));
        let window = options.jobs.saturating_mul(WINDOW_FACTOR).max(WINDOW_MIN);
        let stop = Arc::clone(&is_over);
        ReceiverStream::new(pieces)
            .chain(futures::stream::poll_fn(|_| {
                known.borrow_mut().1 = true;
                Poll::Ready(None)
            }))
            .take_while(move |_| std::future::ready(!stop.load(Ordering::Relaxed)))
            .then(move |piece| {
                let permits = Arc::clone(&permits);
                async move {
                    let needs_permit = matches!(&piece, Ok(piece) if !piece.chunk.text.is_empty());
                    // The semaphore is never closed.
                    let permit = if needs_permit {
                        permits.acquire_owned().await.ok()
                    } else {
                        None
                    };
                    (piece, permit)
                }
            })
            .map(move |(piece, permit)| {
                if is_over.load(Ordering::Relaxed) {
                    // Behind a failure nothing is written, so nothing is asked for.
                    return Waiting::Now(None);
                }
                let Piece { file, chunk } = match piece {
                    Err(error) => return Waiting::Now(Some(Item::Error(error))),
                    Ok(piece) if piece.chunk.text.is_empty() => {
                        return Waiting::Now(Some(Item::Gap(piece.chunk.gap)));
                    }
                    Ok(piece) => piece,
                };
                let number = {
                    let mut known = known.borrow_mut();
                    known.0 += 1;
                    known.0
                };
                let place = Place {
                    number,
                    file,
                    gap: chunk.gap,
                    tail: chunk.tail,
                    offset: chunk.offset,
                    bytes: chunk.text.len() as u64,
                    line: chunk.line,
                };
                let live = options.is_live.then(|| {
                    let live = Arc::new(Live::new(&grown));
                    shown.borrow_mut().push_back(Showing {
                        place: place.clone(),
                        live: Arc::clone(&live),
                        has_begun: false,
                    });
                    live
                });
                let body = template.body(&chunk.text, &chunk.context);
                let (client, is_over) = (Arc::clone(&client), Arc::clone(&is_over));
                let task = tokio::spawn(async move {
                    let began = Instant::now();
                    let result = client
                        .ask(body, |text| {
                            if let Some(live) = &live {
                                live.push(text);
                            }
                        })
                        .await;
                    if result
                        .as_ref()
                        .is_err_and(|failure| !options.keeps(failure))
                    {
                        // What comes after it will not be written: ask for nothing more.
                        is_over.store(true, Ordering::Relaxed);
                    }
                    drop(permit);
                    Outcome {
                        result,
                        took: began.elapsed(),
                    }
                });
                Waiting::For(place, Task(task))
            })
            .buffered(window)
    }

    /// Shows what has come of the head since the last time.
    fn show(&mut self, showing: &mut Showing) {
        let text = showing.live.take();
        let mut out = String::new();
        if !showing.has_begun {
            showing.has_begun = true;
            self.formatter.gap(&showing.place.gap, &mut out);
        }
        self.formatter.text(&text, &mut out);
        self.write(&out);
    }

    /// Writes a reply, or as much of it as is not shown yet.
    async fn reply(
        &mut self,
        place: Place,
        Outcome { result, took }: Outcome,
        showing: Option<Showing>,
        options: MapOptions,
    ) -> Result<(), Error> {
        let reply = match result {
            Ok(reply) => reply,
            Err(mut failure) if options.keeps(&failure) => {
                self.tally.cut += 1;
                self.reporter.warning(&format!(
                    "{}: the reply was cut at --max-output-tokens",
                    place.name()
                ));
                failure
                    .partial
                    .take()
                    .map_or_else(Reply::default, |cut| *cut)
            }
            Err(failure) => {
                if showing.is_some_and(|showing| showing.has_begun) && !self.formatter.ends_line() {
                    // What was shown of it stays; the message goes on a line of its own.
                    self.write("\n");
                }
                self.flush().await?;
                return Err(place.failed(&failure));
            }
        };
        let usage = reply.usage.unwrap_or_default();
        self.tally.tokens += usage.prompt_tokens + usage.completion_tokens;
        if self.reporter.is_verbose {
            let seconds = took.as_secs_f64();
            let model = reply.model.as_deref().unwrap_or("the model");
            self.reporter.note(&format!(
                "{}: {model} answered in {seconds:.2} s, {} tokens in, {} out",
                place.name(),
                usage.prompt_tokens,
                usage.completion_tokens,
            ));
        }
        let mut out = String::new();
        if let Some(mut showing) = showing {
            self.show(&mut showing);
        } else {
            out.reserve(place.gap.len() + reply.text.len() + 1);
            self.formatter.gap(&place.gap, &mut out);
            self.formatter.text(&reply.text, &mut out);
        }
        self.formatter.end(&mut out);
        self.formatter.gap(&place.tail, &mut out);
        self.write(&out);
        self.tally.written += 1;
        Ok(())
    }

    /// Takes text to be written with what is ready after it.
    fn write(&mut self, out: &str) {
        self.pending.push_str(out);
    }

    async fn flush(&mut self) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.reporter.progress.before_output();
        self.writer.write(std::mem::take(&mut self.pending)).await
    }
}

/// A place in the order: taken already, or waiting for its reply.
enum Waiting {
    Now(Option<Item>),
    For(Place, Task),
}

impl Future for Waiting {
    type Output = Item;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Item> {
        match &mut *self {
            Self::Now(item) => Poll::Ready(item.take().unwrap_or(Item::Gap(String::new()))),
            Self::For(place, task) => Pin::new(task)
                .poll(context)
                .map(|outcome| Item::Reply(place.clone(), Box::new(outcome))),
        }
    }
}

/// Waits until there is more of the head to show. Where there is no head yet,
/// the first text of any reply tells that there is one.
async fn head_grown(head: Option<&Live>, grown: &Notify) {
    match head {
        Some(live) => live.grown().await,
        None => grown.notified().await,
    }
}
