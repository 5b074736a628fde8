//! The body of a response while its guest still writes it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// Whether a guest went down while it may have been writing. Whoever reads its body would otherwise take the end of a
/// failed guest for the end of the body.
#[derive(Clone, Debug, Default)]
pub(super) struct Broken(Arc<AtomicBool>);

impl Broken {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Breaks a body unless its guest is [done](Self::done).
pub(super) struct BreakUnlessDone(Option<Broken>);

impl BreakUnlessDone {
    pub(super) fn new(broken: Broken) -> Self {
        Self(Some(broken))
    }

    pub(super) fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for BreakUnlessDone {
    fn drop(&mut self) {
        if let Some(broken) = &self.0 {
            broken.0.store(true, Ordering::Release);
        }
    }
}

/// What a guest writes as its response's body; it ends with an error if the guest does.
pub(super) struct GuestBody {
    body: HyperOutgoingBody,
    broken: Broken,
}

impl GuestBody {
    pub(super) fn new(body: HyperOutgoingBody, broken: Broken) -> Self {
        Self { body, broken }
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() && self.broken.is_set() {
            return Poll::Ready(Some(Err(Error::HttpResponseIncomplete)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
