//! What is to be started and given up on which node.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus},
        core::v1::{Node, Pod, PodSpec},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt as _;

use super::placement::{Verdict, judge, node_of};
use crate::replicas::{Rounding, count, resolve};
use vaquita_reconcile::{
    meta,
    pods::{self, Availability},
};

/// The label that tells the pods of one version of the template from those of another.
pub(super) const HASH_LABEL: &str = "controller-revision-hash";
/// How long a pod that has ended stays, so that one that can't run is not made anew all the time.
const ENDED_STAYS: Duration = Duration::from_secs(10);

/// How pods are replaced when the template changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Update {
    /// When somebody deletes them.
    OnDelete,
    /// Old ones go first, on so many nodes at a time.
    Replace { unavailable: i32 },
    /// New ones come first, on so many nodes at a time.
    Surge { most: i32 },
}

/// A node and the pods on it.
struct Site {
    node: String,
    verdict: Verdict,
    pods: Vec<Arc<Pod>>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The nodes that get a pod.
    pub(super) start: Vec<String>,
    /// The pods that are too many, of an old version, or have ended.
    pub(super) give_up: Vec<Arc<Pod>>,
}

/// What an update can only do on so many nodes at a time.
#[derive(Debug, Default)]
struct Waiting {
    /// Nodes with an old pod that serves and no new one yet.
    replaceable: Vec<(String, Arc<Pod>)>,
    /// How many nodes have no pod that serves.
    unavailable: i32,
    /// How many nodes have a pod more than they need.
    surging: i32,
}

/// A daemon set, its nodes and its pods.
pub(super) struct View<'a> {
    set: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    hash: &'a str,
    sites: Vec<Site>,
    now: Timestamp,
}

impl<'a> View<'a> {
    pub(super) fn new(
        set: &'a DaemonSet,
        spec: &'a DaemonSetSpec,
        hash: &'a str,
        nodes: &[Arc<Node>],
        pods: &[Arc<Pod>],
        now: Timestamp,
    ) -> Self {
        let mut on_node = BTreeMap::<&str, Vec<Arc<Pod>>>::new();
        for pod in pods {
            if let Some(node) = node_of(pod) {
                on_node.entry(node).or_default().push(Arc::clone(pod));
            }
        }
        let no_spec = PodSpec::default();
        let template = spec.template.spec.as_ref().unwrap_or(&no_spec);
        let mut sites: Vec<_> = nodes
            .iter()
            .map(|node| Site {
                verdict: judge(template, node),
                pods: on_node.remove(node.name_any().as_str()).unwrap_or_default(),
                node: node.name_any(),
            })
            .collect();
        // What is meant for a node that is no more will never be of use.
        sites.extend(on_node.into_iter().map(|(node, pods)| Site {
            node: node.to_owned(),
            verdict: Verdict::Leave,
            pods,
        }));
        Self {
            set,
            spec,
            hash,
            sites,
            now,
        }
    }

    fn update(&self) -> Update {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return Update::OnDelete;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let desired = count(
            self.sites
                .iter()
                .filter(|site| site.verdict == Verdict::Run)
                .count(),
        );
        let of = |value: Option<&IntOrString>| resolve(value, desired, Rounding::Up);
        match of(rolling.and_then(|rolling| rolling.max_surge.as_ref())) {
            0 => {
                let one = IntOrString::Int(1);
                let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
                Update::Replace {
                    unavailable: of(unavailable.or(Some(&one))),
                }
            }
            most => Update::Surge { most },
        }
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let seconds = self.spec.min_ready_seconds.unwrap_or(0);
        pods::availability(pod, seconds, self.now) == Availability::Yes
    }

    fn is_new(&self, pod: &Pod) -> bool {
        pod.labels()
            .get(HASH_LABEL)
            .is_some_and(|hash| hash == self.hash)
    }

    /// The active pods of a site that are of the template of now, and the others; the oldest first.
    fn versions(&self, site: &Site) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
        let mut active: Vec<_> = site
            .pods
            .iter()
            .filter(|pod| pods::is_active(pod))
            .cloned()
            .collect();
        active.sort_by_key(|pod| (created(pod), pod.name_any()));
        active.into_iter().partition(|pod| self.is_new(pod))
    }

    /// What is to be done now.
    pub(super) fn plan(&self) -> Plan {
        let update = self.update();
        let mut plan = Plan::default();
        let mut waiting = Waiting::default();
        for site in &self.sites {
            let (new, old) = self.tidy(site, &mut plan);
            if site.verdict == Verdict::Run {
                self.renew(site, new, old, update, &mut plan, &mut waiting);
            }
        }
        let at_most = |budget: i32| usize::try_from(budget).unwrap_or(0);
        match update {
            Update::OnDelete => {}
            Update::Replace { unavailable } => {
                let budget = at_most(unavailable - waiting.unavailable);
                let old = waiting.replaceable.into_iter().take(budget);
                plan.give_up.extend(old.map(|(_, pod)| pod));
            }
            Update::Surge { most } => {
                let budget = at_most(most - waiting.surging);
                let nodes = waiting.replaceable.into_iter().take(budget);
                plan.start.extend(nodes.map(|(node, _)| node));
            }
        }
        plan
    }

    /// Gives up what is of no use on a site whatever its version, and returns what stays: one new pod and one old at most.
    fn tidy(&self, site: &Site, plan: &mut Plan) -> (Option<Arc<Pod>>, Option<Arc<Pod>>) {
        let ended = site
            .pods
            .iter()
            .filter(|pod| self.rests(pod) == Some(Duration::ZERO));
        plan.give_up.extend(ended.cloned());
        let (mut new, mut old) = self.versions(site);
        let stays = usize::from(site.verdict != Verdict::Leave);
        plan.give_up.extend(new.drain(stays.min(new.len())..));
        plan.give_up.extend(old.drain(stays.min(old.len())..));
        (new.pop(), old.pop())
    }

    /// The next step from the old pod of a site to the new one, or a place among those that wait for theirs.
    fn renew(
        &self,
        site: &Site,
        new: Option<Arc<Pod>>,
        old: Option<Arc<Pod>>,
        update: Update,
        plan: &mut Plan,
        waiting: &mut Waiting,
    ) {
        let new_serves = new.as_ref().is_some_and(|pod| self.is_available(pod));
        let old_serves = old.as_ref().is_some_and(|pod| self.is_available(pod));
        waiting.unavailable += i32::from(!new_serves && !old_serves);
        let surges = matches!(update, Update::Surge { .. });
        let Some(old) = old else {
            // What is going still holds its ports and volumes, which only pods that surge can share.
            let in_the_way = |pod: &Arc<Pod>| !surges || pods::is_terminal(pod);
            if new.is_none() && !site.pods.iter().any(in_the_way) {
                plan.start.push(site.node.clone());
            }
            return;
        };
        match (new, update) {
            (_, Update::OnDelete) => {}
            (None, _) if old_serves => waiting.replaceable.push((site.node.clone(), old)),
            (None, Update::Surge { .. }) => plan.start.push(site.node.clone()),
            (Some(_), Update::Surge { .. }) if !new_serves => waiting.surging += 1,
            (_, Update::Replace { .. } | Update::Surge { .. }) => plan.give_up.push(old),
        }
    }

    /// For how long a pod that has ended still stays; nothing for one that has not ended or is going already.
    fn rests(&self, pod: &Pod) -> Option<Duration> {
        if !pods::is_terminal(pod) || meta::is_terminating(&pod.metadata) {
            return None;
        }
        let age = created(pod)
            .map(|at| Duration::try_from(self.now.duration_since(at)).unwrap_or_default());
        Some(age.map_or(Duration::ZERO, |age| ENDED_STAYS.saturating_sub(age)))
    }

    /// When something will be different without any event.
    pub(super) fn next(&self) -> Option<Duration> {
        let seconds = self.spec.min_ready_seconds.unwrap_or(0);
        let pods = self.sites.iter().flat_map(|site| &site.pods);
        pods.filter_map(|pod| match pods::availability(pod, seconds, self.now) {
            Availability::In(left) => Some(left),
            _ => self.rests(pod).filter(|left| !left.is_zero()),
        })
        .min()
    }

    /// What is to be reported.
    pub(super) fn status(&self) -> DaemonSetStatus {
        let mut status = self.set.status.clone().unwrap_or_default();
        let on = |site: &Site, holds: &dyn Fn(&Pod) -> bool| {
            site.pods
                .iter()
                .any(|pod| pods::is_active(pod) && holds(pod))
        };
        let desired = || {
            self.sites
                .iter()
                .filter(|site| site.verdict == Verdict::Run)
        };
        let tally =
            |holds: &dyn Fn(&Pod) -> bool| count(desired().filter(|site| on(site, holds)).count());
        let optional = |count: i32| Some(count).filter(|count| *count != 0);
        let available = tally(&|pod| self.is_available(pod));
        let misplaced = |site: &&Site| site.verdict != Verdict::Run && on(site, &|_| true);
        status.observed_generation = self.set.metadata.generation;
        status.desired_number_scheduled = count(desired().count());
        status.current_number_scheduled = tally(&|_| true);
        status.number_misscheduled = count(self.sites.iter().filter(misplaced).count());
        status.number_ready = tally(&pods::is_ready);
        status.number_available = optional(available);
        status.number_unavailable = optional(status.desired_number_scheduled - available);
        status.updated_number_scheduled = optional(tally(&|pod| self.is_new(pod)));
        status
    }
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}
