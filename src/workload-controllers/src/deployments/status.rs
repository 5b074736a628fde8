//! What a deployment reports: its counts, whether enough pods are available, whether the rollout gets on.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{
        Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt as _;

use super::plan::{Limits, narrow, sum};
use crate::replicas::{Owner as _, REPLICA_FAILURE};

/// The condition of a deployment that has as many available pods as it promises.
const AVAILABLE: &str = "Available";
/// The condition that tells how the rollout gets on.
const PROGRESSING: &str = "Progressing";

/// Why [`PROGRESSING`] is as it is.
pub(super) mod reason {
    pub(crate) const CREATED: &str = "NewReplicaSetCreated";
    pub(crate) const FOUND: &str = "FoundNewReplicaSet";
    pub(crate) const CREATE_FAILED: &str = "ReplicaSetCreateError";
    pub(crate) const UPDATED: &str = "ReplicaSetUpdated";
    pub(crate) const DONE: &str = "NewReplicaSetAvailable";
    pub(crate) const TIMED_OUT: &str = "ProgressDeadlineExceeded";
    pub(crate) const PAUSED: &str = "DeploymentPaused";
    pub(crate) const RESUMED: &str = "DeploymentResumed";
}

pub(super) type Conditions = Vec<DeploymentCondition>;

/// How long a rollout may make no progress; nothing for as long as it likes.
pub(super) fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    let seconds = Some(seconds).filter(|seconds| *seconds != i32::MAX)?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The condition about the rollout.
pub(super) fn progressing(conditions: &Conditions) -> Option<&DeploymentCondition> {
    conditions
        .iter()
        .find(|condition| condition.type_ == PROGRESSING)
}

/// Whether the rollout's condition has this reason.
pub(super) fn progress_is(conditions: &Conditions, reason: &str) -> bool {
    progressing(conditions).is_some_and(|condition| condition.reason.as_deref() == Some(reason))
}

/// Says how the rollout gets on.
pub(super) fn set_progressing(
    conditions: &mut Conditions,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    set(
        conditions,
        condition(PROGRESSING, status, reason, message, now),
    );
}

fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Puts a condition in place of the one of its type, unless that says the same.
fn set(conditions: &mut Conditions, mut new: DeploymentCondition) {
    if let Some(known) = conditions.iter().find(|known| known.type_ == new.type_) {
        if known.status == new.status && known.reason == new.reason {
            return;
        }
        if known.status == new.status {
            new.last_transition_time
                .clone_from(&known.last_transition_time);
        }
    }
    conditions.retain(|known| known.type_ != new.type_);
    conditions.push(new);
}

/// All that a status is made of.
pub(super) struct Report<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) limits: Limits,
    pub(super) new: Option<&'a ReplicaSet>,
    pub(super) old: &'a [Arc<ReplicaSet>],
    pub(super) now: Timestamp,
}

impl Report<'_> {
    /// The counts, the conditions there are, and [`AVAILABLE`] as it is now.
    pub(super) fn counts(&self, conditions: Conditions) -> DeploymentStatus {
        let total = |count: &dyn Fn(&ReplicaSetStatus) -> i32| {
            narrow(sum(self.sets().map(|set| count(&set.status()))))
        };
        let available = total(&|status| status.available_replicas.unwrap_or(0));
        let sizes = sum(self.sets().map(ReplicaSet::wanted));
        let terminating = self
            .sets()
            .map(|set| set.status().terminating_replicas)
            .sum::<Option<i32>>();
        let updated = self.new.map_or(0, |set| set.status().replicas);
        let optional = |count: i32| Some(count).filter(|count| *count > 0);
        let known = self.deployment.status.as_ref();
        let mut status = DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: optional(total(&|status| status.replicas)),
            updated_replicas: optional(updated),
            ready_replicas: optional(total(&|status| status.ready_replicas.unwrap_or(0))),
            available_replicas: optional(available),
            unavailable_replicas: optional(narrow(sizes - i64::from(available))),
            terminating_replicas: terminating,
            collision_count: known.and_then(|status| status.collision_count),
            conditions: None,
        };
        let mut conditions = conditions;
        let (value, reason, message) = if available >= self.limits.least() {
            (
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.",
            )
        } else {
            (
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
            )
        };
        set(
            &mut conditions,
            condition(AVAILABLE, value, reason, message.to_owned(), self.now),
        );
        status.conditions = Some(conditions);
        status
    }

    /// The same, with all conditions as they are now that the rollout has been looked at. `before` is what was last
    /// reported.
    pub(super) fn progress(
        &self,
        conditions: Conditions,
        before: &DeploymentStatus,
    ) -> DeploymentStatus {
        let mut status = self.counts(conditions);
        let mut conditions = status.conditions.take().unwrap_or_default();
        if deadline(self.deployment).is_none() {
            conditions.retain(|condition| condition.type_ != PROGRESSING);
        } else {
            self.judge(&mut conditions, &status, before);
        }
        conditions.retain(|condition| condition.type_ != REPLICA_FAILURE);
        conditions.extend(self.failure());
        status.conditions = Some(conditions);
        status
    }

    fn judge(
        &self,
        conditions: &mut Conditions,
        status: &DeploymentStatus,
        before: &DeploymentStatus,
    ) {
        let all_updated = status.replicas == status.updated_replicas;
        if all_updated && progress_is(conditions, reason::DONE) {
            return;
        }
        let who = match self.new {
            Some(set) => format!("ReplicaSet {:?}", set.name_any()),
            None => format!("Deployment {:?}", self.deployment.name_any()),
        };
        if self.is_complete(status) {
            let message = format!("{who} has successfully progressed.");
            set_progressing(conditions, "True", reason::DONE, message, self.now);
        } else if has_progressed(before, status) {
            let message = format!("{who} is progressing.");
            let mut new = condition(PROGRESSING, "True", reason::UPDATED, message, self.now);
            // Even if it says the same, the time of the update is news: the deadline counts from there.
            if let Some(known) = progressing(conditions).filter(|known| known.status == "True") {
                new.last_transition_time
                    .clone_from(&known.last_transition_time);
            }
            conditions.retain(|known| known.type_ != PROGRESSING);
            conditions.push(new);
        } else if self.has_timed_out(conditions) {
            let message = format!("{who} has timed out progressing.");
            set_progressing(conditions, "False", reason::TIMED_OUT, message, self.now);
        }
    }

    /// Whether the rollout has come to its end.
    pub(super) fn is_complete(&self, status: &DeploymentStatus) -> bool {
        let all = |count: Option<i32>| count.unwrap_or(0) == self.limits.wanted;
        all(status.updated_replicas)
            && all(status.replicas)
            && all(status.available_replicas)
            && status.observed_generation >= self.deployment.metadata.generation
    }

    /// How long until the rollout will have made no progress for too long.
    pub(super) fn time_left(&self, conditions: &Conditions) -> Option<Duration> {
        let deadline = deadline(self.deployment)?;
        let since = progressing(conditions)?.last_update_time.as_ref()?.0;
        let elapsed = Duration::try_from(self.now.duration_since(since)).unwrap_or_default();
        Some(deadline.saturating_sub(elapsed))
    }

    fn has_timed_out(&self, conditions: &Conditions) -> bool {
        if progress_is(conditions, reason::DONE) {
            return false;
        }
        progress_is(conditions, reason::TIMED_OUT)
            || self
                .time_left(conditions)
                .is_some_and(|left| left.is_zero())
    }

    /// The failure of a replica set to create or delete pods; of the new one rather than of an old one.
    fn failure(&self) -> Option<DeploymentCondition> {
        let newest_first = self
            .new
            .into_iter()
            .chain(self.old.iter().map(|set| &**set));
        newest_first
            .filter_map(|set| set.status.as_ref()?.conditions.as_ref())
            .flatten()
            .find(|condition| condition.type_ == REPLICA_FAILURE)
            .map(|failure| DeploymentCondition {
                type_: failure.type_.clone(),
                status: failure.status.clone(),
                reason: failure.reason.clone(),
                message: failure.message.clone(),
                last_transition_time: failure.last_transition_time.clone(),
                last_update_time: failure.last_transition_time.clone(),
            })
    }

    fn sets(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().map(|set| &**set).chain(self.new)
    }
}

/// Whether anything got on between two reports.
fn has_progressed(before: &DeploymentStatus, now: &DeploymentStatus) -> bool {
    let old = |status: &DeploymentStatus| {
        status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0)
    };
    let more = |count: fn(&DeploymentStatus) -> Option<i32>| {
        count(now).unwrap_or(0) > count(before).unwrap_or(0)
    };
    more(|status| status.updated_replicas)
        || old(now) < old(before)
        || more(|status| status.ready_replicas)
        || more(|status| status.available_replicas)
}
