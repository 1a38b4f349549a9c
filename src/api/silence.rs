//! Watches for silence on a connection.
//!
//! It is measured in bytes and not in events: a server that sends comments while it works is alive.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::time::{Sleep, sleep};

use crate::api::failure::{Failure, Kind, Wait};
use crate::api::transport;

/// The timeout is counted in so many parts. To ask for the time whenever bytes come would take a thirtieth of all that
/// a stream at full speed costs; so silence may last one part longer.
const PARTS: u32 = 16;

/// The bytes of a body, until there is silence for too long.
#[derive(Debug)]
pub(super) struct Watched<S> {
    bytes: S,
    timeout: Duration,
    /// Wakes at the end of each part.
    alarm: Pin<Box<Sleep>>,
    /// How many parts ended since bytes came.
    quiet: u32,
}

impl<S> Watched<S> {
    pub(super) fn new(bytes: S, timeout: Duration) -> Self {
        Self {
            bytes,
            timeout,
            alarm: Box::pin(sleep(timeout / PARTS)),
            quiet: 0,
        }
    }
}

impl<S> Stream for Watched<S>
where
    S: Stream<Item = reqwest::Result<Bytes>> + Unpin,
{
    type Item = Result<Bytes, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(bytes) = self.bytes.poll_next_unpin(context) {
            self.quiet = 0;
            return Poll::Ready(
                bytes.map(|bytes| bytes.map_err(|error| transport::from_transport(&error))),
            );
        }
        while self.alarm.as_mut().poll(context).is_ready() {
            // The first part may have begun before the silence did.
            if self.quiet == PARTS {
                let silence = humantime::format_duration(self.timeout);
                let failure = Failure::new(
                    Kind::Timeout(Wait::Idle),
                    &format!("nothing came for {silence}"),
                );
                return Poll::Ready(Some(Err(failure)));
            }
            self.quiet += 1;
            let part = sleep(self.timeout / PARTS);
            self.alarm.set(part);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use tokio::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(16);

    /// What comes when these pauses are made, each before some bytes, and when it ends.
    async fn come(pauses: &[u64]) -> (usize, Option<Failure>, Duration) {
        let began = Instant::now();
        let bytes = stream::iter(pauses).then(|&pause| async move {
            sleep(Duration::from_secs(pause)).await;
            Ok(Bytes::from_static(b"x"))
        });
        let mut watched = Watched::new(Box::pin(bytes), TIMEOUT);
        let mut count = 0;
        while let Some(bytes) = watched.next().await {
            match bytes {
                Ok(_) => count += 1,
                Err(failure) => return (count, Some(failure), began.elapsed()),
            }
        }
        (count, None, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_body_and_slowness_does_not() {
        let (count, failure, took) = come(&[15, 15, 1, 15]).await;
        assert_eq!((count, failure), (4, None));
        assert_eq!(took.as_secs(), 46);
        for pause in [18, 1000] {
            let (count, failure, took) = come(&[3, pause, 1]).await;
            let failure = failure.expect("the end");
            assert_eq!((count, failure.kind), (1, Kind::Timeout(Wait::Idle)));
            assert!((19..=20).contains(&took.as_secs()), "{took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_timeout_is_too_long() {
        let mut watched = Watched::new(stream::iter([Ok(Bytes::new())]), Duration::MAX);
        assert!(watched.next().await.is_some());
        assert!(watched.next().await.is_none());
    }
}
