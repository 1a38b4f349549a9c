//! How much may wait for a slow head: bytes, not chunks, so that short records
//! never run out of room and long ones do not fill the memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Bytes of chunks and replies that wait, beyond those in flight.
const BYTES: usize = 8 << 20;

/// What a chunk takes besides its text and its reply: its task, its place, its request's buffers.
const EACH: usize = 1536;

/// The room of a run.
#[derive(Debug, Default)]
pub(super) struct Room {
    bytes: AtomicUsize,
    chunks: AtomicUsize,
    left: Notify,
}

/// A share of the room, until what has it is written.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<Room>,
    chunks: usize,
    bytes: AtomicUsize,
}

impl Room {
    /// Waits until there is room for some more chunks, of so many bytes together. There always is
    /// while fewer wait than may be in flight.
    pub(super) async fn share(
        self: &Arc<Self>,
        chunks: usize,
        text: usize,
        jobs: usize,
    ) -> Arc<Share> {
        loop {
            let is_full = self.bytes.load(Ordering::Relaxed) >= BYTES;
            if !is_full || self.chunks.load(Ordering::Relaxed) < jobs {
                break;
            }
            self.left.notified().await;
        }
        let bytes = text + chunks * EACH;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.chunks.fetch_add(chunks, Ordering::Relaxed);
        Arc::new(Share {
            room: Arc::clone(self),
            chunks,
            bytes: AtomicUsize::new(bytes),
        })
    }
}

impl Share {
    /// The reply is there, and takes so many bytes.
    pub(super) fn add(&self, reply: usize) {
        self.bytes.fetch_add(reply, Ordering::Relaxed);
        self.room.bytes.fetch_add(reply, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.room.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.room.chunks.fetch_sub(self.chunks, Ordering::Relaxed);
        self.room.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[test]
    fn what_is_in_flight_always_has_room_and_what_waits_is_bounded() {
        let room = Arc::new(Room::default());
        let large = 3 << 20;
        let mut shares: Vec<_> = (0..8)
            .map(|_| {
                room.share(1, large, 8)
                    .now_or_never()
                    .expect("one in flight")
            })
            .collect();
        assert!(room.share(1, 1, 8).now_or_never().is_none());
        shares.truncate(2);
        assert!(room.share(1, 1, 2).now_or_never().is_some());
        shares[0].add(large);
        assert!(room.share(1, 1, 2).now_or_never().is_none());
        shares.clear();
        assert_eq!(room.bytes.load(Ordering::Relaxed), 0);
        let small: Vec<_> = std::iter::from_fn(|| room.share(1, 10, 8).now_or_never()).collect();
        assert!((5_000..6_000).contains(&small.len()), "{}", small.len());
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_there_is_room() {
        let room = Arc::new(Room::default());
        let share = room.share(1, BYTES, 1).await;
        let next = tokio::join!(room.share(1, 1, 1), async { drop(share) }).0;
        drop(next);
    }
}
