//! Waits for the slots: a thread that takes the next one, sleeps until it is
//! there, and lets one request go.
//!
//! It is a thread because taking a slot may wait for other processes, and
//! because the runtime's own clock ticks too coarsely. One slot is taken at a
//! time, as late as possible, so that a process that dies wastes one at most;
//! among the requests of this process the first in order comes first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::error::Error;
use crate::limit::rate::Rate;
use crate::store::slots::{Cost, Slots};

/// Requests that may be handed over and not taken in yet.
const WAITING: usize = 512;

/// Over this time processes without a limit of their own spread when the server lets them go.
const SPREAD: Duration = Duration::from_millis(250);

/// What the limits are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Of requests.
    pub rate: Option<Rate>,
    /// Of tokens.
    pub token_rate: Option<Rate>,
}

impl Limits {
    /// Whether there is one.
    #[must_use]
    pub fn are_any(&self) -> bool {
        self.rate.is_some() || self.token_rate.is_some()
    }

    fn cost(&self, tokens: u32) -> Cost {
        Cost {
            spacing: self.rate.map_or(Duration::ZERO, |rate| rate.spacing(1)),
            tolerance: self.rate.map_or(Duration::ZERO, |rate| rate.tolerance()),
            tokens: self.time(tokens),
            token_spacing: self.time(1000),
        }
    }

    fn time(&self, tokens: u32) -> Duration {
        self.token_rate
            .map_or(Duration::ZERO, |rate| rate.spacing(tokens))
    }
}

/// What the thread is told.
enum Message {
    Turn(Turn),
    Close(Duration),
    Settle(u32, u32),
}

/// A request that waits for its slot.
struct Turn {
    number: u64,
    tokens: u32,
    go: oneshot::Sender<()>,
}

/// Lets requests go at the rate that is shared by all processes.
#[derive(Debug)]
pub struct Pacer {
    sender: mpsc::Sender<Message>,
    trouble: Arc<Mutex<Option<String>>>,
    is_ready: Arc<AtomicBool>,
    is_limited: bool,
    limits_tokens: bool,
}

impl Pacer {
    /// Starts the thread, which opens the slots at `path`. Where they cannot be used, limits hold
    /// for this process alone, and the user is told.
    ///
    /// # Errors
    /// [`Error::System`] when there can be no thread.
    pub fn start(path: Option<PathBuf>, name: [u8; 32], limits: Limits) -> Result<Self, Error> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let trouble = Arc::new(Mutex::new(None));
        let is_ready = Arc::new(AtomicBool::new(false));
        let opening = Opening {
            path,
            name,
            limits,
            trouble: Arc::clone(&trouble),
            is_ready: Arc::clone(&is_ready),
        };
        thread::Builder::new()
            .name("pace".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                if let Some(pace) = opening.open() {
                    pace.run(receiver);
                }
            })
            .map_err(|source| Error::System {
                what: "start a thread",
                source,
            })?;
        Ok(Self {
            sender,
            trouble,
            is_ready,
            is_limited: limits.are_any(),
            limits_tokens: limits.token_rate.is_some(),
        })
    }

    /// Waits for the slot of a request with so many tokens. `number` is its chunk's: what blocks
    /// the output goes first.
    pub async fn turn(&self, number: u64, tokens: u32) {
        // Without a limit there is only the word of other processes to wait for, and the first
        // request does not wait until that can be heard.
        if !self.is_limited && !self.is_ready.load(Ordering::Acquire) {
            return;
        }
        let (go, turn) = oneshot::channel();
        let turn_of = Turn { number, tokens, go };
        // A thread that is gone holds nobody back.
        if self.sender.send(Message::Turn(turn_of)).await.is_ok() {
            let _ = turn.await;
        }
    }

    /// Holds all processes back for so long.
    pub async fn close(&self, wait: Duration) {
        let _ = self.sender.send(Message::Close(wait)).await;
    }

    /// The request was counted as so many tokens, and used so many.
    pub async fn settle(&self, counted: u32, used: u32) {
        if counted != used {
            let _ = self.sender.send(Message::Settle(counted, used)).await;
        }
    }

    /// Whether tokens are limited, so that they have to be counted.
    #[must_use]
    pub fn limits_tokens(&self) -> bool {
        self.limits_tokens
    }

    /// What went wrong, once.
    pub fn take_trouble(&self) -> Option<String> {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.take()
    }
}

/// What the thread begins with.
struct Opening {
    path: Option<PathBuf>,
    name: [u8; 32],
    limits: Limits,
    trouble: Arc<Mutex<Option<String>>>,
    is_ready: Arc<AtomicBool>,
}

impl Opening {
    fn open(self) -> Option<Pace> {
        let opened = match &self.path {
            Some(path) => Slots::open(path, &self.name),
            None => Err("there is no home folder for what processes share".to_owned()),
        };
        let (slots, words) = match opened {
            Ok((slots, warning)) => (Some(slots), warning),
            // Nobody asked for anything that would be missing.
            Err(_) if !self.limits.are_any() => (None, None),
            Err(words) => (
                Slots::alone(&self.name).ok(),
                Some(format!("{words}; the limit holds for this process alone")),
            ),
        };
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = words;
        let pace = Pace {
            slots: slots?,
            limits: self.limits,
            trouble: self.trouble,
            waiting: BinaryHeap::new(),
        };
        self.is_ready.store(true, Ordering::Release);
        Some(pace)
    }
}

/// The thread's own.
struct Pace {
    slots: Slots,
    limits: Limits,
    trouble: Arc<Mutex<Option<String>>>,
    waiting: BinaryHeap<Reverse<Waiting>>,
}

struct Waiting(Turn);

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.0.number == other.0.number
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.number.cmp(&other.0.number)
    }
}

impl Pace {
    fn run(mut self, mut receiver: mpsc::Receiver<Message>) {
        loop {
            if self.waiting.is_empty() {
                match receiver.blocking_recv() {
                    Some(message) => self.take_in(message),
                    None => return,
                }
            }
            while let Ok(message) = receiver.try_recv() {
                self.take_in(message);
            }
            let Some(Reverse(Waiting(turn))) = self.waiting.pop() else {
                continue;
            };
            // Its request was given up in the meantime: no slot is spent on it.
            if turn.go.is_closed() {
                continue;
            }
            self.wait(turn.tokens, &mut receiver);
            let _ = turn.go.send(());
        }
    }

    fn take_in(&mut self, message: Message) {
        let done = match message {
            Message::Turn(turn) => {
                self.waiting.push(Reverse(Waiting(turn)));
                Ok(())
            }
            Message::Close(wait) => self.slots.close(wait),
            Message::Settle(counted, used) => {
                let (taken, used) = (self.limits.time(counted), self.limits.time(used));
                self.slots.settle(taken, used)
            }
        };
        self.note(done);
    }

    /// Takes a slot and sleeps until it is there. If the server asked meanwhile to be left alone,
    /// the slot is void, and another is taken.
    fn wait(&mut self, tokens: u32, receiver: &mut mpsc::Receiver<Message>) {
        let mut cost = self.limits.cost(tokens);
        loop {
            let taken = if self.limits.are_any() {
                self.slots.take(cost)
            } else {
                // All that waited go at once, so they are spread a little.
                let spread = SPREAD.mul_f64(fastrand::f64());
                self.slots
                    .closed()
                    .map(|wait| if wait.is_zero() { wait } else { wait + spread })
            };
            let Some(wait) = self.note(taken) else {
                return;
            };
            if wait.is_zero() {
                return;
            }
            thread::sleep(wait);
            // What this process itself has to say counts as what others say.
            while let Ok(message) = receiver.try_recv() {
                self.take_in(message);
            }
            let closed = self.slots.closed();
            if self.note(closed).is_none_or(|closed| closed.is_zero()) {
                return;
            }
            // Its tokens have their time already.
            cost.tokens = Duration::ZERO;
        }
    }

    fn note<T>(&self, result: Result<T, String>) -> Option<T> {
        result
            .map_err(|words| {
                let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
                trouble.get_or_insert_with(|| {
                    format!("the rate limit is not kept from here on: {words}")
                });
            })
            .ok()
    }
}
