//! A real TCP socket of the host as one end of a connection.

use std::{
    io,
    net::Shutdown,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use crate::{
    pipe::Account,
    sync::{WakerSet, lock},
};

/// Most bytes of one read.
const READ: usize = 64 * 1024;

/// What a socket that can be written is said to have room for. The kernel would not tell; a short write follows if it
/// has less.
const ROOM: usize = 64 * 1024;

/// The socket. Tokio remembers one waiting task for each direction; here, any number of them may wait.
#[derive(Debug)]
pub(crate) struct HostSocket {
    socket: TcpStream,
    account: Arc<Account>,
    reset: AtomicBool,
    readers: Arc<Waiters>,
    writers: Arc<Waiters>,
}

/// Tasks that wait for one socket.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<WakerSet>);

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        let woken = lock(&self.0).take();
        woken.wake();
    }
}

impl Waiters {
    /// Adds a task, before the socket is asked: it may become ready at any moment after it said that it is not.
    pub(crate) fn add(&self, cx: &Context<'_>) {
        let displaced = lock(&self.0).add(cx.waker());
        if let Some(waker) = displaced {
            waker.wake();
        }
    }

    pub(crate) fn poll(
        self: &Arc<Self>,
        cx: &Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> bool,
    ) -> Poll<()> {
        self.add(cx);
        if poll(&mut Context::from_waker(&Waker::from(self.clone()))) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl HostSocket {
    pub(crate) fn new(socket: TcpStream, account: Arc<Account>) -> Self {
        // Fails only on a socket that is broken already; its next use will say so.
        let _best_effort = socket.set_nodelay(true);
        Self {
            socket,
            account,
            reset: AtomicBool::new(false),
            readers: Arc::default(),
            writers: Arc::default(),
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.reset.load(Ordering::Acquire) {
            Err(io::ErrorKind::ConnectionReset.into())
        } else {
            Ok(())
        }
    }

    pub(crate) fn read(&self, max: usize) -> io::Result<Bytes> {
        self.check()?;
        if max == 0 {
            return Ok(Bytes::new());
        }
        // Asked before a buffer is made for nothing.
        self.socket.try_io(Interest::READABLE, || Ok(()))?;
        let mut buffer = BytesMut::with_capacity(max.min(READ));
        let length = self.socket.try_read_buf(&mut buffer)?;
        self.account.count_received(length);
        // A few bytes must not hold on to a large buffer.
        Ok(if length < buffer.capacity() / 4 {
            Bytes::copy_from_slice(&buffer)
        } else {
            buffer.freeze()
        })
    }

    pub(crate) fn read_into(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        let length = self.socket.try_read(buffer)?;
        self.account.count_received(length);
        Ok(length)
    }

    pub(crate) fn write_from(&self, data: &[u8]) -> io::Result<usize> {
        self.check()?;
        let length = self.socket.try_write(data)?;
        self.account.count_sent(length);
        Ok(length)
    }

    pub(crate) fn write_slices(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.check()?;
        let length = self.socket.try_write_vectored(slices)?;
        self.account.count_sent(length);
        Ok(length)
    }

    pub(crate) fn room(&self) -> io::Result<usize> {
        self.check()?;
        Ok(if self.is_ready(Interest::WRITABLE) {
            ROOM
        } else {
            0
        })
    }

    fn is_ready(&self, interest: Interest) -> bool {
        self.socket.try_io(interest, || Ok(())).is_ok()
    }

    pub(crate) fn poll_read_ready(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_ready(Interest::READABLE) {
            return Poll::Ready(());
        }
        // An error of the poll is found again by the read that follows.
        self.readers.poll(cx, |cx| {
            self.check().is_err() || self.socket.poll_read_ready(cx).is_ready()
        })
    }

    pub(crate) fn poll_write_ready(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_ready(Interest::WRITABLE) {
            return Poll::Ready(());
        }
        self.writers.poll(cx, |cx| {
            self.check().is_err() || self.socket.poll_write_ready(cx).is_ready()
        })
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match SockRef::from(&self.socket).shutdown(how) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        }
    }

    /// Makes every use of the socket fail from now on, and has the kernel reset the connection when it is closed. (To shut it
    /// down first would tell the peer of an orderly end.)
    pub(crate) fn reset(&self) {
        self.reset.store(true, Ordering::Release);
        reset_on_close(&self.socket);
        Wake::wake(self.readers.clone());
        Wake::wake(self.writers.clone());
    }
}

/// Has the kernel send a reset rather than an orderly end when the socket is closed.
pub(crate) fn reset_on_close(socket: &TcpStream) {
    // Fails only on a socket that is broken already.
    let _best_effort = SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
}
