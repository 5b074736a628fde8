//! The fabric: all pods of a node, and the way from one to another.

mod entry;
mod routes;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, atomic::AtomicU16},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::Ipv4Net;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
};

use crate::{
    Activity, AttachError, Changed, ConfigError, ConnectPolicy, FabricConfig, Metrics, NetError,
    Origin, PodIdentity, PodNetwork, ResolveError, Services, Uplink, Wake,
    counters::Counters,
    dns::{self, DnsSockets, DnsTask},
    host_datagrams::Flows,
    host_pod::{HostPod, Realm},
    listener::Slot,
    names, outward,
    pipe::Account,
    pod::Pod,
    pool::AddressPool,
    service::{Balancer, ServiceTable},
    sync::lock,
    uplink::Established,
};

/// How many endpoints outside of the fabric one connect tries: each may take as long as a connect may.
const MAX_DIALS: usize = 3;
/// How many names the host's resolver is asked for at once: each takes a thread.
const MAX_LOOKUPS: usize = 32;

/// An address for what has none.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// IPv4 mapped into IPv6 is IPv4.
pub(crate) fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The virtual network of a node. Clones share it.
///
/// It lives until the last of its clones and of its pods' networks is gone.
#[derive(Clone)]
pub struct Fabric(Arc<Inner>);

impl Fabric {
    /// Makes a network without pods. Opens nothing on the host.
    pub fn new(config: FabricConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let own_cidr = config.own_pods();
        let pool = AddressPool::new(own_cidr);
        Ok(Self(Arc::new(Inner {
            node_ip: IpAddr::V4(pool.gateway()),
            own_cidr,
            published: ArcSwap::default(),
            outward: outward::places(),
            uplink: ArcSwapOption::empty(),
            neighbours: Mutex::default(),
            pool: Mutex::new(pool),
            pods: ArcSwap::default(),
            pods_writer: Mutex::new(()),
            services: ServiceTable::default(),
            policy: ArcSwapOption::empty(),
            counters: Counters::default(),
            node_account: Arc::new(Account::new(usize::MAX)),
            node_port_pending: Arc::new(Semaphore::new(config.node_port_pending)),
            flows: Flows::default(),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
            held: Semaphore::new(config.held),
            waker: ArcSwapOption::empty(),
            changed: Changed::default(),
            follower: Mutex::default(),
            next_port: AtomicU16::new(rand::random()),
            config,
        })))
    }

    /// What it was made with.
    pub fn config(&self) -> &FabricConfig {
        &self.0.config
    }

    /// The node's own address in the pod network, from which [`dial`](Self::dial) comes: the first one.
    pub fn node_ip(&self) -> IpAddr {
        self.0.node_ip
    }

    /// Whether this is an address of the pod network that is the fabric's own, whether or not a pod has it now.
    pub fn has(&self, ip: IpAddr) -> bool {
        self.0.is_pod_network(ip.to_canonical())
    }

    /// Makes a port at the [node's address](Self::node_ip) lead to a socket of the host, its loopback included, by TCP: pods
    /// reach the API server this way, say, wherever it listens. None: it leads nowhere again.
    pub fn publish(&self, port: u16, host: Option<SocketAddr>) {
        self.0.published.rcu(|published| {
            let mut next = imbl::HashMap::clone(published);
            match host {
                Some(host) => next.insert(port, host),
                None => next.remove(&port),
            };
            next
        });
    }

    /// Gives a nameless pod a network: see [`attach_as`](Self::attach_as).
    pub fn attach(&self, want: Option<IpAddr>) -> Result<PodNetwork, AttachError> {
        self.attach_as(PodIdentity::default(), want)
    }

    /// Gives a pod a network of its own, with the wanted address or the one that has been free for longest.
    pub fn attach_as(
        &self,
        identity: PodIdentity,
        want: Option<IpAddr>,
    ) -> Result<PodNetwork, AttachError> {
        let ip = {
            let mut pool = lock(&self.0.pool);
            match want {
                Some(ip) => pool.take_this(ip)?,
                None => pool.take()?,
            }
        };
        Ok(self.0.put_pod(ip, identity))
    }

    /// Gives a pod the host's own network: its sockets are real ones, and `ip` is what it is told to be its address. Pods
    /// and Services of the fabric it reaches as the node does (by TCP). Its sockets must be made within a tokio runtime,
    /// which then drives them.
    pub fn attach_host(&self, identity: PodIdentity, ip: IpAddr) -> PodNetwork {
        PodNetwork::on_host(Arc::new(HostPod::new(
            self.0.clone(),
            ip,
            identity,
            Realm::Host,
        )))
    }

    /// Gives modules the network of a container beside the fabric: their sockets are real ones in its namespace, with its
    /// address `ip`, its loopback and its ports. Pods and Services of the fabric they reach through the fabric, by TCP as
    /// that pod, everything else as the container does. Must be used within a tokio runtime.
    #[cfg(target_os = "linux")]
    pub fn attach_namespace(
        &self,
        identity: PodIdentity,
        ip: IpAddr,
        namespace: crate::NetworkNamespace,
    ) -> PodNetwork {
        let realm = Realm::Namespace(namespace);
        PodNetwork::on_host(Arc::new(HostPod::new(self.0.clone(), ip, identity, realm)))
    }

    /// How busy the pod with this address is, if there is one.
    pub fn activity(&self, ip: IpAddr) -> Option<Activity> {
        Some(self.0.pod(ip)?.activity())
    }

    /// Resolves when the next connection comes to the pod with this address: at once if there is no such pod. What comes
    /// between this call and the first poll counts too.
    pub fn arrival(&self, ip: IpAddr) -> impl Future<Output = ()> + Send + use<> {
        let arrival = self
            .0
            .pod(ip)
            .map(|pod| pod.arrivals.clone().notified_owned());
        async move {
            if let Some(arrival) = arrival {
                arrival.await;
            }
        }
    }

    /// Sets who wakes Services that [can be woken](crate::ServiceSpec::wakes); none: connects to them are refused if they
    /// have no endpoint, as at first.
    pub fn set_waker(&self, waker: Option<Box<dyn Wake>>) {
        self.0.waker.store(waker.map(Arc::new));
    }

    /// Answers for the cluster's names by DNS (UDP and TCP), at port 53 of the node's address in the fabric. To policies,
    /// it is a pod of this identity. Names of others are passed on to the host's name servers if the fabric may reach
    /// everything, else refused. Must be called within a tokio runtime.
    ///
    /// Errors: `AddrInUse` if that is served already.
    pub fn serve_dns(&self, identity: PodIdentity) -> Result<DnsTask, NetError> {
        let IpAddr::V4(ip) = self.0.node_ip else {
            return Err(NetError::AddrNotAvailable(SocketAddr::new(
                self.0.node_ip,
                53,
            )));
        };
        if self.0.pod(self.0.node_ip).is_some() {
            return Err(NetError::AddrInUse(SocketAddr::new(self.0.node_ip, 53)));
        }
        dns::serve_fabric(self.0.clone(), self.0.put_pod(ip, identity))
    }

    /// Answers by DNS at sockets of the host. Names of others are passed on to the host's name servers.
    pub fn serve_dns_on(&self, sockets: DnsSockets) -> DnsTask {
        sockets.serve(self.0.clone())
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    /// The Services.
    pub fn services(&self) -> Services {
        Services::new(self.0.clone())
    }

    /// The cluster's names.
    pub fn names(&self) -> Names {
        Names(self.0.clone())
    }

    /// Sets who decides about connections; none: everybody may connect to everybody, as at first. Connections that
    /// exist stay.
    pub fn set_policy(&self, policy: Option<Box<dyn ConnectPolicy>>) {
        let policy = policy.map(Arc::new);
        self.0.policy.store(policy.clone());
        if let Some(policy) = policy {
            policy.watch(self.0.changed.clone());
            for pod in self.0.pods.load().values() {
                policy.attached(IpAddr::V4(pod.ip), &pod.identity);
            }
            for (&ip, identity) in lock(&self.0.neighbours).iter() {
                policy.attached(ip, identity);
            }
        }
        self.0.changed.tell();
    }

    /// Figures of this moment.
    pub fn metrics(&self) -> Metrics {
        let inner = &self.0;
        let (addresses_used, addresses) = {
            let pool = lock(&inner.pool);
            (pool.used(), pool.capacity())
        };
        let services = self.services();
        Metrics {
            pods: inner.pod_count(),
            addresses_used,
            addresses,
            services: services.count(),
            node_ports: services.node_ports().len(),
            held: inner
                .config
                .held
                .saturating_sub(inner.held.available_permits()),
            ..inner.counters.snapshot()
        }
    }

    /// Closes all pods' networks, all ports of the host, and forgets all Services.
    pub fn close(&self) {
        self.0.services.clear();
        let pods = self.0.pods.load_full();
        for pod in pods.values() {
            pod.close();
        }
    }
}

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fabric")
            .field("pod_cidr", &self.0.config.pod_cidr)
            .field("pods", &self.0.pods.load().len())
            .finish_non_exhaustive()
    }
}

/// The names of a cluster, as its DNS server would know them.
#[derive(Clone)]
pub struct Names(Arc<Inner>);

impl Names {
    /// The suffix of them all.
    pub fn domain(&self) -> &str {
        &self.0.config.cluster_domain
    }

    /// The addresses of a full name (`NAME.NAMESPACE.svc.DOMAIN`, `HOSTNAME.NAME.NAMESPACE.svc.DOMAIN`; a dot at the end
    /// and the case make no difference), if there is such a name. Several come in turning order.
    pub fn lookup(&self, name: &str) -> Option<Vec<IpAddr>> {
        names::lookup(&self.0, name)
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names")
            .field("domain", &self.domain())
            .finish_non_exhaustive()
    }
}

/// A fabric behind its handles.
pub(crate) struct Inner {
    pub(crate) config: FabricConfig,
    pub(crate) services: ServiceTable,
    pub(crate) counters: Counters,
    /// Places for connections from ports of the host that have to wait.
    pub(crate) node_port_pending: Arc<Semaphore>,
    /// Who outside talks to whom by datagrams.
    pub(crate) flows: Flows,
    pub(crate) node_ip: IpAddr,
    /// What the node's own ends of connections are booked on.
    pub(crate) node_account: Arc<Account>,
    /// Where the pool has its addresses from.
    own_cidr: Ipv4Net,
    /// Ports of the node's address that lead to sockets of the host.
    published: ArcSwap<imbl::HashMap<u16, SocketAddr>>,
    /// Places for sockets by which pods send datagrams to the outside.
    pub(crate) outward: Arc<Semaphore>,
    /// The way to pods beside the fabric, and those that were told of.
    pub(crate) uplink: ArcSwapOption<Box<dyn Uplink>>,
    pub(crate) neighbours: Mutex<HashMap<IpAddr, PodIdentity>>,
    pool: Mutex<AddressPool>,
    pods: ArcSwap<imbl::HashMap<Ipv4Addr, Arc<Pod>>>,
    pods_writer: Mutex<()>,
    pub(crate) policy: ArcSwapOption<Box<dyn ConnectPolicy>>,
    lookups: Arc<Semaphore>,
    /// Places for connects that wait for a Service to wake.
    pub(crate) held: Semaphore,
    pub(crate) waker: ArcSwapOption<Box<dyn Wake>>,
    /// Who follows Services and policies, and how far it has come.
    pub(crate) changed: Changed,
    pub(crate) follower: Mutex<Option<watch::Receiver<u64>>>,
    next_port: AtomicU16,
}

/// The far end of a connection that can be made.
pub(crate) enum Reserved {
    /// A place in the backlog of a pod's listener; `at` is the pod's address.
    Pod {
        pod: Arc<Pod>,
        at: SocketAddr,
        slot: Slot,
    },
    /// A connected socket of the host.
    Outside(TcpStream),
    /// A connection beside the fabric, by its uplink.
    Beside(Established),
}

/// Who connects: to policies and to affinity, and the port that it is to be seen with, if that is known.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) origin: Origin,
    pub(crate) port: u16,
}

impl From<Origin> for Source {
    fn from(origin: Origin) -> Self {
        Self { origin, port: 0 }
    }
}

impl Inner {
    fn change_pods(&self, change: impl FnOnce(&mut imbl::HashMap<Ipv4Addr, Arc<Pod>>)) {
        let _writer = lock(&self.pods_writer);
        let mut next = imbl::HashMap::clone(&self.pods.load());
        change(&mut next);
        self.pods.store(Arc::new(next));
    }

    /// Takes a pod out of the network. Its address stays in use until it is [released](Self::release).
    pub(crate) fn forget(&self, ip: Ipv4Addr) {
        self.change_pods(|pods| {
            pods.remove(&ip);
        });
    }

    pub(crate) fn release(&self, ip: Ipv4Addr, identity: &PodIdentity) {
        if let Some(policy) = &*self.policy.load() {
            policy.detached(IpAddr::V4(ip), identity);
        }
        lock(&self.pool).release(ip);
    }

    /// Puts a pod into the network at this address.
    fn put_pod(self: &Arc<Self>, ip: Ipv4Addr, identity: PodIdentity) -> PodNetwork {
        if let Some(policy) = &*self.policy.load() {
            policy.attached(IpAddr::V4(ip), &identity);
        }
        let pod = Arc::new(Pod::new(self.clone(), ip, identity));
        self.change_pods(|pods| {
            pods.insert(ip, pod.clone());
        });
        PodNetwork::new(pod)
    }

    /// How many pods there are, not counting what the node itself serves.
    fn pod_count(&self) -> usize {
        let pods = self.pods.load();
        let is_own = matches!(self.node_ip, IpAddr::V4(ip) if pods.contains_key(&ip));
        pods.len() - usize::from(is_own)
    }

    fn pod(&self, ip: IpAddr) -> Option<Arc<Pod>> {
        let IpAddr::V4(ip) = ip else { return None };
        self.pods.load().get(&ip).cloned()
    }

    /// Whether the address is one of the fabric's own.
    pub(crate) fn is_pod_network(&self, ip: IpAddr) -> bool {
        matches!(ip, IpAddr::V4(ip) if self.own_cidr.contains(&ip))
    }

    /// Has a Service woken, if that can be, without waiting for it.
    pub(crate) fn wake(&self, balancer: &Balancer) {
        if let Some(sleeper) = &balancer.sleeper
            && let Some(waker) = &*self.waker.load()
        {
            waker.wake(sleeper.key());
        }
    }

    /// Asks the host's resolver, for as long as a connect may take.
    pub(crate) async fn resolve_outside(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let failed = |source: io::Error| ResolveError::Outside {
            name: name.to_owned(),
            source,
        };
        let asking = async {
            let place = self
                .lookups
                .clone()
                .acquire_owned()
                .await
                .map_err(io::Error::other)?;
            let name = name.to_owned();
            // The resolver can't be interrupted: the place is taken until its thread is free, whoever still waits.
            let asked = tokio::task::spawn_blocking(move || {
                let _place = place;
                let found = (name.as_str(), 0).to_socket_addrs()?;
                Ok(found.map(|address| address.ip()).collect::<Vec<_>>())
            });
            asked.await.map_err(io::Error::other)?
        };
        let asked = tokio::time::timeout(self.config.connect_timeout, asking).await;
        let mut found = asked
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        found.dedup();
        if found.is_empty() {
            Err(ResolveError::NotFound(name.to_owned()))
        } else {
            Ok(found)
        }
    }
}
