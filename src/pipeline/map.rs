//! The map: every chunk asked about, several at a time, replies in order.
//!
//! It takes what `reorder` gives, in order, and hands it to the writer: what is
//! ready together in one piece, the head of the order as it comes where somebody
//! watches. A failure ends the run or is kept in mind for the summary.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::{Notify, mpsc, watch};

use crate::api::failure::Failure;
use crate::api::reply::Finish;
use crate::error::Error;
use crate::limit::concurrency::Concurrency;
use crate::output::format::Formatter;
use crate::output::writer::Writer;
use crate::pipeline::ask::{Asker, Traffic, is_hopeless};
use crate::pipeline::place::Place;
use crate::pipeline::reorder::{Board, Found, Item, MapOptions, OnError, Showing, items};
use crate::pipeline::task::{Live, Outcome};
use crate::report::message::Messages;
use crate::report::progress::{Progress, Snapshot};

/// Bytes of ready text that are handed over even if more is ready.
const GATHERED: usize = 64 * 1024;

/// Time between two looks at how far things are, while somebody watches.
const TICK: Duration = Duration::from_millis(100);

/// Time after which the user is told what a run that failed is waiting for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Failed chunks that the summary names one by one.
const NAMED: usize = 100;

/// How far a run came.
#[derive(Debug, Default)]
pub struct Tally {
    /// Chunks whose replies were handed to the writer.
    pub written: u64,
    /// Of these, replies that were remembered.
    pub cached: u64,
    /// Of these, replies without a word.
    pub empty: u64,
    /// The chunk that the first of those belongs to.
    pub first_empty: Option<String>,
    /// Of these, replies that were cut at the user's limit.
    pub cut: u64,
    /// Chunks that failed for good while the run went on, and why: the first of them.
    pub failed: Vec<String>,
    /// How many they are.
    pub failures: u64,
    /// Chunks that were read.
    pub known: Arc<AtomicU64>,
    /// Tokens that the server counted, in and out.
    pub tokens: u64,
}

/// The parts that a run works with.
#[derive(Debug)]
pub struct Map<'a> {
    /// Asks.
    pub asker: Arc<Asker>,
    /// Puts replies together.
    pub formatter: &'a mut Formatter,
    /// Standard output.
    pub writer: &'a mut Writer,
    /// The line that people watch.
    pub progress: &'a mut Progress,
    /// Standard error.
    pub messages: Messages,
    /// How far the run is; it stays right when the run is dropped.
    pub tally: &'a mut Tally,
    /// Text that is written with what is ready after it; empty at first.
    pub pending: String,
    /// Whether the white space before the next chunk is written already; not at first.
    pub is_gap_out: bool,
}

impl Map<'_> {
    /// Asks about every chunk and writes the replies in order.
    ///
    /// # Errors
    /// The first failure in the order of the input that ends the run; what stands before it has
    /// been handed to the writer, and what was in flight behind it has come to its end, so that it
    /// is remembered.
    pub async fn run(
        mut self,
        pieces: mpsc::Receiver<Result<Found, Error>>,
        options: MapOptions,
    ) -> Result<(), Error> {
        let traffic = Traffic {
            concurrency: Concurrency::new(options.jobs),
            over: watch::Sender::new(u64::MAX),
        };
        let grown = Arc::new(Notify::new());
        let mut board = Board::default();
        board.known.clone_from(&self.tally.known);
        let items = items(&self.asker, pieces, options, &traffic, &grown, &board);
        let mut items = std::pin::pin!(items);
        let mut tick = tokio::time::interval(TICK);
        loop {
            let known = self.tally.known.load(Ordering::Relaxed);
            let is_all_known = board.is_all_known.get();
            self.progress.update(Snapshot {
                done: self.tally.written,
                known,
                is_all_known,
                in_flight: traffic.concurrency.in_flight(),
                cached: self.tally.cached,
                tokens: self.tally.tokens,
            });
            let head = board
                .shown
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
                    _ = tick.tick(), if self.progress.is_shown() => continue,
                    () = head_grown(head.as_deref(), &grown) => {
                        // It leaves its place only while it is shown: its item has not come yet.
                        let head = board.shown.borrow_mut().pop_front();
                        if let Some(mut showing) = head {
                            self.show(&mut showing);
                            board.shown.borrow_mut().push_front(showing);
                        }
                        continue;
                    }
                }
            };
            let Some(item) = item else {
                return self.flush().await;
            };
            let error = match item {
                Item::Gap(gap) => {
                    board.gaps.borrow_mut().pop_front();
                    let mut out = String::new();
                    self.formatter.gap(&gap, &mut out);
                    self.pending.push_str(&out);
                    continue;
                }
                Item::Error(error) => error,
                Item::Reply(place, outcome, text, _share) => {
                    let showing = board.shown.borrow_mut().pop_front();
                    board.gaps.borrow_mut().pop_front();
                    match self.reply(&place, &outcome, text.as_deref(), showing, options) {
                        Ok(is_written) => {
                            if is_written {
                                self.next_gap(board.gaps.borrow().front());
                            }
                            continue;
                        }
                        Err(error) => error,
                    }
                }
            };
            self.flush().await?;
            if self.asker.recall.cache.is_some() {
                self.drain(items).await;
            }
            return Err(error);
        }
    }

    /// Waits for what is in flight behind a failure: it is paid for, so it is to be remembered.
    async fn drain(&self, mut items: Pin<&mut impl Stream<Item = Item>>) {
        let all = async { while items.next().await.is_some() {} };
        let mut all = std::pin::pin!(all);
        if tokio::time::timeout(PATIENCE, all.as_mut()).await.is_err() {
            self.messages.warning(
                "a chunk failed; waiting for the replies in flight, so that they need not be paid \
                 for again (Ctrl-C leaves them)",
            );
            all.await;
        }
    }

    /// Writes the white space before a chunk, if that has not been done.
    fn gap(&mut self, gap: &str, out: &mut String) {
        if !std::mem::take(&mut self.is_gap_out) {
            self.formatter.gap(gap, out);
        }
    }

    /// Writes the white space after a reply with it, where it is known: a line end that came later
    /// would leave a line open that other processes write into.
    fn next_gap(&mut self, next: Option<&Option<String>>) {
        if let Some(Some(gap)) = next {
            let mut out = String::new();
            self.formatter.gap(gap, &mut out);
            self.pending.push_str(&out);
            self.is_gap_out = true;
        }
    }

    /// Shows what has come of the head since the last time.
    fn show(&mut self, showing: &mut Showing) {
        let taken = showing.live.take();
        let mut out = String::new();
        if taken.is_restarted && std::mem::take(&mut showing.has_begun) {
            self.formatter.restart(&mut out);
        }
        if !taken.text.is_empty() {
            if !std::mem::replace(&mut showing.has_begun, true) {
                self.gap(&showing.place.gap, &mut out);
            }
            self.formatter.text(&taken.text, &mut out);
        }
        self.pending.push_str(&out);
    }

    /// Takes in how a chunk ended: its reply, as much of it as is not shown yet, or what stands in
    /// its place. Says whether anything does.
    fn reply(
        &mut self,
        place: &Place,
        outcome: &Outcome,
        text: Option<&str>,
        showing: Option<Showing>,
        options: MapOptions,
    ) -> Result<bool, Error> {
        let mut has_begun = false;
        if let Some(mut showing) = showing {
            self.show(&mut showing);
            has_begun = showing.has_begun;
        }
        let mut out = String::new();
        match &outcome.result {
            Ok(reply) => {
                let usage = reply.usage.unwrap_or_default();
                if outcome.attempts == 0 {
                    self.tally.cached += 1;
                } else {
                    self.tally.tokens += usage.prompt_tokens + usage.completion_tokens;
                }
                if reply.finish == Finish::Length {
                    self.tally.cut += 1;
                    self.messages.warning(&format!(
                        "{}: the reply was cut at --max-output-tokens",
                        place.name()
                    ));
                }
                if reply.text.trim().is_empty() {
                    self.tally.empty += 1;
                    let first = &mut self.tally.first_empty;
                    first.get_or_insert_with(|| place.name());
                }
                if !has_begun {
                    out.reserve(place.gap.len() + reply.text.len() + 1);
                    self.gap(&place.gap, &mut out);
                    self.formatter.text(&reply.text, &mut out);
                }
                self.formatter.end(&mut out);
                self.formatter.gap(&place.tail, &mut out);
                self.tally.written += 1;
            }
            Err(failure) => {
                if has_begun {
                    // What was shown of it stays; what comes next goes on a line of its own.
                    self.formatter.restart(&mut out);
                }
                if options.on_error == OnError::Stop || is_hopeless(failure) {
                    self.pending.push_str(&out);
                    return Err(place.failed(failure, outcome.attempts, outcome.took));
                }
                self.count(place, failure, outcome);
                let is_kept = options.on_error == OnError::Keep;
                // What is left out takes the white space before it along, or, if that is written
                // already, the white space after it.
                if !is_kept && !options.is_by_line {
                    self.pending.push_str(&out);
                    return Ok(false);
                }
                if !has_begun {
                    self.gap(&place.gap, &mut out);
                }
                if is_kept {
                    self.formatter.text(text.unwrap_or_default(), &mut out);
                }
                self.formatter.end(&mut out);
                self.formatter.gap(&place.tail, &mut out);
            }
        }
        self.pending.push_str(&out);
        Ok(true)
    }

    /// Keeps in mind a chunk that failed, for the summary at the end.
    fn count(&mut self, place: &Place, failure: &Failure, outcome: &Outcome) {
        self.tally.failures += 1;
        if self.tally.failed.len() < NAMED {
            let why = Place::why(failure, outcome.attempts, outcome.took);
            self.tally.failed.push(format!("{} {why}", place.name()));
        }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.progress.before_output();
        self.writer.write(std::mem::take(&mut self.pending)).await
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
