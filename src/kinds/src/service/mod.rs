//! `v1` Service.

mod allocation;
mod families;
mod update;
mod validate;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ClientIPConfig, Service, ServiceSpec, ServiceStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::print;
use crate::{Here, PROXY, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names::{self, Problems};
use vaquita_api::registry::{Kind, Part, Resource, SelectableField};
use vaquita_api::table::Column;
use vaquita_api::{Object, meta};

pub use allocation::{
    cluster_ips, health_check_port, needs_cluster_ip, needs_health_check_port, needs_node_ports,
    node_ports, set_cluster_ip, set_health_check_port, set_node_port,
};

/// How long a client stays with its endpoint: three hours, in seconds.
const AFFINITY_SECONDS: i32 = 10_800;

pub(super) fn resource() -> Resource {
    stored::<Service>("service", true)
        .short(&["svc"])
        .in_all()
        .sub("proxy", ("", "v1", "ServiceProxyOptions"), &PROXY)
        .with_status()
}

impl Kind<Here> for Service {
    const CREATE_ON_UPDATE: bool = true;

    const NAME: fn(&str) -> Problems = names::dns1035_label;

    const SELECTABLE: &'static [SelectableField] = &[
        SelectableField::new("spec.clusterIP", &["spec", "clusterIP"], ""),
        SelectableField::new("spec.type", &["spec", "type"], ""),
    ];

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Type", "How the service is reached."),
        Column::string("Cluster-IP", "The address inside the cluster."),
        Column::string("External-IP", "The address outside of the cluster."),
        Column::string(
            "Port(s)",
            "Each port, with the nodes' port behind it, and its protocol.",
        ),
        Column::AGE,
        Column::string("Selector", "Which pods answer.").wide(),
    ];

    fn apply_defaults(&mut self) {
        apply_defaults(self.spec.get_or_insert_default());
        let balancer = self.status.get_or_insert_default();
        let balancer = balancer.load_balancer.get_or_insert_default();
        let spec = self.spec.as_ref().and_then(|spec| spec.type_.as_deref());
        if spec == Some("LoadBalancer") {
            for point in balancer.ingress.iter_mut().flatten() {
                if point.ip.as_ref().is_some_and(|ip| !ip.is_empty()) {
                    point.ip_mode.get_or_insert_with(|| "VIP".to_owned());
                }
            }
        }
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({"loadBalancer": {}}));
        update::normalise_cluster_ips(object, None);
        update::fill_families(object, None);
    }

    fn prepare_update(new: &mut Object, old: &Object, part: Part, _now: Timestamp) {
        if part == Part::Main {
            update::normalise_cluster_ips(new, Some(old));
            update::keep_allocated(new, old);
            update::fill_families(new, Some(old));
            update::drop_unneeded(new, old);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate_topology(self, errors);
        let empty = ServiceSpec::default();
        let spec = self.spec.as_ref().unwrap_or(&empty);
        validate::spec(spec, &Path::root("spec"), errors);
        validate::warn_of_ignored(spec, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        if let (Some(new), Some(old)) = (&self.spec, &old.spec) {
            validate::change(new, old, &Path::root("spec"), errors);
        }
        self.validate(errors);
    }

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        if let (Some(status), Some(spec)) = (&self.status, &self.spec) {
            validate::status(status, spec, &Path::root("status"), errors);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let empty = ServiceSpec::default();
        let spec = self.spec.as_ref().unwrap_or(&empty);
        let cluster_ip = spec
            .cluster_ips
            .iter()
            .flatten()
            .next()
            .or(spec.cluster_ip.as_ref());
        vec![
            self.name_cell(),
            spec.type_.clone().unwrap_or_default().into(),
            print::or_none(cluster_ip.map(String::as_str)),
            external_ip(spec, self.status.as_ref()),
            ports(spec),
            self.age_cell(now),
            print::labels(spec.selector.as_ref()),
        ]
    }
}

/// The older and the newer annotation for the same thing must say the same.
fn validate_topology(service: &Service, errors: &mut Errors) {
    const MODE: &str = "service.kubernetes.io/topology-mode";
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let annotations = service.metadata.annotations.as_ref();
    let get = |key| annotations.and_then(|annotations| annotations.get(key));
    if let (Some(mode), Some(hints)) = (get(MODE), get(HINTS))
        && mode != hints
    {
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        let path = Path::root("metadata");
        let path = path.child("annotations");
        errors.push(FieldError::invalid(&path.key(MODE), mode.as_str(), detail));
    }
}

fn apply_defaults(spec: &mut ServiceSpec) {
    let kind = spec
        .type_
        .get_or_insert_with(|| "ClusterIP".to_owned())
        .clone();
    let affinity = spec
        .session_affinity
        .get_or_insert_with(|| "None".to_owned());
    match affinity.as_str() {
        "None" => spec.session_affinity_config = None,
        "ClientIP" => {
            let config = spec.session_affinity_config.get_or_insert_default();
            let client = config.client_ip.get_or_insert(ClientIPConfig {
                timeout_seconds: None,
            });
            client.timeout_seconds.get_or_insert(AFFINITY_SECONDS);
        }
        _ => {}
    }
    for port in spec.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
        let unset = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(name)) => name.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if unset {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    if is_externally_accessible(spec) {
        spec.external_traffic_policy
            .get_or_insert_with(|| "Cluster".to_owned());
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        spec.internal_traffic_policy
            .get_or_insert_with(|| "Cluster".to_owned());
    }
    if kind == "LoadBalancer" {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
}

/// Whether connections come from outside of the cluster.
fn is_externally_accessible(spec: &ServiceSpec) -> bool {
    match spec.type_.as_deref() {
        Some("LoadBalancer" | "NodePort") => true,
        Some("ClusterIP") => spec
            .external_ips
            .as_ref()
            .is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}

/// `None` in place of an address: the service is a name for its endpoints alone.
fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ips
        .iter()
        .flatten()
        .next()
        .or(spec.cluster_ip.as_ref())
        .is_some_and(|ip| ip == "None")
}

fn external_ip(spec: &ServiceSpec, status: Option<&ServiceStatus>) -> Value {
    let external = spec.external_ips.clone().unwrap_or_default().join(",");
    match spec.type_.as_deref() {
        Some("LoadBalancer") => {
            let balancer = status.and_then(|status| status.load_balancer.as_ref());
            let ingress = balancer
                .and_then(|balancer| balancer.ingress.as_deref())
                .unwrap_or_default();
            let points = ingress.iter().filter_map(|point| {
                [&point.ip, &point.hostname]
                    .into_iter()
                    .flatten()
                    .find(|text| !text.is_empty())
                    .cloned()
            });
            let points: std::collections::BTreeSet<String> = points.collect();
            let mut all: Vec<String> = points.into_iter().collect();
            all.extend(spec.external_ips.iter().flatten().cloned());
            if all.is_empty() {
                return "<pending>".into();
            }
            all.join(",").into()
        }
        Some("ExternalName") => spec.external_name.clone().unwrap_or_default().into(),
        Some("ClusterIP" | "NodePort") => print::or_none(Some(&external)),
        _ => "<unknown>".into(),
    }
}

/// `80/TCP,443:30443/TCP`.
fn ports(spec: &ServiceSpec) -> Value {
    let port = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let protocol = port.protocol.as_deref().unwrap_or_default();
        match port.node_port.filter(|port| *port > 0) {
            Some(node) => format!("{}:{node}/{protocol}", port.port),
            None => format!("{}/{protocol}", port.port),
        }
    };
    print::or_none(Some(
        &spec
            .ports
            .iter()
            .flatten()
            .map(port)
            .collect::<Vec<_>>()
            .join(","),
    ))
}

/// The string at `spec.<field>`, or "".
fn text<'o>(object: &'o Object, field: &str) -> &'o str {
    meta::at(object, &["spec", field])
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
