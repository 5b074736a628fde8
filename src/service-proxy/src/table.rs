//! What the cluster says about Services, and what the network was told of it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{ResourceExt as _, runtime::watcher::Event};
use vaquita_net::{HostPort, HostPortError, ServiceKey, ServiceSpec, Services};

use crate::{
    health::HealthChecks,
    spec::{self, Place},
};

/// The label by which a slice says whose it is.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Tells people that something about a Service failed: which one, the reason and the message of the event.
pub(crate) type Report = Box<dyn Fn(&Service, &'static str, String) + Send>;

fn key_of(namespace: Option<String>, name: String) -> ServiceKey {
    ServiceKey {
        namespace: namespace.unwrap_or_default(),
        name,
    }
}

/// What the cluster says, and what the network was told.
pub(crate) struct Table {
    network: Services,
    place: Place,
    report: Report,
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
    pub(crate) fn new(
        network: Services,
        place: Place,
        report: Report,
        health: HealthChecks,
    ) -> Self {
        Self {
            network,
            place,
            report,
            health,
            services: HashMap::new(),
            slices: HashMap::new(),
            new_services: HashMap::new(),
            new_slices: HashMap::new(),
            set: HashMap::new(),
            waiting: HashSet::new(),
        }
    }

    /// A Service as it was seen last.
    pub(crate) fn service(&self, key: &ServiceKey) -> Option<Arc<Service>> {
        self.services.get(key).cloned()
    }

    /// Moves the node to another zone, and says which Services to compute anew.
    pub(crate) fn set_zone(&mut self, zone: Option<String>) -> Vec<ServiceKey> {
        if self.place.zone == zone {
            return Vec::new();
        }
        self.place.zone = zone;
        self.services.keys().cloned().collect()
    }

    /// Services to try again.
    pub(crate) fn retry(&mut self) -> Vec<ServiceKey> {
        let waiting: Vec<_> = self.waiting.drain().collect();
        for key in &waiting {
            self.set.remove(key);
        }
        waiting
    }

    /// Takes note of an event, and says which Services to compute anew.
    pub(crate) fn service_event(&mut self, event: Event<Service>) -> Vec<ServiceKey> {
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
    pub(crate) fn slice_event(&mut self, event: Event<EndpointSlice>) -> Vec<ServiceKey> {
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
    pub(crate) fn refresh(&mut self, key: &ServiceKey) {
        let slices: Vec<&EndpointSlice> = match self.slices.get(key) {
            Some(slices) => slices.values().map(AsRef::as_ref).collect(),
            None => Vec::new(),
        };
        let service = self.services.get(key);
        self.health.set(
            key,
            service.and_then(|service| health_port(service)),
            spec::local_endpoints(&slices, &self.place.node),
        );
        let wanted =
            service.and_then(|service| Some((service, spec::of(service, &slices, &self.place)?)));
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
        self.waiting.remove(key);
        for error in self.network.set(key, &spec) {
            self.report(service, &error);
            self.waiting.insert(key.clone());
        }
        self.set.insert(key.clone(), spec);
    }

    fn report(&self, service: &Service, error: &HostPortError) {
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
        (self.report)(service, reason, message);
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
    use vaquita_net::{Fabric, FabricConfig};

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
        let mut table = Table::new(
            fabric.services(),
            Place::default(),
            Box::new(|_, _, _| {}),
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
        let (sender, queue) = std::sync::mpsc::channel();
        let mut table = Table::new(
            fabric.services(),
            Place::default(),
            Box::new(move |service, reason, message| {
                sender.send((service.name_any(), reason, message)).unwrap();
            }),
            HealthChecks::new(None),
        );
        let dirty = table.service_event(Event::Apply(service(Some(port))));
        refresh(&mut table, &dirty);
        let (about, reason, message) = queue.try_recv().unwrap();
        assert_eq!((about.as_str(), reason), ("web", "FailedToOpenNodePort"));
        assert!(message.contains(&port.to_string()), "{message}");

        drop(taken);
        let waiting = table.retry();
        refresh(&mut table, &waiting);
        assert_eq!(fabric.services().node_ports().len(), 1);
        assert!(table.retry().is_empty() && queue.try_recv().is_err());
    }
}
