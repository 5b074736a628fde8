//! What a job reports, and what follows from its pods: who has ended, whether the job has.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt as _;

use super::{
    indexes::Indexes,
    policy::{self, Verdict},
};
use crate::replicas::{self, count};
use vaquita_reconcile::{
    meta,
    pods::{self, Phase},
};

/// Keeps a pod until its end is counted.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Which of a job's completions a pod works on; a label and an annotation.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How many ends are counted by one write.
const COUNTED_AT_ONCE: usize = 500;
/// After the first failure; doubles with each.
pub(super) const BACKOFF: Duration = Duration::from_secs(10);
pub(super) const BACKOFF_LIMIT: Duration = Duration::from_mins(10);

pub(super) const COMPLETE: &str = "Complete";
pub(super) const FAILED: &str = "Failed";
pub(super) const SUCCESS: &str = "SuccessCriteriaMet";
pub(super) const FAILURE: &str = "FailureTarget";
pub(super) const SUSPENDED: &str = "Suspended";

/// How a pod ended for its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Succeeded,
    Failed,
}

/// Whether a pod still has to be counted once it has ended.
pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
}

/// The completion that a pod works on.
pub(super) fn index(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX)?.parse().ok()
}

pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Whether a pod that is going is only replaced when it is gone.
pub(super) fn replaces_ended_only(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed")
}

/// How the pod has ended, if it has. One that is being deleted has failed, unless the job wants to see the end itself: a
/// pod whose node is lost never gets to say so.
pub(super) fn end(pod: &Pod, spec: &JobSpec) -> Option<End> {
    let going = meta::is_terminating(&pod.metadata) && !replaces_ended_only(spec);
    match pods::phase(pod) {
        Phase::Succeeded => Some(End::Succeeded),
        Phase::Failed => Some(End::Failed),
        _ if going => Some(End::Failed),
        _ => None,
    }
}

/// Whether a condition holds.
pub(super) fn holds(status: &JobStatus, type_: &str) -> bool {
    find(status, type_).is_some_and(|condition| condition.status == "True")
}

/// Whether the job is over.
pub(super) fn is_finished(status: &JobStatus) -> bool {
    holds(status, COMPLETE) || holds(status, FAILED)
}

pub(super) fn find<'s>(status: &'s JobStatus, type_: &str) -> Option<&'s JobCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == type_)
}

/// Puts a condition in place of the one of its type. Returns whether it says something new.
pub(super) fn set(
    status: &mut JobStatus,
    type_: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    if find(status, type_).is_some_and(|known| known.status == value) {
        return false;
    }
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|known| known.type_ != type_);
    conditions.push(JobCondition {
        type_: type_.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
    true
}

/// An index to start, and the pod that it is tried again for.
pub(super) type Try = (i32, Option<Arc<Pod>>);

/// A job's pods as they bear on its status.
pub(super) struct View<'a> {
    pub(super) job: &'a Job,
    pub(super) spec: &'a JobSpec,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) now: Timestamp,
}

impl View<'_> {
    /// The pods at work: not ended, not going.
    pub(super) fn active(&self) -> Vec<Arc<Pod>> {
        let active = self.pods.iter().filter(|pod| pods::is_active(pod));
        active.cloned().collect()
    }

    /// How many pods are going and have not ended.
    pub(super) fn terminating(&self) -> usize {
        let going =
            |pod: &&Arc<Pod>| meta::is_terminating(&pod.metadata) && !pods::is_terminal(pod);
        self.pods.iter().filter(going).count()
    }

    /// Counts the pods that have ended.
    ///
    /// First the pod's uid is noted in the status, then the pod's finalizer is taken away, and when that is seen the uid
    /// becomes a number: so that each is counted once, whenever the process stops.
    pub(super) fn count_ends(&self, status: &mut JobStatus) {
        let tracked: HashSet<&str> = self
            .pods
            .iter()
            .filter(|pod| is_tracked(pod))
            .map(|pod| meta::uid(&**pod))
            .collect();
        let noted = status.uncounted_terminated_pods.take().unwrap_or_default();
        let settle = |uids: Option<Vec<String>>, total: &mut Option<i32>| {
            let (kept, counted): (Vec<_>, Vec<_>) = uids
                .unwrap_or_default()
                .into_iter()
                .partition(|uid| tracked.contains(uid.as_str()));
            if !counted.is_empty() {
                *total = Some(total.unwrap_or(0).saturating_add(count(counted.len())));
            }
            kept
        };
        let mut counted = status.succeeded;
        let mut succeeded = settle(noted.succeeded, &mut counted);
        let mut failed = settle(noted.failed, &mut status.failed);
        let known: HashSet<String> = succeeded.iter().chain(&failed).cloned().collect();
        let completions = self.spec.completions.unwrap_or(0);
        let mut completed = completed(status).below(completions);
        let held = self.held(status);
        let is_held = |pod: &Arc<Pod>| held.values().any(|held| Arc::ptr_eq(held, pod));
        let fresh = self
            .pods
            .iter()
            .filter(|pod| is_tracked(pod) && !known.contains(meta::uid(&***pod)) && !is_held(pod));
        for pod in fresh.take(COUNTED_AT_ONCE) {
            let uid = meta::uid(&**pod).to_owned();
            match end(pod, self.spec) {
                Some(End::Succeeded) => {
                    if let Some(index) = index(pod).filter(|index| *index < completions) {
                        completed.insert(index);
                    }
                    succeeded.push(uid);
                }
                Some(End::Failed) if !self.is_ignored(pod) => failed.push(uid),
                Some(End::Failed) | None => {}
            }
        }
        if is_indexed(self.spec) {
            // Of two pods that did the same, one counts.
            counted =
                Some(i32::try_from(completed.len()).unwrap_or(i32::MAX)).filter(|count| *count > 0);
            status.completed_indexes = Some(completed.to_string()).filter(|text| !text.is_empty());
        }
        status.failed_indexes = self.failed_indexes(status).map(|failed| failed.to_string());
        status.succeeded = counted;
        let some = |uids: Vec<String>| Some(uids).filter(|uids| !uids.is_empty());
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            succeeded: some(succeeded),
            failed: some(failed),
        });
    }

    /// Whether the failure of this pod does not count.
    fn is_ignored(&self, pod: &Pod) -> bool {
        policy::judge(self.spec.pod_failure_policy.as_ref(), pod) == Verdict::Ignore
    }

    /// The pods that have failed and go without being counted.
    pub(super) fn ignored(&self, status: &JobStatus) -> Vec<Arc<Pod>> {
        let held = self.held(status);
        let ignored = self.pods.iter().filter(|pod| {
            is_tracked(pod)
                && end(pod, self.spec) == Some(End::Failed)
                && self.is_ignored(pod)
                && !is_among(&held, pod)
        });
        ignored.cloned().collect()
    }

    /// Whether the end of some pod is not even noted yet.
    pub(super) fn has_more_to_count(&self, status: &JobStatus) -> bool {
        let noted = status.uncounted_terminated_pods.as_ref();
        let noted: HashSet<&str> = noted
            .into_iter()
            .flat_map(|noted| [&noted.succeeded, &noted.failed])
            .flatten()
            .flatten()
            .map(String::as_str)
            .collect();
        self.pods.iter().any(|pod| {
            let known = noted.contains(meta::uid(&**pod));
            is_tracked(pod) && !known && end(pod, self.spec).is_some() && !self.is_ignored(pod)
        })
    }

    /// The counts of pods that are there.
    pub(super) fn count_pods(&self, status: &mut JobStatus) {
        let active = self.active();
        status.active = Some(count(active.len())).filter(|count| *count != 0);
        status.ready = Some(count(
            active.iter().filter(|pod| pods::is_ready(pod)).count(),
        ));
        status.terminating = Some(count(self.terminating()));
    }

    /// Whether it is settled now that the job has failed, and why.
    pub(super) fn failure(&self, status: &JobStatus) -> Option<(&'static str, String)> {
        let of_pod = self
            .pods
            .iter()
            .filter(|pod| end(pod, self.spec) == Some(End::Failed));
        let by_policy = of_pod
            .map(|pod| policy::judge(self.spec.pod_failure_policy.as_ref(), pod))
            .find_map(|verdict| match verdict {
                Verdict::FailJob(message) => Some(message),
                _ => None,
            });
        if let Some(message) = by_policy {
            return Some(("PodFailurePolicy", message));
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        let late = || self.deadline(status).is_some_and(|left| left.is_zero());
        let (reason, message) = if failed(status) > i64::from(limit) || self.restarts_exceed(limit)
        {
            (
                "BackoffLimitExceeded",
                "Job has reached the specified backoff limit",
            )
        } else if late() {
            (
                "DeadlineExceeded",
                "Job was active longer than specified deadline",
            )
        } else {
            self.failure_of_indexes(status)?
        };
        Some((reason, message.to_owned()))
    }

    /// How much time is left until the job must be over.
    pub(super) fn deadline(&self, status: &JobStatus) -> Option<Duration> {
        let seconds = u64::try_from(self.spec.active_deadline_seconds?).ok()?;
        let start = status.start_time.as_ref()?.0;
        Some(Duration::from_secs(seconds).saturating_sub(since(start, self.now)))
    }

    /// Pods that start their containers again themselves show their failures as restarts.
    fn restarts_exceed(&self, limit: i32) -> bool {
        let template = self.spec.template.spec.as_ref();
        if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let statuses = self
            .active()
            .into_iter()
            .filter_map(|pod| pod.status.clone());
        let restarts: i64 = statuses
            .flat_map(|status| {
                let init = status.init_container_statuses.into_iter().flatten();
                init.chain(status.container_statuses.into_iter().flatten())
            })
            .map(|container| i64::from(container.restart_count))
            .sum();
        restarts > 0 && restarts >= i64::from(limit)
    }

    /// Whether the job has done what it is there for, and in what way.
    pub(super) fn success(&self, status: &JobStatus) -> Option<(&'static str, String)> {
        if let Some(policy) = self
            .spec
            .success_policy
            .as_ref()
            .filter(|_| is_indexed(self.spec))
            && let Some(message) = policy::success(policy, &completed(status))
        {
            return Some(("SuccessPolicy", message));
        }
        let succeeded = self.succeeded(status);
        let enough = match self.spec.completions {
            Some(completions) => succeeded >= i64::from(completions),
            // Any success of a work queue means that the queue is empty; the others end by themselves.
            None => succeeded > 0,
        };
        (enough && self.active().is_empty()).then(|| {
            const MESSAGE: &str = "Reached expected number of succeeded pods";
            ("CompletionsReached", MESSAGE.to_owned())
        })
    }

    /// How many have succeeded, those included that are not counted yet.
    pub(super) fn succeeded(&self, status: &JobStatus) -> i64 {
        let counted = i64::from(status.succeeded.unwrap_or(0));
        let noted = status.uncounted_terminated_pods.as_ref();
        let noted = noted
            .and_then(|noted| noted.succeeded.as_ref())
            .map_or(0, Vec::len);
        if is_indexed(self.spec) {
            return counted;
        }
        counted + i64::from(count(noted))
    }

    /// How many pods should be at work.
    pub(super) fn wanted(&self, status: &JobStatus) -> usize {
        let parallelism = i64::from(self.spec.parallelism.unwrap_or(1).max(0));
        let succeeded = self.succeeded(status);
        let wanted = match self.spec.completions {
            Some(completions) => {
                let given_up = self.failed_indexes(status).map_or(0, |failed| failed.len());
                parallelism.min(i64::from(completions) - succeeded - given_up)
            }
            None if succeeded > 0 => i64::from(count(self.active().len())).min(parallelism),
            None => parallelism,
        };
        usize::try_from(wanted).unwrap_or(0)
    }

    /// How long to wait before the next pod, for the sake of those that failed in a row.
    ///
    /// Not where each index waits for itself.
    pub(super) fn backoff(&self) -> Duration {
        if self.limit_per_index().is_some() {
            return Duration::ZERO;
        }
        let ended = |wanted: End| {
            let of_this_end = self
                .pods
                .iter()
                .filter(move |pod| end(pod, self.spec) == Some(wanted));
            of_this_end.filter_map(|pod| ended_at(pod))
        };
        let last_success = ended(End::Succeeded).max();
        let failures: Vec<_> = ended(End::Failed)
            .filter(|at| Some(*at) > last_success)
            .collect();
        let Some(last) = failures.iter().max() else {
            return Duration::ZERO;
        };
        let backoff = vaquita_reconcile::Backoff {
            base: BACKOFF,
            cap: BACKOFF_LIMIT,
        };
        let failures = u32::try_from(failures.len()).unwrap_or(u32::MAX);
        backoff
            .delay(failures)
            .saturating_sub(since(*last, self.now))
    }

    /// How long until a job that is over is to be deleted, if ever.
    pub(super) fn time_to_live(&self, status: &JobStatus) -> Option<Duration> {
        let seconds = u64::try_from(self.spec.ttl_seconds_after_finished?).ok()?;
        let over = find(status, COMPLETE).or_else(|| find(status, FAILED))?;
        let at = over.last_transition_time.as_ref()?.0;
        Some(Duration::from_secs(seconds).saturating_sub(since(at, self.now)))
    }

    /// The indexes to start next, the lowest first, for at most `count` pods; each with the pod that it is tried again for,
    /// if its tries are counted. And how long until there are more, if some only wait.
    pub(super) fn free_indexes(
        &self,
        status: &JobStatus,
        count: usize,
    ) -> (Vec<Try>, Option<Duration>) {
        let mut taken = completed(status);
        let occupied = |pod: &&Arc<Pod>| {
            let waits = replaces_ended_only(self.spec) && !pods::is_terminal(pod);
            pods::is_active(pod) || waits
        };
        for pod in self.pods.iter().filter(occupied) {
            if let Some(index) = index(pod) {
                taken.insert(index);
            }
        }
        if let Some(failed) = self.failed_indexes(status) {
            failed.iter().for_each(|index| taken.insert(index));
        }
        let mut held = self.held(status);
        let mut wait = None;
        for (index, pod) in &held {
            let left = self.backoff_after(pod);
            if !left.is_zero() && !taken.contains(*index) {
                taken.insert(*index);
                wait = wait.into_iter().chain([left]).min();
            }
        }
        let free = taken.missing(self.spec.completions.unwrap_or(0));
        let free = free.take(count).map(|index| (index, held.remove(&index)));
        (free.collect(), wait)
    }

    /// The pods at work of an indexed job that work on nothing: on an index that there is not, or that has another pod.
    pub(super) fn misplaced(&self) -> Vec<Arc<Pod>> {
        if !is_indexed(self.spec) {
            return Vec::new();
        }
        let completions = self.spec.completions.unwrap_or(0);
        let mut active = self.active();
        let related = active.clone();
        replicas::sort_for_deletion(&mut active, &related, self.now);
        let mut seen = HashSet::new();
        // From the last to be given up: that one stays.
        active.reverse();
        active.retain(|pod| {
            let index = index(pod).filter(|index| *index < completions);
            index.is_none_or(|index| !seen.insert(index))
        });
        active
    }

    /// Whether the job is being deleted: nothing new is started for it.
    pub(super) fn is_going(&self) -> bool {
        meta::is_terminating(&self.job.metadata)
    }
}

/// Whether the pod is the one that is held for its index.
fn is_among(held: &HashMap<i32, Arc<Pod>>, pod: &Arc<Pod>) -> bool {
    let held = index(pod).and_then(|index| held.get(&index));
    held.is_some_and(|held| Arc::ptr_eq(held, pod))
}

fn completed(status: &JobStatus) -> Indexes {
    Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default())
}

fn failed(status: &JobStatus) -> i64 {
    let noted = status.uncounted_terminated_pods.as_ref();
    let noted = noted
        .and_then(|noted| noted.failed.as_ref())
        .map_or(0, Vec::len);
    i64::from(status.failed.unwrap_or(0)) + i64::from(count(noted))
}

/// When the pod ended, as its containers tell, or as well as can be told.
pub(super) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    let finished = statuses.into_iter().flatten().filter_map(|container| {
        let terminated = container.state.as_ref()?.terminated.as_ref()?;
        terminated.finished_at.as_ref().map(|time| time.0)
    });
    let otherwise = pod.metadata.deletion_timestamp.as_ref();
    let otherwise = otherwise.or(pod.metadata.creation_timestamp.as_ref());
    finished.max().or(otherwise.map(|time| time.0))
}

pub(super) fn since(start: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(start)).unwrap_or_default()
}
