//! A pod on the host's own network, or in a network namespace: real sockets, with the same handles as every other pod's.
//!
//! It binds and connects as any process that is there does. Only what the kernel knows nothing of, pods and Services of
//! the fabric, it reaches through the fabric: from the host's network as the node itself does, from a namespace as the pod that it is.
//! Closing it closes its sockets.

mod datagrams;
mod listener;

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, Weak},
};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

pub(crate) use self::{datagrams::HostDatagrams, listener::HostListener};
use crate::{
    NetError, Origin, PodIdentity, PodStats, Protocol, Stream,
    fabric::{Inner, Reserved},
    host::HostSocket,
    pipe::{self, Account},
    pod::{Live, canonical, like},
    service::Found,
    sync::lock,
};

/// Where a pod's sockets are.
#[derive(Debug)]
pub(crate) enum Realm {
    /// Where this process is.
    Host,
    /// In the namespace of a pod beside the fabric.
    #[cfg(target_os = "linux")]
    Namespace(crate::NetworkNamespace),
}

impl Realm {
    fn socket(&self, domain: Domain, kind: Type) -> io::Result<Socket> {
        match self {
            Self::Host => Socket::new(domain, kind, None),
            #[cfg(target_os = "linux")]
            Self::Namespace(namespace) => namespace.socket(domain, kind),
        }
    }

    /// A socket that is bound nowhere yet, for this kind of address.
    fn fresh(&self, address: SocketAddr, kind: Type) -> io::Result<Socket> {
        let socket = self.socket(Domain::for_address(address), kind)?;
        socket.set_nonblocking(true)?;
        if address.is_ipv6() {
            // `::` takes IPv4 too, whatever the host's default is.
            socket.set_only_v6(false)?;
        }
        Ok(socket)
    }
}

/// A pod's part of the host's network, or all of a namespace's.
pub(crate) struct HostPod {
    pub(crate) fabric: Arc<Inner>,
    pub(crate) ip: IpAddr,
    pub(crate) identity: PodIdentity,
    realm: Realm,
    account: Arc<Account>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    connections: usize,
    sockets: usize,
    live: HashMap<u64, Open>,
    next_id: u64,
}

/// What to close when the pod's network closes.
enum Open {
    Connection(Live),
    Listener(Weak<HostListener>),
    Datagrams(Weak<HostDatagrams>),
    /// Bound, and nothing else.
    Port,
}

/// Takes what is open off its pod's list when dropped.
pub(crate) struct Entry {
    pod: Arc<HostPod>,
    id: u64,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = lock(&self.pod.state);
        let gone = state.live.remove(&self.id);
        match &gone {
            Some(Open::Connection(_)) => state.connections = state.connections.saturating_sub(1),
            Some(_) => state.sockets = state.sockets.saturating_sub(1),
            None => {}
        }
        drop(state);
        drop(gone);
    }
}

/// A socket that is bound, and not used yet.
pub(crate) struct HostBound {
    socket: Socket,
    address: SocketAddr,
    entry: Entry,
}

impl fmt::Debug for HostBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostBound")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl HostPod {
    pub(crate) fn new(fabric: Arc<Inner>, ip: IpAddr, identity: PodIdentity, realm: Realm) -> Self {
        let account = Arc::new(Account::new(fabric.config.pod_limits.unread));
        Self {
            fabric,
            ip,
            identity,
            realm,
            account,
            state: Mutex::default(),
        }
    }

    /// Who it is to policies.
    fn origin(&self) -> Origin {
        match &self.realm {
            Realm::Host => Origin::Node,
            #[cfg(target_os = "linux")]
            Realm::Namespace(_) => Origin::Pod(self.ip),
        }
    }

    fn open(self: &Arc<Self>, what: Open) -> Result<Entry, NetError> {
        let limits = &self.fabric.config.pod_limits;
        let mut state = lock(&self.state);
        if state.closed {
            return Err(NetError::Closed);
        }
        let (count, kind, limit) = match &what {
            Open::Connection(_) => (&mut state.connections, "connections", limits.connections),
            _ => (&mut state.sockets, "ports", limits.ports),
        };
        if *count >= limit {
            return Err(NetError::TooMany { what: kind, limit });
        }
        *count += 1;
        let id = state.next_id;
        state.next_id += 1;
        state.live.insert(id, what);
        drop(state);
        Ok(Entry {
            pod: self.clone(),
            id,
        })
    }

    /// Says what a port is used for now.
    fn becomes(&self, entry: &Entry, what: Open) -> Result<(), NetError> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(NetError::Closed);
        }
        state.live.insert(entry.id, what);
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    pub(crate) fn bind(self: &Arc<Self>, address: SocketAddr) -> Result<HostBound, NetError> {
        let entry = self.open(Open::Port)?;
        let socket = self
            .realm
            .fresh(address, Type::STREAM)
            .and_then(|socket| {
                socket.set_reuse_address(true)?;
                socket.bind(&address.into())?;
                Ok(socket)
            })
            .map_err(|error| of_bind(error, address))?;
        let address = local(&socket)?;
        Ok(HostBound {
            socket,
            address,
            entry,
        })
    }

    pub(crate) fn bind_udp(
        self: &Arc<Self>,
        address: SocketAddr,
    ) -> Result<Arc<HostDatagrams>, NetError> {
        let entry = self.open(Open::Port)?;
        let socket = self
            .realm
            .fresh(address, Type::DGRAM)
            .and_then(|socket| {
                socket.bind(&address.into())?;
                Ok(socket)
            })
            .map_err(|error| of_bind(error, address))?;
        HostDatagrams::open(socket, entry)
    }

    pub(crate) async fn connect(
        self: &Arc<Self>,
        from: Option<HostBound>,
        to: SocketAddr,
    ) -> Result<Stream, NetError> {
        let target = canonical(to);
        let connected = if self.is_virtual(Protocol::Tcp, target) {
            self.connect_inside(from, to, target).await
        } else {
            self.connect_outside(from, to).await
        };
        self.fabric.counters.count_connect(&connected);
        connected
    }

    /// Whether the kernel knows nothing of this address: a pod's or a Service's of the fabric.
    fn is_virtual(&self, protocol: Protocol, to: SocketAddr) -> bool {
        let is_service = || !matches!(self.fabric.services.find(protocol, to), Found::NotAService);
        !to.ip().is_loopback() && (self.fabric.is_pod_network(to.ip()) || is_service())
    }

    async fn connect_inside(
        self: &Arc<Self>,
        from: Option<HostBound>,
        to: SocketAddr,
        target: SocketAddr,
    ) -> Result<Stream, NetError> {
        let port = from.map_or_else(|| self.fabric.node_port(), |bound| bound.address.port());
        let local = SocketAddr::new(self.ip, port);
        match self.fabric.reserve(self.origin().into(), target).await? {
            Reserved::Pod { pod, at, slot } => {
                let (near, far) =
                    pipe::pair(self.fabric.config.buffer, &self.account, &pod.account);
                let live = Live::Memory(Arc::downgrade(near.connection()));
                let entry = self.open(Open::Connection(live))?;
                pod.accept(slot, far, at, (local, to), true)?;
                Ok(Stream::memory(
                    near,
                    like(local, to),
                    to,
                    Some(entry.into()),
                ))
            }
            Reserved::Outside(socket) => self.stream(socket, to),
            // Only a pod of the fabric is connected by the uplink; to hold on to nothing is to reset it.
            Reserved::Beside(_) => Err(NetError::HostUnreachable(to)),
        }
    }

    async fn connect_outside(
        self: &Arc<Self>,
        from: Option<HostBound>,
        to: SocketAddr,
    ) -> Result<Stream, NetError> {
        let connecting = async {
            let socket = match from {
                None => self.realm.fresh(to, Type::STREAM)?,
                Some(bound) => bound.socket,
            };
            TcpSocket::from_std_stream(socket.into()).connect(to).await
        };
        let limit = self.fabric.config.connect_timeout;
        let socket = tokio::time::timeout(limit, connecting)
            .await
            .map_err(|_elapsed| NetError::TimedOut(to))?
            .map_err(|error| NetError::of_dial(error, to))?;
        self.stream(socket, to)
    }

    fn stream(self: &Arc<Self>, socket: TcpStream, to: SocketAddr) -> Result<Stream, NetError> {
        let local = socket.local_addr()?;
        let socket = Arc::new(HostSocket::new(socket, self.account.clone()));
        let entry = self.open(Open::Connection(Live::Host(Arc::downgrade(&socket))))?;
        Ok(Stream::host(
            socket,
            like(local, to),
            to,
            Some(entry.into()),
        ))
    }

    /// A connection that a listener of the pod has accepted.
    fn accepted(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr) -> Result<Stream, NetError> {
        self.stream(socket, peer)
    }

    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        let live = std::mem::take(&mut state.live);
        (state.connections, state.sockets) = (0, 0);
        drop(state);
        for open in live.into_values() {
            match open {
                Open::Connection(live) => live.reset(),
                Open::Listener(listener) => {
                    if let Some(listener) = listener.upgrade() {
                        listener.close();
                    }
                }
                Open::Datagrams(socket) => {
                    if let Some(socket) = socket.upgrade() {
                        socket.close();
                    }
                }
                Open::Port => {}
            }
        }
    }

    pub(crate) fn stats(&self) -> PodStats {
        let state = lock(&self.state);
        PodStats {
            connections: state.connections,
            ports: state.sockets,
            unread: self.account.unread(),
            sent: self.account.sent(),
            received: self.account.received(),
        }
    }
}

impl HostBound {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pod(&self) -> Arc<HostPod> {
        self.entry.pod.clone()
    }

    pub(crate) fn listen(self, backlog: usize) -> Result<Arc<HostListener>, NetError> {
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        self.socket
            .listen(backlog)
            .map_err(|error| of_bind(error, self.address))?;
        HostListener::open(self.socket, self.address, self.entry)
    }
}

fn local(socket: &Socket) -> io::Result<SocketAddr> {
    socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
}

fn of_bind(error: io::Error, address: SocketAddr) -> NetError {
    match error.kind() {
        io::ErrorKind::AddrInUse => NetError::AddrInUse(address),
        io::ErrorKind::AddrNotAvailable => NetError::AddrNotAvailable(address),
        io::ErrorKind::PermissionDenied => NetError::Denied(address),
        _ => NetError::Host(error),
    }
}
