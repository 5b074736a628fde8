//! What is behind a pod's handles: its ports, its open connections, and how they end.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use tokio::{sync::Notify, time::Instant};

use super::{Call, Reached};
use crate::{
    Activity, NetError, Origin, PodIdentity, PodStats, Stream,
    fabric::{Inner, Reserved, Source},
    host::HostSocket,
    listener::{Backlog, Slot},
    pipe::{self, Account, Connection},
    ports::{Key, Ports, Unbindable},
    sync::lock,
    udp::Mailbox,
};

/// What a port is bound for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A TCP socket of its own; counts against the limit of ports.
    Socket,
    /// The near end of a TCP connection; counts as a connection.
    Connection,
    /// A UDP socket; counts against the limit of ports.
    Datagrams,
}

/// Who hears what arrives at a port.
pub(super) enum Hearer {
    Connections(Arc<Backlog>),
    Datagrams(Arc<Mailbox>),
}

/// A port that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct PortHold {
    pod: Arc<Pod>,
    key: Key,
    purpose: Purpose,
}

impl PortHold {
    pub(crate) fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.key.1, self.key.0)
    }

    /// Sets who hears what arrives.
    pub(super) fn hear(&self, hearer: Hearer) -> Result<(), NetError> {
        let mut state = self.pod.lock();
        if state.closed {
            return Err(NetError::Closed);
        }
        match hearer {
            Hearer::Connections(backlog) => state.tcp.hear(self.key, backlog),
            Hearer::Datagrams(mailbox) => state.udp.hear(self.key, mailbox),
        }
        Ok(())
    }
}

impl Drop for PortHold {
    fn drop(&mut self) {
        let mut state = self.pod.lock();
        if self.purpose != Purpose::Connection {
            state.sockets = state.sockets.saturating_sub(1);
        }
        let hearer = match self.purpose {
            Purpose::Socket | Purpose::Connection => {
                state.tcp.release(self.key).map(Hearer::Connections)
            }
            Purpose::Datagrams => state.udp.release(self.key).map(Hearer::Datagrams),
        };
        drop(state);
        // Whatever still waits there is let go without the lock.
        drop(hearer);
    }
}

/// Takes an open end off its pod's list, and frees its ephemeral port, when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    pod: Arc<Pod>,
    id: u64,
    counts: bool,
    _port: Option<PortHold>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = self.pod.lock();
        let live = state.live.remove(&self.id);
        if self.counts {
            state.activity.open = state.activity.open.saturating_sub(1);
            state.activity.since = Instant::now();
        }
        drop(state);
        drop(live);
    }
}

/// What to cut when the pod's network closes. Weak: it must not keep the buffers of a connection that is gone.
#[derive(Debug)]
pub(crate) enum Live {
    Memory(Weak<Connection>),
    Host(Weak<HostSocket>),
    /// Its two sides see to its end themselves.
    Call,
}

impl Live {
    pub(crate) fn reset(self) {
        match self {
            Self::Memory(connection) => {
                if let Some(connection) = connection.upgrade() {
                    connection.reset();
                }
            }
            Self::Host(socket) => {
                if let Some(socket) = socket.upgrade() {
                    socket.reset();
                }
            }
            Self::Call => {}
        }
    }
}

/// A pod's network behind its handles.
pub(crate) struct Pod {
    pub(crate) fabric: Arc<Inner>,
    pub(crate) ip: Ipv4Addr,
    pub(crate) identity: PodIdentity,
    pub(crate) account: Arc<Account>,
    /// Told of each connection that others make to the pod.
    pub(crate) arrivals: Arc<Notify>,
    state: Mutex<State>,
}

struct State {
    closed: bool,
    /// Others can't connect any more.
    withdrawn: bool,
    tcp: Ports<Backlog>,
    udp: Ports<Mailbox>,
    sockets: usize,
    live: HashMap<u64, Live>,
    next_id: u64,
    activity: Activity,
}

impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pod")
            .field("ip", &self.ip)
            .finish_non_exhaustive()
    }
}

impl Pod {
    pub(crate) fn new(fabric: Arc<Inner>, ip: Ipv4Addr, identity: PodIdentity) -> Self {
        let state = State {
            closed: false,
            withdrawn: false,
            tcp: Ports::new(fabric.config.ephemeral_ports.clone(), rand::random()),
            udp: Ports::new(fabric.config.ephemeral_ports.clone(), rand::random()),
            sockets: 0,
            live: HashMap::new(),
            next_id: 0,
            activity: Activity {
                open: 0,
                since: Instant::now(),
            },
        };
        let account = Arc::new(Account::new(fabric.config.pod_limits.unread));
        Self {
            fabric,
            ip,
            identity,
            account,
            arrivals: Arc::default(),
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn bind(
        self: &Arc<Self>,
        address: SocketAddr,
        purpose: Purpose,
    ) -> Result<PortHold, NetError> {
        let ip = address.ip().to_canonical();
        if !(ip.is_unspecified() || ip.is_loopback() || ip == IpAddr::V4(self.ip)) {
            return Err(NetError::AddrNotAvailable(address));
        }
        let limit = self.fabric.config.pod_limits.ports;
        let mut state = self.lock();
        if state.closed {
            return Err(NetError::Closed);
        }
        if purpose != Purpose::Connection && state.sockets >= limit {
            return Err(NetError::TooMany {
                what: "ports",
                limit,
            });
        }
        let wanted = SocketAddr::new(ip, address.port());
        let bound = match purpose {
            Purpose::Socket | Purpose::Connection => state.tcp.bind(wanted),
            Purpose::Datagrams => state.udp.bind(wanted),
        };
        let key = bound.map_err(|reason| match reason {
            Unbindable::InUse | Unbindable::NoneFree => NetError::AddrInUse(address),
        })?;
        if purpose != Purpose::Connection {
            state.sockets += 1;
        }
        drop(state);
        Ok(PortHold {
            pod: self.clone(),
            key,
            purpose,
        })
    }

    /// Who listens there, if anybody.
    pub(crate) fn listener(&self, address: SocketAddr) -> Option<Arc<Backlog>> {
        self.lock().tcp.find(address.ip(), address.port()).cloned()
    }

    /// Who listens there to others than the pod itself, if anybody.
    pub(crate) fn listener_for_others(&self, address: SocketAddr) -> Option<Arc<Backlog>> {
        let state = self.lock();
        let found = state.tcp.find(address.ip(), address.port());
        found.filter(|_| !state.withdrawn).cloned()
    }

    pub(crate) fn withdraw(&self) {
        self.lock().withdrawn = true;
    }

    /// Who takes datagrams there, if anybody.
    pub(crate) fn mailbox(&self, address: SocketAddr) -> Option<Arc<Mailbox>> {
        self.lock().udp.find(address.ip(), address.port()).cloned()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Notes an open end; `counts`: one that others made to this pod.
    pub(crate) fn register(
        self: &Arc<Self>,
        live: Live,
        port: Option<PortHold>,
        counts: bool,
    ) -> Result<Registration, NetError> {
        let limit = self.fabric.config.pod_limits.connections;
        let mut state = self.lock();
        if state.closed {
            return Err(NetError::Closed);
        }
        if state.live.len() >= limit {
            return Err(NetError::TooMany {
                what: "connections",
                limit,
            });
        }
        let id = state.next_id;
        state.next_id += 1;
        state.live.insert(id, live);
        if counts {
            state.activity.open += 1;
            state.activity.since = Instant::now();
        }
        drop(state);
        if counts {
            self.arrivals.notify_waiters();
        }
        Ok(Registration {
            pod: self.clone(),
            id,
            counts,
            _port: port,
        })
    }

    pub(super) async fn connect(
        self: &Arc<Self>,
        port: Option<PortHold>,
        to: SocketAddr,
    ) -> Result<Stream, NetError> {
        let connected = self.try_connect(port, to).await;
        self.fabric.counters.count_connect(&connected);
        connected
    }

    async fn try_connect(
        self: &Arc<Self>,
        port: Option<PortHold>,
        to: SocketAddr,
    ) -> Result<Stream, NetError> {
        let target = canonical(to);
        let port = match port {
            Some(port) => port,
            None => self.bind(
                SocketAddr::new(self.natural(target.ip()), 0),
                Purpose::Connection,
            )?,
        };
        let local = self.near(port.address(), target.ip())?;
        let reserved = self.reserve(local.port(), target).await?;
        self.join(port, (local, to), reserved)
    }

    /// As [`connect`](Self::connect), but takes what the listener offers in a connection's place.
    pub(super) async fn reach(self: &Arc<Self>, to: SocketAddr) -> Result<Reached, NetError> {
        let reached = self.try_reach(to).await;
        self.fabric.counters.count_connect(&reached);
        reached
    }

    async fn try_reach(self: &Arc<Self>, to: SocketAddr) -> Result<Reached, NetError> {
        let target = canonical(to);
        let reserved = self.reserve(0, target).await?;
        if let Reserved::Pod { pod, slot, .. } = &reserved
            && let Some(shortcut) = slot.shortcut()
        {
            let counts = !Arc::ptr_eq(pod, self);
            let registration = pod
                .register(Live::Call, None, counts)
                .map_err(|_full_or_closed| NetError::ConnectionRefused(to))?;
            return Ok(Reached::Shortcut(
                shortcut.clone(),
                Call {
                    _registration: registration,
                },
            ));
        }
        let near = SocketAddr::new(self.natural(target.ip()), 0);
        let port = self.bind(near, Purpose::Connection)?;
        let local = self.near(port.address(), target.ip())?;
        self.join(port, (local, to), reserved).map(Reached::Stream)
    }

    /// Finds whoever is to hear a connection to `target`, and reserves a place there.
    /// `port` is the one that it comes from, if it is known yet.
    async fn reserve(
        self: &Arc<Self>,
        port: u16,
        target: SocketAddr,
    ) -> Result<Reserved, NetError> {
        if self.is_own(target.ip()) {
            self.fabric.reserve_in(self, target).await
        } else {
            let origin = Origin::Pod(IpAddr::V4(self.ip));
            self.fabric.reserve(Source { origin, port }, target).await
        }
    }

    /// Makes the connection: its near end is here, its far end goes where a place was reserved.
    fn join(
        self: &Arc<Self>,
        port: PortHold,
        (local, to): (SocketAddr, SocketAddr),
        reserved: Reserved,
    ) -> Result<Stream, NetError> {
        match reserved {
            Reserved::Pod { pod, at, slot } => {
                let (near, far) =
                    pipe::pair(self.fabric.config.buffer, &self.account, &pod.account);
                let live = Live::Memory(Arc::downgrade(near.connection()));
                let registration = self.register(live, Some(port), false)?;
                let counts = !Arc::ptr_eq(&pod, self);
                pod.accept(slot, far, at, (local, to), counts)?;
                Ok(Stream::memory(
                    near,
                    like(local, to),
                    to,
                    Some(registration.into()),
                ))
            }
            Reserved::Beside(established) => {
                let node = &self.fabric.node_account;
                let (near, far) = pipe::pair(self.fabric.config.buffer, &self.account, node);
                let live = Live::Memory(Arc::downgrade(near.connection()));
                let registration = self.register(live, Some(port), false)?;
                established(Stream::memory(far, to, local, None));
                Ok(Stream::memory(
                    near,
                    like(local, to),
                    to,
                    Some(registration.into()),
                ))
            }
            Reserved::Outside(socket) => {
                let socket = Arc::new(HostSocket::new(socket, self.account.clone()));
                let registration =
                    self.register(Live::Host(Arc::downgrade(&socket)), Some(port), false)?;
                Ok(Stream::host(
                    socket,
                    like(local, to),
                    to,
                    Some(registration.into()),
                ))
            }
        }
    }

    /// Whether this address is the pod itself.
    pub(crate) fn is_own(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || ip == IpAddr::V4(self.ip)
    }

    /// The address from which a socket that is bound on `bound` reaches `to`.
    pub(crate) fn near(&self, bound: SocketAddr, to: IpAddr) -> Result<SocketAddr, NetError> {
        let natural = self.natural(to);
        // A socket of IPv6 may do IPv4 too, but not the other way round.
        let suits_any = bound.ip().is_unspecified() && (bound.is_ipv6() || natural.is_ipv4());
        // Within the pod, its own address reaches its loopback and back.
        let within = self.is_own(to) && to.is_ipv4() == bound.is_ipv4();
        if suits_any {
            Ok(SocketAddr::new(natural, bound.port()))
        } else if bound.ip() == natural || within {
            Ok(bound)
        } else {
            Err(NetError::AddrNotAvailable(bound))
        }
    }

    /// The address of this pod from which `to` is reached if none is asked for.
    fn natural(&self, to: IpAddr) -> IpAddr {
        if to.is_loopback() {
            to
        } else {
            IpAddr::V4(self.ip)
        }
    }

    /// Puts the far end of a new connection into a place of this pod's backlog. `at` is the address of this pod that
    /// was reached, `from` the one of who connects, `to` the one that it meant; `counts`: whether it is activity.
    pub(crate) fn accept(
        self: &Arc<Self>,
        slot: Slot,
        end: pipe::End,
        at: SocketAddr,
        (from, to): (SocketAddr, SocketAddr),
        counts: bool,
    ) -> Result<(), NetError> {
        let live = Live::Memory(Arc::downgrade(end.connection()));
        // A pod that is full or gone refuses, whatever its own reason.
        let registration = self
            .register(live, None, counts)
            .map_err(|_full_or_closed| NetError::ConnectionRefused(to))?;
        let bound = slot.bound();
        slot.fill(Stream::memory(
            end,
            like(at, bound),
            like(from, bound),
            Some(registration.into()),
        ))
        .map_err(|_closed| NetError::ConnectionRefused(to))
    }

    /// The same for a socket of the host.
    pub(crate) fn accept_host(
        self: &Arc<Self>,
        slot: Slot,
        socket: tokio::net::TcpStream,
        at: SocketAddr,
        from: SocketAddr,
    ) -> Result<(), NetError> {
        let socket = Arc::new(HostSocket::new(socket, self.account.clone()));
        let registration = match self.register(Live::Host(Arc::downgrade(&socket)), None, true) {
            Ok(registration) => registration,
            Err(_full_or_closed) => {
                socket.reset();
                return Err(NetError::ConnectionRefused(at));
            }
        };
        let bound = slot.bound();
        slot.fill(Stream::host(
            socket,
            like(at, bound),
            like(from, bound),
            Some(registration.into()),
        ))
    }

    pub(crate) fn close(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.closed, true) {
            return;
        }
        let backlogs = state.tcp.clear();
        let mailboxes = state.udp.clear();
        let live = std::mem::take(&mut state.live);
        drop(state);
        self.fabric.forget(self.ip);
        for backlog in backlogs {
            backlog.close();
        }
        for mailbox in mailboxes {
            mailbox.close();
        }
        for live in live.into_values() {
            live.reset();
        }
        self.fabric.release(self.ip, &self.identity);
    }

    pub(crate) fn activity(&self) -> Activity {
        self.lock().activity
    }

    pub(crate) fn stats(&self) -> PodStats {
        let state = self.lock();
        PodStats {
            connections: state.live.len(),
            ports: state.sockets,
            unread: self.account.unread(),
            sent: self.account.sent(),
            received: self.account.received(),
        }
    }
}

/// The address that is meant: IPv4 mapped into IPv6 is IPv4, and "any address" is this host, as on Linux.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

/// The address as a socket of `other`'s family sees it: an IPv6 socket sees IPv4 addresses mapped.
pub(crate) fn like(address: SocketAddr, other: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if other.is_ipv6() => {
            SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port())
        }
        _ => address,
    }
}
