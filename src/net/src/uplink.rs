//! The way between the fabric and a network beside it, in which other pods live: the kernel's, say, with its containers.
//!
//! [`Uplink`] is the way out: who implements it is handed the connections and datagrams of the fabric's pods to addresses
//! that it leads to. [`Fabric::enter`] and [`Fabric::enter_datagram`] are the way in. Policies, Services, balancing and
//! affinity are the fabric's, both ways; the other side only carries bytes.

use std::{
    collections::hash_map,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    AttachError, Fabric, NetError, Origin, PodIdentity, Protocol, Stream,
    fabric::{Inner, Source, unmapped},
    host_datagrams::{self, Way},
    service::Found,
    sync::lock,
    udp::Mailbox,
};

/// A connection that the other side has accepted: given one end of a stream, it carries bytes between that and the other
/// side until both directions have ended. If it is dropped instead, it has to reset the connection.
pub type Established = Box<dyn FnOnce(Stream) + Send>;

/// What an [`Uplink`] gives back for a connect.
pub type Connecting = Pin<Box<dyn Future<Output = Result<Established, NetError>> + Send>>;

/// The way out of the fabric to pods that live beside it. See [`Fabric::set_uplink`].
pub trait Uplink: Send + Sync + 'static {
    /// Whether it leads to this address. Asked for each connect, so it must be quick.
    fn leads_to(&self, ip: IpAddr) -> bool;

    /// Connects to `to`, which it leads to, from a pod of the fabric: `from` is the pod's address and port, to be seen
    /// by the other side. Port 0: any that is free. The fabric gives up after its
    /// [`connect_timeout`](crate::FabricConfig::connect_timeout), by dropping the future.
    ///
    /// Errors as a kernel's connect has them: `ConnectionRefused`, `HostUnreachable`, `NetworkUnreachable` and `TimedOut`
    /// have the next endpoint of a Service tried.
    fn connect(&self, from: SocketAddr, to: SocketAddr) -> Connecting;

    /// Sends a datagram, or loses it. `from` is the address by which the other side knows who sends: a pod's, or a
    /// Service's if this answers what was sent to the Service.
    fn send(&self, data: Bytes, from: SocketAddr, to: SocketAddr);
}

/// A pod that lives beside the fabric, as far as the fabric is concerned: policies know it. Dropping it ends that.
#[derive(Debug)]
pub struct Neighbour {
    fabric: Fabric,
    ip: IpAddr,
    identity: PodIdentity,
}

impl Neighbour {
    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.fabric.inner().leave(self.ip, &self.identity);
    }
}

impl Fabric {
    /// Sets the way to pods beside the fabric. None, as at first: pods reach those of the
    /// [pod network](crate::FabricConfig::pod_cidr) by sockets of the host, which then don't show who connects, and not
    /// by UDP.
    pub fn set_uplink(&self, uplink: Option<Box<dyn Uplink>>) {
        self.inner().uplink.store(uplink.map(Arc::new));
    }

    /// Tells of a pod that lives beside the fabric, before it can use its address, so that policies hold for it from its
    /// first connection on.
    ///
    /// Errors: `NotAvailable` if the address is one of those that the fabric gives to its own pods; `InUse` if another
    /// neighbour has it.
    pub fn neighbour(&self, identity: PodIdentity, ip: IpAddr) -> Result<Neighbour, AttachError> {
        let ip = ip.to_canonical();
        self.inner().settle(ip, &identity)?;
        Ok(Neighbour {
            fabric: self.clone(),
            ip,
            identity,
        })
    }

    /// Connects for somebody beside the fabric whose address is `from`, to `to`, a pod's or a Service's address. To
    /// policies and to affinity, who connects is the pod with that address (if it is one of the
    /// [pod network](crate::FabricConfig::pod_cidr)), the node (if it is the [node's](Fabric::node_ip)), or else a client
    /// outside. Who is connected to sees `from` as its peer.
    ///
    /// Errors and waiting are those of [`PodNetwork::connect`](crate::PodNetwork::connect). It has not failed when the
    /// connection is in the listener's backlog: only then has the other side to be told that it is established.
    pub fn enter(
        &self,
        from: SocketAddr,
        to: SocketAddr,
    ) -> impl Future<Output = Result<Stream, NetError>> + Send + use<> {
        let fabric = self.clone();
        async move {
            let origin = fabric.inner().origin(from.ip());
            fabric.dial_as(origin, from, to).await
        }
    }

    /// Takes in a datagram from somebody beside the fabric. What answers it goes back by the
    /// [uplink](Fabric::set_uplink), from the address that it was sent to.
    ///
    /// Errors: those of [`UdpSocket::send_to`](crate::UdpSocket::send_to); `ConnectionRefused` if nobody takes datagrams
    /// there.
    pub fn enter_datagram(
        &self,
        data: Bytes,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<(), NetError> {
        let (inner, from, to) = (self.inner(), unmapped(from), unmapped(to));
        let (origin, way) = (inner.origin(from.ip()), Way::Uplink(to));
        let (mailbox, endpoint) = match inner.services.find(Protocol::Udp, to) {
            Found::Port(balancer) => {
                let chosen = host_datagrams::choose(inner, &way, origin, from, &balancer)?;
                chosen.ok_or_else(|| {
                    inner.wake(&balancer);
                    NetError::ConnectionRefused(to)
                })?
            }
            Found::NoSuchPort => return Err(NetError::ConnectionRefused(to)),
            Found::NotAService => {
                let is_answer =
                    |mailbox: Option<&Mailbox>| mailbox.is_some_and(|mailbox| mailbox.asked(from));
                let mailbox = inner.mailbox(origin, to, is_answer)?;
                (mailbox.ok_or(NetError::ConnectionRefused(to))?, to)
            }
        };
        // A pod of the network is answered by its address; only who has none there, or asked a Service, needs a flow.
        let seen_as = if endpoint == to && inner.leads_out(from.ip()) {
            from
        } else {
            inner.flows.put_or_touch(inner, &way, from, endpoint)
        };
        mailbox.put(data, seen_as, &inner.node_account, inner.has_policy());
        Ok(())
    }
}

impl Inner {
    fn settle(&self, ip: IpAddr, identity: &PodIdentity) -> Result<(), AttachError> {
        if self.is_pod_network(ip) {
            return Err(AttachError::NotAvailable(ip, self.config.pod_cidr));
        }
        match lock(&self.neighbours).entry(ip) {
            hash_map::Entry::Occupied(_) => return Err(AttachError::InUse(ip)),
            hash_map::Entry::Vacant(free) => drop(free.insert(identity.clone())),
        }
        if let Some(policy) = &*self.policy.load() {
            policy.attached(ip, identity);
        }
        Ok(())
    }

    fn leave(&self, ip: IpAddr, identity: &PodIdentity) {
        lock(&self.neighbours).remove(&ip);
        if let Some(policy) = &*self.policy.load() {
            policy.detached(ip, identity);
        }
    }

    /// Who it is that comes from beside the fabric with this address.
    fn origin(&self, ip: IpAddr) -> Origin {
        let ip = ip.to_canonical();
        if ip == self.node_ip {
            Origin::Node
        } else if self.is_cluster_pod(ip) {
            Origin::Pod(ip)
        } else {
            Origin::Outside(ip)
        }
    }

    /// Whether the address is a pod's, of the fabric or beside it.
    pub(crate) fn is_cluster_pod(&self, ip: IpAddr) -> bool {
        matches!(ip, IpAddr::V4(ip) if self.config.pod_cidr.contains(&ip)) || self.leads_out(ip)
    }

    /// Whether the uplink leads to this address.
    pub(crate) fn leads_out(&self, ip: IpAddr) -> bool {
        let uplink = self.uplink.load();
        uplink.as_ref().is_some_and(|uplink| uplink.leads_to(ip))
    }

    /// Sends by the uplink, if there is one.
    pub(crate) fn send_out(&self, data: Bytes, from: SocketAddr, to: SocketAddr) {
        if let Some(uplink) = &*self.uplink.load() {
            uplink.send(data, from, to);
        }
    }

    /// Connects by the uplink, if it is the way to there: from a pod of the fabric, that is. Everybody else's connections
    /// have to come back by the host, and so they must start there.
    pub(crate) async fn connect_out(
        &self,
        from: Source,
        to: SocketAddr,
    ) -> Option<Result<Established, NetError>> {
        let Origin::Pod(ip) = from.origin else {
            return None;
        };
        let connecting = {
            let uplink = self.uplink.load();
            let uplink = uplink
                .as_ref()
                .filter(|uplink| self.is_pod_network(ip) && uplink.leads_to(to.ip()))?;
            uplink.connect(SocketAddr::new(ip, from.port), to)
        };
        let connected = tokio::time::timeout(self.config.connect_timeout, connecting).await;
        Some(connected.unwrap_or(Err(NetError::TimedOut(to))))
    }
}
