//! Which of the nodes that can take a pod should.
//!
//! Each plugin gives each node up to [`BEST`] points, which count by the plugin's weight in the profile.

use k8s_openapi::api::core::v1::PreferredSchedulingTerm;

use crate::{
    cluster::{Cluster, Facts, Held, NodeIx},
    filter::tolerates,
    plan::{self, Constraint, Plan, Tally},
    pod::Needs,
    profile::{FitStrategy, Plugin, Profile},
    selector::node_term_matches,
};

/// The most points that one plugin gives.
const BEST: i64 = 100;
/// An image of this size or less counts for nothing...
const SMALL_IMAGE: i64 = 23 * 1024 * 1024;
/// ...and one of this size or more counts in full.
const LARGE_IMAGE: i64 = 1000 * 1024 * 1024;

/// The node to take, among those that fit. Equal ones take turns by `turn`, so that equal pods spread.
pub(crate) fn best(
    plan: &Plan<'_>,
    cluster: &Cluster,
    fitting: &[NodeIx],
    turn: usize,
) -> Option<NodeIx> {
    if let [only] = fitting {
        return Some(*only);
    }
    let scores = totals(plan, cluster, fitting);
    let top = *scores.iter().max()?;
    let winners: Vec<_> = fitting
        .iter()
        .zip(&scores)
        .filter(|(_, score)| **score == top)
        .map(|(node, _)| *node)
        .collect();
    winners.get(turn % winners.len().max(1)).copied()
}

/// The points of each node, of all plugins together.
fn totals(plan: &Plan<'_>, cluster: &Cluster, fitting: &[NodeIx]) -> Vec<i64> {
    let mut totals = vec![0_i64; fitting.len()];
    for (plugin, weight) in &plan.profile.scores {
        let Some(points) = points(*plugin, plan, cluster, fitting) else {
            continue;
        };
        for (total, points) in totals.iter_mut().zip(points) {
            *total = total.saturating_add(points.saturating_mul(*weight));
        }
    }
    totals
}

/// The points that one plugin gives; `None` if it has nothing to say.
fn points(
    plugin: Plugin,
    plan: &Plan<'_>,
    cluster: &Cluster,
    fitting: &[NodeIx],
) -> Option<Vec<i64>> {
    let (needs, profile) = (plan.needs, plan.profile);
    let facts = |node: &NodeIx| &*cluster.node(*node).facts;
    let each = |points: &dyn Fn(&Facts, &Held) -> i64| {
        let of = |node: &NodeIx| points(facts(node), &cluster.node(*node).held);
        fitting.iter().map(of).collect::<Vec<_>>()
    };
    match plugin {
        Plugin::TaintToleration => {
            let repelled = each(&|facts, _| repelling(needs, facts));
            // Nobody is repelled anywhere: the same for all, as nothing.
            repelled
                .iter()
                .any(|it| *it > 0)
                .then(|| reversed(repelled))
        }
        Plugin::NodeAffinity => {
            let added = profile.added_affinity.as_ref();
            let added = added.and_then(|it| {
                it.preferred_during_scheduling_ignored_during_execution
                    .as_deref()
            });
            let terms = [&needs.preferred, added.unwrap_or_default()];
            if terms.iter().all(|terms| terms.is_empty()) {
                return None;
            }
            Some(scaled(each(&|facts, _| {
                terms.iter().map(|terms| preference(terms, facts)).sum()
            })))
        }
        Plugin::ImageKind => plan
            .image_kinds
            .is_none()
            .then(|| each(&|facts, _| if facts.runs.both() { BEST } else { 0 })),
        Plugin::NodeResourcesFit => Some(each(&|facts, held| fit(needs, profile, facts, held))),
        Plugin::NodeResourcesBalancedAllocation => (!needs.requested.is_nothing())
            .then(|| each(&|facts, held| balance(needs, profile, facts, held))),
        Plugin::ImageLocality => {
            let total = cluster.nodes().len();
            let known = |image: &String| cluster.nodes_with_image(image) > 0;
            let any = needs.images.iter().any(known);
            any.then(|| each(&|facts, _| locality(needs, cluster, total, facts)))
        }
        Plugin::PodTopologySpread => spread(plan, cluster, fitting),
        Plugin::InterPodAffinity => neighbourhood(plan, cluster, fitting),
        _ => None,
    }
}

/// How many `PreferNoSchedule` taints the pod does not tolerate.
fn repelling(needs: &Needs, node: &Facts) -> i64 {
    let soft = node
        .taints
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule");
    let repels = soft.filter(|taint| !needs.tolerations.iter().any(|it| tolerates(it, taint)));
    count(repels.count())
}

/// The weights of the preferred terms that match.
fn preference(terms: &[PreferredSchedulingTerm], node: &Facts) -> i64 {
    terms
        .iter()
        .filter(|term| node_term_matches(&term.preference, &node.name, &node.labels))
        .map(|term| i64::from(term.weight))
        .sum()
}

/// Points by the share of each resource that would be used.
fn fit(needs: &Needs, profile: &Profile, node: &Facts, held: &Held) -> i64 {
    let (mut sum, mut weights) = (0, 0);
    for (resource, weight) in &profile.fit_resources {
        let Some(used) = used_percent(resource, needs, node, held) else {
            continue;
        };
        let points = match &profile.fit {
            FitStrategy::LeastAllocated if used > BEST => 0,
            FitStrategy::LeastAllocated => BEST - used,
            FitStrategy::MostAllocated => used.min(BEST),
            FitStrategy::RequestedToCapacityRatio(shape) => {
                let points = along(shape, used.min(BEST));
                if points == 0 {
                    continue;
                }
                points
            }
        };
        sum += points * weight;
        weights += weight;
    }
    if weights == 0 { 0 } else { sum / weights }
}

/// How alike the used shares of the resources would be: none should run out long before another.
fn balance(needs: &Needs, profile: &Profile, node: &Facts, held: &Held) -> i64 {
    let resources = profile.balanced_resources.iter();
    let shares: Vec<f64> = resources
        .filter_map(|resource| used_percent(resource, needs, node, held))
        .map(|percent| real(percent.min(BEST)))
        .collect();
    if shares.is_empty() {
        return BEST;
    }
    let mean = shares.iter().sum::<f64>() / real(count(shares.len()));
    let squares: f64 = shares.iter().map(|share| (share - mean).powi(2)).sum();
    let deviation = (squares / real(count(shares.len()))).sqrt();
    BEST - whole(deviation)
}

/// The percentage of a resource that would be used; `None` for one that neither the pod wants nor the node has.
fn used_percent(resource: &str, needs: &Needs, node: &Facts, held: &Held) -> Option<i64> {
    let has = node.allocatable.get(resource);
    let wants = needs.weighed.get(resource);
    let is_extended = !matches!(resource, "cpu" | "memory");
    if has <= 0 || (is_extended && wants == 0) {
        return None;
    }
    let used = held.weighed.get(resource).saturating_add(wants);
    let percent = i128::from(used) * i128::from(BEST) / i128::from(has);
    i64::try_from(percent.clamp(0, i128::from(BEST * BEST))).ok()
}

/// The points at `used` percent on a line through points whose second parts go from 0 to 10.
fn along(shape: &[(i64, i64)], used: i64) -> i64 {
    let scale = BEST / 10;
    let after = shape.iter().position(|(at, _)| *at >= used);
    match after {
        None => shape.last().map_or(0, |(_, points)| points * scale),
        Some(0) => shape.first().map_or(0, |(_, points)| points * scale),
        Some(index) => {
            let ((from, low), (to, high)) = (shape[index - 1], shape[index]);
            let rise = (high - low) * scale * (used - from) / (to - from).max(1);
            low * scale + rise
        }
    }
}

/// Points for images that are there already, less for those that only few nodes have, lest all pods gather there.
fn locality(needs: &Needs, cluster: &Cluster, total: usize, node: &Facts) -> i64 {
    let there = needs.images.iter().filter_map(|image| {
        let size = i128::from(*node.images.get(image)?);
        let nodes = i128::try_from(cluster.nodes_with_image(image)).unwrap_or(0);
        Some(size * nodes / i128::try_from(total.max(1)).unwrap_or(1))
    });
    let sum = i64::try_from(there.sum::<i128>()).unwrap_or(i64::MAX);
    let most = LARGE_IMAGE.saturating_mul(count(needs.containers.max(1)));
    BEST * (sum.clamp(SMALL_IMAGE, most) - SMALL_IMAGE) / (most - SMALL_IMAGE)
}

/// Points for domains in which few of the pod's peers are.
fn spread(plan: &Plan<'_>, cluster: &Cluster, fitting: &[NodeIx]) -> Option<Vec<i64>> {
    let mut soft = plan::constraints(cluster, plan.needs, plan.profile);
    soft.retain(|constraint| !constraint.hard);
    if soft.is_empty() {
        return None;
    }
    // Defaults of the cluster must not count against nodes without zones.
    let must_have_all = !plan.needs.spread.is_empty() || !plan.profile.system_spread;
    let is_out =
        |node: &NodeIx| must_have_all && soft.iter().any(|it| it.topology.domain(*node).is_none());
    let out: Vec<_> = fitting.iter().map(is_out).collect();
    let mut raw = vec![0.0_f64; fitting.len()];
    for constraint in &soft {
        let counted = peers(plan, cluster, constraint, must_have_all.then_some(&soft));
        let weight = domain_weight(constraint, fitting, &out);
        for ((node, sum), out) in fitting.iter().zip(&mut raw).zip(&out) {
            if let (Some(near), false) = (counted.near(*node), out) {
                *sum += real(near) * weight + real(constraint.max_skew - 1);
            }
        }
    }
    let rounded: Vec<_> = raw.iter().map(|sum| whole(sum.round())).collect();
    let counting = || rounded.iter().zip(&out).filter(|(_, out)| !**out);
    let most = counting().map(|(sum, _)| *sum).max().unwrap_or(0);
    let least = counting().map(|(sum, _)| *sum).min().unwrap_or(0);
    let points = |(sum, out): (&i64, &bool)| match (out, most) {
        (true, _) => 0,
        (false, 0) => BEST,
        (false, _) => BEST * (most + least - sum) / most,
    };
    Some(rounded.iter().zip(&out).map(points).collect())
}

/// How many of the pod's peers there are in each domain of a constraint.
fn peers(
    plan: &Plan<'_>,
    cluster: &Cluster,
    constraint: &Constraint,
    all: Option<&Vec<Constraint>>,
) -> Tally {
    let mut tally = Tally::new(cluster, &constraint.topology_key);
    for (identity, on) in cluster.census.sorts(&plan.needs.identity.namespace) {
        if !constraint.peers.has(identity) {
            continue;
        }
        for (node, count) in on {
            let in_all =
                all.is_none_or(|all| all.iter().all(|it| it.topology.domain(*node).is_some()));
            if in_all && constraint.includes(plan.needs, &cluster.node(*node).facts) {
                tally.add(*node, i64::from(*count));
            }
        }
    }
    tally
}

/// The more domains, the less pods in each, the more each of them counts.
fn domain_weight(constraint: &Constraint, fitting: &[NodeIx], out: &[bool]) -> f64 {
    let mut seen = vec![false; constraint.topology.domains()];
    for (node, out) in fitting.iter().zip(out) {
        if let (Some(domain), false) = (constraint.topology.domain(*node), out) {
            seen[domain] = true;
        }
    }
    let domains = seen.iter().filter(|seen| **seen).count();
    (real(count(domains)) + 2.0).ln()
}

/// Points for being near those whom the pod, or who the pod, likes to be with.
fn neighbourhood(plan: &Plan<'_>, cluster: &Cluster, fitting: &[NodeIx]) -> Option<Vec<i64>> {
    let wishes = plan::wishes(cluster, plan.needs, plan.profile);
    if wishes.is_empty() {
        return None;
    }
    let sum = |node: &NodeIx| {
        wishes
            .iter()
            .filter_map(|tally| tally.near(*node))
            .sum::<i64>()
    };
    let sums: Vec<_> = fitting.iter().map(sum).collect();
    let (least, most) = (*sums.iter().min()?, *sums.iter().max()?);
    let range = most - least;
    let points = |sum: &i64| {
        if range == 0 {
            0
        } else {
            BEST * (sum - least) / range
        }
    };
    Some(sums.iter().map(points).collect())
}

/// Points in proportion, the most of them for the greatest.
fn scaled(raw: Vec<i64>) -> Vec<i64> {
    match raw.iter().max() {
        Some(most) if *most > 0 => raw.iter().map(|it| BEST * it / most).collect(),
        _ => raw,
    }
}

/// Points in proportion, none for the greatest.
fn reversed(raw: Vec<i64>) -> Vec<i64> {
    scaled(raw).iter().map(|it| BEST - it).collect()
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Exact for what is counted here.
#[expect(clippy::cast_precision_loss)]
fn real(number: i64) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation)]
fn whole(number: f64) -> i64 {
    number as i64
}

#[cfg(test)]
#[path = "score_tests.rs"]
mod tests;
