//! A body that tells the moment in which it is handed to a connection.
//!
//! Between that and the first byte on the wire lies one system call, so whoever
//! counts requests there counts what the server counts: nothing that found no
//! connection, and everything that left, also if this process is killed then.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// What is told when a request is sent.
#[derive(Clone)]
pub struct OnSend(pub Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for OnSend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnSend")
    }
}

/// A body in one piece.
pub(super) struct Announced {
    bytes: Option<Bytes>,
    on_send: OnSend,
}

impl Announced {
    pub(super) fn new(bytes: Bytes, on_send: OnSend) -> Self {
        Self {
            bytes: Some(bytes),
            on_send,
        }
    }
}

impl Body for Announced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.bytes.take().map(|bytes| {
            (self.on_send.0)();
            Ok(Frame::data(bytes))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    // Known beforehand, so that it is sent with its length and not in chunks.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
