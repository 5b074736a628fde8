//! From what a process writes to whoever is connected to it.
//!
//! A process writes into an [`Outlet`] directly (exec), or into a [`Hub`], which hands everything to the outlets of all
//! who are attached. Who reads slowly holds the process back, as a pipe would; nobody's memory grows.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use tokio::sync::Notify;
use vaquita_runtime::{LogStream, OutputSink};

/// Bytes that wait to be read before the writer has to wait.
const ENOUGH: usize = 256 << 10;

/// Output on its way to one reader.
#[derive(Debug, Default)]
pub(crate) struct Outlet {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    pieces: VecDeque<(LogStream, Bytes)>,
    bytes: usize,
    /// Whoever waits to write.
    waiting: Vec<Waker>,
    /// Whether no more will be written, or nobody reads any more.
    is_over: bool,
}

impl Outlet {
    /// The next piece; `None` once all is read and no more will come.
    pub(crate) async fn next(&self) -> Option<(LogStream, Bytes)> {
        loop {
            let changed = self.changed.notified();
            if let Poll::Ready(piece) = self.take() {
                return piece;
            }
            changed.await;
        }
    }

    /// Pending: nothing is there yet.
    fn take(&self) -> Poll<Option<(LogStream, Bytes)>> {
        let mut inner = self.lock();
        let Some((stream, piece)) = inner.pieces.pop_front() else {
            return if inner.is_over {
                Poll::Ready(None)
            } else {
                Poll::Pending
            };
        };
        inner.bytes -= piece.len();
        let waiting = if inner.bytes < ENOUGH {
            std::mem::take(&mut inner.waiting)
        } else {
            Vec::new()
        };
        drop(inner);
        waiting.into_iter().for_each(Waker::wake);
        Poll::Ready(Some((stream, piece)))
    }

    /// No more will be written.
    pub(crate) fn finish(&self) {
        let waiting = {
            let mut inner = self.lock();
            inner.is_over = true;
            std::mem::take(&mut inner.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
        self.changed.notify_one();
    }

    /// Nobody will read any more: what is written is thrown away.
    pub(crate) fn close(&self) {
        {
            let mut inner = self.lock();
            inner.pieces.clear();
            inner.bytes = 0;
        }
        self.finish();
    }

    fn is_over(&self) -> bool {
        self.lock().is_over
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutputSink for Outlet {
    fn write(&self, stream: LogStream, bytes: &[u8]) {
        {
            let mut inner = self.lock();
            if inner.is_over {
                return;
            }
            inner.bytes += bytes.len();
            inner
                .pieces
                .push_back((stream, Bytes::copy_from_slice(bytes)));
        }
        self.changed.notify_one();
    }

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.is_over || inner.bytes < ENOUGH {
            return Poll::Ready(());
        }
        if !inner
            .waiting
            .iter()
            .any(|waker| waker.will_wake(context.waker()))
        {
            inner.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}

/// Hands what a container writes to all who are attached to it.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    outlets: Mutex<Vec<Arc<Outlet>>>,
}

impl Hub {
    /// An outlet of all that is written from now on.
    pub(crate) fn attach(&self) -> Arc<Outlet> {
        let outlet = Arc::new(Outlet::default());
        let mut outlets = self.lock();
        outlets.retain(|outlet| !outlet.is_over());
        outlets.push(outlet.clone());
        outlet
    }

    /// No more will be written.
    pub(crate) fn finish(&self) {
        for outlet in self.lock().drain(..) {
            outlet.finish();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Outlet>>> {
        self.outlets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutputSink for Hub {
    fn write(&self, stream: LogStream, bytes: &[u8]) {
        for outlet in self.lock().iter() {
            outlet.write(stream, bytes);
        }
    }

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let outlets = self.lock();
        // All are asked, so that each knows who waits.
        let waits = outlets
            .iter()
            .filter(|outlet| outlet.poll_ready(context).is_pending());
        if waits.count() > 0 {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_slow_reader_holds_the_writer_back_and_one_that_is_gone_does_not() {
        let hub = Arc::new(Hub::default());
        let (slow, fast) = (hub.attach(), hub.attach());
        hub.write(LogStream::Stdout, &vec![b'x'; ENOUGH]);
        assert_eq!(fast.next().await.unwrap().1.len(), ENOUGH);
        let writer = hub.clone();
        let writing = tokio::spawn(async move {
            poll_fn(|context| writer.poll_ready(context)).await;
            writer.write(LogStream::Stderr, b"more");
        });
        tokio::task::yield_now().await;
        assert!(!writing.is_finished());
        slow.close();
        writing.await.unwrap();
        assert_eq!(
            fast.next().await,
            Some((LogStream::Stderr, Bytes::from_static(b"more")))
        );
        hub.finish();
        assert_eq!((fast.next().await, slow.next().await), (None, None));
    }
}
