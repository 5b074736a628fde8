//! The sockets among a program's file descriptors.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::task::{Context, Poll};

use bytes::Bytes;
use vaquita_net::{Listener, NetError, PodNetwork, Stream};
use wasmtime_wasi::p1::types::Errno;

/// The first after standard input, output and error: where programs look for what they are handed (`LISTEN_FDS`).
const FIRST: u32 = 3;

/// The most sockets of an instance.
const MOST: usize = 16 << 10;

/// `fdflags.nonblock`
const NONBLOCK: u16 = 1 << 2;
/// `filetype.socket_stream`
const SOCKET_STREAM: u8 = 6;
/// `rights`: read, set flags, write, poll, shut down, accept.
const RIGHTS: u64 = 1 << 1 | 1 << 3 | 1 << 6 | 1 << 27 | 1 << 28 | 1 << 29;

/// `filestat`: of a socket, there is nothing to tell but what it is.
pub(super) const FILESTAT: [u8; 64] = {
    let mut stat = [0; 64];
    stat[16] = SOCKET_STREAM;
    stat
};

/// An instance's sockets by number. The numbers of `wasmtime-wasi` don't collide with them as long as it has no directory,
/// from which alone it could open more than the standard three.
pub(crate) struct Descriptors {
    network: PodNetwork,
    open: BTreeMap<u32, Socket>,
}

/// A socket and how it is used.
pub(super) struct Socket {
    pub(super) kind: Kind,
    waiting: Waiting,
}

/// Whether calls wait until they can be done (`fdflags.nonblock`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// Handed over, and nobody has said. Programs differ in what they expect: those with an event loop (Go's runtime)
    /// take over a listener that does not wait, after a look at its flags; others (Rust's and C's libraries) just accept,
    /// and expect to wait. So the look decides.
    Undecided,
    Wait,
    DontWait,
}

pub(super) enum Kind {
    /// Handed over, and bound when it is first used: a program that has no use for it must not keep its port
    /// from others, nor have clients wait for it.
    Unused {
        port: u16,
    },
    Listener(Listener),
    Connection(Connection),
}

pub(super) struct Connection {
    pub(super) stream: Stream,
    /// Received for a look ahead, and still to be read.
    pub(super) peeked: Bytes,
}

impl Descriptors {
    /// What a program starts with: a listening socket for each port.
    pub(crate) fn new(network: PodNetwork, ports: &[u16]) -> Self {
        let sockets = ports.iter().map(|port| Socket {
            kind: Kind::Unused { port: *port },
            waiting: Waiting::Undecided,
        });
        Self {
            network,
            open: (FIRST..).zip(sockets).collect(),
        }
    }

    /// The socket of that number, in a state to be used.
    pub(super) fn get(&mut self, fd: i32) -> Option<&mut Socket> {
        self.open.get_mut(&fd.cast_unsigned())
    }

    pub(super) fn contains(&self, fd: u32) -> bool {
        self.open.contains_key(&fd)
    }

    pub(super) fn close(&mut self, fd: i32) -> bool {
        self.open.remove(&fd.cast_unsigned()).is_some()
    }

    pub(super) async fn accept(&mut self, fd: i32, flags: i32) -> Result<u32, Errno> {
        if self.open.len() >= MOST {
            return Err(Errno::Mfile);
        }
        let listening = self.listening(fd.cast_unsigned())?;
        let blocking = listening.is_blocking();
        let Kind::Listener(listener) = &listening.kind else {
            return Err(Errno::Inval);
        };
        let accepted = if blocking {
            listener.accept().await.map(Some)
        } else {
            listener.try_accept()
        };
        let (stream, _peer) = accepted
            .map_err(|error| errno_of(&error))?
            .ok_or(Errno::Again)?;
        let fd = self.free().ok_or(Errno::Mfile)?;
        let kind = Kind::Connection(Connection {
            stream,
            peeked: Bytes::new(),
        });
        let mut socket = Socket {
            kind,
            waiting: Waiting::Wait,
        };
        socket.set_flags(flags);
        self.open.insert(fd, socket);
        Ok(fd)
    }

    /// The socket of that number, bound if it was not yet.
    pub(super) fn listening(&mut self, fd: u32) -> Result<&mut Socket, Errno> {
        let socket = self.open.get_mut(&fd).ok_or(Errno::Notsock)?;
        if let Kind::Unused { port } = socket.kind {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            let listener = self
                .network
                .listen(address)
                .map_err(|error| errno_of(&error))?;
            socket.kind = Kind::Listener(listener);
        }
        Ok(socket)
    }

    fn free(&self) -> Option<u32> {
        let mut expected = FIRST;
        for fd in self.open.keys() {
            if *fd != expected {
                break;
            }
            expected = expected.checked_add(1)?;
        }
        Some(expected)
    }
}

impl Socket {
    pub(super) fn is_blocking(&self) -> bool {
        self.waiting != Waiting::DontWait
    }

    /// Sets `fdflags`, of which all but one mean nothing to sockets.
    pub(super) fn set_flags(&mut self, flags: i32) {
        let wait = flags & i32::from(NONBLOCK) == 0;
        self.waiting = if wait {
            Waiting::Wait
        } else {
            Waiting::DontWait
        };
    }

    /// `fdstat`
    pub(super) fn fdstat(&mut self) -> [u8; 24] {
        if self.waiting == Waiting::Undecided {
            self.waiting = Waiting::DontWait;
        }
        let flags = if self.is_blocking() { 0 } else { NONBLOCK };
        let mut stat = [0; 24];
        stat[0] = SOCKET_STREAM;
        stat[2..4].copy_from_slice(&flags.to_le_bytes());
        stat[8..16].copy_from_slice(&RIGHTS.to_le_bytes());
        stat[16..24].copy_from_slice(&RIGHTS.to_le_bytes());
        stat
    }

    pub(super) fn connection(&mut self) -> Result<&mut Connection, Errno> {
        match &mut self.kind {
            Kind::Connection(connection) => Ok(connection),
            Kind::Unused { .. } | Kind::Listener(_) => Err(Errno::Notconn),
        }
    }

    /// `sdflags`: 1 for receiving, 2 for sending, 3 for both.
    pub(super) fn shutdown(&mut self, how: i32) -> Result<(), Errno> {
        let how = match how {
            1 => Shutdown::Read,
            2 => Shutdown::Write,
            3 => Shutdown::Both,
            _ => return Err(Errno::Inval),
        };
        let done = self.connection()?.stream.shutdown(how);
        done.map_err(|error| errno_of_io(&error))
    }

    pub(super) fn poll_readable(&self, context: &Context<'_>) -> Poll<()> {
        match &self.kind {
            Kind::Unused { .. } => Poll::Ready(()),
            Kind::Listener(listener) => listener.poll_accept_ready(context),
            Kind::Connection(connection) if !connection.peeked.is_empty() => Poll::Ready(()),
            Kind::Connection(connection) => connection.stream.poll_read_ready(context),
        }
    }

    pub(super) fn poll_writable(&self, context: &Context<'_>) -> Poll<()> {
        match &self.kind {
            Kind::Connection(connection) => connection.stream.poll_write_ready(context),
            Kind::Unused { .. } | Kind::Listener(_) => Poll::Pending,
        }
    }
}

fn errno_of(error: &NetError) -> Errno {
    match error {
        NetError::AddrInUse(_) => Errno::Addrinuse,
        NetError::AddrNotAvailable(_) => Errno::Addrnotavail,
        NetError::Denied(_) => Errno::Acces,
        NetError::TooMany { .. } => Errno::Mfile,
        NetError::Closed => Errno::Netdown,
        _ => Errno::Io,
    }
}

pub(super) fn errno_of_io(error: &std::io::Error) -> Errno {
    match error.kind() {
        std::io::ErrorKind::WouldBlock => Errno::Again,
        std::io::ErrorKind::BrokenPipe => Errno::Pipe,
        std::io::ErrorKind::ConnectionReset => Errno::Connreset,
        std::io::ErrorKind::ConnectionAborted => Errno::Connaborted,
        std::io::ErrorKind::NotConnected => Errno::Notconn,
        std::io::ErrorKind::NetworkDown => Errno::Netdown,
        _ => Errno::Io,
    }
}
