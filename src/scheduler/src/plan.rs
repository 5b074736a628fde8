//! What one decision needs to know of the cluster as a whole: worked out once, before nodes are looked at one by one.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    census::{Census, Disposition},
    cluster::{Cluster, Facts, NodeIx},
    devices, filter,
    images::Runs,
    pod::{Identity, Needs, PodInfo, PodKey},
    profile::{Plugin, Profile},
    selector::{Labels, Selector, Target},
    topology::Topology,
    volumes::Wanted,
};

/// The pods that a spread constraint counts.
#[derive(Debug, Clone)]
pub(crate) enum Peers {
    /// Those of its namespace that the selector picks.
    Selected(Selector),
    /// Those that the same object controls.
    Siblings(String),
}

impl Peers {
    /// Whether a pod of the same namespace is one of them. Pods on their way out are not.
    pub(crate) fn has(&self, identity: &Identity) -> bool {
        let is_one = match self {
            Self::Selected(selector) => selector.matches(&identity.labels),
            Self::Siblings(uid) => identity.controller.as_ref() == Some(uid),
        };
        is_one && !identity.terminating
    }
}

/// A constraint by which the pod spreads.
#[derive(Debug, Clone)]
pub(crate) struct Constraint {
    pub(crate) topology: Arc<Topology>,
    pub(crate) topology_key: String,
    pub(crate) max_skew: i64,
    pub(crate) hard: bool,
    pub(crate) peers: Peers,
    pub(crate) min_domains: i64,
    pub(crate) honours_affinity: bool,
    pub(crate) honours_taints: bool,
}

/// How the pods that a hard constraint counts are spread now.
#[derive(Debug, Clone)]
pub(crate) struct Skew {
    pub(crate) constraint: Constraint,
    /// By domain; `None` for domains that do not count.
    counts: Vec<Option<i64>>,
    /// The least of them, or 0 if there are fewer domains than there should be.
    least: i64,
    /// 1 if the pod itself will count, 0 if not.
    itself: i64,
}

impl Skew {
    fn of(
        cluster: &Cluster,
        needs: &Needs,
        constraint: Constraint,
        keys: &[Arc<Topology>],
    ) -> Self {
        let topology = &constraint.topology;
        let mut counts = vec![None; topology.domains()];
        for node in cluster.nodes() {
            let facts = &cluster.node(*node).facts;
            if let Some(domain) = topology.domain(*node)
                && keys.iter().all(|it| it.domain(*node).is_some())
                && constraint.includes(needs, facts)
            {
                counts[domain].get_or_insert(0);
            }
        }
        for (identity, on) in cluster.census.sorts(&needs.identity.namespace) {
            if !constraint.peers.has(identity) {
                continue;
            }
            for (node, count) in on {
                let facts = &cluster.node(*node).facts;
                if let Some(domain) = topology.domain(*node)
                    && keys.iter().all(|it| it.domain(*node).is_some())
                    && constraint.includes(needs, facts)
                    && let Some(Some(sum)) = counts.get_mut(domain)
                {
                    *sum += i64::from(*count);
                }
            }
        }
        let itself = i64::from(constraint.peers.has(&needs.identity));
        let mut skew = Self {
            constraint,
            counts,
            least: 0,
            itself,
        };
        skew.find_least();
        skew
    }

    fn find_least(&mut self) {
        let counting = self.counts.iter().flatten();
        let domains = i64::try_from(counting.clone().count()).unwrap_or(i64::MAX);
        self.least = if domains < self.constraint.min_domains {
            0
        } else {
            counting.min().copied().unwrap_or(0)
        };
    }

    /// How uneven it would be with the pod on `node`; `None` if the node is in no domain.
    pub(crate) fn with_pod_on(&self, node: NodeIx) -> Option<i64> {
        let domain = self.constraint.topology.domain(node)?;
        let there = self.counts.get(domain).copied().flatten().unwrap_or(0);
        Some(there + self.itself - self.least)
    }

    fn shift(&mut self, needs: &Needs, other: &Identity, node: NodeIx, facts: &Facts, by: i64) {
        if other.namespace != needs.identity.namespace
            || !self.constraint.peers.has(other)
            || !self.constraint.includes(needs, facts)
        {
            return;
        }
        let domain = self.constraint.topology.domain(node);
        if let Some(Some(count)) = domain.and_then(|domain| self.counts.get_mut(domain)) {
            *count += by;
            self.find_least();
        }
    }
}

impl Constraint {
    /// Whether the pods of a node count at all.
    pub(crate) fn includes(&self, needs: &Needs, node: &Facts) -> bool {
        (!self.honours_affinity || filter::is_selected(needs, node))
            && (!self.honours_taints || filter::untolerated(needs, node).is_none())
    }
}

/// How many pods of some sort there are in each domain.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    pub(crate) topology: Arc<Topology>,
    topology_key: String,
    counts: Vec<i64>,
}

impl Tally {
    /// None of them anywhere yet.
    pub(crate) fn new(cluster: &Cluster, topology_key: &str) -> Self {
        let topology = cluster.topology(topology_key);
        Self {
            counts: vec![0; topology.domains()],
            topology_key: topology_key.to_owned(),
            topology,
        }
    }

    pub(crate) fn add(&mut self, node: NodeIx, count: i64) {
        let domain = self.topology.domain(node);
        if let Some(sum) = domain.and_then(|domain| self.counts.get_mut(domain)) {
            *sum += count;
        }
    }

    /// How many there are in the domain of `node`; `None` if it is in none.
    pub(crate) fn near(&self, node: NodeIx) -> Option<i64> {
        let domain = self.topology.domain(node)?;
        Some(self.counts.get(domain).copied().unwrap_or(0))
    }

    fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count <= 0)
    }
}

/// Tallies by topology key, made as they are needed.
fn tally<'t>(tallies: &'t mut Vec<Tally>, cluster: &Cluster, key: &str) -> &'t mut Tally {
    let known = tallies.iter().position(|it| it.topology_key == key);
    let index = known.unwrap_or_else(|| {
        tallies.push(Tally::new(cluster, key));
        tallies.len() - 1
    });
    &mut tallies[index]
}

/// The pods that decide by their nearness.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nearness {
    /// Pods that all of the pod's required terms pick, for each of the terms.
    required: Vec<Tally>,
    /// Whether the pod itself is one of those.
    picks_itself: bool,
    /// Pods that the pod's forbidding terms pick, for each of the terms.
    forbidden: Vec<Tally>,
    /// Pods that forbid this one to be near.
    forbidding: Vec<Tally>,
}

impl Nearness {
    fn of(cluster: &Cluster, needs: &Needs) -> Self {
        let census = &cluster.census;
        let own = &needs.identity;
        let company = &needs.company;
        let mut near = Self::default();
        for term in &company.required {
            near.required.push(Tally::new(cluster, &term.topology_key));
        }
        let targets = targets(needs);
        near.picks_itself = targets.iter().all(|target| census.picks(target, own));
        for (_, on) in census.picked(&targets) {
            for (node, count) in on {
                for tally in &mut near.required {
                    tally.add(*node, i64::from(*count));
                }
            }
        }
        for term in &company.forbidden {
            let mut tally = Tally::new(cluster, &term.topology_key);
            for (_, on) in census.picked(&[&term.target]) {
                for (node, count) in on {
                    tally.add(*node, i64::from(*count));
                }
            }
            near.forbidden.push(tally);
        }
        for (disposition, term, on) in census.about(own) {
            if disposition == Disposition::Forbids {
                let tally = tally(&mut near.forbidding, cluster, &term.topology_key);
                for (node, count) in on {
                    tally.add(*node, i64::from(*count));
                }
            }
        }
        near
    }

    fn shift(&mut self, cluster: &Cluster, needs: &Needs, other: &Needs, node: NodeIx, by: i64) {
        let census = &cluster.census;
        let targets = targets(needs);
        if !targets.is_empty() && targets.iter().all(|it| census.picks(it, &other.identity)) {
            for tally in &mut self.required {
                tally.add(node, by);
            }
        }
        for (term, tally) in needs.company.forbidden.iter().zip(&mut self.forbidden) {
            if census.picks(&term.target, &other.identity) {
                tally.add(node, by);
            }
        }
        for term in &other.company.forbidden {
            if census.picks(&term.target, &needs.identity) {
                tally(&mut self.forbidding, cluster, &term.topology_key).add(node, by);
            }
        }
    }

    /// Whether everybody whom the pod must be with is near `node`. The first of a group that must be together finds
    /// nobody, and is let in.
    pub(crate) fn has_required(&self, node: NodeIx) -> bool {
        let near: Option<Vec<_>> = self.required.iter().map(|tally| tally.near(node)).collect();
        let Some(near) = near else {
            return false;
        };
        near.iter().all(|count| *count > 0)
            || (self.picks_itself && self.required.iter().all(Tally::is_empty))
    }

    /// Whether somebody whom the pod must not be with is near `node`.
    pub(crate) fn has_forbidden(&self, node: NodeIx) -> bool {
        any_near(&self.forbidden, node)
    }

    /// Whether somebody is near `node` who must not be with the pod.
    pub(crate) fn is_forbidden(&self, node: NodeIx) -> bool {
        any_near(&self.forbidding, node)
    }
}

fn any_near(tallies: &[Tally], node: NodeIx) -> bool {
    tallies
        .iter()
        .any(|tally| tally.near(node).is_some_and(|count| count > 0))
}

fn targets(needs: &Needs) -> Vec<&Target> {
    let required = needs.company.required.iter();
    required.map(|term| &term.target).collect()
}

/// What one decision needs to know. [`Plan::shift`] answers "what if that pod were (not) there".
#[derive(Debug, Clone)]
pub(crate) struct Plan<'a> {
    pub(crate) key: &'a PodKey,
    pub(crate) needs: &'a Needs,
    pub(crate) profile: &'a Profile,
    pub(crate) skews: Vec<Skew>,
    pub(crate) nearness: Nearness,
    pub(crate) wanted: Wanted,
    /// Nothing, if the pod claims no devices.
    pub(crate) devices: Option<devices::Wanted>,
    pub(crate) image_kinds: Option<Runs>,
}

impl<'a> Plan<'a> {
    /// Prepares a decision; an error is why no node can be asked at all, and who says so.
    pub(crate) fn new(
        cluster: &Cluster,
        pod: &'a PodInfo,
        profile: &'a Profile,
    ) -> Result<Self, (Plugin, String)> {
        let needs = &*pod.needs;
        let uses = |plugin| profile.filters.has(plugin);
        let wanted = if uses(Plugin::VolumeBinding) && !needs.claims.is_empty() {
            let wanted = cluster.volumes.wanted(needs);
            wanted.map_err(|why| (Plugin::VolumeBinding, why))?
        } else {
            Wanted::default()
        };
        let devices = if uses(Plugin::DynamicResources) && !needs.device_claims.is_empty() {
            let devices = cluster.devices.wanted(&pod.key, needs);
            Some(devices.map_err(|why| (Plugin::DynamicResources, why))?)
        } else {
            None
        };
        let skews = if uses(Plugin::PodTopologySpread) {
            let mut hard = constraints(cluster, needs, profile);
            hard.retain(|constraint| constraint.hard);
            let keys: Vec<_> = hard.iter().map(|it| Arc::clone(&it.topology)).collect();
            hard.into_iter()
                .map(|constraint| Skew::of(cluster, needs, constraint, &keys))
                .collect()
        } else {
            Vec::new()
        };
        Ok(Self {
            key: &pod.key,
            needs,
            profile,
            skews,
            nearness: if uses(Plugin::InterPodAffinity) {
                Nearness::of(cluster, needs)
            } else {
                Nearness::default()
            },
            wanted,
            devices,
            image_kinds: if uses(Plugin::ImageKind) {
                cluster.image_kinds(needs)
            } else {
                None
            },
        })
    }

    /// Reckons with `by` pods more (or less, if negative) of this sort on `node`.
    pub(crate) fn shift(&mut self, cluster: &Cluster, other: &Needs, node: NodeIx, by: i64) {
        let facts = Arc::clone(&cluster.node(node).facts);
        for skew in &mut self.skews {
            skew.shift(self.needs, &other.identity, node, &facts, by);
        }
        if self.profile.filters.has(Plugin::InterPodAffinity) {
            self.nearness.shift(cluster, self.needs, other, node, by);
        }
    }

    /// Reckons with the claims that these pods leave free when they go.
    pub(crate) fn without(&mut self, cluster: &Cluster, gone: &BTreeSet<PodKey>) {
        self.wanted.taken = cluster.volumes.are_taken(&self.wanted, gone);
    }
}

/// The constraints by which a pod spreads: its own, or else the profile's.
pub(crate) fn constraints(cluster: &Cluster, needs: &Needs, profile: &Profile) -> Vec<Constraint> {
    if !needs.spread.is_empty() {
        let own = needs.spread.iter().map(|it| Constraint {
            topology: cluster.topology(&it.topology_key),
            topology_key: it.topology_key.clone(),
            max_skew: it.max_skew,
            hard: it.hard,
            peers: Peers::Selected(it.selector.clone()),
            min_domains: it.min_domains.unwrap_or(1),
            honours_affinity: it.honours_affinity,
            honours_taints: it.honours_taints,
        });
        return own.collect();
    }
    if profile.default_spread.is_empty() {
        return Vec::new();
    }
    let Some(peers) = default_peers(cluster, needs) else {
        return Vec::new();
    };
    let defaults = profile.default_spread.iter().map(|it| Constraint {
        topology: cluster.topology(&it.topology_key),
        topology_key: it.topology_key.clone(),
        max_skew: it.max_skew,
        hard: it.hard,
        peers: peers.clone(),
        min_domains: 1,
        honours_affinity: true,
        honours_taints: false,
    });
    defaults.collect()
}

/// Who belongs together without saying so: the pods of one controller, or of the same Services.
fn default_peers(cluster: &Cluster, needs: &Needs) -> Option<Peers> {
    let own = &needs.identity;
    if let Some(uid) = &own.controller {
        return Some(Peers::Siblings(uid.clone()));
    }
    let labels: Labels = cluster.services.selecting(own);
    (!labels.is_empty()).then(|| Peers::Selected(Selector::of_labels(&labels)))
}

/// What speaks for or against the neighbourhood of a node, by the wishes of the pod and of those that are there.
pub(crate) fn wishes(cluster: &Cluster, needs: &Needs, profile: &Profile) -> Vec<Tally> {
    let mut wishes = Vec::new();
    let census: &Census = &cluster.census;
    for (weight, term) in &needs.company.preferred {
        let targets = [&term.target];
        for (_, on) in census.picked(&targets) {
            let tally = tally(&mut wishes, cluster, &term.topology_key);
            for (node, count) in on {
                tally.add(*node, weight * i64::from(*count));
            }
        }
    }
    for (disposition, term, on) in census.about(&needs.identity) {
        let weight = match disposition {
            Disposition::Requires => profile.hard_affinity_weight,
            Disposition::Prefers(weight) if !profile.ignore_others_preferences => weight,
            Disposition::Prefers(_) | Disposition::Forbids => 0,
        };
        if weight != 0 {
            let tally = tally(&mut wishes, cluster, &term.topology_key);
            for (node, count) in on {
                tally.add(*node, weight * i64::from(*count));
            }
        }
    }
    wishes
}
