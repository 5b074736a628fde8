//! [`Stream`]: one stream's handle.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{CHUNK, End, Outgoing, Phase, Refusal, Shared, wake};

/// How many bytes are read before the peer is told: half of the window with which it began.
const TELL: u32 = 32 << 10;

/// One stream of a [`Connection`](super::Connection).
///
/// Shutting it down ends the half from here to the peer; reading gives the end of the data when the peer has ended its
/// own, and `ConnectionReset` or `ConnectionAborted` when it gave up. What is flushed is on its way, not there. Dropping
/// a stream of which a half is still open resets it.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    id: u32,
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, id: u32) -> Self {
        Self { shared, id }
    }

    /// Its number in the connection.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Sends `data` in a message of its own, be it empty, whether there is room for it or not. For the few that a
    /// protocol begins with.
    pub(crate) fn greet(&self, data: Bytes) {
        let (id, fin) = (self.id, false);
        self.shared.lock().push(Outgoing::Data { id, data, fin });
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let id = self.id;
        let mut state = self.shared.lock();
        let Some(slot) = state.streams.get_mut(&id) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let Some(chunk) = slot.incoming.front_mut() else {
            return match slot.end {
                Some(End::Finished) => Poll::Ready(Ok(())),
                Some(End::Reset) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Some(End::Lost) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                None => {
                    slot.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        };
        let count = chunk.len().min(buffer.remaining());
        buffer.put_slice(&chunk[..count]);
        chunk.advance(count);
        if chunk.is_empty() {
            slot.incoming.pop_front();
        }
        slot.buffered -= count;
        slot.consumed = slot
            .consumed
            .saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        let delta = slot.consumed;
        if delta >= TELL && slot.end.is_none() {
            slot.consumed = 0;
            state.push(Outgoing::Window { id, delta });
        }
        let feeder = state.feeder.take();
        drop(state);
        wake(feeder);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let id = self.id;
        let mut state = self.shared.lock();
        let full = state.out_bytes >= self.shared.limits.outbound;
        let window = state
            .streams
            .get(&id)
            .map_or(0, |slot| state.window_of(slot));
        let open = state.phase == Phase::Open;
        let Some(slot) = state.streams.get_mut(&id) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        if slot.finished || !open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if full || window == 0 {
            slot.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = data.len().min(CHUNK).min(window);
        slot.sent += i64::try_from(count).unwrap_or(i64::MAX);
        let data = Bytes::copy_from_slice(&data[..count]);
        let fin = false;
        state.push(Outgoing::Data { id, data, fin });
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let id = self.id;
        let mut state = self.shared.lock();
        if let Some(slot) = state.streams.get_mut(&id)
            && !std::mem::replace(&mut slot.finished, true)
        {
            let (data, fin) = (Bytes::new(), true);
            state.push(Outgoing::Data { id, data, fin });
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let id = self.id;
        let mut state = self.shared.lock();
        if let Some(slot) = state.streams.remove(&id)
            && !(slot.finished && slot.end.is_some())
        {
            let why = Refusal::Cancel;
            state.push(Outgoing::Reset { id, why });
        }
        // Whoever waits to put data into it need not wait any more.
        let feeder = state.feeder.take();
        drop(state);
        wake(feeder);
    }
}
