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
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::api::retry::PATIENCE;
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

/// A wait that the user is told of.
const LONG_WAIT: Duration = Duration::from_secs(10);

/// A request that waits for its slot.
struct Turn {
    number: u64,
    tokens: u32,
    go: oneshot::Sender<()>,
}

/// Lets requests go at the rate that is shared by all processes.
///
/// Where nothing is limited, there is only what other processes were told by the server to wait
/// for; most runs never meet it, so nothing is opened before there is a sign of it.
#[derive(Debug)]
pub struct Pacer {
    opening: Opening,
    sender: OnceLock<Option<mpsc::Sender<Message>>>,
}

impl Pacer {
    /// Gets ready; `path` is the file that processes share.
    #[must_use]
    pub fn new(path: Option<PathBuf>, limits: Limits) -> Self {
        Self {
            opening: Opening {
                path,
                name: Arc::default(),
                limits,
                trouble: Arc::default(),
            },
            sender: OnceLock::new(),
        }
    }

    /// Says whose limits are meant; what is said first holds. It has to be said before anything else.
    pub fn name_it(&self, name: [u8; 32]) {
        let _ = self.opening.name.set(name);
    }

    /// Waits for the slot of a request with so many tokens. `number` is its chunk's: what blocks
    /// the output goes first.
    pub async fn turn(&self, number: u64, tokens: u32) {
        if !self.opening.limits.are_any() && !self.opening.is_lively() {
            return;
        }
        let (go, turn) = oneshot::channel();
        if self.tell(Message::Turn(Turn { number, tokens, go })).await {
            let _ = turn.await;
        }
    }

    /// Holds all processes back for so long.
    pub async fn close(&self, wait: Duration) {
        self.tell(Message::Close(wait)).await;
    }

    /// The request was counted as so many tokens, and used so many.
    pub async fn settle(&self, counted: u32, used: u32) {
        if counted != used {
            self.tell(Message::Settle(counted, used)).await;
        }
    }

    /// Whether tokens are limited, so that they have to be counted.
    #[must_use]
    pub fn limits_tokens(&self) -> bool {
        self.opening.limits.token_rate.is_some()
    }

    /// What went wrong or takes long, once.
    pub fn take_trouble(&self) -> Option<String> {
        lock(&self.opening.trouble).take()
    }

    /// Tells the thread, and starts it for that; false if there is none. One that is gone holds
    /// nobody back.
    async fn tell(&self, message: Message) -> bool {
        let sender = self.sender.get_or_init(|| self.opening.start());
        match sender {
            Some(sender) => sender.send(message).await.is_ok(),
            None => false,
        }
    }
}

fn lock(trouble: &Mutex<Option<String>>) -> MutexGuard<'_, Option<String>> {
    trouble.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the thread begins with.
#[derive(Clone, Debug)]
struct Opening {
    path: Option<PathBuf>,
    name: Arc<OnceLock<[u8; 32]>>,
    limits: Limits,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Opening {
    /// Whether any process has written to the shared file so lately that it may still have to be
    /// waited for.
    fn is_lively(&self) -> bool {
        let Some(path) = &self.path else {
            return false;
        };
        let mut log = path.clone().into_os_string();
        log.push("-wal");
        let age = std::fs::metadata(log)
            .and_then(|metadata| metadata.modified())
            .map(|modified| modified.elapsed());
        // A time to come is one that the clock was set back from.
        age.is_ok_and(|age| age.is_ok_and(|age| age < 2 * PATIENCE))
    }

    fn start(&self) -> Option<mpsc::Sender<Message>> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let opening = self.clone();
        let started = thread::Builder::new()
            .name("pace".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                if let Some(pace) = opening.open() {
                    pace.run(receiver);
                }
            });
        if started.is_err() && self.limits.are_any() {
            *lock(&self.trouble) =
                Some("the rate limit is not kept: no thread can be started".to_owned());
        }
        started.is_ok().then_some(sender)
    }

    fn open(self) -> Option<Pace> {
        let name = self.name.get().copied().unwrap_or_default();
        let opened = match &self.path {
            Some(path) => Slots::open(path, &name),
            None => Err("there is no home folder for what processes share".to_owned()),
        };
        let (slots, words) = match opened {
            Ok((slots, warning)) => (Some(slots), warning),
            // Nobody asked for anything that would be missing.
            Err(_) if !self.limits.are_any() => (None, None),
            Err(words) => (
                Slots::alone(&name).ok(),
                Some(format!("{words}; the limit holds for this process alone")),
            ),
        };
        *lock(&self.trouble) = words;
        Some(Pace {
            slots: slots?,
            limits: self.limits,
            trouble: self.trouble,
            has_told: false,
            waiting: BinaryHeap::new(),
        })
    }
}

/// The thread's own.
struct Pace {
    slots: Slots,
    limits: Limits,
    trouble: Arc<Mutex<Option<String>>>,
    /// Whether the user was told of a long wait.
    has_told: bool,
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
            self.tell_wait(wait);
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

    /// Tells the user once of a wait that the limits ask for and that would look like a program that hangs.
    fn tell_wait(&mut self, wait: Duration) {
        let limits = match (self.limits.rate, self.limits.token_rate) {
            (Some(_), Some(_)) => "`--rate` and `--token-rate` let",
            (Some(_), None) => "`--rate` lets",
            (None, Some(_)) => "`--token-rate` lets",
            // The server asked for it, and that was said.
            (None, None) => return,
        };
        if wait < LONG_WAIT || std::mem::replace(&mut self.has_told, true) {
            return;
        }
        let wait = humantime::format_duration(Duration::from_secs(wait.as_secs()));
        lock(&self.trouble)
            .get_or_insert_with(|| format!("{limits} the next request go in {wait}"));
    }

    fn note<T>(&self, result: Result<T, String>) -> Option<T> {
        result
            .map_err(|words| {
                lock(&self.trouble).get_or_insert_with(|| {
                    format!("the rate limit is not kept from here on: {words}")
                });
            })
            .ok()
    }
}
