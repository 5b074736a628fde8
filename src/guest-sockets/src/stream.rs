//! The two directions of a connection, as streams of `wasi:io@0.2`.

use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use vaquita_net::Stream;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// The most that is read or written at once: what a guest can make the host hold for a moment.
const LARGEST_PIECE: usize = 64 << 10;

/// What arrives.
pub(super) struct Reader(Arc<Stream>);

impl Reader {
    pub(super) fn new(stream: Arc<Stream>) -> Self {
        Self(stream)
    }
}

#[async_trait::async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        self.0.read_ready().await;
    }
}

#[async_trait::async_trait]
impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        match self.0.try_read(size.min(LARGEST_PIECE)) {
            Ok(bytes) if bytes.is_empty() => Err(StreamError::Closed),
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Bytes::new()),
            Err(error) => Err(StreamError::LastOperationFailed(error.into())),
        }
    }
}

/// What is sent.
pub(super) struct Writer {
    stream: Arc<Stream>,
    sending: Sending,
}

impl Writer {
    pub(super) fn new(stream: Arc<Stream>, sending: Sending) -> Self {
        Self { stream, sending }
    }
}

/// What became of bytes that were taken from the guest, though the connection had no room for them after all. The
/// memory pipe always has the room that it said; a socket of the host only guesses.
#[derive(Clone, Default)]
pub(super) struct Sending(Arc<Backlog>);

#[derive(Default)]
struct Backlog {
    progress: Mutex<Progress>,
    done: Notify,
}

#[derive(Default)]
struct Progress {
    /// A task is at it.
    busy: bool,
    failed: Option<io::Error>,
    /// Nothing comes after it.
    last: bool,
}

impl Sending {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0
            .progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the direction, once all that was taken is on its way.
    pub(super) fn finish(&self, stream: &Stream) -> io::Result<()> {
        let mut progress = self.progress();
        progress.last = true;
        if progress.busy {
            Ok(())
        } else {
            stream.shutdown(Shutdown::Write)
        }
    }

    /// Sends the rest in the background: the guest may well wait for the answer to it, and never ask for this stream
    /// again. The connection lives until it is through.
    fn send_later(&self, stream: &Arc<Stream>, rest: Bytes) {
        self.progress().busy = true;
        let (sending, stream) = (self.clone(), Arc::clone(stream));
        tokio::spawn(async move {
            let result = stream.write_bytes(rest).await;
            let mut progress = sending.progress();
            progress.busy = false;
            progress.failed = result.err();
            if progress.last {
                // Who would be told? The peer finds out by itself.
                let _ = stream.shutdown(Shutdown::Write);
            }
            drop(progress);
            sending.0.done.notify_waiters();
        });
    }

    async fn idle(&self) {
        loop {
            let done = self.0.done.notified();
            if !self.progress().busy {
                return;
            }
            done.await;
        }
    }
}

#[async_trait::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        self.sending.idle().await;
        self.stream.write_ready().await;
    }
}

#[async_trait::async_trait]
impl OutputStream for Writer {
    fn check_write(&mut self) -> StreamResult<usize> {
        let mut progress = self.sending.progress();
        if let Some(error) = progress.failed.take() {
            return Err(failure(error));
        }
        if progress.busy {
            return Ok(0);
        }
        if progress.last {
            return Err(StreamError::Closed);
        }
        drop(progress);
        let room = self.stream.write_room().map_err(failure)?;
        Ok(room.min(LARGEST_PIECE))
    }

    fn write(&mut self, mut bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > LARGEST_PIECE || self.sending.progress().busy {
            return Err(StreamError::trap(
                "a write of more than check-write allowed",
            ));
        }
        match self.stream.try_write(&mut bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(failure(error)),
        }
        if !bytes.is_empty() {
            self.sending.send_later(&self.stream, bytes);
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }
}

fn failure(error: io::Error) -> StreamError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return StreamError::Closed;
    }
    StreamError::LastOperationFailed(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    /// A writer on a real socket, and its other end.
    async fn over_host() -> (Arc<Stream>, Sending, Writer, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let stream = Arc::new(Stream::from_host(near.expect("connected")).expect("connected"));
        let sending = Sending::default();
        let writer = Writer::new(Arc::clone(&stream), sending.clone());
        (stream, sending, writer, far.expect("accepted").0)
    }

    #[tokio::test]
    async fn what_was_taken_arrives_even_if_there_was_no_room_and_nobody_asks_again() {
        let (stream, sending, mut writer, mut far) = over_host().await;
        let mut sent = 0;
        // Until the kernel's buffers are full, and beyond what was checked.
        while !sending.progress().busy {
            writer.write(vec![1; LARGEST_PIECE].into()).expect("open");
            sent += LARGEST_PIECE;
        }
        assert_eq!(writer.check_write().expect("open"), 0);
        sending.finish(&stream).expect("open");
        drop((writer, stream));
        let mut received = Vec::new();
        far.read_to_end(&mut received)
            .await
            .expect("all of it, and the end");
        assert_eq!(received.len(), sent);
    }

    #[tokio::test]
    async fn more_than_was_allowed_is_the_guests_end() {
        let (_stream, _sending, mut writer, _far) = over_host().await;
        let too_much = writer.write(vec![1; LARGEST_PIECE + 1].into());
        assert!(matches!(too_much, Err(StreamError::Trap(_))));
    }
}
