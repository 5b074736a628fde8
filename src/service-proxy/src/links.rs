//! Services as environment variables, in the form that Docker's container links once had.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use kube::ResourceExt as _;
use tokio::sync::watch;
use vaquita_net::ServiceKey;

/// The Service of the API server.
const MASTER: (&str, &str) = ("default", "kubernetes");

/// What containers are told about Services in their environment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServiceLinks {
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

    /// Of a cluster that is known to have no Services, for whoever runs pods without one.
    #[must_use]
    pub fn of_nothing() -> Self {
        Self {
            services: Arc::default(),
            synced: watch::Sender::new(true),
        }
    }

    /// Waits until the cluster's Services are known.
    pub async fn synced(&self) {
        // The sender is in `self`: it cannot be gone.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Variables for a container in this namespace: the API server's, and if `all`, those of the namespace's Services.
    pub fn environment(&self, namespace: &str, all: bool) -> Vec<(String, String)> {
        let services = self
            .services
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        environment(services.values().map(AsRef::as_ref), namespace, all)
    }

    pub(crate) fn put(&self, key: ServiceKey, service: Option<Arc<Service>>) {
        let mut services = self
            .services
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match service {
            Some(service) => services.insert(key, service),
            None => services.remove(&key),
        };
    }

    pub(crate) fn set_synced(&self) {
        self.synced.send_replace(true);
    }
}

/// Variables for containers in `namespace`: of the API server always, of the namespace's Services if `all`.
fn environment<'a>(
    services: impl Iterator<Item = &'a Service>,
    namespace: &str,
    all: bool,
) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let mut own_kubernetes = Vec::new();
    for service in services {
        let place = service.namespace().unwrap_or_default();
        let name = service.name_any();
        if (place.as_str(), name.as_str()) == MASTER {
            variables.extend(of_service(service));
        } else if all && place == namespace {
            // A namespace may have a Service of that name too, which is nearer.
            let list = if name == MASTER.1 {
                &mut own_kubernetes
            } else {
                &mut variables
            };
            list.extend(of_service(service));
        }
    }
    variables.retain(|(name, _)| own_kubernetes.iter().all(|(own, _)| own != name));
    variables.extend(own_kubernetes);
    variables
}

fn of_service(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let (Some(ip), Some(first)) = (spec.cluster_ip.as_deref(), ports.first()) else {
        return Vec::new();
    };
    if ip.is_empty() || ip == "None" {
        return Vec::new();
    }
    let name = variable_name(&service.name_any());
    let mut variables = vec![
        (format!("{name}_SERVICE_HOST"), ip.to_owned()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            variables.push((
                format!("{name}_SERVICE_PORT_{}", variable_name(port_name)),
                port.port.to_string(),
            ));
        }
    }
    variables.push((format!("{name}_PORT"), url(ip, first)));
    for port in ports {
        let protocol = protocol(port);
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        variables.extend([
            (prefix.clone(), url(ip, port)),
            (format!("{prefix}_PROTO"), protocol.to_lowercase()),
            (format!("{prefix}_PORT"), port.port.to_string()),
            (format!("{prefix}_ADDR"), ip.to_owned()),
        ]);
    }
    variables
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn url(ip: &str, port: &ServicePort) -> String {
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    };
    format!("{}://{host}:{}", protocol(port).to_lowercase(), port.port)
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(namespace: &str, name: &str, ip: &str) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}, {"name": "dns-udp", "port": 53, "protocol": "UDP"}]},
        }))
        .unwrap()
    }

    fn value<'a>(variables: &'a [(String, String)], name: &str) -> Option<&'a str> {
        variables
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    #[test]
    fn variables_have_the_names_of_old() {
        let services = [
            service("default", "kubernetes", "10.96.0.1"),
            service("a", "my-db", "10.96.0.7"),
            service("b", "x", "10.96.0.8"),
        ];
        let variables = environment(services.iter(), "a", true);
        for (name, expected) in [
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
            ("MY_DB_SERVICE_HOST", "10.96.0.7"),
            ("MY_DB_SERVICE_PORT", "80"),
            ("MY_DB_SERVICE_PORT_DNS_UDP", "53"),
            ("MY_DB_PORT", "tcp://10.96.0.7:80"),
            ("MY_DB_PORT_53_UDP", "udp://10.96.0.7:53"),
            ("MY_DB_PORT_53_UDP_PROTO", "udp"),
            ("MY_DB_PORT_80_TCP_ADDR", "10.96.0.7"),
        ] {
            assert_eq!(value(&variables, name), Some(expected), "{name}");
        }
        assert_eq!(value(&variables, "X_SERVICE_HOST"), None);
        let few = environment(services.iter(), "a", false);
        assert_eq!(value(&few, "MY_DB_SERVICE_HOST"), None);
        assert_eq!(value(&few, "KUBERNETES_SERVICE_HOST"), Some("10.96.0.1"));
    }

    #[test]
    fn the_nearer_kubernetes_wins_and_headless_services_have_none() {
        let services = [
            service("a", "kubernetes", "10.96.0.9"),
            service("default", "kubernetes", "10.96.0.1"),
            service("a", "h", "None"),
        ];
        let variables = environment(services.iter(), "a", true);
        assert_eq!(
            value(&variables, "KUBERNETES_SERVICE_HOST"),
            Some("10.96.0.9")
        );
        assert_eq!(
            variables
                .iter()
                .filter(|(name, _)| name == "KUBERNETES_SERVICE_HOST")
                .count(),
            1
        );
        assert_eq!(value(&variables, "H_SERVICE_HOST"), None);
    }
}
