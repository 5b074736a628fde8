//! Writing into claims which devices they have, and for which pod.

use k8s_openapi::api::{
    core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm},
    resource::v1::{
        AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult,
        DeviceRequestAllocationResult, ResourceClaim, ResourceClaimConsumerReference,
    },
};
use kube::{Api, Client, ResourceExt as _, api::PostParams};

use super::{
    Class, Devices,
    inventory::Reach,
    search::Found,
    wanted::{Open, Request},
};
use crate::{pod::PodKey, volumes::ClaimKey};

/// Keeps a claim as long as it has devices.
const PROTECTION: &str = "resource.kubernetes.io/delete-protection";
/// How often a claim that somebody else writes, too, is looked at again.
const ATTEMPTS: usize = 5;

/// What a claim gets before its pod can be bound: devices, if it has none yet, and the pod as one that uses it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Grant {
    pub(crate) claim: ClaimKey,
    pub(crate) uid: String,
    pub(crate) allocation: Option<AllocationResult>,
}

/// Why a claim did not get it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrantError {
    /// The claim could not be read or written.
    #[error("{0}")]
    Write(#[source] kube::Error),
    /// It is another one, or has lost or got devices since it was decided.
    #[error("resourceclaim {0:?} has changed")]
    Changed(String),
}

/// The allocation of one claim.
pub(super) fn allocation(devices: &Devices, open: &Open, found: &[Found<'_>]) -> AllocationResult {
    let of = |found: &Found<'_>| open.request(found.request, found.alternative);
    let result = |found: &Found<'_>| {
        let request = of(found)?;
        let id = &found.device.id;
        Some(DeviceRequestAllocationResult {
            request: request.full_name(),
            driver: id.driver.to_string(),
            pool: id.pool.to_string(),
            device: id.name.to_string(),
            tolerations: Some(request.tolerations.clone()).filter(|all| !all.is_empty()),
            ..DeviceRequestAllocationResult::default()
        })
    };
    let results: Vec<_> = found.iter().filter_map(result).collect();
    let mut met: Vec<_> = found.iter().filter_map(of).collect();
    met.dedup();
    let config = configuration(devices, open, &met);
    AllocationResult {
        devices: Some(DeviceAllocationResult {
            config: Some(config).filter(|config| !config.is_empty()),
            results: Some(results).filter(|results| !results.is_empty()),
        }),
        node_selector: reachable_from(found),
        ..AllocationResult::default()
    }
}

/// How the drivers are to set the devices: as their classes say, then as the claim says.
fn configuration(
    devices: &Devices,
    open: &Open,
    met: &[&Request],
) -> Vec<DeviceAllocationConfiguration> {
    let of_class = |request: &Request| {
        let class = devices.classes.get(&request.class).cloned();
        let name = request.full_name();
        let config = class.map_or_else(Vec::new, |class: std::sync::Arc<Class>| {
            class.config.clone()
        });
        config
            .into_iter()
            .map(move |opaque| DeviceAllocationConfiguration {
                opaque: Some(opaque),
                requests: Some(vec![name.clone()]),
                source: "FromClass".to_owned(),
            })
    };
    let of_claim = open
        .claim
        .spec
        .iter()
        .flat_map(|spec| spec.config.iter().flatten());
    // Of what is said of requests, only that counts which is about something that was given.
    let of_claim = of_claim.filter(|config| {
        let names = config.requests.as_deref().unwrap_or_default();
        met.iter().any(|request| request.is_among(names))
    });
    let of_claim = of_claim.map(|config| DeviceAllocationConfiguration {
        opaque: config.opaque.clone(),
        requests: config.requests.clone(),
        source: "FromClaim".to_owned(),
    });
    met.iter()
        .copied()
        .flat_map(of_class)
        .chain(of_claim)
        .collect()
}

/// The nodes from which all of the devices can be reached; `None` for all nodes.
fn reachable_from(found: &[Found<'_>]) -> Option<NodeSelector> {
    let mut term = NodeSelectorTerm::default();
    for found in found {
        match &found.device.reach {
            Reach::Node(name) => {
                let fields = term.match_fields.get_or_insert_default();
                *fields = vec![NodeSelectorRequirement {
                    key: "metadata.name".to_owned(),
                    operator: "In".to_owned(),
                    values: Some(vec![name.clone()]),
                }];
            }
            // Each has a single term.
            Reach::Nodes(selector) => {
                for other in &selector.node_selector_terms {
                    join(&mut term.match_fields, other.match_fields.as_ref());
                    join(
                        &mut term.match_expressions,
                        other.match_expressions.as_ref(),
                    );
                }
            }
            Reach::All => {}
        }
    }
    (term != NodeSelectorTerm::default()).then(|| NodeSelector {
        node_selector_terms: vec![term],
    })
}

fn join(
    all: &mut Option<Vec<NodeSelectorRequirement>>,
    more: Option<&Vec<NodeSelectorRequirement>>,
) {
    for requirement in more.into_iter().flatten() {
        let all = all.get_or_insert_default();
        if !all.contains(requirement) {
            all.push(requirement.clone());
        }
    }
}

/// Gives a claim to the pod.
pub(crate) async fn give(client: &Client, pod: &PodKey, grant: &Grant) -> Result<(), GrantError> {
    let api = Api::<ResourceClaim>::namespaced(client.clone(), &grant.claim.0);
    for _ in 0..ATTEMPTS {
        match try_to_give(&api, pod, grant).await {
            Err(GrantError::Write(kube::Error::Api(status))) if status.code == 409 => {}
            done => return done,
        }
    }
    Err(GrantError::Changed(grant.claim.1.clone()))
}

async fn try_to_give(
    api: &Api<ResourceClaim>,
    pod: &PodKey,
    grant: &Grant,
) -> Result<(), GrantError> {
    let name = &grant.claim.1;
    let changed = || GrantError::Changed(name.clone());
    let params = PostParams::default();
    let mut claim = api.get(name).await.map_err(GrantError::Write)?;
    if claim.uid().as_ref() != Some(&grant.uid) || claim.metadata.deletion_timestamp.is_some() {
        return Err(changed());
    }
    let known = claim.status.clone().unwrap_or_default().allocation;
    match (&known, &grant.allocation) {
        // Ours, of an attempt of which we did not hear the end.
        (Some(known), Some(ours)) if known != ours => return Err(changed()),
        (None, None) => return Err(changed()),
        _ => {}
    }
    if !claim.finalizers().iter().any(|own| own == PROTECTION) {
        claim.finalizers_mut().push(PROTECTION.to_owned());
        let written = api.replace(name, &params, &claim).await;
        claim = written.map_err(GrantError::Write)?;
    }
    let status = claim.status.get_or_insert_default();
    if status.allocation.is_none() {
        status.allocation.clone_from(&grant.allocation);
    }
    let consumers = status.reserved_for.get_or_insert_default();
    if consumers.iter().any(|consumer| consumer.uid == pod.uid) {
        return Ok(());
    }
    consumers.push(ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".to_owned(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
    });
    let written = api.replace_status(name, &params, &claim).await;
    written.map(drop).map_err(GrantError::Write)
}

/// Takes a claim back from a pod that was not bound after all; with its devices, unless other pods use it. What fails here, the
/// controller of claims puts right when the pod is gone; until then the claim stays where it is.
pub(crate) async fn take_back(client: &Client, pod: &PodKey, grant: &Grant) {
    let api = Api::<ResourceClaim>::namespaced(client.clone(), &grant.claim.0);
    let name = &grant.claim.1;
    for _ in 0..ATTEMPTS {
        let Ok(mut claim) = api.get(name).await else {
            return;
        };
        let is_it = claim.uid().as_ref() == Some(&grant.uid);
        let Some(status) = claim.status.as_mut().filter(|_| is_it) else {
            return;
        };
        let before = status.clone();
        let consumers = status.reserved_for.get_or_insert_default();
        consumers.retain(|consumer| consumer.uid != pod.uid);
        if consumers.is_empty() {
            status.reserved_for = None;
            status.allocation = None;
            status.devices = None;
        }
        if *status == before {
            return;
        }
        let params = PostParams::default();
        match api.replace_status(name, &params, &claim).await {
            Err(kube::Error::Api(answer)) if answer.code == 409 => {}
            Err(error) => return tracing::debug!(claim = name, %error, "cannot take a claim back"),
            Ok(_) => return,
        }
    }
}
