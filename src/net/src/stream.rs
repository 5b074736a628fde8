//! One end of a connection, whatever carries it.

use std::{
    fmt,
    future::poll_fn,
    io,
    net::{Shutdown, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::coop::poll_proceed,
};

use crate::{
    host::HostSocket,
    host_pod::Entry,
    payer::Payer,
    pipe::{Account, End},
    pod::Registration,
};

/// A connected TCP stream: a memory pipe to another pod (or to the node), or a real socket of the host.
///
/// Everything takes `&self`, so a stream can be shared by a reader and a writer; [`AsyncRead`] and [`AsyncWrite`] are
/// there for `Stream` and for `&Stream`. Dropping the stream closes the connection: the peer sees the end of the data,
/// or `ConnectionReset` if something that it had sent was not read.
///
/// A memory pipe needs no executor of a certain kind. A real socket is driven by the tokio runtime in which it was
/// made, but may be used from any.
pub struct Stream {
    carrier: Carrier,
    local: SocketAddr,
    peer: SocketAddr,
    // After `carrier`, so that the connection is closed when the pod forgets it.
    _registration: Option<Held>,
}

enum Carrier {
    Memory(End),
    Host(Arc<HostSocket>),
}

/// Keeps a connection on its pod's list.
#[derive(Debug)]
pub(crate) enum Held {
    /// Of a pod of the fabric.
    Pod { _registration: Registration },
    /// Of a pod on the host's network.
    Host { _entry: Entry },
}

impl From<Registration> for Held {
    fn from(registration: Registration) -> Self {
        Self::Pod {
            _registration: registration,
        }
    }
}

impl From<Entry> for Held {
    fn from(entry: Entry) -> Self {
        Self::Host { _entry: entry }
    }
}

impl Stream {
    /// Wraps a connected socket of the host, with `TCP_NODELAY` set: guests can't turn Nagle's algorithm off.
    pub fn from_host(socket: TcpStream) -> io::Result<Self> {
        let (local, peer) = (socket.local_addr()?, socket.peer_addr()?);
        let account = Arc::new(Account::new(usize::MAX));
        Ok(Self::host(
            Arc::new(HostSocket::new(socket, account)),
            local,
            peer,
            None,
        ))
    }

    pub(crate) fn host(
        socket: Arc<HostSocket>,
        local: SocketAddr,
        peer: SocketAddr,
        registration: Option<Held>,
    ) -> Self {
        Self {
            carrier: Carrier::Host(socket),
            local,
            peer,
            _registration: registration,
        }
    }

    pub(crate) fn memory(
        end: End,
        local: SocketAddr,
        peer: SocketAddr,
        registration: Option<Held>,
    ) -> Self {
        Self {
            carrier: Carrier::Memory(end),
            local,
            peer,
            _registration: registration,
        }
    }

    /// This end's address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The other end's address. Who connected to a Service sees the Service's address here, not the endpoint's.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Whether this is a real socket of the host rather than a memory pipe.
    pub fn is_host(&self) -> bool {
        matches!(self.carrier, Carrier::Host(_))
    }

    /// Has `payer` pay for what is written from now on and was not read yet. What it has no room for can't be written:
    /// that is an error of the kind `OutOfMemory`. Only the first one counts. What waits in a real socket is the
    /// kernel's, and nobody pays for it.
    pub fn charge_to(&self, payer: Arc<dyn Payer>) {
        if let Carrier::Memory(end) = &self.carrier {
            end.charge_to(payer);
        }
    }

    /// Takes what has arrived, at most `max` bytes, without waiting and (from a memory pipe) without copying. May give
    /// fewer bytes than have arrived. Empty at the end of the data, and if `max` is 0.
    ///
    /// Errors: `WouldBlock` if nothing has arrived, `ConnectionReset`, and for a real socket whatever the kernel says.
    pub fn try_read(&self, max: usize) -> io::Result<Bytes> {
        match &self.carrier {
            Carrier::Memory(end) => end.read(max),
            Carrier::Host(socket) => socket.read(max),
        }
    }

    /// The same, by copying into `buffer`. 0 at the end of the data, and if `buffer` is empty.
    pub fn try_read_into(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.carrier {
            Carrier::Memory(end) => end.read_into(buffer),
            Carrier::Host(socket) => socket.read_into(buffer),
        }
    }

    /// Gives bytes to the other end without waiting and (to a memory pipe, from 512 bytes on) without copying. Takes
    /// those that fit off the front of `data` and says how many they were; `data` keeps the rest.
    ///
    /// Errors: `WouldBlock` if there is no room, `BrokenPipe` if this end was shut down for writing or the other end
    /// for reading, `ConnectionReset`, and for a real socket whatever the kernel says.
    pub fn try_write(&self, data: &mut Bytes) -> io::Result<usize> {
        match &self.carrier {
            Carrier::Memory(end) => end.write(data),
            Carrier::Host(socket) => {
                let length = socket.write_from(data)?;
                let _written = data.split_to(length);
                Ok(length)
            }
        }
    }

    /// The same, by copying out of `data`.
    pub fn try_write_from(&self, data: &[u8]) -> io::Result<usize> {
        match &self.carrier {
            Carrier::Memory(end) => end.write_from(data),
            Carrier::Host(socket) => socket.write_from(data),
        }
    }

    /// How many bytes a write would take now: exact for a memory pipe with one writer, a guess for a real socket.
    /// 0 if it would block; errors as [`try_write`](Self::try_write).
    pub fn write_room(&self) -> io::Result<usize> {
        match &self.carrier {
            Carrier::Memory(end) => end.room(),
            Carrier::Host(socket) => socket.room(),
        }
    }

    /// Ready when a read would not give `WouldBlock`: data, its end, or an error. Several tasks may wait at once.
    pub fn poll_read_ready(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.carrier {
            Carrier::Memory(end) => end.poll_read_ready(cx),
            Carrier::Host(socket) => socket.poll_read_ready(cx),
        }
    }

    /// Ready when a write would not give `WouldBlock`: room, or an error. Several tasks may wait at once.
    pub fn poll_write_ready(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.carrier {
            Carrier::Memory(end) => end.poll_write_ready(cx),
            Carrier::Host(socket) => socket.poll_write_ready(cx),
        }
    }

    /// Waits for what [`poll_read_ready`](Self::poll_read_ready) says.
    pub async fn read_ready(&self) {
        poll_fn(|cx| self.poll_read_ready(cx)).await;
    }

    /// Waits for what [`poll_write_ready`](Self::poll_write_ready) says.
    pub async fn write_ready(&self) {
        poll_fn(|cx| self.poll_write_ready(cx)).await;
    }

    /// Waits for data and takes it as [`try_read`](Self::try_read) does. Cancelling loses nothing.
    pub async fn read_bytes(&self, max: usize) -> io::Result<Bytes> {
        poll_fn(|cx| self.poll_with(cx, Self::poll_read_ready, || self.try_read(max))).await
    }

    /// Writes all of `data`, waiting for room as needed. Cancelling may leave a part written.
    pub async fn write_bytes(&self, mut data: Bytes) -> io::Result<()> {
        while !data.is_empty() {
            poll_fn(|cx| self.poll_with(cx, Self::poll_write_ready, || self.try_write(&mut data)))
                .await?;
        }
        Ok(())
    }

    /// Ends one direction or both.
    ///
    /// `Write`: the peer reads what is on its way, then the end. `Read`: what has arrived is dropped and this end reads
    /// the end of the data; the peer of a memory pipe gets `BrokenPipe` when it writes. Doing it again is no error.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &self.carrier {
            Carrier::Memory(end) => {
                if matches!(how, Shutdown::Read | Shutdown::Both) {
                    end.shutdown_read();
                }
                if matches!(how, Shutdown::Write | Shutdown::Both) {
                    end.shutdown_write();
                }
                Ok(())
            }
            Carrier::Host(socket) => socket.shutdown(how),
        }
    }

    /// Cuts the connection: both ends get `ConnectionReset`.
    pub fn reset(&self) {
        match &self.carrier {
            Carrier::Memory(end) => end.connection().reset(),
            Carrier::Host(socket) => socket.reset(),
        }
    }

    /// Tries `io`; if it would block, waits by `ready` and tries again.
    fn poll_with<T>(
        &self,
        cx: &mut Context<'_>,
        ready: impl Fn(&Self, &Context<'_>) -> Poll<()>,
        mut io: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        // Two tasks that talk by memory may always find each other ready: in tokio, they let others have a turn too.
        let turn = ready!(poll_proceed(cx));
        loop {
            match io() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(ready(self, cx)),
                done => {
                    turn.made_progress();
                    return Poll::Ready(done);
                }
            }
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("local", &self.local)
            .field("peer", &self.peer)
            .field("host", &self.is_host())
            .finish_non_exhaustive()
    }
}

impl AsyncRead for &Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = buffer.initialize_unfilled();
        let length =
            ready!(self.poll_with(cx, Stream::poll_read_ready, || self.try_read_into(rest)))?;
        buffer.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for &Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, Stream::poll_write_ready, || self.try_write_from(data))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shutdown(Shutdown::Write))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, Stream::poll_write_ready, || {
            self.try_write_slices(slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl Stream {
    fn try_write_slices(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let end = match &self.carrier {
            Carrier::Memory(end) => end,
            Carrier::Host(socket) => return socket.write_slices(slices),
        };
        let mut written = 0;
        for slice in slices {
            match end.write_from(slice) {
                Ok(length) => {
                    written += length;
                    // Room may come while we are here: going on after a part of a slice would leave a hole.
                    if length < slice.len() {
                        break;
                    }
                }
                Err(error) if written == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(written)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
