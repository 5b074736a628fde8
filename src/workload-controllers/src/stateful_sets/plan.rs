//! What the next step of a stateful set is: which pods are to be made, mended and given up now.
//!
//! Ordered sets take one step at a time, each only when the pods before are available; parallel ones take all steps at once.
//! Updates come last, from the highest number down, when nothing else is left to do.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec, StatefulSetStatus},
    core::v1::Pod,
};

use super::identity;
use crate::replicas::{Rounding, count, resolve};
use vaquita_reconcile::{
    meta,
    pods::{self, Availability, Phase},
};

/// How pods are replaced when the template changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Update {
    /// When somebody deletes them.
    OnDelete,
    /// From the highest number down to `first`, with so many unavailable at most.
    Rolling { first: i32, unavailable: usize },
}

/// Which of the two templates a pod is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// The one that all pods had before the update.
    Current,
    /// The one of now.
    Updated,
}

/// Why a pod is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It has ended; another one takes its place.
    Ended,
    /// Its number is none of the set's any more.
    Surplus,
    /// It is of an old template.
    Outdated,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The numbers that get a pod.
    pub(super) create: Vec<(i32, Version)>,
    /// The pods that go.
    pub(super) delete: Vec<(Arc<Pod>, Reason)>,
    /// The pods whose labels do not say who they are.
    pub(super) label: Vec<(i32, Arc<Pod>)>,
}

/// A stateful set and its pods.
pub(super) struct View<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    /// By number, also those that are no longer wanted.
    pods: BTreeMap<i32, Arc<Pod>>,
    /// The name of the revision that all pods had before the update.
    pub(super) current: String,
    /// The name of the revision of now.
    pub(super) updated: String,
    now: Timestamp,
}

impl<'a> View<'a> {
    pub(super) fn new(
        set: &'a StatefulSet,
        spec: &'a StatefulSetSpec,
        pods: &[Arc<Pod>],
        current: String,
        updated: String,
        now: Timestamp,
    ) -> Self {
        let numbered = pods
            .iter()
            .filter_map(|pod| Some((identity::ordinal(set, pod)?, Arc::clone(pod))));
        Self {
            set,
            spec,
            pods: numbered.collect(),
            current,
            updated,
            now,
        }
    }

    /// The first number, and the first beyond the last.
    fn range(&self) -> (i32, i32) {
        let ordinals = self.spec.ordinals.as_ref();
        let start = ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0);
        let replicas = self.spec.replicas.unwrap_or(1).max(0);
        (start, start.saturating_add(replicas))
    }

    /// The pods whose numbers are wanted, the lowest first.
    pub(super) fn wanted(&self) -> impl DoubleEndedIterator<Item = (i32, &Arc<Pod>)> {
        let (start, end) = self.range();
        let wanted = self.pods.range(start..end.max(start));
        wanted.map(|(ordinal, pod)| (*ordinal, pod))
    }

    /// The pods whose numbers are not wanted, the highest first.
    pub(super) fn condemned(&self) -> impl Iterator<Item = (i32, &Arc<Pod>)> {
        let (start, end) = self.range();
        let all = self.pods.iter().rev();
        all.filter(move |(ordinal, _)| !(start..end).contains(*ordinal))
            .map(|(ordinal, pod)| (*ordinal, pod))
    }

    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn update(&self) -> Update {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return Update::OnDelete;
        }
        let rolling = self.rolling();
        let (start, end) = self.range();
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let most = resolve(unavailable, end - start, Rounding::Down).max(1);
        Update::Rolling {
            first: start.saturating_add(rolling.and_then(|rolling| rolling.partition).unwrap_or(0)),
            unavailable: usize::try_from(most).unwrap_or(1),
        }
    }

    fn rolling(&self) -> Option<&RollingUpdateStatefulSetStrategy> {
        let strategy = self.spec.update_strategy.as_ref()?;
        strategy.rolling_update.as_ref()
    }

    fn is_running(pod: &Pod) -> bool {
        pods::phase(pod) == Phase::Running && pods::is_ready(pod)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let seconds = self.spec.min_ready_seconds.unwrap_or(0);
        Self::is_running(pod) && pods::availability(pod, seconds, self.now) == Availability::Yes
    }

    /// Runs and nobody has asked for its end.
    fn is_healthy(pod: &Pod) -> bool {
        Self::is_running(pod) && !meta::is_terminating(&pod.metadata)
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        identity::revision(pod) == self.updated
    }

    /// Of which template a new pod with this number is.
    fn version(&self, ordinal: i32) -> Version {
        let (start, _) = self.range();
        let before = match self.update() {
            Update::OnDelete => return Version::Updated,
            Update::Rolling { first, .. } if self.rolling().is_some() => first,
            Update::Rolling { .. } => {
                let status = self.set.status.as_ref();
                let current = status.and_then(|status| status.current_replicas);
                start.saturating_add(current.unwrap_or(0))
            }
        };
        if ordinal < before {
            Version::Current
        } else {
            Version::Updated
        }
    }

    /// What is to be done now, with at most `burst` pods made and as many given up.
    pub(super) fn plan(&self, burst: usize) -> Plan {
        let mut plan = Plan::default();
        if self.fill(burst, &mut plan) && self.shrink(burst, &mut plan) {
            self.renew(burst, &mut plan);
        }
        plan
    }

    /// Makes the pods that are missing. Whether the next kind of step may be taken.
    fn fill(&self, burst: usize, plan: &mut Plan) -> bool {
        let (start, end) = self.range();
        for ordinal in start..end {
            let Some(pod) = self.pods.get(&ordinal) else {
                plan.create.push((ordinal, self.version(ordinal)));
                if self.is_ordered() {
                    return false;
                }
                // Without end if somebody wants two billion.
                if plan.create.len() >= burst {
                    break;
                }
                continue;
            };
            let going = meta::is_terminating(&pod.metadata);
            if pods::is_terminal(pod) {
                if !going {
                    plan.delete.push((Arc::clone(pod), Reason::Ended));
                }
                if self.is_ordered() {
                    return false;
                }
                continue;
            }
            if !going && !identity::is_labelled(pod, ordinal) {
                plan.label.push((ordinal, Arc::clone(pod)));
            }
            if self.is_ordered() && (going || !self.is_available(pod)) {
                return false;
            }
        }
        true
    }

    /// Gives up the pods that are too many. Whether the next kind of step may be taken.
    fn shrink(&self, burst: usize, plan: &mut Plan) -> bool {
        // One that can't run must not keep those after it: of several, the one before the others.
        let sickest = self
            .condemned()
            .filter(|(_, pod)| !Self::is_healthy(pod))
            .last()
            .map(|(ordinal, _)| ordinal);
        for (ordinal, pod) in self.condemned().take(burst) {
            let going = meta::is_terminating(&pod.metadata);
            if !self.is_ordered() {
                if !going {
                    plan.delete.push((Arc::clone(pod), Reason::Surplus));
                }
                continue;
            }
            if !going && (self.is_available(pod) || sickest == Some(ordinal)) {
                plan.delete.push((Arc::clone(pod), Reason::Surplus));
            }
            return false;
        }
        true
    }

    /// Gives up pods of the old template, from the highest number down.
    fn renew(&self, burst: usize, plan: &mut Plan) {
        let Update::Rolling { first, unavailable } = self.update() else {
            return;
        };
        let (start, end) = self.range();
        let serves = |pod: &Pod| !meta::is_terminating(&pod.metadata) && self.is_available(pod);
        let serving = self.wanted().filter(|(_, pod)| serves(pod)).count();
        let wanted = usize::try_from(end - start).unwrap_or(0);
        // What does not serve cannot become less available; the others only as far as is allowed.
        let mut budget = unavailable.saturating_sub(wanted.saturating_sub(serving));
        let mut left = burst;
        for (_, pod) in self.wanted().rev().filter(|(ordinal, _)| *ordinal >= first) {
            if self.is_updated(pod) || meta::is_terminating(&pod.metadata) {
                continue;
            }
            if left == 0 {
                return;
            }
            if serves(pod) {
                if budget == 0 {
                    continue;
                }
                budget -= 1;
            }
            if !plan
                .delete
                .iter()
                .any(|(doomed, _)| Arc::ptr_eq(doomed, pod))
            {
                plan.delete.push((Arc::clone(pod), Reason::Outdated));
                left -= 1;
            }
        }
    }

    /// When something will be different without any event: the next pod becomes available.
    pub(super) fn next(&self) -> Option<Duration> {
        let seconds = self.spec.min_ready_seconds.unwrap_or(0);
        let waits = |pod: &Arc<Pod>| match pods::availability(pod, seconds, self.now) {
            Availability::In(left) => Some(left),
            Availability::No | Availability::Yes => None,
        };
        self.pods.values().filter_map(waits).min()
    }

    /// The revisions that pods are of, and the two that new ones would be of.
    pub(super) fn live_revisions(&self) -> HashSet<String> {
        let of_pods = self.pods.values().map(|pod| identity::revision(pod));
        let both = [self.current.as_str(), self.updated.as_str()];
        of_pods.chain(both).map(str::to_owned).collect()
    }

    /// What is to be reported.
    pub(super) fn status(&self, collisions: i32) -> StatefulSetStatus {
        let mut status = self.set.status.clone().unwrap_or_default();
        let tally = |holds: &dyn Fn(&Pod) -> bool| {
            count(self.pods.values().filter(|pod| holds(pod)).count())
        };
        // Counts of nothing are left out, as they are when a client reads them back.
        let optional = |count: i32| Some(count).filter(|count| *count != 0);
        let of = |revision: &str| {
            tally(&|pod| {
                !meta::is_terminating(&pod.metadata) && identity::revision(pod) == revision
            })
        };
        let (current, updated) = (of(&self.current), of(&self.updated));
        status.observed_generation = self.set.metadata.generation;
        status.replicas = tally(&|_| true);
        status.ready_replicas = optional(tally(&Self::is_running));
        status.available_replicas = Some(tally(&|pod| self.is_available(pod)));
        status.current_replicas = optional(current);
        status.updated_replicas = optional(updated);
        status.current_revision = Some(self.current.clone());
        status.update_revision = Some(self.updated.clone());
        status.collision_count = Some(collisions);
        let wanted = self.spec.replicas.unwrap_or(1);
        let done = matches!(self.update(), Update::Rolling { .. })
            && updated == wanted
            && status.replicas == wanted
            && status.ready_replicas.unwrap_or(0) == wanted;
        if done {
            status.current_revision.clone_from(&status.update_revision);
            status.current_replicas = status.updated_replicas;
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kube::ResourceExt as _;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use vaquita_reconcile::testing::objects::{in_phase, named, pod, ready};

    fn set(spec: &Value) -> StatefulSet {
        let mut all = json!({ "selector": {}, "template": {}, "replicas": 3 });
        let fields = all.as_object_mut().unwrap();
        fields.extend(spec.as_object().unwrap().clone());
        StatefulSet {
            metadata: named("shop", "db"),
            spec: Some(serde_json::from_value(all).unwrap()),
            status: None,
        }
    }

    /// How a pod of a test is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Health {
        Ready,
        Starting,
        Going,
        Ended,
    }

    fn member(ordinal: i32, version: &str, health: Health) -> Arc<Pod> {
        let mut pod = pod("shop", &format!("db-{ordinal}"));
        pod.labels_mut()
            .extend(identity::labels(&format!("db-{ordinal}"), ordinal));
        pod.labels_mut()
            .insert(identity::REVISION.to_owned(), version.to_owned());
        let mut pod = ready(in_phase(pod, "Running"), Timestamp::UNIX_EPOCH);
        match health {
            Health::Ready => {}
            Health::Starting => pod.status.as_mut().unwrap().conditions = None,
            Health::Going => {
                pod.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
            }
            Health::Ended => pod = in_phase(pod, "Failed"),
        }
        Arc::new(pod)
    }

    /// The numbers that are made and those that go.
    fn steps(set: &StatefulSet, pods: &[Arc<Pod>]) -> (Vec<i32>, Vec<i32>) {
        let spec = set.spec.as_ref().unwrap();
        let (old, new) = ("old".to_owned(), "new".to_owned());
        let view = View::new(set, spec, pods, old, new, Timestamp::now());
        let plan = view.plan(100);
        let deleted = plan.delete.iter();
        (
            plan.create.iter().map(|(ordinal, _)| *ordinal).collect(),
            deleted
                .map(|(pod, _)| identity::ordinal(set, pod).unwrap())
                .collect(),
        )
    }

    #[test]
    fn ordered_sets_take_one_step_at_a_time() {
        use Health::{Ended, Going, Ready, Starting};
        let set = set(&json!({}));
        let new = |ordinal, health| member(ordinal, "new", health);
        assert_eq!(steps(&set, &[]), (vec![0], vec![]));
        assert_eq!(steps(&set, &[new(0, Starting)]), (vec![], vec![]));
        assert_eq!(steps(&set, &[new(0, Ready)]), (vec![1], vec![]));
        assert_eq!(
            steps(&set, &[new(0, Going), new(2, Ready)]),
            (vec![], vec![])
        );
        assert_eq!(steps(&set, &[new(0, Ended)]), (vec![], vec![0]));
        let many: Vec<_> = (0..5).map(|ordinal| new(ordinal, Ready)).collect();
        assert_eq!(steps(&set, &many), (vec![], vec![4]));
        let mut sick = many.clone();
        sick[4] = new(4, Starting);
        assert_eq!(steps(&set, &sick), (vec![], vec![4]));
        sick[3] = new(3, Starting);
        assert_eq!(
            steps(&set, &sick),
            (vec![], vec![]),
            "the one before is sick too"
        );
    }

    #[test]
    fn parallel_sets_take_all_steps_at_once() {
        let set = set(&json!({ "podManagementPolicy": "Parallel", "ordinals": { "start": 2 } }));
        assert_eq!(steps(&set, &[]), (vec![2, 3, 4], vec![]));
        let pods = [
            member(0, "new", Health::Starting),
            member(3, "new", Health::Starting),
            member(7, "new", Health::Ready),
        ];
        assert_eq!(steps(&set, &pods), (vec![2, 4], vec![7, 0]));
    }

    #[test]
    fn updates_go_down_to_the_partition_as_many_at_a_time_as_may_be_missing() {
        let strategy = |partition: i32, unavailable: &Value| {
            set(&json!({
                "replicas": 4,
                "updateStrategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": { "partition": partition, "maxUnavailable": unavailable },
                },
            }))
        };
        let old: Vec<_> = (0..4).map(|n| member(n, "old", Health::Ready)).collect();
        assert_eq!(steps(&strategy(0, &json!(1)), &old).1, [3]);
        assert_eq!(steps(&strategy(0, &json!(2)), &old).1, [3, 2]);
        assert_eq!(steps(&strategy(0, &json!("50%")), &old).1, [3, 2]);
        assert_eq!(steps(&strategy(0, &json!("1%")), &old).1, [3]);
        assert_eq!(steps(&strategy(3, &json!(2)), &old).1, [3]);
        assert_eq!(steps(&strategy(4, &json!(1)), &old).1, [0; 0]);
        let on_delete = set(&json!({ "updateStrategy": { "type": "OnDelete" } }));
        assert_eq!(steps(&on_delete, &old[..3]).1, [0; 0]);
    }

    #[test]
    fn new_pods_below_the_partition_are_of_the_old_template() {
        let set = set(&json!({
            "podManagementPolicy": "Parallel",
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 2 } },
        }));
        let spec = set.spec.as_ref().unwrap();
        let (old, new) = ("old".to_owned(), "new".to_owned());
        let view = View::new(&set, spec, &[], old, new, Timestamp::now());
        let versions: Vec<_> = view.plan(9).create.iter().map(|made| made.1).collect();
        assert_eq!(
            versions,
            [Version::Current, Version::Current, Version::Updated]
        );
        assert_eq!(view.plan(2).create.len(), 2, "no more than the burst");
    }

    fn any_members() -> impl Strategy<Value = Vec<Arc<Pod>>> {
        use Health::{Ended, Going, Ready, Starting};
        let health = prop::sample::select(vec![Ready, Ready, Starting, Going, Ended]);
        let version = prop::sample::select(vec!["old", "new"]);
        let seat = prop::option::of((version, health));
        prop::collection::vec(seat, 0..8).prop_map(|seats| {
            let seats = (0..).zip(seats);
            seats
                .filter_map(|(ordinal, seat)| {
                    seat.map(|(version, health)| member(ordinal, version, health))
                })
                .collect()
        })
    }

    proptest! {
        /// Whatever there is: no number twice, nothing made beyond the set, ordered sets make and give up one at a time,
        /// and an update never makes more unavailable than is allowed.
        #[test]
        fn no_step_breaks_the_promises(
            pods in any_members(),
            replicas in 0..8i32,
            parallel: bool,
            unavailable in 1..4i32,
            partition in 0..6i32,
        ) {
            let set = set(&json!({
                "replicas": replicas,
                "podManagementPolicy": if parallel { "Parallel" } else { "OrderedReady" },
                "updateStrategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": { "partition": partition, "maxUnavailable": unavailable },
                },
            }));
            let spec = set.spec.as_ref().unwrap();
            let (old, new) = ("old".to_owned(), "new".to_owned());
            let view = View::new(&set, spec, &pods, old, new, Timestamp::now());
            let plan = view.plan(100);
            let known: HashSet<i32> = view.pods.keys().copied().collect();
            let mut made = HashSet::new();
            for (ordinal, _) in &plan.create {
                prop_assert!((0..replicas).contains(ordinal));
                prop_assert!(!known.contains(ordinal) && made.insert(*ordinal));
            }
            let mut gone = HashSet::new();
            for (pod, _) in &plan.delete {
                prop_assert!(!meta::is_terminating(&pod.metadata));
                prop_assert!(gone.insert(pod.name_any()));
            }
            if !parallel {
                let others = plan.delete.iter().filter(|(_, why)| *why != Reason::Outdated);
                prop_assert!(plan.create.len() + others.count() <= 1);
            }
            let serves = |pod: &Pod| view.is_available(pod) && !meta::is_terminating(&pod.metadata);
            let outdated = |pod: &Arc<Pod>| {
                plan.delete.iter().any(|(doomed, why)| Arc::ptr_eq(doomed, pod) && *why == Reason::Outdated)
            };
            let serving = view.wanted().filter(|(_, pod)| serves(pod)).count();
            let after = view.wanted().filter(|(_, pod)| serves(pod) && !outdated(pod)).count();
            let least = usize::try_from((replicas - unavailable).max(0)).unwrap();
            prop_assert!(after >= serving.min(least));
            for (pod, why) in &plan.delete {
                let ordinal = identity::ordinal(&set, pod).unwrap();
                match why {
                    Reason::Surplus => prop_assert!(ordinal >= replicas),
                    Reason::Outdated => prop_assert!(ordinal >= partition && identity::revision(pod) == "old"),
                    Reason::Ended => prop_assert!(pods::is_terminal(pod)),
                }
            }
        }
    }
}
