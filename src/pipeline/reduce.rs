//! The replies of the map merged into one, level by level, for `--reduce`.
//!
//! The replies are packed in their order, as many as fit below the bound of a chunk, and a pack is
//! asked about as soon as the next reply does not fit: merging begins while the map goes on. What
//! comes of the packs is packed again, until there is one pack left. That last one is given back,
//! so that its reply can be shown as any other is.
//!
//! Memory holds one open pack a level, the packs that are asked about, and what the map has in
//! flight. A pack has at least two replies, so each level has at most half as many as the one below
//! it, whatever their size.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt as _};
use tokio::sync::{Notify, mpsc, watch};

use crate::error::Error;
use crate::limit::concurrency::Concurrency;
use crate::output::fence::unfenced;
use crate::pipeline::ask::{Asker, Traffic, Work, is_hopeless};
use crate::pipeline::found::Found;
use crate::pipeline::place::Place;
use crate::pipeline::reorder::{Board, Item, MapOptions, OnError, items};
use crate::pipeline::room::Room;
use crate::pipeline::tally::Tally;
use crate::pipeline::task::{Outcome, Task};
use crate::pipeline::tell::wait_for_flight;
use crate::report::message::Messages;
use crate::report::progress::{Progress, Snapshot, UPDATE_EVERY};

/// What stands between the replies of a pack.
const BETWEEN: &str = "\n\n";

/// The parts that a merging works with.
#[derive(Debug)]
pub struct Reduce<'a> {
    /// Asks about the chunks.
    pub map: Arc<Asker>,
    /// Asks about packs of replies.
    pub merge: Arc<Asker>,
    /// Tokens that a pack may have, but for one of two replies.
    pub max_tokens: usize,
    /// Whether only the inside of a reply's code fence is wanted.
    pub unfences: bool,
    /// The line that people watch.
    pub progress: &'a mut Progress,
    /// Standard error.
    pub messages: Messages,
    /// How far the run is; it stays right when the run is dropped.
    pub tally: &'a mut Tally,
    /// How to go about it.
    pub options: MapOptions,
}

/// What is left to be merged at the end: the last pack.
#[derive(Debug)]
pub struct Last {
    /// Its text.
    pub text: String,
    /// What messages call it.
    pub name: String,
}

impl Reduce<'_> {
    /// Asks about every chunk, and merges the replies until one pack is left; none if there was
    /// nothing to ask about.
    ///
    /// # Errors
    /// The first failure that ends the run.
    pub async fn run(
        mut self,
        pieces: mpsc::Receiver<Result<Found, Error>>,
    ) -> Result<Option<Last>, Error> {
        let options = MapOptions {
            is_live: false,
            ..self.options
        };
        let traffic = Traffic {
            concurrency: Concurrency::new(options.jobs),
            over: watch::Sender::new(u64::MAX),
        };
        let mut board = Board::default();
        board.known.clone_from(&self.tally.known);
        let grown = Arc::new(Notify::new());
        let mut items = pin!(items(&self.map, pieces, options, &traffic, &grown, &board));
        let mut levels = Levels::new(Arc::clone(&self.merge), traffic.clone(), self.max_tokens);
        let mut tick = tokio::time::interval(UPDATE_EVERY);
        // Packs that wait for their turn are memory, so the map waits for them.
        let most = 2 * options.jobs.most();
        let mut is_mapped = false;
        loop {
            self.progress.update(Snapshot {
                done: self.tally.written + self.tally.merged,
                known: self.tally.known.load(Ordering::Relaxed) + levels.asked,
                is_all_known: false,
                in_flight: traffic.concurrency.in_flight(),
                cached: self.tally.cached,
                tokens: self.tally.tokens,
                cost: self.map.tariff.spent(),
            });
            board.hold(levels.waiting() >= most);
            let is_behind = |number: u64| number > *traffic.over.borrow();
            let step = tokio::select! {
                biased;
                Some((level, step)) = levels.next() => {
                    let part = match step {
                        Step::Part(part) => Ok(Some(part)),
                        Step::Pack(pack, outcome) => {
                            self.tally.merged += u64::from(outcome.result.is_ok());
                            let place = pack.place();
                            self.part(&place, &outcome, || pack.text(), pack.numbers(), is_behind)
                        }
                    };
                    part.map(|part| levels.push(level + 1, part))
                }
                item = items.next(), if !is_mapped => match item {
                    Some(Item::Gap(_) | Item::End(_)) => Ok(()),
                    Some(Item::Error(error)) => Err(error),
                    Some(Item::Hit(place, reply, _share)) => {
                        let outcome = Outcome::remembered(reply);
                        self.first_part(&place, &outcome, None, is_behind)
                            .map(|part| levels.push(0, part))
                    }
                    Some(Item::Reply(place, outcome, text, _share)) => self
                        .first_part(&place, &outcome, text, is_behind)
                        .map(|part| levels.push(0, part)),
                    None => {
                        is_mapped = true;
                        Ok(())
                    }
                },
                _ = tick.tick(), if self.progress.is_shown() => continue,
            };
            if let Err(error) = step {
                if self.map.recall.cache.is_some() {
                    let rest = async {
                        while items.next().await.is_some() {}
                        while levels.next().await.is_some() {}
                    };
                    wait_for_flight(&self.messages, "a chunk failed", rest).await;
                }
                return Err(error);
            }
            // A failure that ends the run is on its way, and what comes before it goes nowhere.
            let is_over = *traffic.over.borrow() < u64::MAX;
            if is_mapped
                && !is_over
                && let Some(last) = levels.close()
            {
                return Ok(last);
            }
        }
    }

    /// What goes on from a chunk.
    fn first_part(
        &mut self,
        place: &Place,
        outcome: &Outcome,
        text: Option<String>,
        is_behind: impl Fn(u64) -> bool,
    ) -> Result<Option<Part>, Error> {
        self.tally.written += u64::from(outcome.result.is_ok());
        let numbers = place.number..=place.number;
        self.part(
            place,
            outcome,
            || text.unwrap_or_default(),
            numbers,
            is_behind,
        )
    }

    /// What goes on from a reply, or from a failure that does not end the run. Behind the failure
    /// that does, others fail because of it, and only that one is told.
    fn part(
        &mut self,
        place: &Place,
        outcome: &Outcome,
        source: impl FnOnce() -> String,
        numbers: RangeInclusive<u64>,
        is_behind: impl Fn(u64) -> bool,
    ) -> Result<Option<Part>, Error> {
        let text = match &outcome.result {
            Ok(reply) => {
                self.tally.reply(place, reply, outcome, &self.messages);
                let text = reply.text.trim();
                if self.unfences {
                    unfenced(text).trim().to_owned()
                } else {
                    text.to_owned()
                }
            }
            Err(failure) if self.options.on_error == OnError::Stop || is_hopeless(failure) => {
                return if is_behind(place.number) {
                    Ok(None)
                } else {
                    Err(place.failed(failure, outcome.attempts, outcome.took))
                };
            }
            Err(failure) => {
                self.tally.failure(place, failure, outcome);
                if self.options.on_error != OnError::Keep {
                    return Ok(None);
                }
                source()
            }
        };
        Ok(Some(Part { text, numbers }))
    }
}

/// A reply, and the chunks that it comes from.
#[derive(Debug)]
struct Part {
    text: String,
    numbers: RangeInclusive<u64>,
}

/// What a level hands on to the next.
enum Step {
    /// A part that needed no asking.
    Part(Part),
    /// A pack that was asked about.
    Pack(Box<Pack>, Arc<Outcome>),
}

/// Replies that become one request.
#[derive(Debug, Default)]
struct Pack {
    parts: VecDeque<Part>,
    tokens: usize,
}

impl Pack {
    fn text(&self) -> String {
        let texts: Vec<&str> = self.parts.iter().map(|part| &*part.text).collect();
        texts.join(BETWEEN)
    }

    fn numbers(&self) -> RangeInclusive<u64> {
        let first = self.parts.front().map_or(0, |part| *part.numbers.start());
        let last = self.parts.back().map_or(0, |part| *part.numbers.end());
        first..=last
    }

    /// Where it stands: behind everything that it comes from.
    fn place(&self) -> Place {
        let numbers = self.numbers();
        let (first, last) = (numbers.start(), numbers.end());
        let name = if first == last {
            format!("the merging of the reply to chunk {first}")
        } else {
            format!("the merging of the replies to chunks {first}-{last}")
        };
        Place {
            number: *last,
            file: Arc::from(name),
            gap: String::new(),
            tail: String::new(),
            offset: 0,
            bytes: 0,
            line: 0,
        }
    }
}

/// One level of the tree.
#[derive(Default)]
struct Level {
    open: Pack,
    asked: FuturesOrdered<Asked>,
    /// Whether anything went up from here.
    has_sent: bool,
}

/// The levels of the tree; the map's replies come in at 0.
struct Levels {
    asker: Arc<Asker>,
    traffic: Traffic,
    room: Arc<Room>,
    max_tokens: usize,
    all: Vec<Level>,
    /// Packs that were asked about.
    asked: u64,
}

impl Levels {
    fn new(asker: Arc<Asker>, traffic: Traffic, max_tokens: usize) -> Self {
        Self {
            asker,
            traffic,
            room: Arc::default(),
            max_tokens,
            all: vec![Level::default()],
            asked: 0,
        }
    }

    /// Packs that are asked about.
    fn waiting(&self) -> usize {
        self.all.iter().map(|level| level.asked.len()).sum()
    }

    /// The next pack that is done with, in the order of its level; none when there is none.
    async fn next(&mut self) -> Option<(usize, Step)> {
        std::future::poll_fn(|context| {
            let mut is_waiting = false;
            // From the top: what is nearest to the end goes first.
            for (number, level) in self.all.iter_mut().enumerate().rev() {
                match Pin::new(&mut level.asked).poll_next(context) {
                    Poll::Ready(Some(done)) => return Poll::Ready(Some((number, done))),
                    Poll::Ready(None) => {}
                    Poll::Pending => is_waiting = true,
                }
            }
            if is_waiting {
                Poll::Pending
            } else {
                Poll::Ready(None)
            }
        })
        .await
    }

    /// Takes in a part at a level, where there is one.
    fn push(&mut self, at: usize, part: Option<Part>) {
        if self.all.len() <= at {
            self.all.push(Level::default());
        }
        let Some(part) = part.filter(|part| !part.text.is_empty()) else {
            return;
        };
        let mut counter = self
            .asker
            .counter
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let tokens = counter.count(&part.text) + counter.count(BETWEEN);
        drop(counter);
        let open = &self.all[at].open;
        if open.parts.len() > 1 && open.tokens + tokens > self.max_tokens {
            self.send(at);
        }
        let open = &mut self.all[at].open;
        open.tokens += tokens;
        open.parts.push_back(part);
    }

    /// Asks about the open pack of a level; a single part needs no asking.
    fn send(&mut self, at: usize) {
        let mut pack = std::mem::take(&mut self.all[at].open);
        let level = &mut self.all[at];
        level.has_sent = true;
        if pack.parts.len() == 1 {
            level.asked.push_back(Asked::Part(pack.parts.pop_back()));
            return;
        }
        self.asked += 1;
        let text = pack.text();
        let work = Work {
            place: pack.place(),
            key: self.asker.recall.key(&text, ""),
            text,
            context: String::new(),
        };
        let (asker, traffic) = (Arc::clone(&self.asker), self.traffic.clone());
        let room = Arc::clone(&self.room);
        let task = Task(tokio::spawn(async move {
            let share = room.share(1, work.text.len(), usize::MAX).await;
            let permit = traffic.concurrency.acquire().await;
            asker.answer(work, permit, traffic, None, share).await
        }));
        level
            .asked
            .push_back(Asked::Pack(Some(Box::new(pack)), task));
    }

    /// Once the map is done: closes every level that nothing more comes to, from the bottom. Gives
    /// the last pack when it is all that is left.
    #[expect(
        clippy::option_option,
        reason = "not yet, or at the end nothing at all"
    )]
    fn close(&mut self) -> Option<Option<Last>> {
        let mut at = 0;
        loop {
            if at == self.all.len() {
                self.all.push(Level::default());
            }
            let level = &mut self.all[at];
            if !level.has_sent {
                let pack = std::mem::take(&mut level.open);
                let last = (!pack.parts.is_empty()).then(|| Last {
                    text: pack.text(),
                    name: pack.place().name(),
                });
                return Some(last);
            }
            if !level.open.parts.is_empty() {
                self.send(at);
            }
            if !self.all[at].asked.is_empty() {
                return None;
            }
            at += 1;
        }
    }
}

/// A place in the order of a level.
enum Asked {
    Part(Option<Part>),
    Pack(Option<Box<Pack>>, Task),
}

impl Future for Asked {
    type Output = Step;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Step> {
        let done = match &mut *self {
            Self::Part(part) => part.take().map(Step::Part),
            Self::Pack(pack, task) => match Pin::new(task).poll(context) {
                Poll::Ready(outcome) => pack.take().map(|pack| Step::Pack(pack, outcome)),
                Poll::Pending => return Poll::Pending,
            },
        };
        // It is polled no more once it was ready.
        done.map_or(Poll::Pending, Poll::Ready)
    }
}
