//! All connections, and where a packet goes.

use std::{
    collections::{HashMap, hash_map::Entry},
    convert::Infallible,
    future::Future,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use smoltcp::{time::Instant, wire::Icmpv4DstUnreachable};
use vaquita_net::{Fabric, NetError, Stream};

use super::{
    counters::Counters,
    device::{MAX_PACKET, Queue},
    flow::{Connection, Flow},
    packet::{self, Packet, Pair, Segment},
    vnet,
};
use crate::{KernelNetConfig, Metrics};

/// The time as stacks see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(tokio::time::Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(tokio::time::Instant::now())
    }

    pub(super) fn now(self) -> Instant {
        let micros = self.0.elapsed().as_micros();
        Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Waits for a moment, or forever.
    pub(super) async fn sleep_until(self, moment: Option<Instant>) {
        match moment {
            Some(moment) => {
                let micros = u64::try_from(moment.total_micros()).unwrap_or(0);
                let due = self.0 + std::time::Duration::from_micros(micros);
                tokio::time::sleep_until(due).await;
            }
            None => std::future::pending().await,
        }
    }
}

/// Everything behind the device.
pub(super) struct Hub {
    fabric: Fabric,
    pub(super) config: KernelNetConfig,
    queues: Vec<Arc<Queue>>,
    flows: Mutex<HashMap<Pair, Arc<Flow>>>,
    pub(super) counters: Arc<Counters>,
    pub(super) clock: Clock,
}

impl Hub {
    pub(super) fn new(
        fabric: Fabric,
        config: KernelNetConfig,
        queues: Vec<Arc<Queue>>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            fabric,
            config,
            queues,
            flows: Mutex::default(),
            counters,
            clock: Clock::start(),
        }
    }

    pub(super) fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    pub(super) fn flows(&self) -> MutexGuard<'_, HashMap<Pair, Arc<Flow>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Figures of this moment.
    pub(super) fn metrics(&self) -> Metrics {
        let connections = self.flows().len();
        self.counters.snapshot(connections)
    }

    /// Serves one queue until the device is gone.
    pub(super) async fn serve(self: Arc<Self>, queue: Arc<Queue>) {
        let Err(error) = self.read(&queue).await;
        let device = &self.config.device;
        tracing::error!(%error, device, "the network device is gone");
    }

    async fn read(self: &Arc<Self>, queue: &Queue) -> io::Result<Infallible> {
        queue.ready().await?;
        let mut buffer = vec![0; vnet::LENGTH + MAX_PACKET + 1];
        loop {
            let length = queue.receive(&mut buffer).await?;
            self.counters.packets_in.add(1);
            let packet = buffer.get(..length).unwrap_or(&[]);
            if let Some((header, bytes)) = packet.split_first_chunk() {
                self.counters.bytes_in.add(bytes.len());
                self.take(queue, vnet::Header::read(*header), bytes);
            }
        }
    }

    fn take(self: &Arc<Self>, queue: &Queue, header: vnet::Header, bytes: &[u8]) {
        match packet::read(bytes, header.trusted) {
            Packet::Tcp { pair, kind, bytes } => self.take_segment(queue, pair, kind, bytes),
            Packet::Echo { to, bytes } if self.is_alive(to) => {
                if let Some(answer) = packet::echo(bytes) {
                    queue.send(&answer);
                }
            }
            Packet::Echo { bytes, .. } => {
                self.counters.dropped.add(1);
                answer(
                    queue,
                    packet::unreachable(bytes, Icmpv4DstUnreachable::HostUnreachable),
                );
            }
            Packet::Udp { pair, data, bytes } => self.take_datagram(queue, pair, data, bytes),
            Packet::Unreachable(pair) => {
                let known = self.flows().get(&pair).cloned();
                if let Some(flow) = known {
                    flow.note_unreachable();
                }
            }
            Packet::Other => self.counters.dropped.add(1),
        }
    }

    fn take_datagram(&self, queue: &Queue, pair: Pair, data: &[u8], bytes: &[u8]) {
        let (from, to) = (SocketAddr::V4(pair.kernel), SocketAddr::V4(pair.fabric));
        let data = Bytes::copy_from_slice(data);
        if let Err(error) = self.fabric.enter_datagram(data, from, to) {
            self.counters.dropped.add(1);
            let reason = match error {
                NetError::ConnectionRefused(_) => Icmpv4DstUnreachable::PortUnreachable,
                NetError::HostUnreachable(_) => Icmpv4DstUnreachable::HostUnreachable,
                NetError::NetworkUnreachable(_) => Icmpv4DstUnreachable::NetUnreachable,
                NetError::Denied(_) => Icmpv4DstUnreachable::CommProhibited,
                _ => return,
            };
            answer(queue, packet::unreachable(bytes, reason));
        }
    }

    fn is_alive(&self, ip: Ipv4Addr) -> bool {
        self.fabric.activity(IpAddr::V4(ip)).is_some()
    }

    fn take_segment(self: &Arc<Self>, queue: &Queue, pair: Pair, kind: Segment, bytes: &[u8]) {
        let known = self.flows().get(&pair).cloned();
        match (known, kind) {
            (Some(flow), _) => flow.take(self.clock.now(), bytes),
            (None, Segment::Opening) => self.begin(pair, bytes),
            (None, Segment::Reset) => self.counters.dropped.add(1),
            (None, Segment::Other) => {
                self.counters.dropped.add(1);
                answer(queue, packet::reset(bytes));
            }
        }
    }

    /// The queue by which the packets of a connection go. The kernel brings the other ones by the same.
    pub(super) fn queue_of(&self, pair: Pair) -> Option<Arc<Queue>> {
        let mut hasher = DefaultHasher::new();
        pair.hash(&mut hasher);
        let index = hasher.finish() % self.queues.len().max(1) as u64;
        self.queues
            .get(usize::try_from(index).unwrap_or(0))
            .cloned()
    }

    /// Puts a connection into the table, unless there is one, or there are as many as there may be.
    pub(super) fn insert(&self, flow: &Arc<Flow>) -> Result<(), NetError> {
        let mut flows = self.flows();
        let limit = self.config.connections;
        if flows.len() >= limit {
            return Err(NetError::TooMany {
                what: "connections between pods and the kernel",
                limit,
            });
        }
        match flows.entry(flow.pair) {
            Entry::Occupied(_) => Err(NetError::AddrInUse(SocketAddr::V4(flow.pair.fabric))),
            Entry::Vacant(free) => {
                free.insert(flow.clone());
                Ok(())
            }
        }
    }

    /// Begins a connection that comes from the kernel: who it is for is asked before its client gets an answer.
    fn begin(self: &Arc<Self>, pair: Pair, opening: &[u8]) {
        let Some(queue) = self.queue_of(pair) else {
            return;
        };
        let flow = Arc::new(Flow::new(pair, queue));
        if self.insert(&flow).is_err() {
            self.counters.overflowed.add(1);
            return;
        }
        let mut dial: Pin<Box<dyn Future<Output = Result<Stream, NetError>> + Send>> = Box::pin(
            self.fabric
                .enter(SocketAddr::V4(pair.kernel), SocketAddr::V4(pair.fabric)),
        );
        // Nearly always there is an answer at once.
        let polled = dial.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        match polled {
            Poll::Ready(dialled) => self.settle(flow, dialled, opening),
            Poll::Pending => {
                let (hub, opening) = (self.clone(), opening.to_vec());
                tokio::spawn(async move {
                    let dialled = dial.await;
                    hub.settle(flow, dialled, &opening);
                });
            }
        }
    }

    /// Goes on with a connection for which somebody was found, or nobody.
    fn settle(
        self: &Arc<Self>,
        flow: Arc<Flow>,
        dialled: Result<Stream, NetError>,
        opening: &[u8],
    ) {
        let now = self.clock.now();
        let opened = dialled.and_then(|stream| {
            Connection::accept(flow.pair, stream, &flow.queue, &self.config, now)
                .map_err(NetError::from)
        });
        match opened {
            Ok(connection) => {
                self.counters.accepted.add(1);
                flow.open(connection, now, Some(opening));
                self.spawn(flow);
            }
            Err(error) => {
                self.forget(&flow);
                self.refuse(&flow.queue, &error, opening);
            }
        }
    }

    /// Serves a connection by a task.
    pub(super) fn spawn(self: &Arc<Self>, flow: Arc<Flow>) {
        let hub = self.clone();
        tokio::spawn(async move {
            flow.serve(hub.clock).await;
            hub.forget(&flow);
        });
    }

    pub(super) fn forget(&self, flow: &Arc<Flow>) {
        let mut flows = self.flows();
        if flows
            .get(&flow.pair)
            .is_some_and(|other| Arc::ptr_eq(other, flow))
        {
            flows.remove(&flow.pair);
        }
    }

    /// Says why not, in the kernel's words. Who waited for nothing is told nothing, and times out.
    fn refuse(&self, queue: &Queue, error: &NetError, bytes: &[u8]) {
        self.counters.refused.add(1);
        let message = match error {
            NetError::TimedOut(_) => None,
            NetError::HostUnreachable(_) => {
                packet::unreachable(bytes, Icmpv4DstUnreachable::HostUnreachable)
            }
            NetError::NetworkUnreachable(_) => {
                packet::unreachable(bytes, Icmpv4DstUnreachable::NetUnreachable)
            }
            NetError::Denied(_) => packet::unreachable(bytes, Icmpv4DstUnreachable::CommProhibited),
            _ => packet::reset(bytes),
        };
        answer(queue, message);
    }

    /// Cuts all connections.
    pub(super) fn close(&self) {
        let flows = std::mem::take(&mut *self.flows());
        let now = self.clock.now();
        for flow in flows.into_values() {
            flow.cut(now);
        }
    }
}

fn answer(queue: &Queue, answer: Option<Vec<u8>>) {
    if let Some(answer) = answer {
        queue.send(&answer);
    }
}
