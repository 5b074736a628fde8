//! Jobs whose indexes have retries of their own (`backoffLimitPerIndex`): how often each has failed, and which are given up.
//!
//! The count goes from pod to pod, as an annotation. So the last pod of an index that failed is kept until the next one is
//! there, and is counted for the job only then.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::{batch::v1::JobStatus, core::v1::Pod};
use kube::ResourceExt as _;

use super::{
    indexes::Indexes,
    policy::{self, Verdict},
    status::{self, End, View},
};
use vaquita_reconcile::pods;

/// How often an index has failed before this pod.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often besides, without being counted.
pub(super) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// How often an index has failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Failures {
    pub(super) counted: i32,
    pub(super) ignored: i32,
}

impl Failures {
    /// Those before this pod.
    pub(super) fn before(pod: &Pod) -> Self {
        let number = |key: &str| {
            let text = pod.annotations().get(key);
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        Self {
            counted: number(FAILURES),
            ignored: number(IGNORED),
        }
    }

    fn all(self) -> u32 {
        u32::try_from(self.counted.saturating_add(self.ignored)).unwrap_or(0)
    }
}

impl View<'_> {
    /// Whether each index has retries of its own, and how many.
    pub(super) fn limit_per_index(&self) -> Option<i32> {
        let limit = self.spec.backoff_limit_per_index?;
        status::is_indexed(self.spec).then_some(limit)
    }

    /// The failures of an index after this pod of it has failed.
    pub(super) fn failures_with(&self, pod: &Pod) -> Failures {
        let mut failures = Failures::before(pod);
        match policy::judge(self.spec.pod_failure_policy.as_ref(), pod) {
            Verdict::Ignore => failures.ignored = failures.ignored.saturating_add(1),
            _ => failures.counted = failures.counted.saturating_add(1),
        }
        failures
    }

    /// Whether this failed pod was the last that its index may have.
    fn is_last_try(&self, pod: &Pod, limit: i32) -> bool {
        match policy::judge(self.spec.pod_failure_policy.as_ref(), pod) {
            Verdict::FailIndex | Verdict::FailJob(_) => true,
            Verdict::Ignore => false,
            Verdict::Count => Failures::before(pod).counted >= limit,
        }
    }

    /// The indexes that are given up, if indexes have retries of their own.
    pub(super) fn failed_indexes(&self, known: &JobStatus) -> Option<Indexes> {
        let limit = self.limit_per_index()?;
        let completions = self.spec.completions.unwrap_or(0);
        let text = known.failed_indexes.as_deref().unwrap_or_default();
        let mut failed = Indexes::parse(text).below(completions);
        for pod in self.pods {
            if status::end(pod, self.spec) == Some(End::Failed)
                && let Some(index) = status::index(pod).filter(|index| *index < completions)
                && self.is_last_try(pod, limit)
            {
                failed.insert(index);
            }
        }
        Some(failed)
    }

    /// The last failed pod of each index that will be tried again, as long as the next one is not there.
    pub(super) fn held(&self, known: &JobStatus) -> HashMap<i32, Arc<Pod>> {
        let mut held = HashMap::<i32, Arc<Pod>>::new();
        let settled =
            status::holds(known, status::FAILURE) || status::holds(known, status::SUCCESS);
        let Some(over) = self
            .failed_indexes(known)
            .filter(|_| !settled && !self.is_going())
        else {
            return held;
        };
        let completed = Indexes::parse(known.completed_indexes.as_deref().unwrap_or_default());
        let completions = self.spec.completions.unwrap_or(0);
        for pod in self.pods {
            let Some(index) = status::index(pod).filter(|index| *index < completions) else {
                continue;
            };
            let failed = status::end(pod, self.spec) == Some(End::Failed);
            if !failed || !status::is_tracked(pod) {
                continue;
            }
            if over.contains(index) || completed.contains(index) {
                continue;
            }
            let later = |other: &Arc<Pod>| Failures::before(other) < Failures::before(pod);
            if held.get(&index).is_none_or(later) {
                held.insert(index, Arc::clone(pod));
            }
        }
        for pod in self.pods.iter().filter(|pod| pods::is_active(pod)) {
            if let Some(index) = status::index(pod)
                && held
                    .get(&index)
                    .is_some_and(|before| Failures::before(before) < Failures::before(pod))
            {
                held.remove(&index);
            }
        }
        held
    }

    /// How long an index waits after this failure of it.
    pub(super) fn backoff_after(&self, pod: &Pod) -> Duration {
        let backoff = vaquita_reconcile::Backoff {
            base: status::BACKOFF,
            cap: status::BACKOFF_LIMIT,
        };
        let delay = backoff.delay(self.failures_with(pod).all());
        let ended = status::ended_at(pod);
        ended.map_or(Duration::ZERO, |at| {
            delay.saturating_sub(status::since(at, self.now))
        })
    }

    /// Whether the job has failed because of its indexes, and why.
    pub(super) fn failure_of_indexes(
        &self,
        known: &JobStatus,
    ) -> Option<(&'static str, &'static str)> {
        let failed = self.failed_indexes(known)?.len();
        if self
            .spec
            .max_failed_indexes
            .is_some_and(|most| failed > i64::from(most))
        {
            const MESSAGE: &str = "Job has exceeded the specified maximal number of failed indexes";
            return Some(("MaxFailedIndexesExceeded", MESSAGE));
        }
        let completed = Indexes::parse(known.completed_indexes.as_deref().unwrap_or_default());
        let all = i64::from(self.spec.completions.unwrap_or(0));
        (failed > 0 && failed + completed.len() >= all)
            .then_some(("FailedIndexes", "Job has failed indexes"))
    }
}
