//! The map: every chunk asked about, several at a time, replies in order.
//!
//! It takes what `reorder` gives, in order, and hands it to the writer: what is
//! ready together in one piece, the head of the order as it comes where somebody
//! watches. A failure ends the run or is kept in mind for the summary.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::{Notify, mpsc, watch};

use crate::api::failure::Failure;
use crate::error::Error;
use crate::limit::concurrency::Concurrency;
use crate::output::format::Formatter;
use crate::output::record::{Fault, Record, Tokens};
use crate::output::replace::Replaced;
use crate::output::writer::Writer;
use crate::pipeline::ask::{Asker, Traffic, is_hopeless};
use crate::pipeline::found::Found;
use crate::pipeline::place::Place;
use crate::pipeline::reorder::{Board, Item, MapOptions, OnError, Showing, items};
use crate::pipeline::tally::Tally;
use crate::pipeline::task::{Live, Outcome};
use crate::pipeline::tell::wait_for_flight;
use crate::report::message::Messages;
use crate::report::progress::{Progress, Snapshot, UPDATE_EVERY};

/// Bytes of ready text that are handed over even if more is ready.
const GATHERED: usize = 64 * 1024;

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
    /// is remembered. The same where writing fails; a reader that left waits for nothing.
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
        let result = self
            .take_all(items.as_mut(), (&board, &grown), &traffic, options)
            .await;
        let what = match &result {
            Ok(()) | Err(Error::ReaderLeft) => return result,
            Err(Error::Output(_) | Error::Replace { .. }) => "the output failed",
            Err(_) => "a chunk failed",
        };
        // A chunk that failed has ended it for those behind; else it ends for all, as none has a smaller number.
        traffic.over.send_if_modified(|first| {
            let goes_on = *first == u64::MAX;
            if goes_on {
                *first = 0;
            }
            goes_on
        });
        if self.asker.recall.cache.is_some() {
            let rest = async { while items.next().await.is_some() {} };
            wait_for_flight(&self.messages, what, rest).await;
        }
        result
    }

    /// Takes the items and writes what comes of them, up to the first failure.
    async fn take_all(
        &mut self,
        mut items: Pin<&mut impl Stream<Item = Item>>,
        (board, grown): (&Board, &Notify),
        traffic: &Traffic,
        options: MapOptions,
    ) -> Result<(), Error> {
        let mut tick = tokio::time::interval(UPDATE_EVERY);
        loop {
            if self.progress.is_shown() {
                self.progress.update(Snapshot {
                    done: self.tally.written,
                    known: self.tally.known.load(Ordering::Relaxed),
                    is_all_known: board.is_all_known.get(),
                    in_flight: traffic.concurrency.in_flight(),
                    cached: self.tally.cached,
                    tokens: self.tally.tokens,
                    cost: self.asker.tariff.spent(),
                });
            }
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
                    () = head_grown(head.as_deref(), grown) => {
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
                    self.formatter.gap(&gap, &mut self.pending);
                    continue;
                }
                Item::End(file) => {
                    board.gaps.borrow_mut().pop_front();
                    self.flush().await?;
                    self.end_file(&file).await?;
                    continue;
                }
                Item::Error(error) => error,
                Item::Hit(place, reply, _share) => {
                    let outcome = Outcome::remembered(reply);
                    match self.take(board, &place, &outcome, None, options) {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
                Item::Reply(place, outcome, text, _share) => {
                    match self.take(board, &place, &outcome, text.as_deref(), options) {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
            };
            self.flush().await?;
            return Err(error);
        }
    }

    /// Has a file replaced by what was written for it, if all of that is what it should be.
    async fn end_file(&mut self, file: &str) -> Result<(), Error> {
        let is_whole = !std::mem::take(&mut self.tally.has_file_failed);
        let replaced = self.writer.end_file(is_whole).await?;
        self.formatter.begin_anew();
        self.is_gap_out = false;
        let why = match replaced {
            Replaced::Whole => return Ok(()),
            Replaced::Left => "not all of it was answered",
            Replaced::Changed => "somebody changed it meanwhile",
        };
        self.tally.left += 1;
        self.messages
            .warning(&format!("{file} is not replaced: {why}"));
        Ok(())
    }

    /// Takes a chunk that is done with off the board, and what it gives to write.
    fn take(
        &mut self,
        board: &Board,
        place: &Place,
        outcome: &Outcome,
        text: Option<&str>,
        options: MapOptions,
    ) -> Result<(), Error> {
        let showing = board.shown.borrow_mut().pop_front();
        board.gaps.borrow_mut().pop_front();
        if self.reply(place, outcome, text, showing, options)? {
            self.next_gap(board.gaps.borrow().front());
        }
        Ok(())
    }

    /// Writes the white space before a chunk, if that has not been done.
    fn gap(&mut self, gap: &str) {
        if !std::mem::take(&mut self.is_gap_out) {
            self.formatter.gap(gap, &mut self.pending);
        }
    }

    /// Writes the white space after a reply with it, where it is known: a line end that came later
    /// would leave a line open that other processes write into.
    fn next_gap(&mut self, next: Option<&Option<String>>) {
        if let Some(Some(gap)) = next {
            self.formatter.gap(gap, &mut self.pending);
            self.is_gap_out = true;
        }
    }

    /// Shows what has come of the head since the last time.
    fn show(&mut self, showing: &mut Showing) {
        let taken = showing.live.take();
        if taken.is_restarted && std::mem::take(&mut showing.has_begun) {
            self.formatter.restart(&mut self.pending);
        }
        if !taken.text.is_empty() {
            if !std::mem::replace(&mut showing.has_begun, true) {
                self.gap(&showing.place.gap);
            }
            self.formatter.text(&taken.text, &mut self.pending);
        }
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
        let ends_run = match &outcome.result {
            Ok(reply) => {
                self.tally.reply(place, reply, outcome, &self.messages);
                self.tally.written += 1;
                None
            }
            Err(failure) if options.on_error == OnError::Stop || is_hopeless(failure) => {
                Some(failure)
            }
            Err(failure) => {
                self.tally.failure(place, failure, outcome);
                None
            }
        };
        let kept = text.filter(|_| options.on_error == OnError::Keep);
        let is_written = if self.formatter.is_jsonl() {
            record(place, outcome, kept, self.formatter, &mut self.pending);
            true
        } else {
            match &outcome.result {
                Ok(reply) => {
                    if !has_begun {
                        self.gap(&place.gap);
                        self.formatter.whole(&reply.text, &mut self.pending);
                    }
                    self.end(place);
                    true
                }
                Err(_) => self.stand_in(place, kept, has_begun, ends_run, options),
            }
        };
        match ends_run {
            Some(failure) => Err(place.failed(failure, outcome.attempts, outcome.took)),
            None => Ok(is_written),
        }
    }

    /// Writes what stands in the place of a reply that failed; says whether anything does.
    fn stand_in(
        &mut self,
        place: &Place,
        kept: Option<&str>,
        has_begun: bool,
        ends_run: Option<&Failure>,
        options: MapOptions,
    ) -> bool {
        if has_begun {
            // What was shown of it stays; what comes next goes on a line of its own.
            self.formatter.restart(&mut self.pending);
        }
        // What is left out takes the white space before it along, or, if that is written
        // already, the white space after it.
        if ends_run.is_some() || kept.is_none() && !options.is_by_line {
            return false;
        }
        if !has_begun {
            self.gap(&place.gap);
        }
        self.formatter
            .text(kept.unwrap_or_default(), &mut self.pending);
        self.end(place);
        true
    }

    fn end(&mut self, place: &Place) {
        self.formatter.end(&mut self.pending);
        self.formatter.gap(&place.tail, &mut self.pending);
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

/// A time without what nobody can measure over a network.
fn whole_millis(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// Writes a chunk and what became of it as a line of JSON.
fn record(
    place: &Place,
    outcome: &Outcome,
    kept: Option<&str>,
    formatter: &mut Formatter,
    out: &mut String,
) {
    let reply = outcome.result.as_ref();
    let message = reply.err().map(ToString::to_string).unwrap_or_default();
    let is_text = place.line > 0;
    let record = Record {
        // Where there is no text to cut, there is one request.
        index: if is_text { place.number } else { 1 },
        file: is_text.then_some(&*place.file),
        start: is_text.then_some(place.offset),
        end: is_text.then(|| place.offset + place.bytes),
        line: is_text.then_some(place.line),
        text: reply
            .map_or(kept, |reply| Some(&reply.text))
            .map(Cow::Borrowed),
        error: reply.err().map(|failure| Fault {
            kind: failure.kind.word(),
            status: failure.status,
            message: &message,
        }),
        finish_reason: reply.ok().and_then(|reply| reply.finish.word()),
        model: reply.ok().and_then(|reply| reply.model.as_deref()),
        usage: reply
            .ok()
            .and_then(|reply| reply.usage)
            .map(|usage| Tokens {
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                cached_tokens: usage.cached_tokens,
            }),
        cached: outcome.attempts == 0 && reply.is_ok(),
        attempts: outcome.attempts,
        latency: (outcome.attempts > 0).then(|| whole_millis(outcome.took).as_secs_f64()),
    };
    formatter.record(record, out);
}
