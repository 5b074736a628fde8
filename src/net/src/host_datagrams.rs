//! Datagrams from outside: ports of the host that lead to Services by UDP, and what comes from beside the fabric.
//!
//! A client that sends to such a port (or, from beside the fabric, to a Service) gets a flow: the endpoint that was chosen for it, and the address under which that
//! endpoint sees it. What the endpoint sends to that address goes back the same way to the client. Flows are bounded;
//! one that has been idle for long, or the one idle for longest, makes room for the next.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use socket2::SockRef;
use tokio::{io::ReadBuf, net::UdpSocket, time::Instant};

use crate::{
    NetError, Origin,
    fabric::Inner,
    host_pod::HostDatagrams,
    service::{Balancer, Protocol},
    sync::lock,
    udp::Mailbox,
};

/// Flows of all ports of a fabric together.
const MAX_FLOWS: usize = 16_384;
/// How long a flow is kept after its last datagram: what Linux gives a flow that was answered.
const IDLE: Duration = Duration::from_mins(2);
/// Longest datagram.
const MAX_DATAGRAM: usize = 65_535;

/// A UDP socket of the host that leads to a Service.
pub(crate) struct DatagramPort {
    socket: Mutex<Option<UdpSocket>>,
    address: SocketAddr,
}

impl DatagramPort {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: Mutex::new(Some(UdpSocket::from_std(socket)?)),
            address,
        })
    }

    pub(crate) fn close(&self) {
        let socket = lock(&self.socket).take();
        drop(socket);
    }

    /// Sends to a client, or loses it.
    fn send(&self, data: &[u8], client: SocketAddr) {
        if let Some(socket) = &*lock(&self.socket) {
            let _lost = SockRef::from(socket).send_to(data, &client.into());
        }
    }

    /// Receives; nothing when closed.
    fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Option<io::Result<SocketAddr>>> {
        let socket = lock(&self.socket);
        let Some(socket) = &*socket else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(ready!(socket.poll_recv_from(cx, buffer))))
    }
}

/// Who talks to whom, and by which port of the host.
#[derive(Default)]
pub(crate) struct Flows(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    by_client: HashMap<(SocketAddr, SocketAddr), Flow>,
    /// By the endpoint, and the client's address as the endpoint sees it.
    by_endpoint: HashMap<(SocketAddr, SocketAddr), Back>,
    next_port: u16,
}

#[derive(Clone, Copy)]
struct Flow {
    endpoint: SocketAddr,
    seen_as: SocketAddr,
    last: Instant,
}

/// By which way a client came.
#[derive(Clone)]
pub(crate) enum Way {
    /// By a port of the host.
    Port(Arc<DatagramPort>),
    /// From beside the fabric, to this address.
    Uplink(SocketAddr),
    /// From a socket of a pod on the host's network, to this address.
    HostPod(Weak<HostDatagrams>, SocketAddr),
}

impl Way {
    /// The address that the client knows.
    fn address(&self) -> SocketAddr {
        match self {
            Self::Port(port) => port.address,
            Self::Uplink(address) | Self::HostPod(_, address) => *address,
        }
    }
}

/// The way back to a client.
#[derive(Clone)]
pub(crate) struct Back {
    way: Way,
    client: SocketAddr,
}

impl Back {
    pub(crate) fn send(&self, fabric: &Inner, data: Bytes) {
        match &self.way {
            Way::Port(port) => port.send(&data, self.client),
            Way::Uplink(address) => fabric.send_out(data, *address, self.client),
            Way::HostPod(socket, address) => {
                if let Some(socket) = socket.upgrade() {
                    socket.put(data, *address);
                }
            }
        }
    }
}

impl Flows {
    /// The way back to whom an endpoint sees under this address.
    pub(crate) fn back(&self, endpoint: SocketAddr, seen_as: SocketAddr) -> Option<Back> {
        let mut tables = lock(&self.0);
        let back = tables.by_endpoint.get(&(endpoint, seen_as))?.clone();
        if let Some(flow) = tables.by_client.get_mut(&(back.way.address(), back.client)) {
            flow.last = Instant::now();
        }
        Some(back)
    }

    /// The endpoint that this client has had, if that was not too long ago.
    fn known(&self, port: SocketAddr, client: SocketAddr) -> Option<Flow> {
        let tables = lock(&self.0);
        let flow = tables.by_client.get(&(port, client))?;
        (flow.last.elapsed() < IDLE).then_some(*flow)
    }

    fn put(
        &self,
        fabric: &Inner,
        way: &Way,
        client: SocketAddr,
        endpoint: SocketAddr,
    ) -> SocketAddr {
        let mut tables = lock(&self.0);
        tables.make_room();
        let seen_as = tables.see(fabric, client, endpoint);
        let last = Instant::now();
        let flow = Flow {
            endpoint,
            seen_as,
            last,
        };
        if let Some(old) = tables.by_client.insert((way.address(), client), flow)
            && (old.endpoint, old.seen_as) != (endpoint, seen_as)
        {
            tables.by_endpoint.remove(&(old.endpoint, old.seen_as));
        }
        let back = Back {
            way: way.clone(),
            client,
        };
        tables.by_endpoint.insert((endpoint, seen_as), back);
        seen_as
    }
}

impl Tables {
    fn make_room(&mut self) {
        if self.by_client.len() < MAX_FLOWS {
            return;
        }
        // A quarter at a time, so that a flood pays for a sweep only now and then.
        let mut ages: Vec<_> = self.by_client.values().map(|flow| flow.last).collect();
        let (_, &mut oldest_kept, _) = ages.select_nth_unstable(MAX_FLOWS / 4);
        let by_endpoint = &mut self.by_endpoint;
        self.by_client.retain(|_, flow| {
            let stays = flow.last > oldest_kept;
            if !stays {
                by_endpoint.remove(&(flow.endpoint, flow.seen_as));
            }
            stays
        });
    }

    /// Under which address the endpoint is to see a client: its own, unless that would mean the pod itself. Then it is
    /// one of the node, as if a router had rewritten it.
    fn see(&mut self, fabric: &Inner, client: SocketAddr, endpoint: SocketAddr) -> SocketAddr {
        let ip = client.ip().to_canonical();
        let is_free = |tables: &Self, seen| !tables.by_endpoint.contains_key(&(endpoint, seen));
        let own = SocketAddr::new(ip, client.port());
        if !ip.is_loopback() && is_free(self, own) {
            return own;
        }
        loop {
            self.next_port = self.next_port.checked_add(1).unwrap_or(1024).max(1024);
            let seen = SocketAddr::new(fabric.node_ip, self.next_port);
            if is_free(self, seen) {
                return seen;
            }
        }
    }
}

/// Hands on datagrams, until the port is closed or the fabric is gone.
pub(crate) async fn serve(fabric: Weak<Inner>, port: Arc<DatagramPort>) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let mut space = ReadBuf::new(&mut buffer);
        let received = std::future::poll_fn(|cx| port.poll_receive(cx, &mut space)).await;
        let Some(fabric) = fabric.upgrade() else {
            return;
        };
        match received {
            None => return,
            Some(Ok(client)) => {
                let data = Bytes::copy_from_slice(space.filled());
                // What can't be delivered is lost, as on any network.
                let _lost = forward(&fabric, &port, client, data);
            }
            // An earlier datagram found nobody; the socket is well.
            Some(Err(_)) => tokio::task::yield_now().await,
        }
    }
}

fn forward(
    fabric: &Arc<Inner>,
    port: &Arc<DatagramPort>,
    client: SocketAddr,
    data: Bytes,
) -> Result<(), NetError> {
    let entry = fabric
        .services
        .host_port(Protocol::Udp, port.address)
        .filter(|entry| entry.admits(client.ip()));
    let Some(entry) = entry else {
        return Ok(());
    };
    let balancer = &entry.balancer;
    let origin = Origin::Outside(client.ip().to_canonical());
    let way = Way::Port(port.clone());
    let Some((mailbox, endpoint)) = choose(fabric, &way, origin, client, balancer)? else {
        fabric.wake(balancer);
        return Ok(());
    };
    let seen_as = fabric.flows.put_or_touch(fabric, &way, client, endpoint);
    mailbox.put(data, seen_as, &fabric.node_account, false);
    Ok(())
}

/// The endpoint for a client's datagram: the one that it had, while it is there.
pub(crate) fn choose(
    fabric: &Inner,
    way: &Way,
    origin: Origin,
    client: SocketAddr,
    balancer: &Balancer,
) -> Result<Option<(Arc<Mailbox>, SocketAddr)>, NetError> {
    let known = fabric.flows.known(way.address(), client);
    let known = known
        .map(|flow| flow.endpoint)
        .filter(|endpoint| balancer.contains(*endpoint));
    // Turns are taken by those who are new only.
    let others = std::iter::once_with(|| balancer.order(origin.ip())).flatten();
    for endpoint in known.into_iter().chain(others) {
        match fabric.mailbox(origin, endpoint, |_| false) {
            Ok(Some(mailbox)) => {
                balancer.settle(origin.ip(), endpoint);
                return Ok(Some((mailbox, endpoint)));
            }
            Err(error) if !error.is_endpoint_dead() => return Err(error),
            Ok(None) | Err(_) => {}
        }
    }
    Ok(None)
}

impl Flows {
    /// Notes a datagram of a client to an endpoint, and says how the endpoint is to see the client.
    pub(crate) fn put_or_touch(
        &self,
        fabric: &Inner,
        way: &Way,
        client: SocketAddr,
        endpoint: SocketAddr,
    ) -> SocketAddr {
        {
            let mut tables = lock(&self.0);
            if let Some(flow) = tables.by_client.get_mut(&(way.address(), client))
                && flow.endpoint == endpoint
            {
                flow.last = Instant::now();
                return flow.seen_as;
            }
        }
        self.put(fabric, way, client, endpoint)
    }
}

/// Whether an address can be the one of a client that came in from outside, or stands for one.
pub(crate) fn may_be_client(fabric: &Inner, ip: IpAddr) -> bool {
    ip == fabric.node_ip || !fabric.is_pod_network(ip)
}
