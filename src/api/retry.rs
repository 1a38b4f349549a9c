//! Whether a request that failed is sent again, and after what wait.
//!
//! Decided by what kind of failure it was, never by its words. The server's own
//! wait is a floor; on top of it comes a random part of an exponentially growing
//! time, so that clients who failed together do not come back together ("full
//! jitter", Brooker, AWS Architecture Blog 2015). This room knows no clock and
//! sends nothing.

use std::time::Duration;

use crate::api::failure::{Failure, Kind, Verdict};

/// The most of the random wait before the first retry; it doubles for each further one.
const FIRST: Duration = Duration::from_secs(1);

/// The random wait grows no further than this.
const MOST: Duration = Duration::from_mins(1);

/// A server that asks for more patience than this is given up.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// What comes after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another attempt after this wait.
    Again(Duration),
    /// None: it could not help, or there were enough.
    GiveUp,
    /// None: the server asks for a wait longer than [`PATIENCE`], and so would others be asked.
    TooLong(Duration),
}

/// The attempts at one request.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    max_retries: u32,
    attempts: u32,
}

impl Retry {
    /// Before the first attempt; `max_retries` is how many may come after it.
    #[must_use]
    pub fn new(max_retries: u32) -> Self {
        Self {
            max_retries,
            attempts: 0,
        }
    }

    /// Attempts that failed so far.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Counts a failed attempt and decides what comes next. `random` is from 0 up to 1.
    pub fn next(&mut self, failure: &Failure, random: f64) -> Next {
        self.attempts = self.attempts.saturating_add(1);
        if failure.verdict() != Verdict::Transient {
            return Next::GiveUp;
        }
        let asked = failure.retry_after.unwrap_or_default();
        if asked > PATIENCE {
            return Next::TooLong(asked);
        }
        if self.attempts > self.max_retries {
            return Next::GiveUp;
        }
        // A kept connection may be closed by the server in the moment when it is used again (RFC
        // 9112, section 9.3.1): nobody was busy, so there is nothing to wait for.
        if failure.kind == Kind::Closed && self.attempts == 1 {
            return Next::Again(asked);
        }
        let doublings = (self.attempts - 1).min(16);
        let most = FIRST.saturating_mul(1 << doublings).min(MOST);
        Next::Again(asked + most.mul_f64(random.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failure(kind: Kind, seconds: Option<u64>) -> Failure {
        let mut failure = Failure::new(kind, "");
        failure.retry_after = seconds.map(Duration::from_secs);
        failure
    }

    #[test]
    fn waits_grow_to_a_minute_and_end() {
        let mut retry = Retry::new(8);
        let server = failure(Kind::Server, None);
        let waits: Vec<Next> = (0..9).map(|_| retry.next(&server, 1.0)).collect();
        let again = |seconds| Next::Again(Duration::from_secs(seconds));
        assert_eq!(waits[..6], [1, 2, 4, 8, 16, 32].map(again));
        assert_eq!(waits[6..], [again(60), again(60), Next::GiveUp]);
        assert_eq!(retry.attempts(), 9);
    }

    #[test]
    fn only_a_first_closed_connection_is_not_waited_for() {
        let mut retry = Retry::new(5);
        let closed = failure(Kind::Closed, None);
        assert_eq!(retry.next(&closed, 1.0), Next::Again(Duration::ZERO));
        assert_eq!(
            retry.next(&closed, 1.0),
            Next::Again(Duration::from_secs(2))
        );
        assert_eq!(Retry::new(0).next(&closed, 1.0), Next::GiveUp);
    }

    #[test]
    fn a_long_wait_is_given_up_whatever_is_left() {
        for retries in [0, 5] {
            let mut retry = Retry::new(retries);
            let wait = Duration::from_secs(121);
            assert_eq!(
                retry.next(&failure(Kind::RateLimit, Some(121)), 0.0),
                Next::TooLong(wait)
            );
        }
        let mut retry = Retry::new(5);
        let patient = failure(Kind::Overloaded, Some(120));
        assert_eq!(
            retry.next(&patient, 0.0),
            Next::Again(Duration::from_mins(2))
        );
    }

    #[test]
    fn what_cannot_help_is_not_done() {
        for kind in [Kind::Auth, Kind::Quota, Kind::Filtered, Kind::ContextLength] {
            assert_eq!(
                Retry::new(5).next(&failure(kind, Some(1)), 0.5),
                Next::GiveUp
            );
        }
    }

    proptest! {
        #[test]
        fn the_servers_wait_is_a_floor(asked in 0_u64..=120, before in 0_u32..70, random in 0.0..1.0_f64) {
            let mut retry = Retry::new(u32::MAX);
            let server = failure(Kind::Server, Some(asked));
            for _ in 0..before {
                retry.next(&server, random);
            }
            let Next::Again(wait) = retry.next(&server, random) else {
                return Err(TestCaseError::fail("it must be sent again"));
            };
            let asked = Duration::from_secs(asked);
            prop_assert!(wait >= asked && wait <= asked + MOST);
        }
    }
}
