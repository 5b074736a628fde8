//! Listeners, and the backlog in which connections wait for them.

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    future::poll_fn,
    mem,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    NetError, Stream,
    host_pod::HostListener,
    pod::PortHold,
    sync::{WakerSet, lock},
};

/// A listening TCP socket of a pod. Dropping it frees its port and resets the connections that nobody accepted. It does
/// not keep the pod's network open.
///
/// Tasks may share it; each connection goes to one of them.
pub struct Listener(Ear);

enum Ear {
    Fabric {
        backlog: Arc<Backlog>,
        _port: PortHold,
    },
    Host(Arc<HostListener>),
}

impl Listener {
    pub(crate) fn new(backlog: Arc<Backlog>, port: PortHold) -> Self {
        Self(Ear::Fabric {
            backlog,
            _port: port,
        })
    }

    pub(crate) fn on_host(listener: Arc<HostListener>) -> Self {
        Self(Ear::Host(listener))
    }

    /// The address that it is bound on; with the port that was picked, if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        match &self.0 {
            Ear::Fabric { backlog, .. } => backlog.local,
            Ear::Host(listener) => listener.local(),
        }
    }

    /// Offers those who can do without a byte stream something else: what [`PodNetwork::reach`](crate::PodNetwork::reach)
    /// gives them in a connection's place. Only the first offer counts. Who connects from outside of the fabric is offered
    /// nothing.
    pub fn offer(&self, shortcut: Shortcut) {
        if let Ear::Fabric { backlog, .. } = &self.0 {
            let _ = backlog.shortcut.set(shortcut);
        }
    }

    /// How many connections wait to be accepted. Of those that wait in the host's kernel, nobody knows.
    pub fn pending(&self) -> usize {
        match &self.0 {
            Ear::Fabric { backlog, .. } => lock(&backlog.queue).ready.len(),
            Ear::Host(listener) => listener.pending(),
        }
    }

    /// Waits for a connection. Gives it with its peer's address; a listener on `::` sees IPv4 addresses mapped into
    /// IPv6, as on Linux. Cancelling loses nothing.
    ///
    /// Errors: [`NetError::Closed`] when the pod's network is closed.
    pub async fn accept(&self) -> Result<(Stream, SocketAddr), NetError> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// [`accept`](Self::accept), polled. Several tasks may wait at once.
    pub fn poll_accept(&self, cx: &Context<'_>) -> Poll<Result<(Stream, SocketAddr), NetError>> {
        match &self.0 {
            Ear::Fabric { backlog, .. } => backlog.poll(cx, Queue::pop).map_ok(Incoming::open),
            Ear::Host(listener) => listener.poll_accept(cx),
        }
    }

    /// Ready when [`try_accept`](Self::try_accept) would give something or fail.
    pub fn poll_accept_ready(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.0 {
            Ear::Fabric { backlog, .. } => backlog.poll(cx, |queue| {
                (queue.closed || !queue.ready.is_empty()).then_some(())
            }),
            Ear::Host(listener) => listener.poll_accept_ready(cx),
        }
    }

    /// Takes a connection if one waits.
    pub fn try_accept(&self) -> Result<Option<(Stream, SocketAddr)>, NetError> {
        match &self.0 {
            Ear::Fabric { backlog, .. } => {
                let popped = lock(&backlog.queue).pop().transpose();
                popped.map(|incoming| incoming.map(Incoming::open))
            }
            Ear::Host(listener) => listener.try_accept(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        match &self.0 {
            Ear::Fabric { backlog, .. } => backlog.close(),
            Ear::Host(listener) => listener.close(),
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("local", &self.local_addr())
            .finish_non_exhaustive()
    }
}

/// What a server can be reached by within its process, instead of a byte stream; both sides know its type.
pub type Shortcut = Arc<dyn Any + Send + Sync>;

/// Where connections wait for their listener. The room in it is a semaphore, so that connects queue up in order; a
/// [`Slot`] is a place that was reserved.
pub(crate) struct Backlog {
    local: SocketAddr,
    queue: Mutex<Queue>,
    room: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
    shortcut: OnceLock<Shortcut>,
}

struct Queue {
    ready: VecDeque<Incoming>,
    acceptors: WakerSet,
    closed: bool,
}

struct Incoming {
    stream: Stream,
    _place: OwnedSemaphorePermit,
}

impl Incoming {
    /// Out of the queue. Called without the lock, for whoever waits for the place is woken by it.
    fn open(self) -> (Stream, SocketAddr) {
        let peer = self.stream.peer_addr();
        (self.stream, peer)
    }
}

impl Queue {
    fn pop(&mut self) -> Option<Result<Incoming, NetError>> {
        match self.ready.pop_front() {
            Some(incoming) => Some(Ok(incoming)),
            None if self.closed => Some(Err(NetError::Closed)),
            None => None,
        }
    }
}

/// A place in a backlog.
pub(crate) struct Slot {
    backlog: Arc<Backlog>,
    place: OwnedSemaphorePermit,
}

/// What a backlog says at once to who wants a place.
pub(crate) enum Place {
    Free(Slot),
    Full,
    Closed,
}

impl Backlog {
    pub(crate) fn new(local: SocketAddr, size: usize, max_waiting: usize) -> Self {
        Self {
            local,
            queue: Mutex::new(Queue {
                ready: VecDeque::new(),
                acceptors: WakerSet::default(),
                closed: false,
            }),
            room: Arc::new(Semaphore::new(size)),
            waiting: AtomicUsize::new(0),
            max_waiting,
            shortcut: OnceLock::new(),
        }
    }

    /// Reserves a place, if there is one.
    pub(crate) fn try_reserve(self: &Arc<Self>) -> Place {
        match self.room.clone().try_acquire_owned() {
            Ok(place) => Place::Free(Slot {
                backlog: self.clone(),
                place,
            }),
            Err(tokio::sync::TryAcquireError::NoPermits) => Place::Full,
            Err(tokio::sync::TryAcquireError::Closed) => Place::Closed,
        }
    }

    /// Waits for a place, first come, first served. `to` is whom the connect meant.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        to: SocketAddr,
        patience: Duration,
    ) -> Result<Slot, NetError> {
        let Some(_turn) = Turn::take(self) else {
            return Err(NetError::ConnectionRefused(to));
        };
        match tokio::time::timeout(patience, self.room.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(Slot {
                backlog: self.clone(),
                place,
            }),
            Ok(Err(_closed)) => Err(NetError::ConnectionRefused(to)),
            Err(_elapsed) => Err(NetError::TimedOut(to)),
        }
    }

    /// Refuses everything from now on and resets what waits.
    pub(crate) fn close(&self) {
        self.room.close();
        let mut queue = lock(&self.queue);
        queue.closed = true;
        let unaccepted = mem::take(&mut queue.ready);
        let acceptors = queue.acceptors.take();
        drop(queue);
        for Incoming { stream, .. } in unaccepted {
            stream.reset();
        }
        acceptors.wake();
    }

    fn poll<T>(&self, cx: &Context<'_>, look: impl FnOnce(&mut Queue) -> Option<T>) -> Poll<T> {
        let mut queue = lock(&self.queue);
        if let Some(found) = look(&mut queue) {
            return Poll::Ready(found);
        }
        let displaced = queue.acceptors.add(cx.waker());
        drop(queue);
        if let Some(waker) = displaced {
            waker.wake();
        }
        Poll::Pending
    }
}

impl Slot {
    /// The address that the listener is bound on.
    pub(crate) fn bound(&self) -> SocketAddr {
        self.backlog.local
    }

    /// What the listener offers in a connection's place.
    pub(crate) fn shortcut(&self) -> Option<&Shortcut> {
        self.backlog.shortcut.get()
    }

    /// Hands a connection to the listener. If that has closed meanwhile, the connection is reset.
    pub(crate) fn fill(self, stream: Stream) -> Result<(), NetError> {
        let mut queue = lock(&self.backlog.queue);
        if queue.closed {
            drop(queue);
            stream.reset();
            return Err(NetError::ConnectionRefused(stream.local_addr()));
        }
        queue.ready.push_back(Incoming {
            stream,
            _place: self.place,
        });
        let acceptors = queue.acceptors.take();
        drop(queue);
        acceptors.wake();
        Ok(())
    }
}

/// One of the bounded number of connects that may wait.
struct Turn<'a>(&'a Backlog);

impl<'a> Turn<'a> {
    fn take(backlog: &'a Backlog) -> Option<Self> {
        let before = backlog.waiting.fetch_add(1, Ordering::Relaxed);
        let turn = Self(backlog);
        (before < backlog.max_waiting).then_some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
