//! The gate that all requests of a run pass: closed for a while when the server
//! says that it is asked too much.
//!
//! One refusal tells what every other request would be told, so all of them
//! wait, and none is spent on finding out. They leave spread out, because what
//! comes back together is refused together.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The longest time over which those that waited are spread.
const SPREAD: Duration = Duration::from_secs(1);

/// Closed until a moment, or open.
#[derive(Debug, Default)]
pub struct Gate {
    closed: Mutex<Option<Closed>>,
}

#[derive(Clone, Copy, Debug)]
struct Closed {
    until: Instant,
    spread: Duration,
}

impl Gate {
    /// Closes it for so long from now, if it is not closed for longer. Says whether it was open.
    pub fn close(&self, wait: Duration) -> bool {
        let now = Instant::now();
        let until = now + wait;
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let was_open = closed.is_none_or(|closed| closed.until <= now);
        if closed.is_none_or(|closed| closed.until < until) {
            let spread = SPREAD.min(wait / 4);
            *closed = Some(Closed { until, spread });
        }
        was_open
    }

    /// Waits until it is open. `random` is from 0 up to 1 and says when, of the time over which
    /// those that wait are spread, it is this one's turn.
    pub async fn pass(&self, random: f64) {
        // It may be closed again, or for longer, in the meantime.
        while let Some(closed) = self.closed() {
            sleep_until(closed.until + closed.spread.mul_f64(random.clamp(0.0, 1.0))).await;
        }
    }

    fn closed(&self) -> Option<Closed> {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if closed.is_some_and(|closed| closed.until <= Instant::now()) {
            *closed = None;
        }
        *closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_passes_before_it_opens_and_all_do_after() {
        let gate = Gate::default();
        let began = Instant::now();
        gate.pass(0.5).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(gate.close(Duration::from_secs(8)));
        for random in [0.0, 1.0] {
            gate.close(Duration::from_secs(8).saturating_sub(began.elapsed()));
            gate.pass(random).await;
            assert!(began.elapsed() >= Duration::from_secs(8));
            assert!(began.elapsed() <= Duration::from_secs(8) + SPREAD);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_wait_counts() {
        let gate = Gate::default();
        let began = Instant::now();
        assert!(gate.close(Duration::from_secs(10)));
        assert!(!gate.close(Duration::from_secs(2)));
        gate.pass(0.0).await;
        assert_eq!(began.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_already_waits_longer_when_it_is_closed_again() {
        let gate = Gate::default();
        let began = Instant::now();
        gate.close(Duration::from_secs(5));
        let again = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            gate.close(Duration::from_secs(30));
        };
        tokio::join!(gate.pass(0.0), again);
        assert!(began.elapsed() >= Duration::from_secs(33));
    }
}
