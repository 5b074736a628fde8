//! Ways into the fabric: connections from the node, from clients outside, and of sockets that the host accepted.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use tokio::net::TcpStream;

use super::{Fabric, Inner, NOWHERE, Reserved, unmapped};
use crate::{
    NetError, Origin, PortRef, Protocol, ServiceKey, Stream,
    host::{HostSocket, reset_on_close},
    pipe,
};

impl Fabric {
    /// Connects from the node: a probe, port forwarding. `to` is a pod's or a Service's address. Errors and waiting are
    /// those of [`PodNetwork::connect`](crate::PodNetwork::connect).
    pub fn dial(
        &self,
        to: SocketAddr,
    ) -> impl Future<Output = Result<Stream, NetError>> + Send + use<> {
        self.dial_from_node(to, true)
    }

    /// The same for a probe: a connection that does not count as [activity](Self::activity) of the pod, and that a pod which
    /// has [withdrawn](crate::PodNetwork::withdraw) takes still.
    pub fn probe(
        &self,
        to: SocketAddr,
    ) -> impl Future<Output = Result<Stream, NetError>> + Send + use<> {
        self.dial_from_node(to, false)
    }

    fn dial_from_node(
        &self,
        to: SocketAddr,
        counts: bool,
    ) -> impl Future<Output = Result<Stream, NetError>> + Send + use<> {
        let inner = self.0.clone();
        async move {
            let at = unmapped(to);
            let reserve = async {
                if counts {
                    inner.reserve(Origin::Node.into(), at).await
                } else {
                    inner.reserve_for_probe(at).await
                }
            };
            inner.dial(reserve, None, to, counts).await
        }
    }

    /// Connects on behalf of a client outside whose address is `from`: a load balancer, an ingress. The pod sees that
    /// address as its peer, policies and affinity go by it. Otherwise as [`dial`](Self::dial).
    pub fn dial_from(
        &self,
        from: SocketAddr,
        to: SocketAddr,
    ) -> impl Future<Output = Result<Stream, NetError>> + Send + use<> {
        let fabric = self.clone();
        let origin = Origin::Outside(from.ip().to_canonical());
        async move { fabric.dial_as(origin, from, to).await }
    }

    pub(crate) async fn dial_as(
        &self,
        origin: Origin,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<Stream, NetError> {
        let reserve = self.0.reserve(origin.into(), unmapped(to));
        self.0.dial(reserve, Some(from), to, true).await
    }

    /// Connects to a Service by its name, whether or not it has an address of its own: [`dial_from`](Self::dial_from) with
    /// `from`, else from the node as [`dial`](Self::dial).
    ///
    /// Errors: `ConnectionRefused` if there is no such Service or port (then the address in it says nothing), and those
    /// of [`PodNetwork::connect`](crate::PodNetwork::connect).
    pub fn dial_service(
        &self,
        service: &ServiceKey,
        port: &PortRef,
        from: Option<SocketAddr>,
    ) -> impl Future<Output = Result<Stream, NetError>> + Send + use<> {
        let (inner, service, port) = (self.0.clone(), service.clone(), port.clone());
        async move {
            let origin = from.map_or(Origin::Node, |from| {
                Origin::Outside(from.ip().to_canonical())
            });
            let find = || inner.services.port(&service, Protocol::Tcp, &port);
            let to = find().map_or(NOWHERE, |(shown, _)| shown);
            let reserve = inner.reserve_awake(origin.into(), to, || Some(find()?.1));
            inner.dial(reserve, from, to, true).await
        }
    }

    /// Hands a connection that the host accepted to whoever listens at `to`, a pod's or a Service's address. The socket
    /// itself goes into the listener's backlog; no byte is copied. (Only an endpoint outside of the fabric, if allowed,
    /// gets a relay, which then needs a tokio runtime.) `from` is the client's address as the pod is to see it.
    ///
    /// If it fails, the connection is reset.
    pub async fn deliver(
        &self,
        to: SocketAddr,
        socket: TcpStream,
        from: SocketAddr,
    ) -> Result<(), NetError> {
        let origin = Origin::Outside(from.ip().to_canonical());
        let reserve = self.0.reserve(origin.into(), to);
        self.0.hand_over(reserve, socket, from).await
    }
}

impl Inner {
    /// Connects from the node, or on behalf of a client outside, to the place that `reserve` finds.
    async fn dial(
        &self,
        reserve: impl Future<Output = Result<Reserved, NetError>>,
        from: Option<SocketAddr>,
        to: SocketAddr,
        counts: bool,
    ) -> Result<Stream, NetError> {
        let connected = match reserve.await {
            Ok(reserved) => self.open(reserved, from, to, counts),
            Err(error) => Err(error),
        };
        self.counters.count_connect(&connected);
        connected
    }

    fn open(
        &self,
        reserved: Reserved,
        from: Option<SocketAddr>,
        to: SocketAddr,
        counts: bool,
    ) -> Result<Stream, NetError> {
        match reserved {
            Reserved::Pod { pod, at, slot } => {
                let (near, far) = pipe::pair(self.config.buffer, &self.node_account, &pod.account);
                let local = from.unwrap_or_else(|| SocketAddr::new(self.node_ip, self.node_port()));
                pod.accept(slot, far, at, (local, to), counts)?;
                Ok(Stream::memory(near, local, to, None))
            }
            Reserved::Outside(socket) => {
                let local = socket.local_addr()?;
                let socket = Arc::new(HostSocket::new(socket, self.node_account.clone()));
                Ok(Stream::host(socket, local, to, None))
            }
            Reserved::Beside(established) => {
                let (near, far) =
                    pipe::pair(self.config.buffer, &self.node_account, &self.node_account);
                let local = from.unwrap_or_else(|| SocketAddr::new(self.node_ip, self.node_port()));
                established(Stream::memory(far, to, local, None));
                Ok(Stream::memory(near, local, to, None))
            }
        }
    }

    /// A port for the near end of a connection from the node. They only tell connections apart in what pods log, so
    /// nobody keeps a list of them.
    pub(crate) fn node_port(&self) -> u16 {
        let (first, last) = (
            *self.config.ephemeral_ports.start(),
            *self.config.ephemeral_ports.end(),
        );
        let count = u32::from(last - first) + 1;
        let next = u32::from(self.next_port.fetch_add(1, Ordering::Relaxed)) % count;
        first + u16::try_from(next).unwrap_or(0)
    }

    /// Delivers a connection that came in at `to`, a port of the host, for a Service.
    pub(crate) async fn deliver_at(
        &self,
        to: SocketAddr,
        socket: TcpStream,
        from: SocketAddr,
    ) -> Result<(), NetError> {
        let find = || {
            let entry = self.services.host_port(Protocol::Tcp, to)?;
            entry.admits(from.ip()).then_some(entry.balancer)
        };
        let origin = Origin::Outside(from.ip().to_canonical());
        let reserve = self.reserve_awake(origin.into(), to, find);
        self.hand_over(reserve, socket, from).await
    }

    /// Gives a socket to the place that `reserve` finds for it.
    async fn hand_over(
        &self,
        reserve: impl Future<Output = Result<Reserved, NetError>>,
        socket: TcpStream,
        from: SocketAddr,
    ) -> Result<(), NetError> {
        let socket = Undelivered(Some(socket));
        let delivered = match reserve.await {
            Ok(Reserved::Pod { pod, at, slot }) => match socket.take() {
                Some(socket) => pod.accept_host(slot, socket, at, from),
                None => Err(NetError::Closed),
            },
            Ok(Reserved::Outside(endpoint)) => self.relay(socket, endpoint),
            Ok(Reserved::Beside(established)) => match socket.take() {
                Some(socket) => Stream::from_host(socket)
                    .map(established)
                    .map_err(NetError::Host),
                None => Err(NetError::Closed),
            },
            Err(error) => Err(error),
        };
        self.counters.count_delivery(&delivered);
        delivered
    }

    /// Starts to copy between a client's socket and an endpoint's, both of the host.
    fn relay(&self, client: Undelivered, mut endpoint: TcpStream) -> Result<(), NetError> {
        let limit = self.config.node_port_pending;
        let place = self
            .node_port_pending
            .clone()
            .try_acquire_owned()
            .map_err(|_| NetError::TooMany {
                what: "relayed connections",
                limit,
            })?;
        let Some(mut client) = client.take() else {
            return Err(NetError::Closed);
        };
        client
            .set_nodelay(true)
            .and_then(|()| endpoint.set_nodelay(true))?;
        self.counters.count_relay();
        tokio::spawn(async move {
            let _place = place;
            // Whoever broke it off, both sides learn of it by their sockets.
            let _copied = tokio::io::copy_bidirectional(&mut client, &mut endpoint).await;
        });
        Ok(())
    }
}

/// A client's socket that is reset unless somebody takes it.
struct Undelivered(Option<TcpStream>);

impl Undelivered {
    fn take(mut self) -> Option<TcpStream> {
        self.0.take()
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            reset_on_close(socket);
        }
    }
}
