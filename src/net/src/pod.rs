//! The network of one pod: one address, one loopback and one port space, shared by all its modules.

mod state;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use self::state::{Hearer, Purpose};
pub(crate) use self::state::{Live, Pod, PortHold, Registration, canonical, like};
use crate::{
    NetError, ResolveError, Stream, UdpSocket,
    fabric::Inner,
    host_pod::{HostBound, HostPod},
    listener::{Backlog, Listener, Shortcut},
    names::{self, PodIdentity},
    udp::Mailbox,
};

/// A pod's network: one of the fabric's own, or the kernel's ([`Fabric::attach_host`](crate::Fabric::attach_host),
/// [`Fabric::attach_namespace`](crate::Fabric::attach_namespace)), with the same handles. Clones share it; when the last of them is dropped, or one is closed, its connections are reset, its
/// listeners fail and its address is free again (though not reused soon).
#[derive(Clone)]
pub struct PodNetwork(Arc<Handle>);

/// Closes the pod's network when nobody holds it any more.
enum Handle {
    Fabric(Arc<Pod>),
    Host(Arc<HostPod>),
}

impl Handle {
    fn close(&self) {
        match self {
            Self::Fabric(pod) => pod.close(),
            Self::Host(pod) => pod.close(),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// Figures of one pod's network, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PodStats {
    /// Open ends of connections.
    pub connections: usize,
    /// Ports bound by listeners and datagram sockets.
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
        Self(Arc::new(Handle::Fabric(pod)))
    }

    pub(crate) fn on_host(pod: Arc<HostPod>) -> Self {
        Self(Arc::new(Handle::Host(pod)))
    }

    /// The pod's address.
    pub fn ip(&self) -> IpAddr {
        match &*self.0 {
            Handle::Fabric(pod) => IpAddr::V4(pod.ip),
            Handle::Host(pod) => pod.ip,
        }
    }

    /// Whom the network was attached for.
    pub fn identity(&self) -> &PodIdentity {
        match &*self.0 {
            Handle::Fabric(pod) => &pod.identity,
            Handle::Host(pod) => &pod.identity,
        }
    }

    /// Whether its sockets are the kernel's.
    pub fn is_host(&self) -> bool {
        matches!(&*self.0, Handle::Host(_))
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
        Ok(BoundPort(match &*self.0 {
            Handle::Fabric(pod) => Bound::Fabric(pod.bind(address, Purpose::Socket)?),
            Handle::Host(pod) => Bound::Host(pod.bind(address)?),
        }))
    }

    /// Binds a socket for datagrams (UDP), by the rules of [`listen`](Self::listen). UDP has a port space of its own.
    pub fn bind_udp(&self, address: SocketAddr) -> Result<UdpSocket, NetError> {
        let pod = match &*self.0 {
            Handle::Fabric(pod) => pod,
            Handle::Host(pod) => return Ok(UdpSocket::on_host(pod.bind_udp(address)?)),
        };
        let hold = pod.bind(address, Purpose::Datagrams)?;
        let mailbox = Arc::new(Mailbox::new(hold.address(), &pod.fabric.config));
        hold.hear(Hearer::Datagrams(mailbox.clone()))?;
        Ok(UdpSocket::new(mailbox, hold))
    }

    /// Connects to another pod, a Service, this pod itself (by its address or a loopback one), or, if the fabric may, to
    /// the outside. Done when the connection is in the listener's backlog. A full backlog is waited for, up to
    /// [`connect_timeout`](crate::FabricConfig::connect_timeout).
    ///
    /// The future does not borrow. Unless it has to wait, it is ready at once; if it has to, it needs a tokio runtime
    /// with a timer.
    ///
    /// Errors: `ConnectionRefused` (nobody listens, no endpoint), `HostUnreachable` (no such pod), `NetworkUnreachable`
    /// (outside, and not allowed), `TimedOut`, `Denied`, `AddrInUse` (no ephemeral port), `TooMany`
    /// connections, `Closed`.
    pub fn connect(
        &self,
        to: SocketAddr,
    ) -> impl Future<Output = Result<Stream, NetError>> + Send + use<> {
        let handle = self.0.clone();
        async move {
            match &*handle {
                Handle::Fabric(pod) => pod.connect(None, to).await,
                Handle::Host(pod) => pod.connect(None, to).await,
            }
        }
    }

    /// As [`connect`](Self::connect), except that a listener's [offer](Listener::offer) is taken in a connection's place.
    /// Policies, load balancing and errors are the same.
    pub fn reach(
        &self,
        to: SocketAddr,
    ) -> impl Future<Output = Result<Reached, NetError>> + Send + use<> {
        let handle = self.0.clone();
        async move {
            match &*handle {
                Handle::Fabric(pod) => pod.reach(to).await,
                Handle::Host(pod) => pod.connect(None, to).await.map(Reached::Stream),
            }
        }
    }

    /// Finds a name's addresses: a literal address, `localhost`, the pod's own hostname and hosts file, then Services
    /// and pods by the search path, then (only if the fabric may) the host's resolver; or whoever else is to be
    /// [asked](crate::Lookups). Several come in turning order.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let (fabric, is_closed) = match &*self.0 {
            Handle::Fabric(pod) => (&pod.fabric, pod.is_closed()),
            Handle::Host(pod) => (&pod.fabric, pod.is_closed()),
        };
        if is_closed {
            return Err(ResolveError::Closed);
        }
        // What the host's sockets can reach, they may look up.
        let outside = fabric.config.outside.everything || self.is_host();
        names::resolve(fabric, self, name, outside).await
    }

    /// Refuses connections of others from now on, as if nobody listened. What was connected before stays, what waits in a
    /// backlog is accepted still, the node's [probes](crate::Fabric::probe) are answered, and the pod reaches itself. For a pod that is told to end; on the host's network, it
    /// does nothing.
    pub fn withdraw(&self) {
        match &*self.0 {
            Handle::Fabric(pod) => pod.withdraw(),
            Handle::Host(_) => {}
        }
    }

    /// Closes the network for all who share it: connections are reset, listeners fail, the address goes back. Doing it
    /// again does nothing.
    pub fn close(&self) {
        self.0.close();
    }

    /// Figures of this moment.
    pub fn stats(&self) -> PodStats {
        match &*self.0 {
            Handle::Fabric(pod) => pod.stats(),
            Handle::Host(pod) => pod.stats(),
        }
    }
}

/// What [`PodNetwork::reach`] leads to.
#[derive(Debug)]
pub enum Reached {
    /// A connection.
    Stream(Stream),
    /// What the listener offers instead. It counts as a connection to the pod until the call is dropped.
    Shortcut(Shortcut, Call),
}

/// See [`Reached::Shortcut`].
#[derive(Debug)]
pub struct Call {
    _registration: Registration,
}

/// How busy a pod is: connections that others made to it. Its own ones, those to itself, and probes don't count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Open now.
    pub open: usize,
    /// When the last one was opened or closed; when the pod was attached if there was none.
    pub since: tokio::time::Instant,
}

impl fmt::Debug for PodNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodNetwork")
            .field("ip", &self.ip())
            .field("name", &self.identity().name)
            .finish_non_exhaustive()
    }
}

/// A port that is taken, and not used yet. Dropping it frees the port.
#[derive(Debug)]
pub struct BoundPort(Bound);

#[derive(Debug)]
enum Bound {
    Fabric(PortHold),
    Host(HostBound),
}

impl BoundPort {
    /// The address that it is bound on, with the port that was picked if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        match &self.0 {
            Bound::Fabric(hold) => hold.address(),
            Bound::Host(bound) => bound.address(),
        }
    }

    /// Listens. `backlog` is the number of connections that may wait to be accepted: none is the fabric's
    /// [`backlog`](crate::FabricConfig::backlog), which is also the most.
    pub fn listen(self, backlog: Option<usize>) -> Result<Listener, NetError> {
        let size = |fabric: &Inner| {
            let most = fabric.config.backlog;
            backlog.map_or(most, |size| size.clamp(1, most))
        };
        match self.0 {
            Bound::Fabric(hold) => {
                let fabric = &hold.pod().fabric;
                let waiting = fabric.config.waiting_connects;
                let backlog = Arc::new(Backlog::new(hold.address(), size(fabric), waiting));
                hold.hear(Hearer::Connections(backlog.clone()))?;
                Ok(Listener::new(backlog, hold))
            }
            Bound::Host(bound) => {
                let size = size(&bound.pod().fabric);
                Ok(Listener::on_host(bound.listen(size)?))
            }
        }
    }

    /// Connects from this port: see [`PodNetwork::connect`].
    pub async fn connect(self, to: SocketAddr) -> Result<Stream, NetError> {
        match self.0 {
            Bound::Fabric(hold) => {
                let pod = hold.pod().clone();
                pod.connect(Some(hold), to).await
            }
            Bound::Host(bound) => {
                let pod = bound.pod();
                pod.connect(Some(bound), to).await
            }
        }
    }
}
