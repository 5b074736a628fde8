//! A pod as one Service sees it.

use std::net::IpAddr;

use k8s_openapi::{
    api::core::v1::{Container, ObjectReference, Pod, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;

use vaquita_reconcile::{meta, pods};

/// The family of an address, in the words of `addressType` and `ipFamilies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// The families a Service is served in, the preferred one first. A Service that says nothing gets IPv4.
pub(super) fn families(service: &Service) -> Vec<Family> {
    let stated = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.as_deref())
        .unwrap_or_default();
    let mut families: Vec<_> = stated
        .iter()
        .filter_map(|family| {
            [Family::V4, Family::V6]
                .into_iter()
                .find(|known| known.name() == family)
        })
        .collect();
    families.dedup();
    if families.is_empty() {
        vec![Family::V4]
    } else {
        families
    }
}

/// All of a pod that decides what it is to a Service, its labels aside. What changes nothing here changes no endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts<'p> {
    ips: Vec<&'p str>,
    node: Option<&'p str>,
    ready: bool,
    terminating: bool,
    terminal: bool,
}

impl<'p> Facts<'p> {
    pub(super) fn of(pod: &'p Pod) -> Self {
        Self {
            ips: pods::ips(pod).collect(),
            node: pods::node_name(pod),
            ready: pods::is_ready(pod),
            terminating: meta::is_terminating(&pod.metadata),
            terminal: pods::is_terminal(pod),
        }
    }
}

/// A port of a Service, resolved for one pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    /// Empty for the single port of a Service that needs no name.
    pub(super) name: String,
    pub(super) protocol: String,
    pub(super) number: i32,
    pub(super) app_protocol: Option<String>,
}

/// A pod that a Service selects and that has an address.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Backend {
    pub(super) ips: Vec<IpAddr>,
    /// Without a version, which would change with every change of the pod.
    pub(super) target: ObjectReference,
    pub(super) node: Option<String>,
    /// The zone of its node.
    pub(super) zone: Option<String>,
    /// Set when the Service gives the pod a DNS name of its own.
    pub(super) hostname: Option<String>,
    /// To be sent new connections.
    pub(super) ready: bool,
    /// Ready by its own account, even if it is on its way out.
    pub(super) serving: bool,
    pub(super) terminating: bool,
    /// Sorted. A named port that the pod does not have is left out.
    pub(super) ports: Vec<Port>,
}

impl Backend {
    /// Nothing for a pod that has no address yet or has ended. `zone` tells a node's.
    pub(super) fn of(
        service: &Service,
        pod: &Pod,
        zone: impl FnOnce(&str) -> Option<String>,
    ) -> Option<Self> {
        let ips: Vec<IpAddr> = pods::ips(pod).filter_map(|ip| ip.parse().ok()).collect();
        if ips.is_empty() || pods::is_terminal(pod) {
            return None;
        }
        let serving = pods::is_ready(pod);
        let terminating = meta::is_terminating(&pod.metadata);
        let publish_always = service
            .spec
            .as_ref()
            .is_some_and(|spec| spec.publish_not_ready_addresses == Some(true));
        Some(Self {
            ips,
            target: ObjectReference {
                api_version: None,
                resource_version: None,
                ..meta::reference(pod)
            },
            node: pods::node_name(pod).map(str::to_owned),
            zone: pods::node_name(pod).and_then(zone),
            hostname: hostname(service, pod),
            ready: publish_always || (serving && !terminating),
            serving,
            terminating,
            ports: ports(service, pod),
        })
    }

    /// The first address of this family.
    pub(super) fn ip(&self, family: Family) -> Option<IpAddr> {
        self.ips
            .iter()
            .copied()
            .find(|ip| Family::of(*ip) == family)
    }

    pub(super) fn uid(&self) -> &str {
        self.target.uid.as_deref().unwrap_or_default()
    }
}

/// A pod that names the Service as its subdomain is known as `hostname.service` within the namespace.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let subdomain = spec.subdomain.as_deref()?;
    let hostname = spec
        .hostname
        .as_deref()
        .filter(|hostname| !hostname.is_empty())?;
    (subdomain == service.name_any()).then(|| hostname.to_owned())
}

fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let declared = spec.ports.as_deref().unwrap_or_default();
    let mut ports: Vec<_> = declared
        .iter()
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref()).to_owned(),
                number: target_port(port, pod)?,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

fn protocol(stated: Option<&str>) -> &str {
    stated
        .filter(|protocol| !protocol.is_empty())
        .unwrap_or("TCP")
}

/// Where a Service's port leads on this pod: the number itself, or that of the container port with this name.
fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            // An init container that restarts always is a sidecar and serves like the others.
            let is_sidecar =
                |container: &&Container| container.restart_policy.as_deref() == Some("Always");
            let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
            let named = spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten());
            let wanted = protocol(port.protocol.as_deref());
            named
                .filter(|candidate| candidate.name.as_ref() == Some(name))
                .find(|candidate| protocol(candidate.protocol.as_deref()) == wanted)
                .map(|candidate| candidate.container_port)
        }
    }
}
