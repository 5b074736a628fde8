//! The older `Endpoints` object: all addresses of a Service in one piece, by the ports they share.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;

use super::{
    backend::{Backend, Port, families},
    is_headless,
    slices::HEADLESS_LABEL,
};

/// Label that says who keeps the object.
const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpoint-controller";
/// Annotation on an object that does not hold all addresses there are.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// How many addresses one object holds. Beyond that, only slices tell all.
const CAPACITY: usize = 1000;

/// Whether this controller keeps the object.
pub(super) fn is_ours(endpoints: &Endpoints) -> bool {
    endpoints
        .labels()
        .get(MANAGED_BY_LABEL)
        .is_some_and(|by| by == MANAGED_BY)
}

/// Whether `known` says all that `wanted` does.
pub(super) fn is_up_to_date(known: &Endpoints, wanted: &Endpoints) -> bool {
    let subsets = |endpoints: &Endpoints| endpoints.subsets.clone().unwrap_or_default();
    let truncated = |endpoints: &Endpoints| endpoints.annotations().get(OVER_CAPACITY).cloned();
    subsets(known) == subsets(wanted)
        && known.labels() == wanted.labels()
        && truncated(known) == truncated(wanted)
}

/// The object for a Service with these backends.
pub(super) fn endpoints(service: &Service, backends: &[Backend]) -> Endpoints {
    let mut labels = service.labels().clone();
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels.remove(HEADLESS_LABEL);
    if service.spec.as_ref().is_some_and(is_headless) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    let (subsets, complete) = subsets(service, backends);
    let truncated = BTreeMap::from([(OVER_CAPACITY.to_owned(), "truncated".to_owned())]);
    Endpoints {
        metadata: ObjectMeta {
            namespace: service.namespace(),
            name: Some(service.name_any()),
            labels: Some(labels),
            annotations: (!complete).then_some(truncated),
            ..ObjectMeta::default()
        },
        subsets: Some(subsets).filter(|subsets| !subsets.is_empty()),
    }
}

/// The backends that share the same ports.
#[derive(Debug, Default)]
struct Group<'b> {
    /// By address and pod, which is their order in the object.
    ready: BTreeMap<(String, &'b str), EndpointAddress>,
    not_ready: BTreeMap<(String, &'b str), EndpointAddress>,
}

/// The subsets, and whether they hold all addresses.
fn subsets(service: &Service, backends: &[Backend]) -> (Vec<EndpointSubset>, bool) {
    let spec = service.spec.as_ref();
    let has_ports = spec
        .and_then(|spec| spec.ports.as_ref())
        .is_some_and(|ports| !ports.is_empty());
    let publish_always = spec.is_some_and(|spec| spec.publish_not_ready_addresses == Some(true));
    let family = families(service).into_iter().next();
    let mut groups = BTreeMap::<&[Port], Group<'_>>::new();
    for backend in backends {
        let leaves = backend.terminating && !publish_always;
        let reachable = !backend.ports.is_empty() || !has_ports;
        let Some(ip) = family
            .and_then(|family| backend.ip(family))
            .filter(|_| reachable && !leaves)
        else {
            continue;
        };
        let address = EndpointAddress {
            ip: ip.to_string(),
            hostname: backend.hostname.clone(),
            node_name: backend.node.clone(),
            target_ref: Some(backend.target.clone()),
        };
        let group = groups.entry(&backend.ports).or_default();
        let side = if backend.ready {
            &mut group.ready
        } else {
            &mut group.not_ready
        };
        side.insert((address.ip.clone(), backend.uid()), address);
    }
    within_capacity(groups)
}

/// Ready addresses have precedence over those that are not.
fn within_capacity(groups: BTreeMap<&[Port], Group<'_>>) -> (Vec<EndpointSubset>, bool) {
    let ready: BTreeSet<_> = groups
        .values()
        .flat_map(|group| group.ready.keys())
        .cloned()
        .collect();
    let mut room_for_ready = CAPACITY;
    let mut room_for_others = CAPACITY.saturating_sub(ready.len());
    let mut complete = true;
    let mut take = |addresses: BTreeMap<_, EndpointAddress>, room: &mut usize| {
        complete &= addresses.len() <= *room;
        let taken: Vec<_> = addresses.into_values().take(*room).collect();
        *room -= taken.len();
        Some(taken).filter(|taken| !taken.is_empty())
    };
    let subsets = groups
        .into_iter()
        .map(|(ports, group)| EndpointSubset {
            addresses: take(group.ready, &mut room_for_ready),
            not_ready_addresses: take(group.not_ready, &mut room_for_others),
            ports: Some(ports.iter().map(endpoint_port).collect::<Vec<_>>())
                .filter(|ports| !ports.is_empty()),
        })
        .filter(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some())
        .collect();
    (subsets, complete)
}

fn endpoint_port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()).filter(|name| !name.is_empty()),
        port: port.number,
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}
