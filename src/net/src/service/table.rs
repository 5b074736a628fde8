//! The tables of Services: what an address, a port of the host and a name lead to.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use ipnet::IpNet;

use super::{
    Affinity, HostPort, HostPortError, PortRef, Protocol, ServiceHost, ServiceKey, ServicePort,
    ServiceSpec,
    balancer::{Balancer, Turns},
};
use crate::{
    ServedPort,
    fabric::Inner,
    host_port::{HostPorts, Wanted},
    records,
    sync::lock,
    wake::Sleeper,
};

/// What an address is to the tables.
pub(crate) enum Found {
    /// A port of a Service.
    Port(Arc<Balancer>),
    /// A Service that has no such port.
    NoSuchPort,
    /// No Service.
    NotAService,
}

/// Who serves a port of the host, and for whom.
#[derive(Clone)]
pub(crate) struct HostEntry {
    pub(crate) balancer: Arc<Balancer>,
    sources: Arc<[IpNet]>,
}

impl HostEntry {
    /// Whether this client may come this way.
    pub(crate) fn admits(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.sources.is_empty() || self.sources.iter().any(|net| net.contains(&client))
    }
}

/// The tables, and the ports of the host which only change with them.
#[derive(Default)]
pub(crate) struct ServiceTable {
    snapshot: ArcSwap<Snapshot>,
    writer: Mutex<HostPorts>,
}

#[derive(Clone, Default)]
struct Snapshot {
    ports: imbl::HashMap<(Protocol, SocketAddr), Arc<Balancer>>,
    /// How many Services have an address: one, if all is right.
    addresses: imbl::HashMap<IpAddr, usize>,
    host_ports: imbl::HashMap<(Protocol, SocketAddr), HostEntry>,
    /// By `NAME.NAMESPACE`.
    services: imbl::HashMap<String, Arc<Service>>,
    /// Whose an address is by name: Services' by `NAME.NAMESPACE`, their pods' by `HOSTNAME.NAME.NAMESPACE`.
    names: imbl::HashMap<IpAddr, Vec<Arc<str>>>,
}

/// A Service in the tables.
struct Service {
    /// `NAME.NAMESPACE`.
    name: String,
    /// What its name is another word for.
    alias: Option<String>,
    sleeper: Option<Arc<Sleeper>>,
    /// Its own addresses, by which its name leads to it.
    addresses: Vec<IpAddr>,
    /// Those at which it is reached besides.
    external: Vec<IpAddr>,
    sources: Arc<[IpNet]>,
    ports: Vec<Port>,
    hosts: Vec<ServiceHost>,
    /// Turns of the answers to its name.
    turn: AtomicUsize,
}

struct Port {
    name: Option<String>,
    protocol: Protocol,
    number: u16,
    on_node: Option<u16>,
    inside: Arc<Balancer>,
    outside: Arc<Balancer>,
}

fn name_of(key: &ServiceKey) -> String {
    format!("{}.{}", key.name, key.namespace)
}

fn canonical(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = addresses.iter().map(IpAddr::to_canonical).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

impl Service {
    fn new(key: &ServiceKey, spec: &ServiceSpec, before: Option<&Self>) -> Self {
        let sleeper = spec.wakes.then(|| {
            let known = before.and_then(|before| before.sleeper.clone());
            known.unwrap_or_else(|| Sleeper::new(key.clone()))
        });
        let ports = spec
            .ports
            .iter()
            .map(|port| Port::new(port, spec.affinity, sleeper.as_ref(), before))
            .collect();
        Self {
            name: name_of(key),
            alias: spec.external_name.clone(),
            addresses: canonical(&spec.cluster_ips),
            external: canonical(&spec.external_ips),
            sources: spec.sources.clone().into(),
            ports,
            hosts: spec.hosts.clone(),
            turn: AtomicUsize::new(before.map_or(0, |before| before.turn.load(Ordering::Relaxed))),
            sleeper,
        }
    }

    fn all_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().chain(&self.external).copied()
    }

    /// The names by which its addresses, and those of its pods, are known.
    fn reverse(&self) -> Vec<(IpAddr, Arc<str>)> {
        let own: Arc<str> = self.name.as_str().into();
        let mut all: Vec<_> = self.addresses.iter().map(|&ip| (ip, own.clone())).collect();
        for host in &self.hosts {
            if let Some(hostname) = &host.hostname {
                let name = format!("{hostname}.{}", self.name);
                all.push((host.ip.to_canonical(), name.into()));
            }
        }
        all
    }

    /// What its own name leads to.
    fn answer(&self) -> Vec<IpAddr> {
        if !self.addresses.is_empty() {
            return self.addresses.clone();
        }
        let mut found: Vec<_> = if self.hosts.is_empty() {
            self.ports
                .iter()
                .flat_map(|port| &port.inside.endpoints)
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

    /// The ports of the host that it wants.
    fn host_ports(&self, fabric: &Inner) -> Vec<(Wanted, HostEntry)> {
        let mut wanted = Vec::new();
        for port in &self.ports {
            let mut want = |purpose, address, sources: &Arc<[IpNet]>| {
                let entry = HostEntry {
                    balancer: port.outside.clone(),
                    sources: sources.clone(),
                };
                let what = Wanted {
                    purpose,
                    protocol: port.protocol,
                    address,
                };
                wanted.push((what, entry));
            };
            if let (Some(number), Some(ip)) = (port.on_node, fabric.config.node_ports) {
                want(HostPort::Node, SocketAddr::new(ip, number), &Arc::default());
            }
            for &ip in &self.external {
                if fabric.config.is_host_address(ip) {
                    let address = SocketAddr::new(ip, port.number);
                    want(HostPort::External, address, &self.sources);
                }
            }
        }
        wanted
    }
}

impl Port {
    fn new(
        port: &ServicePort,
        affinity: Affinity,
        sleeper: Option<&Arc<Sleeper>>,
        before: Option<&Service>,
    ) -> Self {
        let same = |old: &&Self| (old.protocol, old.number) == (port.protocol, port.port);
        let old = before.and_then(|before| before.ports.iter().find(same));
        let make = |endpoints: &[SocketAddr], turns: Option<&Arc<Turns>>| {
            Arc::new(Balancer {
                sleeper: sleeper.cloned(),
                endpoints: endpoints.to_vec(),
                affinity,
                turns: turns.cloned().unwrap_or_default(),
            })
        };
        let inside = make(&port.endpoints, old.map(|old| &old.inside.turns));
        let outside = match &port.outside_endpoints {
            None => inside.clone(),
            Some(endpoints) => make(endpoints, old.map(|old| &old.outside.turns)),
        };
        Self {
            name: port.name.clone(),
            protocol: port.protocol,
            number: port.port,
            on_node: port.node_port,
            inside,
            outside,
        }
    }
}

impl Snapshot {
    fn insert(&mut self, name: String, service: Arc<Service>) {
        for ip in service.all_addresses() {
            *self.addresses.entry(ip).or_insert(0) += 1;
            for port in &service.ports {
                self.ports.insert(
                    (port.protocol, SocketAddr::new(ip, port.number)),
                    port.inside.clone(),
                );
            }
        }
        for (ip, known_as) in service.reverse() {
            self.names.entry(ip).or_default().push(known_as);
        }
        self.services.insert(name, service);
    }

    fn remove(&mut self, name: &str) -> Option<Arc<Service>> {
        let service = self.services.remove(name)?;
        for (ip, known_as) in service.reverse() {
            if let Some(names) = self.names.get_mut(&ip) {
                names.retain(|other| *other != known_as);
                if names.is_empty() {
                    self.names.remove(&ip);
                }
            }
        }
        for ip in service.all_addresses() {
            match self.addresses.get_mut(&ip) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(self.addresses.remove(&ip)),
            }
            for port in &service.ports {
                let key = (port.protocol, SocketAddr::new(ip, port.number));
                // Unless another Service has claimed the address since.
                let own = |balancer: &Arc<Balancer>| Arc::ptr_eq(balancer, &port.inside);
                if self.ports.get(&key).is_some_and(own) {
                    self.ports.remove(&key);
                }
            }
        }
        Some(service)
    }
}

impl ServiceTable {
    pub(super) fn set(
        &self,
        fabric: &Arc<Inner>,
        key: &ServiceKey,
        spec: &ServiceSpec,
    ) -> Vec<HostPortError> {
        let name = name_of(key);
        let mut host_ports = lock(&self.writer);
        let mut next = Snapshot::clone(&self.snapshot.load());
        let before = next.remove(&name);
        let service = Arc::new(Service::new(key, spec, before.as_deref()));
        next.insert(name, service.clone());
        let wanted = service.host_ports(fabric);
        let closed = host_ports.close_others(key, |open| {
            wanted
                .iter()
                .any(|(wanted, _)| (wanted.protocol, wanted.address) == open)
        });
        for gone in closed {
            next.host_ports.remove(&gone);
        }
        let mut failed = Vec::new();
        for (wanted, entry) in wanted {
            match host_ports.open(fabric, key, wanted) {
                Ok(()) => {
                    let at = (wanted.protocol, wanted.address);
                    next.host_ports.insert(at, entry);
                }
                Err(source) => failed.push(HostPortError {
                    service: key.clone(),
                    purpose: wanted.purpose,
                    protocol: wanted.protocol,
                    address: wanted.address,
                    source,
                }),
            }
        }
        self.snapshot.store(Arc::new(next));
        drop(host_ports);
        if let Some(sleeper) = before.and_then(|before| before.sleeper.clone()) {
            sleeper.tell();
        }
        failed
    }

    pub(super) fn remove(&self, key: &ServiceKey) {
        let mut host_ports = lock(&self.writer);
        let mut next = Snapshot::clone(&self.snapshot.load());
        let Some(service) = next.remove(&name_of(key)) else {
            return;
        };
        for gone in host_ports.close_others(key, |_| false) {
            next.host_ports.remove(&gone);
        }
        self.snapshot.store(Arc::new(next));
        drop(host_ports);
        if let Some(sleeper) = &service.sleeper {
            sleeper.tell();
        }
    }

    /// Removes everything.
    pub(crate) fn clear(&self) {
        let mut host_ports = lock(&self.writer);
        host_ports.clear();
        self.snapshot.store(Arc::default());
    }

    pub(super) fn count(&self) -> usize {
        self.snapshot.load().services.len()
    }

    pub(super) fn served(&self) -> Vec<ServedPort> {
        let snapshot = self.snapshot.load();
        let served = snapshot
            .ports
            .iter()
            .map(|(&(protocol, at), balancer)| ServedPort {
                protocol,
                at,
                endpoints: balancer.endpoints.clone(),
                affinity: balancer.affinity,
            });
        let mut served: Vec<_> = served.collect();
        served.sort_by_key(|port| (port.at, port.protocol));
        served
    }

    pub(super) fn host_ports(&self, purpose: HostPort) -> Vec<(Protocol, SocketAddr)> {
        lock(&self.writer).addresses(purpose)
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

    /// A port of a Service, and an address to call it by: the Service's first, else the first endpoint's.
    pub(crate) fn port(
        &self,
        key: &ServiceKey,
        protocol: Protocol,
        wanted: &PortRef,
    ) -> Option<(SocketAddr, Arc<Balancer>)> {
        let snapshot = self.snapshot.load();
        let service = snapshot.services.get(&name_of(key))?;
        let port = service.ports.iter().find(|port| {
            port.protocol == protocol
                && match wanted {
                    PortRef::Number(number) => port.number == *number,
                    PortRef::Name(name) => port.name.as_ref() == Some(name),
                }
        })?;
        let unspecified = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), port.number);
        let own = service.addresses.first();
        let shown = own
            .map(|&ip| SocketAddr::new(ip, port.number))
            .or_else(|| port.inside.endpoints.first().copied())
            .unwrap_or(unspecified);
        Some((shown, port.inside.clone()))
    }

    /// Who serves a port of the host.
    pub(crate) fn host_port(&self, protocol: Protocol, address: SocketAddr) -> Option<HostEntry> {
        self.snapshot
            .load()
            .host_ports
            .get(&(protocol, address))
            .cloned()
    }

    /// The tables as names see them.
    pub(crate) fn zone(&self) -> Zone {
        Zone(self.snapshot.load_full())
    }
}

/// The tables as names see them, at one moment.
pub(crate) struct Zone(Arc<Snapshot>);

impl Zone {
    /// Whether any Service is in this namespace.
    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        let is_in = |name: &String| {
            name.split_once('.')
                .is_some_and(|(_, place)| place == namespace)
        };
        self.0.services.keys().any(is_in)
    }

    pub(crate) fn service(&self, namespace: &str, name: &str) -> Option<Entry> {
        let service = self.0.services.get(&format!("{name}.{namespace}"))?;
        Some(Entry(service.clone()))
    }

    /// The names of who has this address.
    pub(crate) fn names_of(&self, ip: IpAddr) -> Vec<Arc<str>> {
        self.0.names.get(&ip).cloned().unwrap_or_default()
    }
}

/// A Service as names see it.
pub(crate) struct Entry(Arc<Service>);

impl Entry {
    /// What it is another word for.
    pub(crate) fn alias(&self) -> Option<&str> {
        self.0.alias.as_deref()
    }

    pub(crate) fn is_headless(&self) -> bool {
        self.0.addresses.is_empty()
    }

    /// What its own name leads to, in turning order.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.0.answer()
    }

    /// The pods that have this name in it: by hostname, or by address.
    pub(crate) fn hosts_named(&self, name: &str) -> Vec<IpAddr> {
        let hosts = self.0.hosts.iter();
        let named = hosts.filter(|host| host.hostname.as_deref() == Some(name));
        let found: Vec<_> = named.map(|host| host.ip).collect();
        if !found.is_empty() {
            return found;
        }
        let by_address = records::dashed_address(name)
            .filter(|ip| self.is_headless() && self.answer_contains(*ip));
        by_address.into_iter().collect()
    }

    fn answer_contains(&self, ip: IpAddr) -> bool {
        let hosts = self.0.hosts.iter().any(|host| host.ip == ip);
        let mut ports = self.0.ports.iter().flat_map(|port| &port.inside.endpoints);
        hosts || ports.any(|endpoint| endpoint.ip() == ip)
    }

    /// The name in it of the pod with this address.
    pub(crate) fn host_name(&self, ip: IpAddr) -> String {
        let host = self.0.hosts.iter().find(|host| host.ip == ip);
        host.and_then(|host| host.hostname.clone())
            .unwrap_or_else(|| records::dashed(ip))
    }

    /// Its ports: name, protocol, number, endpoints.
    pub(crate) fn ports(
        &self,
    ) -> impl Iterator<Item = (Option<&str>, Protocol, u16, &[SocketAddr])> {
        self.0.ports.iter().map(|port| {
            let endpoints = &port.inside.endpoints[..];
            (port.name.as_deref(), port.protocol, port.number, endpoints)
        })
    }
}
