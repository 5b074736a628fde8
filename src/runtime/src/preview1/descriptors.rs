//! A program's file descriptors, but for the standard three: sockets, files and directories.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use vaquita_net::{Listener, NetError, PodNetwork, Stream};
use wasmtime_wasi::p1::types::Errno;

use super::files::{OpenedDir, OpenedFile};
use crate::budget::{Charge, Purse};
use vaquita_guest_fs::OpenDir;

/// The first after standard input, output and error: where programs look for what they are handed (`LISTEN_FDS`).
const FIRST: u32 = 3;

/// The most descriptors of an instance.
const MOST: usize = 16 << 10;

/// What is kept for a descriptor.
const KEPT: u64 = 512;

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

/// What a process has open by number, all its threads alike. The numbers of `wasmtime-wasi` don't collide with them: it has no
/// directory, from which alone it could open more than the standard three. Clones are the same.
///
/// It is never locked while a call waits, so that one thread can write to a socket from which another one reads.
#[derive(Clone)]
pub(crate) struct Descriptors(Arc<Mutex<Table>>);

/// See [`Descriptors`].
pub(super) struct Table {
    network: PodNetwork,
    /// Who pays for what is opened, and sent.
    purse: Arc<Purse>,
    open: BTreeMap<u32, (Entry, Option<Charge>)>,
}

/// What a number stands for.
pub(super) enum Entry {
    Socket(Socket),
    File(OpenedFile),
    Dir(OpenedDir),
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
    /// What a program starts with: a listening socket for each port, and the root directory.
    pub(crate) fn new(
        network: PodNetwork,
        ports: &[u16],
        root: Option<OpenDir>,
        purse: Arc<Purse>,
    ) -> Self {
        let sockets = ports.iter().map(|port| {
            Entry::Socket(Socket {
                kind: Kind::Unused { port: *port },
                waiting: Waiting::Undecided,
            })
        });
        let root = root.map(|root| Entry::Dir(OpenedDir::new(root, Some("/"))));
        let given = sockets.chain(root).map(|entry| (entry, None));
        Self(Arc::new(Mutex::new(Table {
            network,
            purse,
            open: (FIRST..).zip(given).collect(),
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn purse(&self) -> Arc<Purse> {
        Arc::clone(&self.lock().purse)
    }

    /// Accepts a connection; waits for one if that is how the listener is used.
    pub(super) async fn accept(&self, fd: i32, flags: i32) -> Result<u32, Errno> {
        let stream = loop {
            if let Some(stream) = self.lock().try_accept(fd)? {
                break stream;
            }
            self.ready(fd, Socket::poll_readable).await;
        };
        stream.charge_to(self.purse());
        let kind = Kind::Connection(Connection {
            stream,
            peeked: Bytes::new(),
        });
        let mut socket = Socket {
            kind,
            waiting: Waiting::Wait,
        };
        socket.set_flags(flags);
        self.lock().add(Entry::Socket(socket))
    }

    /// Waits until a socket is ready, or gone.
    pub(super) async fn ready(&self, fd: i32, poll: impl Fn(&Socket, &Context<'_>) -> Poll<()>) {
        poll_fn(|context| match self.lock().get(fd) {
            Some(socket) => poll(socket, context),
            None => Poll::Ready(()),
        })
        .await;
    }
}

impl Table {
    /// The socket of that number, in a state to be used.
    pub(super) fn get(&mut self, fd: i32) -> Option<&mut Socket> {
        match self.entry_mut(fd)? {
            Entry::Socket(socket) => Some(socket),
            Entry::File(_) | Entry::Dir(_) => None,
        }
    }

    pub(super) fn entry(&self, fd: i32) -> Option<&Entry> {
        let (entry, _) = self.open.get(&fd.cast_unsigned())?;
        Some(entry)
    }

    pub(super) fn entry_mut(&mut self, fd: i32) -> Option<&mut Entry> {
        let (entry, _) = self.open.get_mut(&fd.cast_unsigned())?;
        Some(entry)
    }

    /// Opens something under the lowest number that is free.
    pub(super) fn add(&mut self, entry: Entry) -> Result<u32, Errno> {
        if self.open.len() >= MOST {
            return Err(Errno::Mfile);
        }
        let fd = self.free().ok_or(Errno::Mfile)?;
        let charge = self.purse.charge(KEPT).ok_or(Errno::Nomem)?;
        self.open.insert(fd, (entry, Some(charge)));
        Ok(fd)
    }

    /// Has a number stand for what another one did, whatever it stood for before.
    pub(super) fn renumber(&mut self, from: i32, to: i32) -> Result<(), Errno> {
        if from == to && (0..=2).contains(&from) {
            return Ok(());
        }
        if !self.open.contains_key(&from.cast_unsigned()) {
            return Err(if (0..=2).contains(&from) {
                Errno::Notsup
            } else {
                Errno::Badf
            });
        }
        // Only a number that was given away: others could be made endlessly high.
        if !(0..=2).contains(&to) && !self.open.contains_key(&to.cast_unsigned()) {
            return Err(Errno::Badf);
        }
        if let Some(moved) = self.open.remove(&from.cast_unsigned()) {
            self.open.insert(to.cast_unsigned(), moved);
        }
        Ok(())
    }

    /// The name of the directory that the program was given under that number. A socket among such directories is
    /// something else than one, lest a search for them ends there.
    pub(super) fn preopened(&self, fd: i32) -> Result<Option<&'static str>, Errno> {
        match self.entry(fd) {
            Some(Entry::Dir(dir)) if dir.preopened.is_some() => Ok(dir.preopened),
            Some(Entry::Socket(_)) if self.entries().any(Entry::is_preopened) => Ok(None),
            _ => Err(Errno::Badf),
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.open.values().map(|(entry, _)| entry)
    }

    pub(super) fn contains(&self, fd: u32) -> bool {
        self.open.contains_key(&fd)
    }

    pub(super) fn is_file(&self, fd: u32) -> bool {
        let entry = self.entry(fd.cast_signed());
        matches!(entry, Some(Entry::File(_) | Entry::Dir(_)))
    }

    pub(super) fn close(&mut self, fd: i32) -> bool {
        self.open.remove(&fd.cast_unsigned()).is_some()
    }

    /// A connection; `None` if there is none yet, and the guest waits for one.
    fn try_accept(&mut self, fd: i32) -> Result<Option<Stream>, Errno> {
        let listening = self.listening(fd.cast_unsigned())?;
        let Kind::Listener(listener) = &listening.kind else {
            return Err(Errno::Inval);
        };
        match listener.try_accept() {
            Ok(Some((stream, _peer))) => Ok(Some(stream)),
            Ok(None) if listening.is_blocking() => Ok(None),
            Ok(None) => Err(Errno::Again),
            Err(error) => Err(errno_of(&error)),
        }
    }

    /// The socket of that number, bound if it was not yet.
    pub(super) fn listening(&mut self, fd: u32) -> Result<&mut Socket, Errno> {
        let Some((Entry::Socket(socket), _)) = self.open.get_mut(&fd) else {
            return Err(Errno::Notsock);
        };
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
        for fd in self.open.range(FIRST..).map(|(fd, _)| fd) {
            if *fd != expected {
                break;
            }
            expected = expected.checked_add(1)?;
        }
        Some(expected)
    }
}

impl Entry {
    fn is_preopened(&self) -> bool {
        matches!(self, Self::Dir(dir) if dir.preopened.is_some())
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
        std::io::ErrorKind::OutOfMemory => Errno::Nomem,
        _ => Errno::Io,
    }
}
