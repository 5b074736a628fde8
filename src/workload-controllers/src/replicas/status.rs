//! What an [`Owner`] reports of its pods.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt as _;

use super::{Owner, SyncError, count};
use vaquita_reconcile::{
    drive::Next,
    meta,
    pods::{self, Availability},
};

/// The condition of an owner that can't create or delete its pods.
pub(crate) const REPLICA_FAILURE: &str = "ReplicaFailure";

/// The status of `owner` with these active pods, these that are on their way out, and the last failure.
pub(super) fn status<O: Owner>(
    owner: &O,
    pods: &[Arc<Pod>],
    terminating: usize,
    failure: Option<&SyncError>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let template = owner.template();
    let template = template
        .and_then(|template| template.metadata.as_ref()?.labels.clone())
        .unwrap_or_default();
    let min_ready = owner.min_ready_seconds();
    let tally =
        |counts: &dyn Fn(&Pod) -> bool| count(pods.iter().filter(|pod| counts(pod)).count());
    // Counts of nothing are left out, as they are when a client reads them back.
    let optional = |count: i32| Some(count).filter(|count| *count != 0);
    ReplicaSetStatus {
        replicas: count(pods.len()),
        fully_labeled_replicas: optional(tally(&|pod| has_all(pod.labels(), &template))),
        ready_replicas: optional(tally(&pods::is_ready)),
        available_replicas: optional(tally(&|pod| {
            pods::availability(pod, min_ready, now) == Availability::Yes
        })),
        terminating_replicas: Some(count(terminating)),
        observed_generation: owner.meta().generation,
        conditions: conditions(owner, failure, now),
    }
}

/// The conditions there are, with [`REPLICA_FAILURE`] as it is now.
fn conditions<O: Owner>(
    owner: &O,
    failure: Option<&SyncError>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let known = owner.status().into_owned().conditions.unwrap_or_default();
    let (failures, mut conditions): (Vec<_>, Vec<_>) = known
        .into_iter()
        .partition(|condition| condition.type_ == REPLICA_FAILURE);
    let (reason, error) = match failure {
        Some(SyncError::Create(error)) => ("FailedCreate", error),
        Some(SyncError::Delete(error)) => ("FailedDelete", error),
        _ => return Some(conditions).filter(|conditions| !conditions.is_empty()),
    };
    let since = failures
        .into_iter()
        .next()
        .and_then(|condition| condition.last_transition_time);
    conditions.push(ReplicaSetCondition {
        type_: REPLICA_FAILURE.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(meta::message(error)),
        last_transition_time: since.or(Some(Time(now))),
    });
    Some(conditions)
}

/// When something will be different without any event: the next pod becomes available.
pub(super) fn next_available<O: Owner>(owner: &O, pods: &[Arc<Pod>], now: Timestamp) -> Next {
    let min_ready = owner.min_ready_seconds();
    pods.iter()
        .filter_map(|pod| match pods::availability(pod, min_ready, now) {
            Availability::In(left) => Some(left),
            Availability::No | Availability::Yes => None,
        })
        .min()
        .map_or(Next::Wait, Next::After)
}

/// Whether `labels` has all of `wanted`.
fn has_all(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
