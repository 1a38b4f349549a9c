//! How much a run may spend, and how much of the user's budget it may.
//!
//! What a request can come to is reserved before it is sent and settled when it
//! is over, so that requests in flight together never pass the bound. Where the
//! reservations of others are in the way, it waits until they are settled; where
//! the rest is too small for it alone, there is no further request.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::store::budget::{Budgets, LEASE, Reservation, Reserved};
use crate::store::ledger::Ledger;

/// Messages that may wait for the thread: two for each of more requests than are ever in flight.
const WAITING: usize = 4096;

/// Time between two looks at whether another process has settled.
const PAUSE: Duration = Duration::from_millis(100);

/// Money in billionths of a US dollar, and tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Money.
    pub cost: i64,
    /// Tokens of prompt and reply.
    pub tokens: u64,
}

/// The bounds.
#[derive(Clone, Debug, Default)]
pub struct BudgetOptions {
    /// What the run may cost.
    pub max_cost: Option<i64>,
    /// How many tokens the run may use.
    pub max_tokens: Option<u64>,
    /// What all processes of the user may spend.
    pub shared: Budgets,
    /// The ledger and the folder of its journals.
    pub place: Option<(PathBuf, PathBuf)>,
}

/// Why there is no further request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The run's cost: the bound and what is spent.
    Cost(i64, i64),
    /// The run's tokens, likewise.
    Tokens(u64, u64),
    /// A budget of the user: of which period, the bound and what is spent.
    Budget(&'static str, i64, i64),
    /// The user's budget cannot be looked up.
    Unknown(String),
}

/// Hands out leave to spend.
#[derive(Debug, Default)]
pub struct Budget {
    options: BudgetOptions,
    run: Mutex<Run>,
    settled: Arc<Notify>,
    has_told: AtomicBool,
    shared: OnceLock<Option<SyncSender<Message>>>,
}

/// What the run has spent, and what its requests in flight can come to.
#[derive(Debug, Default)]
struct Run {
    spent: Amount,
    reserved: Amount,
}

/// What a request may spend, until it is settled. One that is dropped has spent the least, once the
/// request was begun.
#[derive(Debug)]
pub struct Leave {
    budget: Arc<Budget>,
    most: Amount,
    least: Amount,
    shared: Option<Reservation>,
    is_begun: bool,
    is_settled: bool,
}

enum Message {
    Reserve(i64, i64, oneshot::Sender<Result<Reserved, String>>),
    Settle(Reservation, i64),
    /// Everything before it is done.
    Finish(oneshot::Sender<()>),
}

impl Budget {
    /// A budget with these bounds; nothing is opened yet.
    #[must_use]
    pub fn new(options: BudgetOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Whether anything is bounded, so that prompts have to be counted.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.options.max_cost.is_some() || self.options.max_tokens.is_some() || self.is_shared()
    }

    /// Whether the user has still to be told that other processes are waited for; true once.
    pub fn has_to_tell(&self) -> bool {
        self.is_shared() && !self.has_told.swap(true, Ordering::Relaxed)
    }

    fn is_shared(&self) -> bool {
        self.options.shared != Budgets::default()
    }

    /// Waits for leave to spend between `least` and `most`.
    ///
    /// # Errors
    /// That what is left is too little for it.
    pub async fn reserve(self: &Arc<Self>, least: Amount, most: Amount) -> Result<Leave, Refused> {
        loop {
            // Made before the look, so that nothing is missed in between.
            let settled = self.settled.notified();
            if self.take(most)? {
                break;
            }
            settled.await;
        }
        let mut leave = Leave {
            budget: Arc::clone(self),
            most,
            least,
            shared: None,
            is_begun: false,
            is_settled: false,
        };
        if self.is_shared() {
            leave.shared = Some(self.reserve_shared(least.cost, most.cost).await?);
        }
        Ok(leave)
    }

    /// Takes it out of what the run may spend; false if others have to be settled first.
    fn take(&self, most: Amount) -> Result<bool, Refused> {
        let mut run = lock(&self.run);
        let (spent, reserved) = (run.spent, run.reserved);
        if let Some(max) = self.options.max_cost
            && spent.cost + most.cost > max
            && reserved == Amount::default()
        {
            return Err(Refused::Cost(max, spent.cost));
        }
        if let Some(max) = self.options.max_tokens
            && spent.tokens + most.tokens > max
            && reserved == Amount::default()
        {
            return Err(Refused::Tokens(max, spent.tokens));
        }
        let cost = spent.cost + reserved.cost + most.cost;
        let tokens = spent.tokens + reserved.tokens + most.tokens;
        let fits = self.options.max_cost.is_none_or(|max| cost <= max)
            && self.options.max_tokens.is_none_or(|max| tokens <= max);
        if fits {
            run.reserved.cost += most.cost;
            run.reserved.tokens += most.tokens;
        }
        Ok(fits)
    }

    fn give_back(&self, most: Amount, used: Amount) {
        let mut run = lock(&self.run);
        run.reserved.cost -= most.cost;
        run.reserved.tokens -= most.tokens;
        run.spent.cost += used.cost;
        run.spent.tokens += used.tokens;
        drop(run);
        self.settled.notify_waiters();
    }

    async fn reserve_shared(&self, least: i64, most: i64) -> Result<Reservation, Refused> {
        loop {
            let settled = self.settled.notified();
            let (answer, reserved) = oneshot::channel();
            let message = Message::Reserve(most, least, answer);
            let reserved = match self.sender() {
                Some(sender) if sender.try_send(message).is_ok() => reserved.await.ok(),
                _ => None,
            };
            match reserved {
                Some(Ok(Reserved::Yes(reservation))) => return Ok(reservation),
                Some(Ok(Reserved::No {
                    period,
                    spent,
                    budget,
                })) => return Err(Refused::Budget(period, budget, spent)),
                Some(Ok(Reserved::NotYet)) => {
                    let _ = tokio::time::timeout(PAUSE, settled).await;
                }
                Some(Err(words)) => return Err(Refused::Unknown(words)),
                None => {
                    let words = "the thread that keeps it is gone".to_owned();
                    return Err(Refused::Unknown(words));
                }
            }
        }
    }

    /// Waits until all that was settled is written.
    pub async fn finish(&self) {
        if let Some(Some(sender)) = self.shared.get() {
            let (done, finished) = oneshot::channel();
            if sender.try_send(Message::Finish(done)).is_ok() {
                let _ = finished.await;
            }
        }
    }

    fn sender(&self) -> Option<&SyncSender<Message>> {
        let start = || {
            let (sender, receiver) = sync_channel(WAITING);
            let options = self.options.clone();
            let started = thread::Builder::new()
                .name("budget".to_owned())
                .spawn(move || keep(&options, &receiver));
            started.is_ok().then_some(sender)
        };
        self.shared.get_or_init(start).as_ref()
    }
}

impl Leave {
    /// The request is about to be sent.
    pub fn begin(&mut self) {
        self.is_begun = true;
    }

    /// The request is over, and came to this.
    pub fn settle(mut self, used: Amount) {
        self.close(used);
    }

    fn close(&mut self, used: Amount) {
        self.is_settled = true;
        self.budget.give_back(self.most, used);
        if let Some(reservation) = self.shared.take()
            && let Some(sender) = self.budget.sender()
        {
            // Where there is no room for it now, the reservation expires by itself.
            let _ = sender.try_send(Message::Settle(reservation, used.cost));
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if !self.is_settled {
            let least = if self.is_begun {
                self.least
            } else {
                Amount::default()
            };
            self.close(least);
        }
    }
}

/// The thread that keeps the user's budget: looking it up may wait for other processes.
fn keep(options: &BudgetOptions, receiver: &Receiver<Message>) {
    let opened = match &options.place {
        Some((file, journals)) => Ledger::open(file, journals).and_then(|(ledger, _)| {
            ledger.begin_budget()?;
            Ok(ledger)
        }),
        None => Err("there is no home folder to keep it in".to_owned()),
    };
    let mut held: Vec<Reservation> = Vec::new();
    let mut renewed = Instant::now();
    // Well before they expire.
    let pause = Duration::from_secs(LEASE.cast_unsigned() / 4);
    loop {
        let message = match receiver.recv_timeout(pause) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // Long requests keep what they reserved.
        if let Ok(ledger) = &opened
            && renewed.elapsed() > pause
        {
            let _ = ledger.renew(&held);
            renewed = Instant::now();
        }
        match (message, &opened) {
            (Some(Message::Reserve(_, _, answer)), Err(words)) => {
                let _ = answer.send(Err(words.clone()));
            }
            (Some(Message::Reserve(amount, least, answer)), Ok(ledger)) => {
                let reserved = ledger.reserve(options.shared, amount, least);
                if let Ok(Reserved::Yes(reservation)) = &reserved {
                    held.push(reservation.clone());
                }
                if let Err(Ok(Reserved::Yes(reservation))) = answer.send(reserved) {
                    // Nobody waits for it any more, and nothing was sent.
                    held.retain(|other| *other != reservation);
                    let _ = ledger.settle(&reservation, 0);
                }
            }
            (Some(Message::Settle(reservation, used)), Ok(ledger)) => {
                held.retain(|other| *other != reservation);
                let _ = ledger.settle(&reservation, used);
            }
            (Some(Message::Finish(done)), _) => {
                let _ = done.send(());
            }
            (Some(Message::Settle(..)), Err(_)) | (None, _) => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn tokens(tokens: u64) -> Amount {
        Amount { cost: 0, tokens }
    }

    fn budget(max_tokens: u64) -> Arc<Budget> {
        Arc::new(Budget::new(BudgetOptions {
            max_tokens: Some(max_tokens),
            ..BudgetOptions::default()
        }))
    }

    async fn reserve(budget: &Arc<Budget>, most: u64) -> Result<Leave, Refused> {
        budget.reserve(tokens(1), tokens(most)).await
    }

    #[tokio::test]
    async fn who_does_not_fit_waits_for_others_and_then_goes_or_gives_up() {
        let budget = budget(100);
        let first = reserve(&budget, 60).await.unwrap();
        let mut second = std::pin::pin!(reserve(&budget, 60));
        assert!(second.as_mut().now_or_never().is_none());
        first.settle(tokens(30));
        let second = second.await.unwrap();
        let third = std::pin::pin!(reserve(&budget, 60));
        let (third, ()) = tokio::join!(third, async { second.settle(tokens(50)) });
        assert_eq!(third.unwrap_err(), Refused::Tokens(100, 80));
        // Something smaller still fits.
        reserve(&budget, 20).await.unwrap().settle(tokens(20));
        assert_eq!(
            reserve(&budget, 1).await.unwrap_err(),
            Refused::Tokens(100, 100)
        );
    }

    #[tokio::test]
    async fn what_is_dropped_has_spent_the_least() {
        let budget = budget(100);
        let mut begun = reserve(&budget, 90).await.unwrap();
        begun.begin();
        drop(begun);
        assert_eq!(
            reserve(&budget, 100).await.unwrap_err(),
            Refused::Tokens(100, 1)
        );
        reserve(&budget, 99).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_not_sent_has_spent_nothing() {
        let budget = budget(100);
        drop(reserve(&budget, 90).await.unwrap());
        assert!(reserve(&budget, 100).await.is_ok());
    }

    #[tokio::test]
    async fn without_bounds_nobody_waits() {
        let budget = Arc::new(Budget::default());
        assert!(!budget.is_any());
        for _ in 0..3 {
            std::mem::forget(reserve(&budget, u64::MAX / 4).await.unwrap());
        }
    }
}
