//! Services: addresses that stand for several endpoints.
//!
//! A Service's address is nobody's: a connect to it picks an endpoint, once, and from then on the connection is that
//! endpoint's. The tables are snapshots: a connect reads the current one without a lock, a change puts a new one in
//! its place.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use thiserror::Error;

use crate::{fabric::Inner, node_port, sync::lock, wake::Sleeper};

/// Which Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Whether a client stays with one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// Endpoints take turns.
    #[default]
    None,
    /// A client address always gets the same endpoint, as long as that one is there. Nothing is remembered for it (the
    /// endpoint follows from both addresses), so that there is neither a time limit nor a table to overflow.
    ClientIp,
}

/// What a Service is at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Its own addresses. None: a headless Service, whose name leads to its endpoints.
    pub cluster_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Whether it can be given endpoints when they are needed: a connect that finds none is held, and the fabric's
    /// [`Wake`](crate::Wake) hook is told.
    pub wakes: bool,
    /// Whether a client stays with one endpoint.
    pub affinity: Affinity,
    /// Pods that have a name through the Service, and those that its own name leads to if it is headless. If there are
    /// none, a headless Service's name leads to the endpoints of its ports.
    pub hosts: Vec<ServiceHost>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port at the Service's own addresses.
    pub port: u16,
    /// The port at the host's address, if there is one.
    pub node_port: Option<u16>,
    /// Where connections go: the endpoints that are ready.
    pub endpoints: Vec<SocketAddr>,
}

/// A pod behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHost {
    /// Its address.
    pub ip: IpAddr,
    /// Its hostname, if its name is `HOSTNAME.SERVICE.NAMESPACE.svc.DOMAIN`.
    pub hostname: Option<String>,
}

/// A node port that could not be opened. The Service works otherwise; setting it again tries again.
#[derive(Debug, Error)]
#[error("node port {port}/{protocol} of Service {service}")]
pub struct NodePortError {
    /// The Service that wants it.
    pub service: ServiceKey,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// Why not.
    pub source: io::Error,
}

/// The Services of a [`Fabric`](crate::Fabric).
#[derive(Clone)]
pub struct Services(Arc<Inner>);

impl Services {
    pub(crate) fn new(fabric: Arc<Inner>) -> Self {
        Self(fabric)
    }

    /// Makes a Service what `spec` says. Connections that exist stay with their endpoints; turns go on where they were.
    ///
    /// Opens and closes node ports on the host, and gives back those that could not be opened. For this it must be
    /// called within a tokio runtime, which then serves them.
    #[must_use = "node ports may be taken by others"]
    pub fn set(&self, key: &ServiceKey, spec: &ServiceSpec) -> Vec<NodePortError> {
        self.0.services.set(&self.0, key, spec)
    }

    /// Removes a Service, if it is there, and closes its node ports. Connections that exist stay.
    pub fn remove(&self, key: &ServiceKey) {
        self.0.services.remove(key);
    }

    /// How many Services there are.
    pub fn count(&self) -> usize {
        self.0.services.snapshot.load().services.len()
    }

    /// Node ports that are open on the host, with their addresses there.
    pub fn node_ports(&self) -> Vec<(Protocol, SocketAddr)> {
        lock(&self.0.services.writer).addresses()
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services")
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

/// What an address is to the tables.
pub(crate) enum Found {
    /// A port of a Service.
    Port(Arc<Balancer>),
    /// A Service that has no such port.
    NoSuchPort,
    /// No Service.
    NotAService,
}

/// The tables, and the node ports which only change with them.
#[derive(Default)]
pub(crate) struct ServiceTable {
    snapshot: ArcSwap<Snapshot>,
    writer: Mutex<node_port::NodePorts>,
}

#[derive(Clone, Default)]
struct Snapshot {
    ports: imbl::HashMap<(Protocol, SocketAddr), Arc<Balancer>>,
    /// How many Services have an address: one, if all is right.
    addresses: imbl::HashMap<IpAddr, usize>,
    node_ports: imbl::HashMap<(Protocol, u16), Arc<Balancer>>,
    /// By `NAME.NAMESPACE`.
    services: imbl::HashMap<String, Arc<Service>>,
}

/// A Service in the tables.
struct Service {
    addresses: Vec<IpAddr>,
    ports: Vec<Port>,
    hosts: Vec<ServiceHost>,
    /// Turns of the answers to its name.
    turn: AtomicUsize,
    sleeper: Option<Arc<Sleeper>>,
}

struct Port {
    protocol: Protocol,
    number: u16,
    on_node: Option<u16>,
    balancer: Arc<Balancer>,
}

/// Picks endpoints for one port of a Service.
#[derive(Debug)]
pub(crate) struct Balancer {
    endpoints: Vec<SocketAddr>,
    affinity: Affinity,
    turn: AtomicUsize,
    /// If endpoints can be had when they are needed.
    pub(crate) sleeper: Option<Arc<Sleeper>>,
}

impl Balancer {
    /// The endpoints in the order in which this client is to try them.
    pub(crate) fn order(
        &self,
        client: Option<IpAddr>,
    ) -> impl Iterator<Item = SocketAddr> + use<'_> {
        let count = self.endpoints.len();
        let first = match (self.affinity, client) {
            (Affinity::ClientIp, Some(client)) => self.favourite(client),
            _ => self
                .turn
                .fetch_add(1, Ordering::Relaxed)
                .checked_rem(count)
                .unwrap_or(0),
        };
        self.endpoints[first..]
            .iter()
            .chain(&self.endpoints[..first])
            .copied()
    }

    /// Whether this is one of the endpoints.
    pub(crate) fn contains(&self, endpoint: SocketAddr) -> bool {
        self.endpoints.contains(&endpoint)
    }

    /// The endpoint that scores highest with this client (rendezvous hashing): when an endpoint goes, only its own
    /// clients move.
    fn favourite(&self, client: IpAddr) -> usize {
        let score = |endpoint: &SocketAddr| {
            let mut hasher = DefaultHasher::new();
            (client, endpoint).hash(&mut hasher);
            hasher.finish()
        };
        self.endpoints
            .iter()
            .enumerate()
            .max_by_key(|(_, endpoint)| score(endpoint))
            .map_or(0, |(index, _)| index)
    }
}

fn name_of(key: &ServiceKey) -> String {
    format!("{}.{}", key.name, key.namespace)
}

impl Service {
    fn new(key: &ServiceKey, spec: &ServiceSpec, before: Option<&Self>) -> Self {
        let sleeper = spec.wakes.then(|| {
            let known = before.and_then(|before| before.sleeper.clone());
            known.unwrap_or_else(|| Sleeper::new(key.clone()))
        });
        let mut addresses = spec
            .cluster_ips
            .iter()
            .map(IpAddr::to_canonical)
            .collect::<Vec<_>>();
        addresses.sort_unstable();
        addresses.dedup();
        let turn_of = |port: &ServicePort| {
            let same = |old: &&Port| (old.protocol, old.number) == (port.protocol, port.port);
            let old = before.and_then(|before| before.ports.iter().find(same));
            old.map_or(0, |old| old.balancer.turn.load(Ordering::Relaxed))
        };
        let make = |port: &ServicePort| Port {
            protocol: port.protocol,
            number: port.port,
            on_node: port.node_port,
            balancer: Arc::new(Balancer {
                endpoints: port.endpoints.clone(),
                affinity: spec.affinity,
                turn: AtomicUsize::new(turn_of(port)),
                sleeper: sleeper.clone(),
            }),
        };
        Self {
            addresses,
            ports: spec.ports.iter().map(make).collect(),
            hosts: spec.hosts.clone(),
            turn: AtomicUsize::new(before.map_or(0, |before| before.turn.load(Ordering::Relaxed))),
            sleeper,
        }
    }

    /// What its own name leads to.
    fn answer(&self) -> Vec<IpAddr> {
        if !self.addresses.is_empty() {
            return self.addresses.clone();
        }
        let mut found: Vec<_> = if self.hosts.is_empty() {
            self.ports
                .iter()
                .flat_map(|port| &port.balancer.endpoints)
                .map(SocketAddr::ip)
                .collect()
        } else {
            self.hosts.iter().map(|host| host.ip).collect()
        };
        found.sort_unstable();
        found.dedup();
        let turn = self
            .turn
            .fetch_add(1, Ordering::Relaxed)
            .checked_rem(found.len())
            .unwrap_or(0);
        found.rotate_left(turn);
        found
    }
}

impl Snapshot {
    fn insert(&mut self, name: String, service: Arc<Service>) {
        for &ip in &service.addresses {
            *self.addresses.entry(ip).or_insert(0) += 1;
            for port in &service.ports {
                self.ports.insert(
                    (port.protocol, SocketAddr::new(ip, port.number)),
                    port.balancer.clone(),
                );
            }
        }
        self.services.insert(name, service);
    }

    fn remove(&mut self, name: &str) -> Option<Arc<Service>> {
        let service = self.services.remove(name)?;
        for ip in &service.addresses {
            match self.addresses.get_mut(ip) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(self.addresses.remove(ip)),
            }
            for port in &service.ports {
                remove_own(
                    &mut self.ports,
                    &(port.protocol, SocketAddr::new(*ip, port.number)),
                    port,
                );
            }
        }
        for port in &service.ports {
            if let Some(number) = port.on_node {
                remove_own(&mut self.node_ports, &(port.protocol, number), port);
            }
        }
        Some(service)
    }
}

/// Removes an entry, unless another Service has claimed the key since.
fn remove_own<K: Hash + Eq + Clone>(
    map: &mut imbl::HashMap<K, Arc<Balancer>>,
    key: &K,
    port: &Port,
) {
    if map
        .get(key)
        .is_some_and(|balancer| Arc::ptr_eq(balancer, &port.balancer))
    {
        map.remove(key);
    }
}

impl ServiceTable {
    fn set(&self, fabric: &Arc<Inner>, key: &ServiceKey, spec: &ServiceSpec) -> Vec<NodePortError> {
        let name = name_of(key);
        let mut node_ports = lock(&self.writer);
        let mut next = Snapshot::clone(&self.snapshot.load());
        let before = next.remove(&name);
        let service = Arc::new(Service::new(key, spec, before.as_deref()));
        next.insert(name, service.clone());
        let wanted: Vec<_> = service
            .ports
            .iter()
            .filter_map(|port| Some(((port.protocol, port.on_node?), &port.balancer)))
            .collect();
        node_ports.close_others(key, |open| {
            wanted.iter().any(|&(node_port, _)| node_port == open)
        });
        let mut failed = Vec::new();
        for (node_port, balancer) in wanted {
            match node_ports.open(fabric, key, node_port) {
                Ok(()) => drop(next.node_ports.insert(node_port, balancer.clone())),
                Err(source) => {
                    let (protocol, port) = node_port;
                    failed.push(NodePortError {
                        service: key.clone(),
                        protocol,
                        port,
                        source,
                    });
                }
            }
        }
        self.snapshot.store(Arc::new(next));
        if let Some(sleeper) = before.and_then(|before| before.sleeper.clone()) {
            sleeper.tell();
        }
        failed
    }

    fn remove(&self, key: &ServiceKey) {
        let mut node_ports = lock(&self.writer);
        let mut next = Snapshot::clone(&self.snapshot.load());
        if let Some(removed) = next.remove(&name_of(key)) {
            node_ports.close_others(key, |_| false);
            self.snapshot.store(Arc::new(next));
            if let Some(sleeper) = &removed.sleeper {
                sleeper.tell();
            }
        }
    }

    /// Removes everything.
    pub(crate) fn clear(&self) {
        let mut node_ports = lock(&self.writer);
        node_ports.clear();
        self.snapshot.store(Arc::default());
    }

    /// What this address is.
    pub(crate) fn find(&self, protocol: Protocol, address: SocketAddr) -> Found {
        let snapshot = self.snapshot.load();
        match snapshot.ports.get(&(protocol, address)) {
            Some(balancer) => Found::Port(balancer.clone()),
            None if snapshot.addresses.contains_key(&address.ip()) => Found::NoSuchPort,
            None => Found::NotAService,
        }
    }

    /// Who serves a node port.
    pub(crate) fn node_port(&self, protocol: Protocol, port: u16) -> Option<Arc<Balancer>> {
        self.snapshot
            .load()
            .node_ports
            .get(&(protocol, port))
            .cloned()
    }

    /// The addresses of a Service's name, or of a pod's name in it.
    pub(crate) fn addresses(
        &self,
        namespace: &str,
        service: &str,
        hostname: Option<&str>,
    ) -> Option<Vec<IpAddr>> {
        let snapshot = self.snapshot.load();
        let service = snapshot.services.get(&format!("{service}.{namespace}"))?;
        let found: Vec<_> = match hostname {
            None => service.answer(),
            Some(wanted) => {
                let named = |host: &&ServiceHost| {
                    host.hostname.as_deref().is_some_and(|name| name == wanted)
                };
                service
                    .hosts
                    .iter()
                    .filter(named)
                    .map(|host| host.ip)
                    .collect()
            }
        };
        (!found.is_empty()).then_some(found)
    }
}
