//! Addresses of Services inside the cluster, and ports of Services on the nodes.
//!
//! Who has what is read from the Services themselves when the server starts; from then on it is kept in memory, under one
//! short lock. A write claims what it needs before it is stored, and gives it back if it fails.

use std::{
    collections::HashSet,
    net::Ipv4Addr,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::json;
use vaquita_api::{
    Object,
    field::{FieldError, Path},
    meta,
    registry::Resource,
    status::Status,
};

use vaquita_kinds::service;

use crate::{Config, config::Network};
use vaquita_cache::entry::Entry;

/// What is given out.
#[derive(Debug, Default)]
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

/// Gives addresses and ports out.
#[derive(Debug)]
pub(crate) struct Services {
    network: Network,
    ports: RangeInclusive<u16>,
    taken: Arc<Mutex<Taken>>,
}

/// What a write wants for itself. Without [`Claim::keep`] it is given back.
#[derive(Debug)]
#[must_use]
pub(crate) struct Claim {
    taken: Arc<Mutex<Taken>>,
    /// Given back if the write fails.
    new: Holdings,
    /// Given back if the write succeeds.
    old: Holdings,
}

#[derive(Debug, Default)]
struct Holdings {
    addresses: Vec<Ipv4Addr>,
    ports: Vec<u16>,
}

impl Holdings {
    fn of(service: &Object) -> Self {
        let mut ports: Vec<u16> = service::node_ports(service)
            .into_iter()
            .map(|(_, port)| port)
            .collect();
        ports.push(service::health_check_port(service));
        ports.retain(|port| *port != 0);
        Self {
            addresses: service::cluster_ips(service)
                .iter()
                .filter_map(|ip| ip.parse().ok())
                .collect(),
            ports,
        }
    }
}

impl Taken {
    fn release(&mut self, holdings: &Holdings) {
        holdings.addresses.iter().for_each(|address| {
            self.addresses.remove(address);
        });
        holdings.ports.iter().for_each(|port| {
            self.ports.remove(port);
        });
    }
}

impl Claim {
    /// The write succeeded: what was claimed stays, what is not needed any more goes.
    pub(crate) fn keep(mut self) {
        self.new = Holdings::default();
        let old = std::mem::take(&mut self.old);
        lock(&self.taken).release(&old);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.new.addresses.is_empty() || !self.new.ports.is_empty() {
            lock(&self.taken).release(&self.new);
        }
    }
}

impl Services {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            network: config.service_network,
            ports: config.node_ports.clone(),
            taken: Arc::default(),
        }
    }

    /// The first address: that of the Service `kubernetes`.
    pub(crate) fn first_address(&self) -> Ipv4Addr {
        self.network.address(1)
    }

    /// Notes what a Service has, as the server starts.
    pub(crate) fn remember(&self, service: &Object) {
        let holdings = Holdings::of(service);
        let mut taken = lock(&self.taken);
        taken.addresses.extend(holdings.addresses);
        taken.ports.extend(holdings.ports);
    }

    /// Takes back what a Service had that is gone.
    pub(crate) fn forget(&self, entry: &Entry) {
        if let Ok(service) = entry.value() {
            lock(&self.taken).release(&Holdings::of(&service));
        }
    }

    /// Gives `object`, if it is a Service, the address and ports that it needs. `old` is what it is to replace.
    pub(crate) fn claim(
        &self,
        resource: &Resource,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<Claim, Status> {
        let mut claim = Claim {
            taken: self.taken.clone(),
            new: Holdings::default(),
            old: Holdings::default(),
        };
        if !(resource.group.is_empty() && resource.plural == "services") {
            return Ok(claim);
        }
        let had = old.map(Holdings::of).unwrap_or_default();
        let mut taken = lock(&self.taken);
        let result = self.claim_address(object, &had, &mut taken, &mut claim.new);
        let result =
            result.and_then(|()| self.claim_ports(object, &had, &mut taken, &mut claim.new));
        let result =
            result.and_then(|()| self.claim_health_port(object, &had, &mut taken, &mut claim.new));
        drop(taken);
        // On an error the claim is dropped, and gives back what it got so far.
        result.map_err(|error| Status::invalid("", "Service", meta::name(object), &[error]))?;
        let has = Holdings::of(object);
        claim.old = Holdings {
            addresses: had
                .addresses
                .into_iter()
                .filter(|ip| !has.addresses.contains(ip))
                .collect(),
            ports: had
                .ports
                .into_iter()
                .filter(|port| !has.ports.contains(port))
                .collect(),
        };
        Ok(claim)
    }

    fn claim_address(
        &self,
        object: &mut Object,
        had: &Holdings,
        taken: &mut Taken,
        new: &mut Holdings,
    ) -> Result<(), FieldError> {
        if !service::needs_cluster_ip(object) {
            return Ok(());
        }
        let spec = Path::root("spec");
        let path = spec.child("clusterIPs");
        let Some(wanted) = service::cluster_ips(object)
            .first()
            .map(ToString::to_string)
        else {
            let detail = "failed to allocate a serviceIP: range is full";
            let address = self
                .free_address(taken)
                .ok_or_else(|| FieldError::invalid(&path, json!([""]), detail))?;
            taken.addresses.insert(address);
            new.addresses.push(address);
            service::set_cluster_ip(object, &address.to_string());
            return Ok(());
        };
        let refused = |why: String| {
            FieldError::invalid(
                &path,
                json!([wanted]),
                format!("failed to allocate IP {wanted}: {why}"),
            )
        };
        let address = wanted
            .parse::<Ipv4Addr>()
            .map_err(|_| refused("only IPv4 addresses are given out".to_owned()))?;
        if had.addresses.contains(&address) {
            return Ok(());
        }
        if !self.network.has_host(address) {
            let network = self.network;
            return Err(refused(format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {network}"
            )));
        }
        if !taken.addresses.insert(address) {
            return Err(refused("provided IP is already allocated".to_owned()));
        }
        new.addresses.push(address);
        Ok(())
    }

    fn claim_ports(
        &self,
        object: &mut Object,
        had: &Holdings,
        taken: &mut Taken,
        new: &mut Holdings,
    ) -> Result<(), FieldError> {
        if !service::needs_node_ports(object) {
            return Ok(());
        }
        let ports: Vec<u16> = service::node_ports(object)
            .into_iter()
            .map(|(_, port)| port)
            .collect();
        for (index, port) in ports.into_iter().enumerate() {
            let (spec, low, high) = (Path::root("spec"), *self.ports.start(), *self.ports.end());
            let (list, refused) = (spec.child("ports"), |item: &Path<'_>, why: String| {
                FieldError::invalid(&item.child("nodePort"), port, why)
            });
            let item = list.index(index);
            if port == 0 {
                let free = self.free_port(taken);
                let port = free.ok_or_else(|| {
                    refused(&item, "failed to allocate a nodePort: range is full".into())
                })?;
                taken.ports.insert(port);
                new.ports.push(port);
                service::set_node_port(object, index, port);
            } else if had.ports.contains(&port) || new.ports.contains(&port) {
                // Its own from before, or shared by two protocols.
            } else if !self.ports.contains(&port) {
                return Err(refused(
                    &item,
                    format!(
                        "provided port is not in the valid range. The range of valid ports is {low}-{high}"
                    ),
                ));
            } else if !taken.ports.insert(port) {
                return Err(refused(&item, "provided port is already allocated".into()));
            } else {
                new.ports.push(port);
            }
        }
        Ok(())
    }

    /// The port on which nodes tell balancers whether they have endpoints of the Service.
    fn claim_health_port(
        &self,
        object: &mut Object,
        had: &Holdings,
        taken: &mut Taken,
        new: &mut Holdings,
    ) -> Result<(), FieldError> {
        if !service::needs_health_check_port(object) {
            return Ok(());
        }
        let wanted = service::health_check_port(object);
        if wanted != 0 && had.ports.contains(&wanted) {
            return Ok(());
        }
        let refused = |why: &str| {
            let spec = Path::root("spec");
            let path = spec.child("healthCheckNodePort");
            FieldError::invalid(&path, wanted, format!("failed to allocate a port: {why}"))
        };
        let port = if wanted == 0 {
            self.free_port(taken)
                .ok_or_else(|| refused("range is full"))?
        } else {
            wanted
        };
        if !self.ports.contains(&port) {
            return Err(refused("provided port is not in the valid range"));
        }
        if !taken.ports.insert(port) {
            return Err(refused("provided port is already allocated"));
        }
        new.ports.push(port);
        service::set_health_check_port(object, port);
        Ok(())
    }

    /// An address that nobody has, from anywhere in the range: one that was just given back is unlikely to come again.
    fn free_address(&self, taken: &Taken) -> Option<Ipv4Addr> {
        let hosts = self.network.hosts();
        let start = rand::random_range(0..hosts);
        (0..hosts)
            .map(|step| self.network.address(1 + (start + step) % hosts))
            .find(|address| *address != self.first_address() && !taken.addresses.contains(address))
    }

    fn free_port(&self, taken: &Taken) -> Option<u16> {
        let (low, high) = (u32::from(*self.ports.start()), u32::from(*self.ports.end()));
        let count = high.saturating_sub(low) + 1;
        let start = rand::random_range(0..count);
        let ports = (0..count).filter_map(|step| u16::try_from(low + (start + step) % count).ok());
        ports.into_iter().find(|port| !taken.ports.contains(port))
    }
}

// A panic under this lock could only leave an address taken that nobody has.
fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn services() -> Services {
        let config = Config {
            service_network: "10.0.0.0/29".parse().unwrap(),
            node_ports: 30000..=30002,
            ..Config::default()
        };
        Services::new(&config)
    }

    fn service(spec: &Value) -> Object {
        json!({"metadata": {"name": "web"}, "spec": spec})
            .as_object()
            .unwrap()
            .clone()
    }

    fn resource() -> Arc<Resource> {
        let registry = super::super::built_in();
        registry.get("", "v1", "services").unwrap().clone()
    }

    fn claim(services: &Services, spec: &Value) -> Result<(Object, Claim), String> {
        let mut object = service(spec);
        let claim = services.claim(&resource(), &mut object, None);
        claim
            .map(|claim| (object, claim))
            .map_err(|status| status.message().to_owned())
    }

    fn node_port(port: u16) -> Value {
        json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]})
    }

    #[test]
    fn gives_out_the_port_of_health_checks_too() {
        let services = services();
        let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": false});
        let (object, first) = claim(&services, &spec).unwrap();
        let port = service::health_check_port(&object);
        assert!((30000..=30002).contains(&port));
        let mut taken = spec.clone();
        taken["healthCheckNodePort"] = port.into();
        assert!(claim(&services, &taken).is_err());
        drop(first);
        claim(&services, &taken).unwrap().1.keep();
    }

    #[test]
    fn addresses_are_unique_until_the_range_is_full() {
        let services = services();
        let mut seen = HashSet::new();
        // Six hosts, the first of which is the API's own.
        for _ in 0..5 {
            let (object, claim) = claim(&services, &json!({"type": "ClusterIP"})).unwrap();
            claim.keep();
            assert!(seen.insert(service::cluster_ips(&object)[0].to_owned()));
        }
        assert!(!seen.contains("10.0.0.1"));
        assert!(
            claim(&services, &json!({"type": "ClusterIP"}))
                .unwrap_err()
                .contains("range is full")
        );
    }

    #[test]
    fn a_failed_write_gives_back_what_it_claimed() {
        let services = services();
        drop(claim(&services, &node_port(30001)).unwrap());
        claim(&services, &node_port(30001)).unwrap().1.keep();
        let error = claim(&services, &node_port(30001)).unwrap_err();
        assert!(
            error.contains(
                "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"
            ),
            "{error}"
        );
        let error = claim(&services, &node_port(80)).unwrap_err();
        assert!(
            error.contains("The range of valid ports is 30000-30002"),
            "{error}"
        );
        // None of the failures has kept an address.
        assert_eq!(lock(&services.taken).addresses.len(), 1);
    }

    #[test]
    fn a_wanted_address_must_be_free_and_in_the_range() {
        let services = services();
        let wanted = |ip: &str| json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip]});
        claim(&services, &wanted("10.0.0.3")).unwrap().1.keep();
        assert!(
            claim(&services, &wanted("10.0.0.3"))
                .unwrap_err()
                .contains("provided IP is already allocated")
        );
        assert!(
            claim(&services, &wanted("10.1.0.3"))
                .unwrap_err()
                .contains("The range of valid IPs is 10.0.0.0/29")
        );
        let (headless, _claim) = claim(&services, &wanted("None")).unwrap();
        assert!(service::cluster_ips(&headless).is_empty());
    }

    #[test]
    fn an_update_keeps_its_own_and_gives_back_the_rest() {
        let services = services();
        let (old, first) = claim(&services, &node_port(30002)).unwrap();
        first.keep();
        let mut new = old.clone();
        new["spec"]["ports"][0]["nodePort"] = 30000.into();
        services
            .claim(&resource(), &mut new, Some(&old))
            .unwrap()
            .keep();
        assert_eq!(lock(&services.taken).ports, HashSet::from([30000]));
        assert_eq!(lock(&services.taken).addresses.len(), 1);
    }
}
