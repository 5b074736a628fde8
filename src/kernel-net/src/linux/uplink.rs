//! The way out: what pods of the fabric have for pods beside it.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4},
    sync::{Arc, Weak},
};

use bytes::Bytes;
use ipnet::Ipv4Net;
use vaquita_net::{Connecting, Established, NetError, Uplink};

use super::{
    flow::{Connection, Flow},
    hub::Hub,
    packet::{self, Pair},
};

/// Ports that are tried for who asks for none.
const TRIES: usize = 64;
/// Ports for those.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32768..=60999;

/// The device as the fabric's uplink.
pub(super) struct WayOut {
    hub: Weak<Hub>,
    /// The whole pod network ...
    pods: Ipv4Net,
    /// ... without the part that is the fabric's ...
    own: Ipv4Net,
    /// ... and what else the kernel has.
    beside: Vec<Ipv4Net>,
}

impl WayOut {
    pub(super) fn new(hub: &Arc<Hub>, pods: Ipv4Net, own: Ipv4Net) -> Self {
        Self {
            hub: Arc::downgrade(hub),
            pods,
            own,
            beside: hub.config.beside.clone(),
        }
    }
}

impl Uplink for WayOut {
    fn leads_to(&self, ip: IpAddr) -> bool {
        let IpAddr::V4(ip) = ip else { return false };
        let is_beside = || self.beside.iter().any(|range| range.contains(&ip));
        !self.own.contains(&ip) && (self.pods.contains(&ip) || is_beside())
    }

    fn connect(&self, from: SocketAddr, to: SocketAddr) -> Connecting {
        let hub = self.hub.upgrade();
        Box::pin(async move {
            let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
                return Err(NetError::NetworkUnreachable(to));
            };
            connect(hub.ok_or(NetError::Closed)?, from, to).await
        })
    }

    fn send(&self, data: Bytes, from: SocketAddr, to: SocketAddr) {
        if let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to)
            && let Some(hub) = self.hub.upgrade()
        {
            let pair = Pair {
                kernel: to,
                fabric: from,
            };
            if let Some(queue) = hub.queue_of(pair) {
                queue.send(&packet::datagram(from, to, &data));
            }
        }
    }
}

async fn connect(
    hub: Arc<Hub>,
    from: SocketAddrV4,
    to: SocketAddrV4,
) -> Result<Established, NetError> {
    let dialling = Dialling {
        flow: insert(&hub, from, to)?,
        hub,
        is_taken: false,
    };
    let (hub, flow) = (&dialling.hub, &dialling.flow);
    let now = hub.clock.now();
    let connection = Connection::connect(flow.pair, &flow.queue, &hub.config, now)?;
    flow.open(connection, now, None);
    flow.established(hub.clock).await?;
    Ok(Box::new(move |stream| {
        let mut dialling = dialling;
        dialling.is_taken = true;
        dialling.flow.attach(stream);
        dialling.hub.spawn(dialling.flow.clone());
    }))
}

/// Takes a place in the table, with a port that is free if none is asked for.
fn insert(hub: &Hub, from: SocketAddrV4, to: SocketAddrV4) -> Result<Arc<Flow>, NetError> {
    let mut tries = if from.port() == 0 { TRIES } else { 1 };
    loop {
        tries -= 1;
        let mut from = from;
        if from.port() == 0 {
            from.set_port(rand::random_range(EPHEMERAL));
        }
        let pair = Pair {
            kernel: to,
            fabric: from,
        };
        let queue = hub.queue_of(pair).ok_or(NetError::Closed)?;
        let flow = Arc::new(Flow::new(pair, queue));
        match hub.insert(&flow) {
            Err(NetError::AddrInUse(_)) if tries > 0 => {}
            Err(error) => return Err(error),
            Ok(()) => return Ok(flow),
        }
    }
}

/// A connection that nobody serves yet: it is cut if that stays so.
struct Dialling {
    hub: Arc<Hub>,
    flow: Arc<Flow>,
    is_taken: bool,
}

impl Drop for Dialling {
    fn drop(&mut self) {
        if !self.is_taken {
            self.flow.cut(self.hub.clock.now());
            self.hub.forget(&self.flow);
        }
    }
}
