//! The order of the chunks, whatever finishes first.
//!
//! Each chunk is asked about by a task of its own, because futures inside
//! `buffered` are polled only while somebody asks for the next item: during a
//! slow write their timers would run out. `buffered` holds the tasks in order,
//! many more than are in flight, so that a slow head holds back output and not
//! requests. Room and permits are taken before the next chunk is, so memory
//! depends on jobs and chunk size, never on the input.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::future::Shared;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::api::reply::Reply;
use crate::error::Error;
use crate::input::chunk::Chunk;
use crate::limit::concurrency::Jobs;
use crate::pipeline::ask::{Asker, Traffic, Work};
use crate::pipeline::asked::Asked;
use crate::pipeline::found::{Found, Hit, Miss};
use crate::pipeline::place::Place;
use crate::pipeline::room::{Room, Share};
use crate::pipeline::task::{Live, Outcome, Task};
use crate::store::cache::Key;

/// Chunks that wait at most, however short they are.
const MOST: usize = 1 << 16;

/// What becomes of a run when a chunk failed for good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnError {
    /// It ends.
    Stop,
    /// The chunk is left out.
    Skip,
    /// The chunk's own text takes the place of its reply.
    Keep,
}

/// What a run of the map needs to know.
#[derive(Clone, Copy, Debug)]
pub struct MapOptions {
    /// Requests in flight at most.
    pub jobs: Jobs,
    /// Whether the reply that is next in order is shown as it arrives.
    pub is_live: bool,
    /// What becomes of chunks that failed.
    pub on_error: OnError,
    /// Whether each record has its line in the output, also where there is no reply.
    pub is_by_line: bool,
}

/// A chunk on its way, in its place in the order.
pub(super) enum Item {
    /// White space alone; nothing was asked.
    Gap(String),
    /// A chunk whose reply was remembered, or is that of the same chunk before it, and the room that is free once all that came with it is
    /// written.
    Hit(Place, Reply, Arc<Share>),
    /// A chunk that is done with, its text where that may have to take the reply's place, and the
    /// room that is free once it is written.
    Reply(Box<Place>, Arc<Outcome>, Option<String>, Arc<Share>),
    /// All of a file has come.
    End(Arc<str>),
    /// The input ended badly.
    Error(Error),
}

/// The head of the order while it is shown live.
pub(super) struct Showing {
    pub(super) place: Place,
    pub(super) live: Arc<Live>,
    pub(super) has_begun: bool,
}

/// What the stream of items and the loop that takes them both look at.
#[derive(Default)]
pub(super) struct Board {
    /// Chunks that may be shown live, in order.
    pub(super) shown: RefCell<VecDeque<Showing>>,
    /// The white space before each chunk that has its place and is not written yet; none for what
    /// is nothing but white space.
    pub(super) gaps: RefCell<VecDeque<Option<String>>>,
    /// How many chunks were read.
    pub(super) known: Arc<AtomicU64>,
    /// Whether that is all.
    pub(super) is_all_known: Cell<bool>,
    /// Whether no further chunk is to be asked about for now.
    is_held: Cell<bool>,
    released: Notify,
    /// Who asks about which text, so that the same is asked only once.
    asked: RefCell<Asked>,
}

impl Board {
    /// Holds back the chunks that are still to be asked about, or lets them go on. Who stops taking
    /// items instead would leave one of them waiting in the queue for a permit, which nobody else
    /// could then get past.
    pub(super) fn hold(&self, is_held: bool) {
        self.is_held.set(is_held);
        if !is_held {
            self.released.notify_one();
        }
    }

    async fn released(&self) {
        while self.is_held.get() {
            self.released.notified().await;
        }
    }
}

/// The chunks in their order, each when it is done with.
pub(super) fn items<'s>(
    asker: &Arc<Asker>,
    pieces: mpsc::Receiver<Result<Found, Error>>,
    options: MapOptions,
    traffic: &Traffic,
    grown: &Arc<Notify>,
    board: &'s Board,
) -> impl Stream<Item = Item> + 's {
    let over = traffic.over.subscribe();
    let clerk = Rc::new(Clerk {
        asker: Arc::clone(asker),
        options,
        traffic: traffic.clone(),
        grown: Arc::clone(grown),
        board,
        room: Arc::default(),
    });
    ReceiverStream::new(pieces)
        .chain(futures::stream::poll_fn(|_| {
            board.is_all_known.set(true);
            Poll::Ready(None)
        }))
        // Behind a failure nothing is written, so nothing is asked for.
        .take_while(move |_| std::future::ready(*over.borrow() == u64::MAX))
        .then(move |found| Rc::clone(&clerk).place(found))
        .buffered(MOST)
        .flat_map(futures::stream::iter)
}

/// Gives every chunk its place in the order.
struct Clerk<'s> {
    asker: Arc<Asker>,
    options: MapOptions,
    traffic: Traffic,
    grown: Arc<Notify>,
    board: &'s Board,
    room: Arc<Room>,
}

impl Clerk<'_> {
    /// Puts what is known into its place.
    async fn place(self: Rc<Self>, found: Result<Found, Error>) -> Waiting {
        match found {
            Ok(Found::Hits(hits)) => self.known(hits).await,
            Ok(Found::Miss(miss)) => self.asked(miss).await,
            Err(error) => Waiting::Now(vec![Item::Error(error)]),
        }
    }

    /// Puts chunks that need no request into their places.
    async fn known(&self, hits: Vec<Hit>) -> Waiting {
        let (mut replies, mut bytes) = (0, 0);
        for Hit { piece, reply } in &hits {
            let gap = reply.as_ref().map(|reply| {
                replies += 1;
                bytes += reply.text.len();
                piece.chunk.gap.clone()
            });
            self.board.gaps.borrow_mut().push_back(gap);
        }
        let number = self.board.known.fetch_add(replies, Ordering::Relaxed) + 1;
        let chunks = usize::try_from(replies).unwrap_or(usize::MAX);
        let Some(share) = self.share(number, chunks, bytes).await else {
            return Waiting::Now(Vec::new());
        };
        let mut number = number;
        let items = hits.into_iter().map(|Hit { mut piece, reply }| {
            let Some(reply) = reply else {
                if piece.is_end {
                    return Item::End(piece.file);
                }
                return Item::Gap(piece.chunk.gap);
            };
            let place = Place::of(&mut piece, number);
            number += 1;
            if self.options.is_live {
                self.show(&place);
            }
            Item::Hit(place, reply, Arc::clone(&share))
        });
        Waiting::Now(items.collect())
    }

    /// Puts a chunk into its place and has it asked about, but not before there is a permit for it.
    async fn asked(&self, Miss { mut piece, key }: Miss) -> Waiting {
        let number = self.board.known.fetch_add(1, Ordering::Relaxed) + 1;
        let place = Place::of(&mut piece, number);
        let Chunk { text, context, .. } = piece.chunk;
        let gap = Some(place.gap.clone());
        self.board.gaps.borrow_mut().push_back(gap);
        let Some(share) = self.share(number, 1, text.len()).await else {
            return Waiting::Now(Vec::new());
        };
        let live = self.options.is_live.then(|| self.show(&place));
        let kept = (self.options.on_error == OnError::Keep).then(|| text.clone());
        if let Some(task) = self.same(&key) {
            return Waiting::ForSame(Box::new(place), task, kept, share);
        }
        let permit = async {
            self.board.released().await;
            self.traffic.concurrency.acquire().await
        };
        let Some(permit) = self.unless_over(number, permit).await else {
            return Waiting::Now(Vec::new());
        };
        let work = Work {
            place: place.clone(),
            text,
            context,
            key,
        };
        let asker = Arc::clone(&self.asker);
        let traffic = self.traffic.clone();
        let answer = asker.answer(work, permit, traffic, live, Arc::clone(&share));
        let task = Task(tokio::spawn(answer)).shared();
        self.board.asked.borrow_mut().enter(key, &task);
        Waiting::For(Box::new(place), task, kept, share)
    }

    /// Room for some chunks of so many bytes, of which the first has this number; none if it is not
    /// worth it any more.
    async fn share(&self, number: u64, chunks: usize, bytes: usize) -> Option<Arc<Share>> {
        let jobs = self.options.jobs.most();
        self.unless_over(number, self.room.share(chunks, bytes, jobs))
            .await
    }

    /// Gives a chunk its turn among those that may be shown. Each has one, also if nothing of it
    /// will be shown, so that only the head of the order ever is.
    fn show(&self, place: &Place) -> Arc<Live> {
        let live = Arc::new(Live::new(&self.grown));
        self.board.shown.borrow_mut().push_back(Showing {
            place: place.clone(),
            live: Arc::clone(&live),
            has_begun: false,
        });
        live
    }

    /// The task that asks about the same text already. Who wants nothing remembered wants it asked
    /// each time.
    fn same(&self, key: &Key) -> Option<Shared<Task>> {
        self.asker.recall.cache.as_ref()?;
        self.board.asked.borrow().get(key)
    }

    /// Waits for something, but not if a chunk before this one ends the run: whoever has it may be
    /// waiting too.
    async fn unless_over<T>(&self, number: u64, wait: impl Future<Output = T>) -> Option<T> {
        let mut over = self.traffic.over.subscribe();
        tokio::select! {
            biased;
            _ = over.wait_for(|first| *first < number) => None,
            value = wait => Some(value),
        }
    }
}

/// A place in the order: of what needs no waiting, or of a chunk that waits for its reply.
enum Waiting {
    Now(Vec<Item>),
    For(Box<Place>, Shared<Task>, Option<String>, Arc<Share>),
    /// The reply is another chunk's; it is paid for and counted there.
    ForSame(Box<Place>, Shared<Task>, Option<String>, Arc<Share>),
}

impl Future for Waiting {
    type Output = Vec<Item>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<Item>> {
        match &mut *self {
            Self::Now(items) => Poll::Ready(std::mem::take(items)),
            Self::For(place, task, text, share) => Pin::new(task).poll(context).map(|outcome| {
                let place = place.clone();
                vec![Item::Reply(place, outcome, text.take(), Arc::clone(share))]
            }),
            Self::ForSame(place, task, text, share) => {
                Pin::new(task).poll(context).map(|outcome| {
                    let (place, share) = (place.clone(), Arc::clone(share));
                    vec![match &outcome.result {
                        Ok(reply) => Item::Hit(*place, reply.clone(), share),
                        Err(_) => Item::Reply(place, outcome, text.take(), share),
                    }]
                })
            }
        }
    }
}
