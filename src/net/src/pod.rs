//! The network of one pod: one address, one loopback and one port space, shared by all its modules.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use crate::{
    NetError, Origin, ResolveError, Stream,
    fabric::{Inner, Reserved},
    host::HostSocket,
    listener::{Backlog, Listener, Slot},
    names::{self, PodIdentity},
    pipe::{self, Account, Connection},
    ports::{Key, Ports, Unbindable},
    sync::lock,
};

/// A pod's network. Clones share it; when the last of them is dropped, or one is closed, its connections are reset, its
/// listeners fail and its address is free again (though not reused soon).
#[derive(Clone)]
pub struct PodNetwork(Arc<Handle>);

/// Closes the pod's network when nobody holds it any more.
struct Handle {
    pod: Arc<Pod>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.pod.close();
    }
}

/// Figures of one pod's network, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PodStats {
    /// Open ends of connections.
    pub connections: usize,
    /// Ports bound by listeners.
    pub ports: usize,
    /// Bytes sent that nobody has read yet.
    pub unread: usize,
    /// Bytes sent since the pod was attached.
    pub sent: u64,
    /// Bytes received since the pod was attached.
    pub received: u64,
}

impl PodNetwork {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        Self(Arc::new(Handle { pod }))
    }

    /// The pod's address.
    pub fn ip(&self) -> IpAddr {
        IpAddr::V4(self.0.pod.ip)
    }

    /// Whom the network was attached for.
    pub fn identity(&self) -> &PodIdentity {
        &self.0.pod.identity
    }

    /// Listens on `0.0.0.0` or `::` (everything), on the pod's own address, or on loopback, which other pods can't reach.
    /// Port 0 picks an ephemeral one. `::` takes IPv4 connections too.
    ///
    /// Errors: `AddrInUse`, by the kernel's rules; `AddrNotAvailable` if the address is not the pod's; `TooMany` ports;
    /// `Closed`.
    pub fn listen(&self, address: SocketAddr) -> Result<Listener, NetError> {
        self.bind(address)?.listen(None)
    }

    /// Takes a port without using it yet: the first half of [`listen`](Self::listen), or a connect from a certain port.
    pub fn bind(&self, address: SocketAddr) -> Result<BoundPort, NetError> {
        Ok(BoundPort {
            hold: self.0.pod.bind(address, Purpose::Socket)?,
        })
    }

    /// Connects to another pod, a Service, this pod itself (by its address or a loopback one), or, if the fabric may, to
    /// the outside. Done when the connection is in the listener's backlog. A full backlog is waited for, up to
    /// [`connect_timeout`](crate::FabricConfig::connect_timeout).
    ///
    /// The future does not borrow. Unless it has to wait, it is ready at once; if it has to, it needs a tokio runtime
    /// with a timer.
    ///
    /// Errors: `ConnectionRefused` (nobody listens, no endpoint), `HostUnreachable` (no such pod), `NetworkUnreachable`
    /// (outside, and not allowed), `TimedOut`, `Denied`, `AddrNotAvailable` (no ephemeral port), `TooMany`
    /// connections, `Closed`.
    pub fn connect(
        &self,
        to: SocketAddr,
    ) -> impl Future<Output = Result<Stream, NetError>> + Send + use<> {
        let handle = self.0.clone();
        async move { handle.pod.connect(None, to).await }
    }

    /// Finds a name's addresses: a literal address, `localhost`, the pod's own hostname and hosts file, then Services
    /// and pods by the search path, then (only if the fabric may) the host's resolver. Several come in turning order.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let pod = &self.0.pod;
        if pod.lock().closed {
            return Err(ResolveError::Closed);
        }
        names::resolve(&pod.fabric, &pod.identity, IpAddr::V4(pod.ip), name).await
    }

    /// Closes the network for all who share it: connections are reset, listeners fail, the address goes back. Doing it
    /// again does nothing.
    pub fn close(&self) {
        self.0.pod.close();
    }

    /// Figures of this moment.
    pub fn stats(&self) -> PodStats {
        self.0.pod.stats()
    }
}

impl fmt::Debug for PodNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodNetwork")
            .field("ip", &self.0.pod.ip)
            .field("name", &self.0.pod.identity.name)
            .finish_non_exhaustive()
    }
}

/// A port that is taken, and not used yet. Dropping it frees the port.
#[derive(Debug)]
pub struct BoundPort {
    hold: PortHold,
}

impl BoundPort {
    /// The address that it is bound on, with the port that was picked if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.hold.address()
    }

    /// Listens. `backlog` is the number of connections that may wait to be accepted: none is the fabric's
    /// [`backlog`](crate::FabricConfig::backlog), which is also the most.
    pub fn listen(self, backlog: Option<usize>) -> Result<Listener, NetError> {
        let pod = &self.hold.pod;
        let config = &pod.fabric.config;
        let size = backlog.map_or(config.backlog, |size| size.clamp(1, config.backlog));
        let backlog = Arc::new(Backlog::new(
            self.local_addr(),
            size,
            config.waiting_connects,
        ));
        let mut state = pod.lock();
        if state.closed {
            return Err(NetError::Closed);
        }
        state.tcp.hear(self.hold.key, backlog.clone());
        drop(state);
        Ok(Listener::new(backlog, self.hold))
    }

    /// Connects from this port: see [`PodNetwork::connect`].
    pub async fn connect(self, to: SocketAddr) -> Result<Stream, NetError> {
        let pod = self.hold.pod.clone();
        pod.connect(Some(self.hold), to).await
    }
}

/// What a port is bound for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// A socket of its own; counts against the limit of ports.
    Socket,
    /// The near end of a connection; counts as a connection.
    Connection,
}

/// A port that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct PortHold {
    pod: Arc<Pod>,
    key: Key,
    purpose: Purpose,
}

impl PortHold {
    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.key.1, self.key.0)
    }
}

impl Drop for PortHold {
    fn drop(&mut self) {
        let mut state = self.pod.lock();
        if self.purpose == Purpose::Socket {
            state.sockets = state.sockets.saturating_sub(1);
        }
        let backlog = state.tcp.release(self.key);
        drop(state);
        // Whatever still waits in it is let go without the lock.
        drop(backlog);
    }
}

/// Takes an open end off its pod's list, and frees its ephemeral port, when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    pod: Arc<Pod>,
    id: u64,
    _port: Option<PortHold>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let live = self.pod.lock().live.remove(&self.id);
        drop(live);
    }
}

/// What to cut when the pod's network closes. Weak: it must not keep the buffers of a connection that is gone.
#[derive(Debug)]
pub(crate) enum Live {
    Memory(Weak<Connection>),
    Host(Weak<HostSocket>),
}

impl Live {
    fn reset(self) {
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
        }
    }
}

/// A pod's network behind its handles.
pub(crate) struct Pod {
    pub(crate) fabric: Arc<Inner>,
    pub(crate) ip: Ipv4Addr,
    pub(crate) identity: PodIdentity,
    pub(crate) account: Arc<Account>,
    state: Mutex<State>,
}

struct State {
    closed: bool,
    tcp: Ports<Backlog>,
    sockets: usize,
    live: HashMap<u64, Live>,
    next_id: u64,
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
            tcp: Ports::new(fabric.config.ephemeral_ports.clone(), rand::random()),
            sockets: 0,
            live: HashMap::new(),
            next_id: 0,
        };
        let account = Arc::new(Account::new(fabric.config.pod_limits.unread));
        Self {
            fabric,
            ip,
            identity,
            account,
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn bind(self: &Arc<Self>, address: SocketAddr, purpose: Purpose) -> Result<PortHold, NetError> {
        let ip = address.ip().to_canonical();
        if !(ip.is_unspecified() || ip.is_loopback() || ip == IpAddr::V4(self.ip)) {
            return Err(NetError::AddrNotAvailable(address));
        }
        let limit = self.fabric.config.pod_limits.ports;
        let mut state = self.lock();
        if state.closed {
            return Err(NetError::Closed);
        }
        if purpose == Purpose::Socket && state.sockets >= limit {
            return Err(NetError::TooMany {
                what: "ports",
                limit,
            });
        }
        let key = state
            .tcp
            .bind(SocketAddr::new(ip, address.port()))
            .map_err(|reason| match reason {
                Unbindable::InUse => NetError::AddrInUse(address),
                Unbindable::NoneFree => NetError::AddrNotAvailable(address),
            })?;
        if purpose == Purpose::Socket {
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

    /// Notes an open end.
    pub(crate) fn register(
        self: &Arc<Self>,
        live: Live,
        port: Option<PortHold>,
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
        drop(state);
        Ok(Registration {
            pod: self.clone(),
            id,
            _port: port,
        })
    }

    async fn connect(
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
        let target = SocketAddr::new(somewhere(to.ip().to_canonical()), to.port());
        let is_loopback = target.ip().is_loopback();
        let local_ip = if is_loopback {
            target.ip()
        } else {
            IpAddr::V4(self.ip)
        };
        let port = self.near_port(port, local_ip)?;
        let local = SocketAddr::new(local_ip, port.key.0);
        let reserved = if is_loopback || target.ip() == IpAddr::V4(self.ip) {
            self.fabric.reserve_in(self, target).await?
        } else {
            self.fabric
                .reserve(Origin::Pod(IpAddr::V4(self.ip)), target)
                .await?
        };
        match reserved {
            Reserved::Pod { pod, at, slot } => {
                let (near, far) =
                    pipe::pair(self.fabric.config.buffer, &self.account, &pod.account);
                let live = Live::Memory(Arc::downgrade(near.connection()));
                let registration = self.register(live, Some(port))?;
                pod.accept(slot, far, at, local, to)?;
                Ok(Stream::memory(
                    near,
                    like(local, to),
                    to,
                    Some(registration),
                ))
            }
            Reserved::Outside(socket) => {
                let socket = Arc::new(HostSocket::new(socket, self.account.clone()));
                let registration =
                    self.register(Live::Host(Arc::downgrade(&socket)), Some(port))?;
                Ok(Stream::host(
                    socket,
                    like(local, to),
                    to,
                    Some(registration),
                ))
            }
        }
    }

    /// The port from which to connect: the one that is bound, or an ephemeral one.
    fn near_port(
        self: &Arc<Self>,
        bound: Option<PortHold>,
        ip: IpAddr,
    ) -> Result<PortHold, NetError> {
        let Some(bound) = bound else {
            return self.bind(SocketAddr::new(ip, 0), Purpose::Connection);
        };
        let fits = bound.key.1.is_unspecified() || bound.key.1 == ip;
        if fits {
            Ok(bound)
        } else {
            Err(NetError::AddrNotAvailable(bound.address()))
        }
    }

    /// Puts the far end of a new connection into a place of this pod's backlog. `at` is the address of this pod that
    /// was reached, `from` the one of who connects, `to` the one that it meant.
    pub(crate) fn accept(
        self: &Arc<Self>,
        slot: Slot,
        end: pipe::End,
        at: SocketAddr,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<(), NetError> {
        let live = Live::Memory(Arc::downgrade(end.connection()));
        // A pod that is full or gone refuses, whatever its own reason.
        let registration = self
            .register(live, None)
            .map_err(|_full_or_closed| NetError::ConnectionRefused(to))?;
        let bound = slot.bound();
        slot.fill(Stream::memory(
            end,
            like(at, bound),
            like(from, bound),
            Some(registration),
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
        let registration = match self.register(Live::Host(Arc::downgrade(&socket)), None) {
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
            Some(registration),
        ))
    }

    pub(crate) fn close(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.closed, true) {
            return;
        }
        let backlogs = state.tcp.clear();
        let live = std::mem::take(&mut state.live);
        drop(state);
        self.fabric.forget(self.ip);
        for backlog in backlogs {
            backlog.close();
        }
        for live in live.into_values() {
            live.reset();
        }
        self.fabric.release(self.ip);
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

/// Connecting to "any address" means this host, as on Linux.
fn somewhere(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        other => other,
    }
}

/// The address as a socket of `other`'s family sees it: an IPv6 socket sees IPv4 addresses mapped.
fn like(address: SocketAddr, other: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if other.is_ipv6() => {
            SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port())
        }
        _ => address,
    }
}
