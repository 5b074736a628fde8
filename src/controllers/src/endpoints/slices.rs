//! How a Service's backends are spread over `EndpointSlice`s, changing as few of them as possible.
//!
//! A slice holds endpoints of one address family that share the same ports, at most [`CAPACITY`] of them. An endpoint
//! stays in the slice it is in: a Service of a thousand pods costs one small write when one of them changes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::{
    api::{
        core::v1::Service,
        discovery::v1::{
            Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode,
            ForZone,
        },
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;

use super::{
    backend::{Backend, Family, Port, families},
    is_headless,
};
use vaquita_reconcile::{ObjectKey, meta};

/// Label with the name of the Service.
pub(super) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Label that says who keeps a slice.
pub(super) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Our value of it: that of upstream's controller, whose place this one takes.
pub(super) const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
/// Label of everything that belongs to a headless Service.
pub(super) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// How many endpoints a slice gets.
pub(super) const CAPACITY: usize = 100;

/// Whether the slice is one that this controller keeps for the Service of this name.
pub(super) fn is_of(slice: &EndpointSlice, service: &str) -> bool {
    let labels = slice.labels();
    labels
        .get(SERVICE_LABEL)
        .is_some_and(|name| name == service)
        && labels
            .get(MANAGED_BY_LABEL)
            .is_some_and(|by| by == MANAGED_BY)
}

/// The Service whose slice this is, if this controller keeps it.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.labels().get(SERVICE_LABEL)?;
    is_of(slice, name).then(|| ObjectKey::new(slice.namespace().unwrap_or_default(), name))
}

/// What has to be written.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
}

/// What makes an endpoint the same one as before: its pod and its address.
type Identity = (String, String);

fn identity(endpoint: &Endpoint) -> Identity {
    let uid = endpoint
        .target_ref
        .as_ref()
        .and_then(|target| target.uid.clone())
        .unwrap_or_default();
    (uid, endpoint.addresses.first().cloned().unwrap_or_default())
}

/// A slice that exists, as it would be after the change.
struct Draft {
    known: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

impl Draft {
    fn room(&self) -> usize {
        CAPACITY.saturating_sub(self.endpoints.len())
    }
}

/// For which zone each backend is meant, where the Service wants them shared out; nothing where that is impossible.
pub(super) type Shares = Option<Vec<Option<String>>>;

/// What to change so that the slices of `service` show exactly `backends`.
pub(super) fn plan(
    service: &Service,
    backends: &[Backend],
    shares: Option<&Shares>,
    known: Vec<Arc<EndpointSlice>>,
) -> Plan {
    let mut plan = Plan::default();
    let mut known_groups = BTreeMap::<(String, Vec<Port>), Vec<Arc<EndpointSlice>>>::new();
    for slice in known {
        known_groups
            .entry((slice.address_type.clone(), ports_of(&slice)))
            .or_default()
            .push(slice);
    }
    for family in families(service) {
        let mut groups = BTreeMap::<Vec<Port>, Vec<Endpoint>>::new();
        for (at, backend) in backends.iter().enumerate() {
            let hints = match shares {
                None => hints(service, backend),
                Some(shares) => shared(shares.as_ref().and_then(|shares| shares.get(at))),
            };
            if let Some(endpoint) = endpoint(backend, hints, family) {
                groups
                    .entry(backend.ports.clone())
                    .or_default()
                    .push(endpoint);
            }
        }
        if groups.is_empty() {
            // One empty slice says that the Service was looked at and has nobody.
            groups.insert(Vec::new(), Vec::new());
        }
        for (ports, endpoints) in groups {
            let known = known_groups
                .remove(&(family.name().to_owned(), ports.clone()))
                .unwrap_or_default();
            plan_group(service, family, &ports, endpoints, known, &mut plan);
        }
    }
    plan.delete.extend(known_groups.into_values().flatten());
    plan
}

/// Plans the slices of one family and one set of ports. At least one is left.
fn plan_group(
    service: &Service,
    family: Family,
    ports: &[Port],
    endpoints: Vec<Endpoint>,
    known: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    let model = slice(service, family, ports);
    let mut missing: HashMap<Identity, Endpoint> = endpoints
        .into_iter()
        .map(|endpoint| (identity(&endpoint), endpoint))
        .collect();
    let mut drafts: Vec<Draft> = known
        .into_iter()
        .map(|known| draft(known, &model, &mut missing))
        .collect();
    let mut missing: Vec<Endpoint> = missing.into_values().collect();
    missing.sort_by_cached_key(identity);
    place(&mut missing, &mut drafts);
    let new = missing.chunks(CAPACITY).map(|chunk| EndpointSlice {
        endpoints: Some(chunk.to_vec()),
        ..model.clone()
    });
    plan.create.extend(new);
    // An empty slice is of use only as long as there is no other.
    let mut served = !missing.is_empty() || drafts.iter().any(|draft| !draft.endpoints.is_empty());
    for draft in drafts {
        if draft.endpoints.is_empty() && served {
            plan.delete.push(draft.known);
            continue;
        }
        served = true;
        if draft.changed {
            plan.update.push(updated(draft, &model));
        }
    }
    if !served {
        plan.create.push(model);
    }
}

/// What becomes of a slice when all it may keep is taken out of `missing`.
fn draft(
    known: Arc<EndpointSlice>,
    model: &EndpointSlice,
    missing: &mut HashMap<Identity, Endpoint>,
) -> Draft {
    let mut changed = known.metadata.labels != model.metadata.labels
        || known.metadata.owner_references != model.metadata.owner_references;
    let mut endpoints = Vec::new();
    for before in known.endpoints.iter().flatten() {
        match missing.remove(&identity(before)) {
            Some(now) => {
                changed |= now != *before;
                endpoints.push(now);
            }
            None => changed = true,
        }
    }
    Draft {
        known,
        endpoints,
        changed,
    }
}

/// Puts endpoints into slices: first into those that have to be written anyway, and what is left into one more if it
/// fits there, the fullest that can take it. The rest stays in `missing`.
fn place(missing: &mut Vec<Endpoint>, drafts: &mut [Draft]) {
    for draft in drafts.iter_mut().filter(|draft| draft.changed) {
        let taken = missing.len().min(draft.room());
        draft.endpoints.extend(missing.drain(..taken));
    }
    if missing.is_empty() {
        return;
    }
    let roomy = drafts
        .iter_mut()
        .filter(|draft| draft.room() >= missing.len());
    if let Some(draft) = roomy.min_by_key(|draft| draft.room()) {
        draft.changed = true;
        draft.endpoints.append(missing);
    }
}

/// The known slice with the endpoints of its draft and the metadata of `model`, ready to replace what is there.
fn updated(draft: Draft, model: &EndpointSlice) -> EndpointSlice {
    let mut slice = EndpointSlice::clone(&draft.known);
    slice.metadata.labels.clone_from(&model.metadata.labels);
    slice
        .metadata
        .owner_references
        .clone_from(&model.metadata.owner_references);
    slice.endpoints = Some(draft.endpoints);
    slice
}

/// A new slice without endpoints.
fn slice(service: &Service, family: Family, ports: &[Port]) -> EndpointSlice {
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS_LABEL);
    if service.spec.as_ref().is_some_and(is_headless) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(SERVICE_LABEL.to_owned(), service.name_any());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    EndpointSlice {
        metadata: ObjectMeta {
            namespace: service.namespace(),
            generate_name: Some(format!("{}-", service.name_any())),
            labels: Some(labels),
            owner_references: Some(vec![meta::controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.name().to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(ports.iter().map(endpoint_port).collect()),
    }
}

fn endpoint_port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.number),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

fn ports_of(slice: &EndpointSlice) -> Vec<Port> {
    let port = |port: &EndpointPort| Port {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        number: port.port.unwrap_or(0),
        app_protocol: port.app_protocol.clone(),
    };
    let mut ports: Vec<_> = slice.ports.iter().flatten().map(port).collect();
    ports.sort();
    ports
}

/// For whom an endpoint is meant, as `trafficDistribution` wants it. Only what gets traffic has hints.
fn hints(service: &Service, backend: &Backend) -> Option<EndpointHints> {
    let wanted = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let by_node = match wanted {
        "PreferSameNode" => true,
        "PreferClose" | "PreferSameZone" => false,
        _ => return None,
    };
    let zone = backend.zone.clone().map(|name| vec![ForZone { name }]);
    let node = backend.node.clone().filter(|_| by_node);
    let hints = EndpointHints {
        for_nodes: node.map(|name| vec![ForNode { name }]),
        for_zones: zone,
    };
    (backend.ready && hints != EndpointHints::default()).then_some(hints)
}

fn shared(zone: Option<&Option<String>>) -> Option<EndpointHints> {
    let name = zone?.clone()?;
    Some(EndpointHints {
        for_nodes: None,
        for_zones: Some(vec![ForZone { name }]),
    })
}

fn endpoint(backend: &Backend, hints: Option<EndpointHints>, family: Family) -> Option<Endpoint> {
    Some(Endpoint {
        addresses: vec![backend.ip(family)?.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(backend.ready),
            serving: Some(backend.serving),
            terminating: Some(backend.terminating),
        }),
        hostname: backend.hostname.clone(),
        node_name: backend.node.clone(),
        zone: backend.zone.clone(),
        hints,
        target_ref: Some(backend.target.clone()),
        ..Endpoint::default()
    })
}

#[cfg(test)]
mod tests;
