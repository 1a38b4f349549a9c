//! How many requests are in flight: at most so many, and fewer while the server
//! has no room for them.
//!
//! Additive increase, multiplicative decrease (Chiu and Jain 1989), as TCP does
//! it: a refusal halves the limit, a round of successes raises it by one.
//! Requests that were in flight when one was refused say the same thing again,
//! so they do not halve it again.
//!
//! `-j auto` begins low and doubles the limit round by round, until one is
//! refused or twice as many bring hardly more: a server that queues what it has
//! no room for refuses nothing and only gets slower.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The most requests that `-j auto` has in flight.
pub const AUTO_MAX: usize = 256;

/// What `-j auto` begins with.
const AUTO_START: usize = 4;

/// Twice as many in flight have to bring this many times as many replies, or they are too many.
const WORTH: f64 = 1.2;

/// How a limit is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jobs {
    /// At most so many.
    Most(usize),
    /// As many as there is room for.
    Auto,
}

impl Jobs {
    /// The most that are ever in flight.
    #[must_use]
    pub fn most(self) -> usize {
        match self {
            Self::Most(jobs) => jobs.max(1),
            Self::Auto => AUTO_MAX,
        }
    }

    fn start(self) -> usize {
        match self {
            Self::Most(jobs) => jobs.max(1),
            Self::Auto => AUTO_START,
        }
    }
}

/// Hands out the permits of a run.
#[derive(Debug)]
pub struct Concurrency {
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How many may be in flight.
    limit: usize,
    /// The limit is never raised above this.
    most: usize,
    /// Permits that are held and will not come back.
    owed: usize,
    /// Successes since the limit last changed.
    successes: usize,
    /// Requests that were sent before this one say nothing of the limit as it is.
    since: u64,
    /// Permits handed out so far.
    sent: u64,
    /// What `-j auto` knows while it looks for the limit.
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
    /// When the limit was last raised.
    began: Instant,
    /// Replies a second in the round before.
    rate: f64,
}

/// Leave to have one request in flight.
#[derive(Debug)]
pub struct Permit {
    inner: Option<OwnedSemaphorePermit>,
    concurrency: Arc<Concurrency>,
    /// Its place in the order of permits.
    number: u64,
}

impl Concurrency {
    /// Nothing is in flight yet.
    #[must_use]
    pub fn new(jobs: Jobs) -> Arc<Self> {
        let limit = jobs.start();
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(limit)),
            state: Mutex::new(State {
                limit,
                most: jobs.most(),
                owed: 0,
                successes: 0,
                since: 0,
                sent: 0,
                probe: (jobs == Jobs::Auto).then(|| Probe {
                    began: Instant::now(),
                    rate: 0.0,
                }),
            }),
        })
    }

    /// Waits for leave to send.
    pub async fn acquire(self: &Arc<Self>) -> Permit {
        // The semaphore is never closed.
        let inner = Arc::clone(&self.permits).acquire_owned().await.ok();
        let mut state = self.lock();
        state.sent += 1;
        Permit {
            inner,
            concurrency: Arc::clone(self),
            number: state.sent,
        }
    }

    /// How many may be in flight.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.lock().limit
    }

    /// How many are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let state = self.lock();
        (state.limit + state.owed).saturating_sub(self.permits.available_permits())
    }

    /// Raises the limit after a round: by one, or twofold while `-j auto` looks for it.
    fn raise(&self, state: &mut State) {
        let step = if state.probe.is_some() {
            state.limit
        } else {
            1
        };
        let step = step.min(state.most - state.limit);
        state.successes = 0;
        state.limit += step;
        // What is owed need not be given back any more.
        let kept = step.min(state.owed);
        state.owed -= kept;
        self.permits.add_permits(step - kept);
    }

    /// Lowers the limit; what is in flight now says nothing about it.
    fn lower(&self, state: &mut State, limit: usize) {
        let less = state.limit - limit;
        state.limit = limit;
        state.successes = 0;
        state.since = state.sent + 1;
        state.owed += less - self.permits.forget_permits(less);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// After a round of `-j auto`: where the limit is, if the last doubling was not worth it.
    fn look_further(&mut self) -> Option<usize> {
        let round = self.successes;
        let limit = self.limit;
        let probe = self.probe.as_mut()?;
        let seconds = probe.began.elapsed().as_secs_f64().max(1e-6);
        #[expect(clippy::cast_precision_loss, reason = "a round has few replies")]
        let rate = round as f64 / seconds;
        let is_worth_it = rate >= probe.rate * WORTH;
        probe.rate = rate;
        probe.began = Instant::now();
        if is_worth_it {
            return None;
        }
        self.probe = None;
        self.most = (limit / 2).max(1);
        Some(self.most)
    }
}

impl Permit {
    /// The server had room. Gives the limit, if it changed.
    #[must_use]
    pub fn succeeded(&self) -> Option<usize> {
        let mut state = self.concurrency.lock();
        if self.number < state.since || state.limit >= state.most {
            return None;
        }
        state.successes += 1;
        if state.successes < state.limit {
            return None;
        }
        let limit = state.limit;
        match state.look_further() {
            Some(limit) => self.concurrency.lower(&mut state, limit),
            None => self.concurrency.raise(&mut state),
        }
        (state.limit != limit).then_some(state.limit)
    }

    /// The server had no room. Gives the limit, if it changed.
    #[must_use]
    pub fn refused(&self) -> Option<usize> {
        let mut state = self.concurrency.lock();
        if self.number < state.since || state.limit == 1 {
            return None;
        }
        state.probe = None;
        let limit = state.limit / 2;
        self.concurrency.lower(&mut state, limit);
        Some(limit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.concurrency.lock();
        if state.owed > 0
            && let Some(inner) = self.inner.take()
        {
            state.owed -= 1;
            inner.forget();
        }
        drop(state);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use futures::FutureExt as _;
    use proptest::prelude::*;

    fn now(concurrency: &Arc<Concurrency>) -> Option<Permit> {
        // Not counted against what a task may do in one go.
        tokio::task::unconstrained(concurrency.acquire()).now_or_never()
    }

    fn all(concurrency: &Arc<Concurrency>) -> Vec<Permit> {
        std::iter::from_fn(|| now(concurrency)).collect()
    }

    #[test]
    fn a_refusal_halves_and_a_round_of_successes_adds_one() {
        let concurrency = Concurrency::new(Jobs::Most(8));
        let permits = all(&concurrency);
        assert_eq!(permits.len(), 8);
        assert_eq!(permits[3].refused(), Some(4));
        assert_eq!(permits[5].refused(), None, "it was in flight already");
        assert_eq!(permits[6].succeeded(), None);
        drop(permits);
        assert_eq!(concurrency.in_flight(), 0);
        for limit in [5, 6, 7, 8] {
            let permits = all(&concurrency);
            assert_eq!(permits.len(), limit - 1);
            let changes: Vec<usize> = permits.iter().filter_map(Permit::succeeded).collect();
            assert_eq!(changes, [limit]);
        }
        let permits = all(&concurrency);
        assert_eq!(permits.len(), 8);
        assert!(permits.iter().all(|permit| permit.succeeded().is_none()));
    }

    #[test]
    fn it_is_never_less_than_one() {
        let concurrency = Concurrency::new(Jobs::Most(5));
        for limit in [2, 1] {
            assert_eq!(now(&concurrency).unwrap().refused(), Some(limit));
        }
        assert_eq!(now(&concurrency).unwrap().refused(), None);
        assert_eq!(all(&concurrency).len(), 1);
    }

    /// Rounds of `-j auto` against a server that answers so many at once, each after a second.
    async fn rounds(concurrency: &Arc<Concurrency>, room: usize, rounds: usize) -> Vec<usize> {
        let mut limits = vec![concurrency.limit()];
        for _ in 0..rounds {
            let permits = all(concurrency);
            let batches = permits.len().div_ceil(room);
            tokio::time::sleep(Duration::from_secs(batches as u64)).await;
            limits.extend(permits.iter().filter_map(Permit::succeeded));
        }
        limits
    }

    #[tokio::test(start_paused = true)]
    async fn auto_stays_where_more_brings_no_more() {
        let concurrency = Concurrency::new(Jobs::Auto);
        let limits = rounds(&concurrency, 16, 12).await;
        assert_eq!(limits, [4, 8, 16, 32, 16]);
    }

    #[tokio::test(start_paused = true)]
    async fn auto_doubles_until_it_is_refused() {
        let concurrency = Concurrency::new(Jobs::Auto);
        let limits = rounds(&concurrency, 1000, 8).await;
        assert_eq!(limits, [4, 8, 16, 32, 64, 128, 256]);
        assert_eq!(now(&concurrency).unwrap().refused(), Some(128));
        let permits = all(&concurrency);
        let changes: Vec<usize> = permits.iter().filter_map(Permit::succeeded).collect();
        assert_eq!(changes, [129]);
    }

    proptest! {
        #[test]
        fn never_more_in_flight_than_allowed(jobs in 1..40_usize, steps in prop::collection::vec((0..4_u8, any::<prop::sample::Index>()), 0..200)) {
            let concurrency = Concurrency::new(Jobs::Most(jobs));
            let mut held: Vec<Permit> = Vec::new();
            for (step, index) in steps {
                match step {
                    0 => held.extend(now(&concurrency)),
                    1 if !held.is_empty() => drop(held.swap_remove(index.index(held.len()))),
                    2 if !held.is_empty() => {
                        let _ = held[index.index(held.len())].succeeded();
                    }
                    3 if !held.is_empty() => {
                        let _ = held[index.index(held.len())].refused();
                    }
                    _ => {}
                }
                prop_assert_eq!(concurrency.in_flight(), held.len());
                prop_assert!((1..=jobs).contains(&concurrency.limit()));
                if held.len() >= concurrency.limit() {
                    prop_assert!(now(&concurrency).is_none());
                }
            }
            drop(held);
            prop_assert_eq!(all(&concurrency).len(), concurrency.limit());
        }
    }
}
