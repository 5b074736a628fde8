//! Claims and volumes: which nodes can reach a pod's storage, and what has to be bound before it can go there.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::{
    api::{
        core::v1::{NodeSelector, PersistentVolume, PersistentVolumeClaim},
        storage::v1::{CSINode, StorageClass},
    },
    apimachinery::pkg::api::resource::Quantity,
};
use vaquita_api::quantity;

use crate::{
    cluster::Facts,
    filter::Refusal,
    pod::{ClaimOrigin, Needs, PodInfo, PodKey},
    selector::{Labels, Selector, node_matches},
};

/// The annotation that tells a provisioner for which node a volume is wanted.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes are made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Labels of volumes that must be equal on the node, whose values may list several.
const ZONE_LABELS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// Names a claim: its namespace and its name.
pub(crate) type ClaimKey = (String, String);

#[derive(Debug, Clone, PartialEq)]
struct Claim {
    uid: String,
    /// The volume it is bound to.
    volume: Option<String>,
    lost: bool,
    deleted: bool,
    class: String,
    modes: Vec<String>,
    size: i64,
    block: bool,
    /// `None`: any volume will do.
    selector: Option<Selector>,
    selected_node: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Volume {
    class: String,
    modes: Vec<String>,
    size: i64,
    block: bool,
    labels: Labels,
    affinity: Option<NodeSelector>,
    /// Whose it is, or is kept for.
    claim: Option<(ClaimKey, Option<String>)>,
    available: bool,
    driver: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Class {
    waits_for_consumer: bool,
    provisions: bool,
    /// Alternatives: label and allowed values, all of which must hold.
    topologies: Vec<Vec<(String, Vec<String>)>>,
}

/// What has to be done before a pod with unbound claims can be bound itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The volume is kept for the claim.
    Keep {
        volume: String,
        claim: ClaimKey,
        uid: String,
    },
    /// A volume is to be made for the claim, where this node can reach it.
    Provision { claim: ClaimKey, node: String },
}

/// Everything about storage.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    claims: HashMap<ClaimKey, Claim>,
    persistent: HashMap<String, Volume>,
    classes: HashMap<String, Class>,
    /// How many volumes of each driver can be on a node, by node.
    limits: HashMap<String, HashMap<String, i64>>,
    /// Volumes that were just given away, until the API server says so too.
    assumed: HashMap<String, ClaimKey>,
    /// Which placed pods use a claim.
    users: HashMap<ClaimKey, BTreeSet<PodKey>>,
}

/// What a pod's claims ask of nodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Wanted {
    /// Volumes that the pod's claims are bound to.
    bound: Vec<String>,
    /// Claims whose volume is chosen with the node.
    open: Vec<ClaimKey>,
    /// Whether another pod uses a claim that no two may.
    pub(crate) taken: bool,
    /// Those that no two pods may use.
    exclusive: Vec<ClaimKey>,
    /// All of its claims.
    all: Vec<ClaimKey>,
}

impl Wanted {
    /// Whether nodes have to be asked at all.
    pub(crate) fn is_nothing(&self) -> bool {
        self.all.is_empty()
    }
}

impl Volumes {
    /// Forgets all claims: their list comes anew.
    pub(crate) fn clear_claims(&mut self) {
        self.claims.clear();
    }

    /// Forgets all volumes: their list comes anew.
    pub(crate) fn clear_volumes(&mut self) {
        self.persistent.clear();
    }

    /// Forgets all classes: their list comes anew.
    pub(crate) fn clear_classes(&mut self) {
        self.classes.clear();
    }

    /// Forgets all limits: their list comes anew.
    pub(crate) fn clear_limits(&mut self) {
        self.limits.clear();
    }

    pub(crate) fn set_claim(&mut self, claim: &PersistentVolumeClaim) {
        let (Some(spec), key) = (claim.spec.as_ref(), claim_key(claim)) else {
            return;
        };
        let annotations = claim.metadata.annotations.as_ref();
        let phase = claim.status.as_ref().and_then(|it| it.phase.as_deref());
        let requests = spec.resources.as_ref().and_then(|it| it.requests.as_ref());
        let new = Claim {
            uid: claim.metadata.uid.clone().unwrap_or_default(),
            volume: spec.volume_name.clone().filter(|name| !name.is_empty()),
            lost: phase == Some("Lost"),
            deleted: claim.metadata.deletion_timestamp.is_some(),
            class: spec.storage_class_name.clone().unwrap_or_default(),
            modes: spec.access_modes.clone().unwrap_or_default(),
            size: bytes(requests.and_then(|it| it.get("storage"))),
            block: spec.volume_mode.as_deref() == Some("Block"),
            selector: spec.selector.as_ref().map(|it| Selector::of(Some(it))),
            selected_node: annotations.and_then(|it| it.get(SELECTED_NODE)).cloned(),
        };
        self.claims.insert(key, new);
    }

    pub(crate) fn remove_claim(&mut self, claim: &PersistentVolumeClaim) {
        self.claims.remove(&claim_key(claim));
    }

    pub(crate) fn set_volume(&mut self, volume: &PersistentVolume) {
        let name = volume.metadata.name.clone().unwrap_or_default();
        let Some(spec) = volume.spec.as_ref() else {
            return;
        };
        let phase = volume.status.as_ref().and_then(|it| it.phase.as_deref());
        let claim = spec.claim_ref.as_ref().map(|it| {
            let key = (
                it.namespace.clone().unwrap_or_default(),
                it.name.clone().unwrap_or_default(),
            );
            (key, it.uid.clone())
        });
        if claim.is_some() {
            self.assumed.remove(&name);
        }
        let new = Volume {
            class: spec.storage_class_name.clone().unwrap_or_default(),
            modes: spec.access_modes.clone().unwrap_or_default(),
            size: bytes(spec.capacity.as_ref().and_then(|it| it.get("storage"))),
            block: spec.volume_mode.as_deref() == Some("Block"),
            labels: volume.metadata.labels.clone().unwrap_or_default(),
            affinity: spec
                .node_affinity
                .as_ref()
                .and_then(|it| it.required.clone()),
            claim,
            available: volume.metadata.deletion_timestamp.is_none()
                && matches!(phase, None | Some("" | "Available" | "Pending")),
            driver: spec.csi.as_ref().map(|csi| csi.driver.clone()),
        };
        self.persistent.insert(name, new);
    }

    pub(crate) fn remove_volume(&mut self, volume: &PersistentVolume) {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        self.persistent.remove(name);
        self.assumed.remove(name);
    }

    pub(crate) fn set_class(&mut self, class: &StorageClass) {
        let allowed = class.allowed_topologies.iter().flatten();
        let topologies = allowed
            .map(|term| {
                let labels = term.match_label_expressions.iter().flatten();
                labels
                    .map(|it| (it.key.clone(), it.values.clone()))
                    .collect()
            })
            .collect();
        let new = Class {
            waits_for_consumer: class.volume_binding_mode.as_deref()
                == Some("WaitForFirstConsumer"),
            provisions: !class.provisioner.is_empty() && class.provisioner != NO_PROVISIONER,
            topologies,
        };
        let name = class.metadata.name.clone().unwrap_or_default();
        self.classes.insert(name, new);
    }

    pub(crate) fn remove_class(&mut self, class: &StorageClass) {
        self.classes
            .remove(class.metadata.name.as_deref().unwrap_or_default());
    }

    pub(crate) fn set_csi_node(&mut self, node: &CSINode) {
        let limit = |driver: &k8s_openapi::api::storage::v1::CSINodeDriver| {
            let count = driver.allocatable.as_ref()?.count?;
            Some((driver.name.clone(), i64::from(count)))
        };
        let limits = node.spec.drivers.iter().filter_map(limit).collect();
        let name = node.metadata.name.clone().unwrap_or_default();
        self.limits.insert(name, limits);
    }

    pub(crate) fn remove_csi_node(&mut self, node: &CSINode) {
        self.limits
            .remove(node.metadata.name.as_deref().unwrap_or_default());
    }

    pub(crate) fn use_claims(&mut self, pod: &PodInfo) {
        for claim in keys(&pod.needs) {
            self.users.entry(claim).or_default().insert(pod.key.clone());
        }
    }

    pub(crate) fn leave_claims(&mut self, pod: &PodInfo) {
        for claim in keys(&pod.needs) {
            if let Some(users) = self.users.get_mut(&claim) {
                users.remove(&pod.key);
                if users.is_empty() {
                    self.users.remove(&claim);
                }
            }
        }
    }

    /// What the pod's claims ask of nodes; an error is why no node can be asked yet.
    pub(crate) fn wanted(&self, needs: &Needs) -> Result<Wanted, String> {
        let mut wanted = Wanted::default();
        let mut waits = false;
        for ((_, origin), key) in needs.claims.iter().zip(keys(needs)) {
            let claim = self
                .claims
                .get(&key)
                .ok_or_else(|| missing(&key.1, *origin))?;
            if claim.lost {
                return Err(format!(
                    "persistentvolumeclaim {:?} bound to non-existent persistentvolume {:?}",
                    key.1,
                    claim.volume.as_deref().unwrap_or_default()
                ));
            }
            if claim.deleted {
                return Err(format!(
                    "persistentvolumeclaim {:?} is being deleted",
                    key.1
                ));
            }
            let exclusive = claim.modes.iter().any(|mode| mode == "ReadWriteOncePod");
            if exclusive {
                wanted.exclusive.push(key.clone());
            }
            let class = self.classes.get(&claim.class);
            match &claim.volume {
                Some(volume) => wanted.bound.push(volume.clone()),
                None if class.is_some_and(|class| class.waits_for_consumer) => {
                    wanted.open.push(key.clone());
                }
                None => waits = true,
            }
            wanted.all.push(key);
        }
        if waits {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        wanted.taken = self.are_taken(&wanted, &BTreeSet::new());
        Ok(wanted)
    }

    /// Whether a pod other than those that are `gone` uses a claim that no two may.
    pub(crate) fn are_taken(&self, wanted: &Wanted, gone: &BTreeSet<PodKey>) -> bool {
        let mut users = wanted
            .exclusive
            .iter()
            .filter_map(|key| self.users.get(key));
        users.any(|users| !users.is_subset(gone))
    }

    /// Why a node cannot take a pod whose claims ask this.
    pub(crate) fn refusal(&self, wanted: &Wanted, node: &Facts) -> Option<Refusal<'static>> {
        for name in &wanted.bound {
            let Some(volume) = self.persistent.get(name) else {
                return Some(Refusal::VolumeGone);
            };
            if !volume.reachable_from(node) {
                return Some(Refusal::VolumeElsewhere);
            }
        }
        self.steps(wanted, node)
            .is_none()
            .then_some(Refusal::NoVolume)
    }

    /// Whether a bound volume is in another zone.
    pub(crate) fn in_other_zone(&self, wanted: &Wanted, node: &Facts) -> bool {
        let differs = |volume: &Volume| {
            ZONE_LABELS.iter().any(|label| {
                let has = node.labels.get(*label);
                let wants = volume.labels.get(*label);
                // Nodes without any zone are in all of them.
                wants
                    .zip(has)
                    .is_some_and(|(wants, has)| !wants.split("__").any(|it| it == has))
            })
        };
        let volumes = wanted
            .bound
            .iter()
            .filter_map(|name| self.persistent.get(name));
        volumes.into_iter().any(differs)
    }

    /// Whether a driver would have more volumes on the node than it can, given the claims of the pods there.
    pub(crate) fn exceeds_limits<'c>(
        &self,
        wanted: &Wanted,
        node: &Facts,
        there: impl Iterator<Item = &'c Needs>,
    ) -> bool {
        let Some(limits) = self.limits.get(&node.name).filter(|it| !it.is_empty()) else {
            return false;
        };
        let driver_of = |key: &ClaimKey| {
            let volume = self.claims.get(key)?.volume.as_ref()?;
            let driver = self.persistent.get(volume)?.driver.as_ref()?;
            Some((driver.as_str(), volume.as_str()))
        };
        let there: Vec<_> = there.flat_map(keys).collect();
        let attached: BTreeSet<_> = there.iter().filter_map(driver_of).collect();
        let new: BTreeSet<_> = wanted.all.iter().filter_map(driver_of).collect();
        limits.iter().any(|(driver, limit)| {
            let of = |set: &BTreeSet<(&str, &str)>| set.iter().filter(|it| it.0 == driver).count();
            let all: BTreeSet<_> = attached.union(&new).copied().collect();
            of(&all) > of(&attached) && i64::try_from(of(&all)).is_ok_and(|count| count > *limit)
        })
    }

    /// What has to be done so that the pod's open claims are bound for this node; `None` if nothing can.
    pub(crate) fn steps(&self, wanted: &Wanted, node: &Facts) -> Option<Vec<Step>> {
        let mut steps = Vec::new();
        let mut kept = BTreeSet::new();
        for key in &wanted.open {
            let claim = self.claims.get(key)?;
            let class = self.classes.get(&claim.class)?;
            let provision = || Step::Provision {
                claim: key.clone(),
                node: node.name.clone(),
            };
            if let Some(selected) = &claim.selected_node {
                if *selected != node.name {
                    return None;
                }
                steps.push(provision());
            } else if let Some(volume) = self.smallest(key, claim, node, &kept) {
                kept.insert(volume.to_owned());
                steps.push(Step::Keep {
                    volume: volume.to_owned(),
                    claim: key.clone(),
                    uid: claim.uid.clone(),
                });
            } else if class.provisions && class.allows(node) {
                steps.push(provision());
            } else {
                return None;
            }
        }
        Some(steps)
    }

    /// The steps are being taken: nobody else gets those volumes.
    pub(crate) fn assume(&mut self, steps: &[Step]) {
        for step in steps {
            if let Step::Keep { volume, claim, .. } = step {
                self.assumed.insert(volume.clone(), claim.clone());
            }
        }
    }

    /// The steps failed.
    pub(crate) fn forget(&mut self, steps: &[Step]) {
        for step in steps {
            if let Step::Keep { volume, .. } = step {
                self.assumed.remove(volume);
            }
        }
    }

    fn smallest<'v>(
        &'v self,
        key: &ClaimKey,
        claim: &Claim,
        node: &Facts,
        kept: &BTreeSet<String>,
    ) -> Option<&'v str> {
        let fits = |(name, volume): &(&String, &Volume)| {
            let kept_for_it = volume.claim.as_ref().is_some_and(|(owner, uid)| {
                owner == key && uid.as_ref().is_none_or(|uid| *uid == claim.uid)
            });
            let assumed = self.assumed.get(*name);
            let is_free = kept_for_it
                || assumed == Some(key)
                || (volume.claim.is_none() && volume.available && assumed.is_none());
            is_free && !kept.contains(*name) && volume.suits(claim) && volume.reachable_from(node)
        };
        let all = self.persistent.iter().filter(fits);
        let best = all.min_by_key(|(name, volume)| (volume.claim.is_none(), volume.size, *name));
        best.map(|(name, _)| name.as_str())
    }
}

impl Volume {
    fn reachable_from(&self, node: &Facts) -> bool {
        self.affinity
            .as_ref()
            .is_none_or(|affinity| node_matches(affinity, &node.name, &node.labels))
    }

    fn suits(&self, claim: &Claim) -> bool {
        self.class == claim.class
            && self.block == claim.block
            && self.size >= claim.size
            && claim.modes.iter().all(|mode| self.modes.contains(mode))
            && claim
                .selector
                .as_ref()
                .is_none_or(|selector| selector.matches(&self.labels))
    }
}

impl Class {
    fn allows(&self, node: &Facts) -> bool {
        let holds = |(key, values): &(String, Vec<String>)| {
            node.labels.get(key).is_some_and(|it| values.contains(it))
        };
        self.topologies.is_empty() || self.topologies.iter().any(|all| all.iter().all(holds))
    }
}

fn missing(name: &str, origin: ClaimOrigin) -> String {
    match origin {
        ClaimOrigin::Given => format!("persistentvolumeclaim {name:?} not found"),
        ClaimOrigin::Ephemeral => format!(
            "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
        ),
    }
}

fn keys(needs: &Needs) -> impl Iterator<Item = ClaimKey> {
    let namespace = &needs.identity.namespace;
    needs
        .claims
        .iter()
        .map(move |(name, _)| (namespace.clone(), name.clone()))
}

fn claim_key(claim: &PersistentVolumeClaim) -> ClaimKey {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    (text(&claim.metadata.namespace), text(&claim.metadata.name))
}

fn bytes(quantity: Option<&Quantity>) -> i64 {
    quantity
        .and_then(|it| it.0.parse::<quantity::Quantity>().ok())
        .map_or(0, quantity::Quantity::value)
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
