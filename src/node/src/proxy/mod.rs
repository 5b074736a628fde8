//! The service proxy: keeps the network's tables of Services as the cluster has them.
//!
//! Services and endpoint slices are watched; whenever one changes, its Service is computed anew ([`spec`]) and, if the
//! outcome differs, set in the network. Only endpoints that are ready get connections, so a pod that fails its probe
//! is out as soon as its slice says so.

mod health;
mod links;
mod policies;
mod policy_spec;
mod spec;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, RwLock},
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::{
    core::v1::{ObjectReference, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vaquita_net::{Fabric, HostPort, HostPortError, ServiceKey, ServiceSpec, Services};

use self::health::HealthChecks;
pub(crate) use self::policies::follow as follow_policies;
use crate::events::Recorder;

/// The label by which a slice says whose it is.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// How often node ports that were taken by others are tried again.
const RETRY_EVERY: Duration = Duration::from_secs(10);

/// Keeps the tables.
pub(crate) struct Proxy {
    client: Client,
    table: Table,
    shared: ServiceLinks,
}

/// What containers are told about Services in their environment. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ServiceLinks {
    services: Arc<RwLock<BTreeMap<ServiceKey, Arc<Service>>>>,
    synced: watch::Sender<bool>,
}

impl ServiceLinks {
    pub(crate) fn new() -> Self {
        Self {
            services: Arc::default(),
            synced: watch::Sender::new(false),
        }
    }

    /// For tests: there are no Services, and that is known.
    #[cfg(test)]
    pub(crate) fn of_nothing() -> Self {
        Self {
            services: Arc::default(),
            synced: watch::Sender::new(true),
        }
    }

    /// Waits until the cluster's Services are known.
    pub(crate) async fn synced(&self) {
        // The sender is in `self`: it cannot be gone.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Variables for a container in this namespace: the API server's, and if `all`, those of the namespace's Services.
    pub(crate) fn environment(&self, namespace: &str, all: bool) -> Vec<(String, String)> {
        let services = self
            .services
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        links::environment(services.values().map(AsRef::as_ref), namespace, all)
    }

    fn put(&self, key: ServiceKey, service: Option<Arc<Service>>) {
        let mut services = self
            .services
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match service {
            Some(service) => services.insert(key, service),
            None => services.remove(&key),
        };
    }
}

impl Proxy {
    pub(crate) fn new(
        client: Client,
        node: String,
        fabric: &Fabric,
        events: Recorder,
        shared: ServiceLinks,
    ) -> Self {
        let health = HealthChecks::new(fabric.config().node_ports);
        Self {
            client,
            table: Table::new(fabric.services(), node, events, health),
            shared,
        }
    }

    /// Follows the cluster until told to stop.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let config = watcher::Config::default();
        let services: Api<Service> = Api::all(self.client.clone());
        let slices: Api<EndpointSlice> = Api::all(self.client.clone());
        let mut services = watcher(services, config.clone()).default_backoff().boxed();
        let mut slices = watcher(slices, config).default_backoff().boxed();
        let mut retry = tokio::time::interval(RETRY_EVERY);
        loop {
            let dirty = tokio::select! {
                () = shutdown.cancelled() => return,
                _ = retry.tick() => self.table.retry(),
                Some(event) = services.next() => match event {
                    Ok(event) => self.service_event(event),
                    Err(error) => complain(&error),
                },
                Some(event) = slices.next() => match event {
                    Ok(event) => self.table.slice_event(event),
                    Err(error) => complain(&error),
                },
            };
            for key in dirty {
                self.table.refresh(&key);
            }
        }
    }

    fn service_event(&mut self, event: Event<Service>) -> Vec<ServiceKey> {
        let is_done = matches!(event, Event::InitDone);
        let dirty = self.table.service_event(event);
        for key in &dirty {
            self.shared
                .put(key.clone(), self.table.services.get(key).cloned());
        }
        if is_done {
            self.shared.synced.send_replace(true);
        }
        dirty
    }
}

fn complain(error: &watcher::Error) -> Vec<ServiceKey> {
    tracing::warn!(%error, "cannot follow Services");
    Vec::new()
}

fn key_of(namespace: Option<String>, name: String) -> ServiceKey {
    ServiceKey {
        namespace: namespace.unwrap_or_default(),
        name,
    }
}

/// What the cluster says, and what the network was told.
struct Table {
    network: Services,
    node: String,
    events: Recorder,
    health: HealthChecks,
    services: HashMap<ServiceKey, Arc<Service>>,
    slices: HashMap<ServiceKey, BTreeMap<String, Arc<EndpointSlice>>>,
    /// Collected during a list, until it is complete.
    new_services: HashMap<ServiceKey, Arc<Service>>,
    new_slices: HashMap<ServiceKey, BTreeMap<String, Arc<EndpointSlice>>>,
    set: HashMap<ServiceKey, ServiceSpec>,
    /// Whose node ports are taken by others.
    waiting: HashSet<ServiceKey>,
}

impl Table {
    fn new(network: Services, node: String, events: Recorder, health: HealthChecks) -> Self {
        Self {
            network,
            node,
            events,
            health,
            services: HashMap::new(),
            slices: HashMap::new(),
            new_services: HashMap::new(),
            new_slices: HashMap::new(),
            set: HashMap::new(),
            waiting: HashSet::new(),
        }
    }

    /// Services to try again.
    fn retry(&mut self) -> Vec<ServiceKey> {
        let waiting: Vec<_> = self.waiting.drain().collect();
        for key in &waiting {
            self.set.remove(key);
        }
        waiting
    }

    /// Takes note of an event, and says which Services to compute anew.
    fn service_event(&mut self, event: Event<Service>) -> Vec<ServiceKey> {
        let key = |service: &Service| key_of(service.namespace(), service.name_any());
        match event {
            Event::Init => self.new_services.clear(),
            Event::InitApply(service) => {
                self.new_services.insert(key(&service), Arc::new(service));
            }
            Event::InitDone => {
                let old =
                    std::mem::replace(&mut self.services, std::mem::take(&mut self.new_services));
                return old
                    .into_keys()
                    .chain(self.services.keys().cloned())
                    .collect();
            }
            Event::Apply(service) => {
                let key = key(&service);
                self.services.insert(key.clone(), Arc::new(service));
                return vec![key];
            }
            Event::Delete(service) => {
                let key = key(&service);
                self.services.remove(&key);
                return vec![key];
            }
        }
        Vec::new()
    }

    /// The same for slices.
    fn slice_event(&mut self, event: Event<EndpointSlice>) -> Vec<ServiceKey> {
        let key = |slice: &EndpointSlice| {
            let service = slice.labels().get(SERVICE_NAME)?.clone();
            Some((key_of(slice.namespace(), service), slice.name_any()))
        };
        match event {
            Event::Init => self.new_slices.clear(),
            Event::InitApply(slice) => {
                if let Some((service, name)) = key(&slice) {
                    self.new_slices
                        .entry(service)
                        .or_default()
                        .insert(name, Arc::new(slice));
                }
            }
            Event::InitDone => {
                let old = std::mem::replace(&mut self.slices, std::mem::take(&mut self.new_slices));
                return old.into_keys().chain(self.slices.keys().cloned()).collect();
            }
            Event::Apply(slice) => {
                if let Some((service, name)) = key(&slice) {
                    self.slices
                        .entry(service.clone())
                        .or_default()
                        .insert(name, Arc::new(slice));
                    return vec![service];
                }
            }
            Event::Delete(slice) => {
                if let Some((service, name)) = key(&slice) {
                    if let Some(slices) = self.slices.get_mut(&service) {
                        slices.remove(&name);
                        if slices.is_empty() {
                            self.slices.remove(&service);
                        }
                    }
                    return vec![service];
                }
            }
        }
        Vec::new()
    }

    /// Tells the network, if there is something new.
    fn refresh(&mut self, key: &ServiceKey) {
        let slices: Vec<&EndpointSlice> = match self.slices.get(key) {
            Some(slices) => slices.values().map(AsRef::as_ref).collect(),
            None => Vec::new(),
        };
        let service = self.services.get(key);
        self.health.set(
            key,
            service.and_then(|service| health_port(service)),
            spec::local_endpoints(&slices, &self.node),
        );
        let wanted =
            service.and_then(|service| Some((service, spec::of(service, &slices, &self.node)?)));
        let Some((service, spec)) = wanted else {
            self.waiting.remove(key);
            if self.set.remove(key).is_some() {
                self.network.remove(key);
            }
            return;
        };
        if self.set.get(key) == Some(&spec) {
            return;
        }
        let about = Arc::new(service.object_ref(&()));
        self.waiting.remove(key);
        for error in self.network.set(key, &spec) {
            self.report(&about, &error);
            self.waiting.insert(key.clone());
        }
        self.set.insert(key.clone(), spec);
    }

    fn report(&self, about: &Arc<ObjectReference>, error: &HostPortError) {
        tracing::warn!(service = %error.service, address = %error.address, error = %error.source, "cannot open a port for a Service");
        let (reason, message) = match error.purpose {
            HostPort::Node => (
                "FailedToOpenNodePort",
                format!(
                    "can't open port \"nodePort for {}:{}\": {}",
                    error.service,
                    error.address.port(),
                    error.source
                ),
            ),
            HostPort::External => (
                "FailedToListen",
                format!(
                    "can't listen on {}/{} for {}: {}",
                    error.address, error.protocol, error.service, error.source
                ),
            ),
        };
        self.events.warning(about, reason, message);
    }
}

/// The port at which load balancers ask whether this node has endpoints of a Service.
fn health_port(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    let is_asked = spec.type_.as_deref() == Some("LoadBalancer")
        && spec.external_traffic_policy.as_deref() == Some("Local");
    let port = spec.health_check_node_port.filter(|_| is_asked)?;
    u16::try_from(port).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use serde_json::json;
    use vaquita_net::FabricConfig;

    use super::*;

    fn service(node_port: Option<u16>) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "type": "NodePort",
                     "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP", "nodePort": node_port}]},
        }))
        .unwrap()
    }

    fn slice(name: &str, ip: &str, ready: bool) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default", "labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ip], "conditions": {"ready": ready}}],
        }))
        .unwrap()
    }

    fn refresh(table: &mut Table, dirty: &[ServiceKey]) {
        for key in dirty {
            table.refresh(key);
        }
    }

    #[tokio::test]
    async fn the_network_follows_readiness() {
        let fabric = Fabric::new(FabricConfig {
            node_ports: None,
            ..FabricConfig::default()
        })
        .unwrap();
        let pod = fabric.attach(None).unwrap();
        let listener = pod.listen("0.0.0.0:8080".parse().unwrap()).unwrap();
        let (events, _queue) = Recorder::new();
        let mut table = Table::new(
            fabric.services(),
            "here".to_owned(),
            events,
            HealthChecks::new(None),
        );
        let vip: SocketAddr = "10.96.0.9:80".parse().unwrap();
        let tell = |table: &mut Table, slice| {
            let dirty = table.slice_event(Event::Apply(slice));
            refresh(table, &dirty);
        };
        let ip = pod.ip().to_string();

        tell(&mut table, slice("a", &ip, true));
        assert!(fabric.dial(vip).await.is_err(), "there is no Service yet");
        let dirty = table.service_event(Event::Apply(service(None)));
        refresh(&mut table, &dirty);
        fabric.dial(vip).await.unwrap();
        listener.accept().await.unwrap();
        tell(&mut table, slice("a", &ip, false));
        assert!(fabric.dial(vip).await.is_err(), "nobody is ready");
        tell(&mut table, slice("b", &ip, true));
        fabric.dial(vip).await.unwrap();

        // A list without the Service: it was deleted while nobody looked.
        table.service_event(Event::Init);
        let dirty = table.service_event(Event::InitDone);
        refresh(&mut table, &dirty);
        assert_eq!(fabric.services().count(), 0);
    }

    #[tokio::test]
    async fn a_node_port_that_is_taken_is_an_event() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let fabric = Fabric::new(FabricConfig::default()).unwrap();
        let (events, mut queue) = Recorder::new();
        let mut table = Table::new(
            fabric.services(),
            "here".to_owned(),
            events,
            HealthChecks::new(None),
        );
        let dirty = table.service_event(Event::Apply(service(Some(port))));
        refresh(&mut table, &dirty);
        let event = queue.try_recv().unwrap();
        assert_eq!(
            (event.reason, event.about.kind.as_deref()),
            ("FailedToOpenNodePort", Some("Service"))
        );
        assert!(
            event.message.contains(&port.to_string()),
            "{}",
            event.message
        );

        drop(taken);
        let waiting = table.retry();
        refresh(&mut table, &waiting);
        assert_eq!(fabric.services().node_ports().len(), 1);
        assert!(table.retry().is_empty() && queue.try_recv().is_err());
    }
}
