//! Making room: which less important pods must go so that a more important one can come.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use jiff::Timestamp;

use crate::{
    cluster::{Cluster, Held, NodeIx},
    filter::{self, Diagnosis, Reasons, Site},
    plan::Plan,
    pod::{PodInfo, PodKey},
};

/// Whom to send away, and from where.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) node: NodeIx,
    pub(crate) victims: Vec<Arc<PodInfo>>,
    /// How many of them a disruption budget would have kept.
    violations: usize,
}

/// What came of the search for room.
#[derive(Debug)]
pub(crate) enum Search {
    Found(Room),
    /// The pod has to wait for room that is being made; in the words for it.
    BeingMade(String),
    /// There is none to be made, and why.
    Nothing(String),
}

/// Looks for the node where making room costs least. `start` is where the search begins in a large cluster.
pub(crate) fn search(
    plan: &Plan<'_>,
    cluster: &Cluster,
    pod: &PodInfo,
    diagnosis: &Diagnosis,
    start: usize,
) -> Search {
    if pod.needs.never_preempts {
        return Search::Nothing("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if is_being_made(cluster, pod) {
        return Search::BeingMade(
            "not eligible due to terminating pod on the nominated node.".to_owned(),
        );
    }
    let total = cluster.nodes().len();
    let mut reasons = Reasons::default();
    reasons.add_many(
        "Preemption is not helpful for scheduling".to_owned(),
        total - diagnosis.hopeful.len(),
    );
    let (percent, least) = plan.profile.candidates;
    let enough = (diagnosis.hopeful.len() * percent / 100).max(least);
    let mut rooms: Vec<Room> = Vec::new();
    let hopeful = &diagnosis.hopeful;
    let from = start.checked_rem(hopeful.len()).unwrap_or(0);
    for node in hopeful.iter().cycle().skip(from).take(hopeful.len()) {
        match room(plan, cluster, *node) {
            Ok(room) => rooms.push(room),
            Err(why) => why.into_iter().for_each(|why| reasons.add(why)),
        }
        if rooms.len() >= enough && rooms.iter().any(|room| room.violations == 0) {
            break;
        }
    }
    match rooms.into_iter().min_by_key(Room::cost) {
        Some(room) => Search::Found(room),
        None => Search::Nothing(reasons.sentence(total)),
    }
}

/// Whether room is being made for the pod already: somebody less important is on the way out.
fn is_being_made(cluster: &Cluster, pod: &PodInfo) -> bool {
    let node = cluster.nomination_of(&pod.key);
    let node = node.and_then(|name| cluster.node_named(name));
    node.is_some_and(|node| {
        cluster
            .pods_of(node)
            .any(|other| other.identity().terminating && other.needs.priority < pod.needs.priority)
    })
}

/// What a node would cost: in this order, budgets overdrawn, the most important victim, all their importance, their
/// number, and how long the most important of them have run.
type Cost = (usize, i32, i64, usize, Reverse<Option<Timestamp>>);

impl Room {
    fn cost(&self) -> Cost {
        let priorities = || self.victims.iter().map(|victim| victim.needs.priority);
        let highest = priorities().max().unwrap_or(i32::MIN);
        // Shifted, so that more victims never make less.
        let sum = priorities()
            .map(|priority| i64::from(priority) + i64::from(i32::MAX) + 1)
            .sum();
        let important = self
            .victims
            .iter()
            .filter(|victim| victim.needs.priority == highest);
        let earliest = important.filter_map(|victim| victim.started).min();
        (
            self.violations,
            highest,
            sum,
            self.victims.len(),
            Reverse(earliest),
        )
    }
}

/// The fewest and least important pods whose leaving lets the pod in; an error is why that is impossible.
fn room(plan: &Plan<'_>, cluster: &Cluster, node: NodeIx) -> Result<Room, Vec<String>> {
    let priority = plan.needs.priority;
    let less_important = |pod: &&Arc<PodInfo>| pod.needs.priority < priority;
    let mut lesser: Vec<_> = cluster
        .pods_of(node)
        .filter(less_important)
        .cloned()
        .collect();
    if lesser.is_empty() {
        return Err(vec![
            "No preemption victims found for incoming pod".to_owned(),
        ]);
    }
    // The more important, and the longer it has run, the sooner it is let back in.
    lesser.sort_by(|a, b| {
        let rank = |pod: &PodInfo| {
            (
                Reverse(pod.needs.priority),
                pod.started.is_none(),
                pod.started,
            )
        };
        rank(a).cmp(&rank(b)).then_with(|| a.key.cmp(&b.key))
    });
    let mut trial = Trial::new(plan, cluster, node);
    for pod in &lesser {
        trial.shift(pod, -1);
    }
    let refusals = trial.refusals();
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let mut budgets = cluster.budgets.left();
    let (guarded, free): (Vec<_>, Vec<_>) = lesser
        .into_iter()
        .partition(|pod| budgets.overdraws(&pod.key, pod.identity()));
    let mut victims = Vec::new();
    let mut violations = 0;
    for (pod, is_guarded) in guarded
        .into_iter()
        .map(|pod| (pod, true))
        .chain(free.into_iter().map(|pod| (pod, false)))
    {
        trial.shift(&pod, 1);
        if trial.fits() {
            continue;
        }
        trial.shift(&pod, -1);
        violations += usize::from(is_guarded);
        victims.push(pod);
    }
    if victims.is_empty() {
        return Err(vec![
            "No preemption victims found for incoming pod".to_owned(),
        ]);
    }
    Ok(Room {
        node,
        victims,
        violations,
    })
}

/// A node as it would be without some of its pods.
struct Trial<'c, 'p> {
    cluster: &'c Cluster,
    plan: Plan<'p>,
    node: NodeIx,
    held: Held,
    gone: BTreeSet<PodKey>,
}

impl<'c, 'p> Trial<'c, 'p> {
    fn new(plan: &Plan<'p>, cluster: &'c Cluster, node: NodeIx) -> Self {
        let mut trial = Self {
            cluster,
            plan: plan.clone(),
            node,
            held: cluster.node(node).held.clone(),
            gone: BTreeSet::new(),
        };
        for rival in cluster.nominated_on(node) {
            if rival.needs.priority >= plan.needs.priority && rival.key != *plan.key {
                trial.shift(rival, 1);
            }
        }
        trial
    }

    fn shift(&mut self, pod: &PodInfo, by: i64) {
        if by > 0 {
            self.held.take(&pod.needs);
            self.gone.remove(&pod.key);
        } else {
            self.held.give_back(&pod.needs);
            self.gone.insert(pod.key.clone());
        }
        self.plan.shift(self.cluster, &pod.needs, self.node, by);
        self.plan.without(self.cluster, &self.gone);
    }

    fn site(&self) -> Site<'_> {
        Site {
            held: &self.held,
            ..Site::of(self.cluster, self.node)
        }
    }

    fn fits(&self) -> bool {
        filter::refusals(&self.plan, self.cluster, self.site())
            .next()
            .is_none()
    }

    fn refusals(&self) -> Vec<String> {
        filter::refusals(&self.plan, self.cluster, self.site())
            .map(|refusal| refusal.to_string())
            .collect()
    }
}

#[cfg(test)]
#[path = "preempt_tests.rs"]
mod tests;
