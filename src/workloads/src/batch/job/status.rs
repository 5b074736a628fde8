//! Mistakes in what is reported of a job. Whoever controls it, what clients see must make sense: a job that has ended stays
//! ended, and its counts only rise.
//!
//! A rule looks only at reports that change what the rule is about, so that an older mistake is in nobody's way.

use std::collections::HashSet;

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use serde_json::json;
use vaquita_api::field::{Errors, FieldError, Path};

use super::{INDEXED, holds, indexes};
use crate::rules;

const COMPLETE: &str = "Complete";
const FAILED: &str = "Failed";
const FAILURE_TARGET: &str = "FailureTarget";
const SUCCESS: &str = "SuccessCriteriaMet";

/// A report and the one before it.
struct Report<'j> {
    spec: &'j JobSpec,
    new: &'j JobStatus,
    old: &'j JobStatus,
}

pub(super) fn validate(new: &Job, old: &Job, path: &Path<'_>, errors: &mut Errors) {
    let (no_spec, no_status) = (JobSpec::default(), JobStatus::default());
    let report = Report {
        spec: new.spec.as_ref().unwrap_or(&no_spec),
        new: new.status.as_ref().unwrap_or(&no_status),
        old: old.status.as_ref().unwrap_or(&no_status),
    };
    report.counts(path, errors);
    report.uncounted(&path.child("uncountedTerminatedPods"), errors);
    report.conditions(&path.child("conditions"), errors);
    report.times(path, errors);
    report.end(path, errors);
    report.indexes(path, errors);
    report.transitions(path, errors);
}

fn finished(status: &JobStatus) -> bool {
    holds(status, COMPLETE) || holds(status, FAILED)
}

impl Report<'_> {
    fn changed<T: PartialEq>(&self, of: impl Fn(&JobStatus) -> T) -> bool {
        of(self.new) != of(self.old)
    }

    fn condition_changed(&self, condition: &str) -> bool {
        self.changed(|status| holds(status, condition))
    }

    fn counts(&self, path: &Path<'_>, errors: &mut Errors) {
        let status = self.new;
        let counts = [
            ("active", status.active),
            ("succeeded", status.succeeded),
            ("failed", status.failed),
            ("ready", status.ready),
            ("terminating", status.terminating),
        ];
        rules::none_negative(&counts, path, errors);
        let (ready, active) = (
            status.ready.unwrap_or_default(),
            status.active.unwrap_or_default(),
        );
        if self.changed(|status| (status.ready, status.active)) && ready > active {
            const DETAIL: &str = "cannot set more ready pods than active";
            errors.push(FieldError::invalid(&path.child("ready"), ready, DETAIL));
        }
    }

    /// The uids of pods that have ended and are not counted yet.
    fn uncounted(&self, path: &Path<'_>, errors: &mut Errors) {
        let Some(pods) = &self.new.uncounted_terminated_pods else {
            return;
        };
        let mut seen = HashSet::new();
        for (field, uids) in [("succeeded", &pods.succeeded), ("failed", &pods.failed)] {
            let path = path.child(field);
            for (at, uid) in uids.iter().flatten().enumerate() {
                if uid.is_empty() {
                    let path = path.index(at);
                    errors.push(FieldError::invalid(&path, "", "must not be empty"));
                } else if !seen.insert(uid) {
                    errors.push(FieldError::duplicate(&path.index(at), uid.as_str()));
                }
            }
        }
    }

    /// Conditions that exclude each other, or need another one.
    fn conditions(&self, path: &Path<'_>, errors: &mut Errors) {
        let (complete, failed) = (holds(self.new, COMPLETE), holds(self.new, FAILED));
        let (target, success) = (holds(self.new, FAILURE_TARGET), holds(self.new, SUCCESS));
        let [
            complete_changed,
            failed_changed,
            target_changed,
            success_changed,
        ] = [COMPLETE, FAILED, FAILURE_TARGET, SUCCESS].map(|kind| self.condition_changed(kind));
        let indexes_changed = self.changed(|status| status.failed_indexes.clone());
        let rules = [
            (
                (complete_changed || failed_changed) && complete && failed,
                "cannot set Complete=True and Failed=true conditions",
            ),
            (
                (complete_changed || target_changed) && complete && target,
                "cannot set Complete=True and FailureTarget=true conditions",
            ),
            (
                (failed_changed || indexes_changed) && failed && !target,
                "cannot set Failed=True condition without the FailureTarget=true condition",
            ),
            (
                (complete_changed || success_changed) && complete && !success,
                "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            ),
            (
                success && failed,
                "cannot set SuccessCriteriaMet=True and Failed=true conditions",
            ),
            (
                success && target,
                "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
            ),
            (
                self.spec.success_policy.is_some() && !success && complete,
                "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
            ),
        ];
        for (_, detail) in rules.iter().filter(|(broken, _)| *broken) {
            errors.push(FieldError::inconsistent(path, *detail));
        }
    }

    fn times(&self, path: &Path<'_>, errors: &mut Errors) {
        let (start, end) = (&self.new.start_time, &self.new.completion_time);
        let complete = holds(self.new, COMPLETE);
        let end_changed = self.changed(|status| status.completion_time.clone());
        let start_changed = self.changed(|status| status.start_time.clone());
        let at = path.child("completionTime");
        if self.condition_changed(COMPLETE) || end_changed {
            match end {
                Some(end) if !complete => {
                    const DETAIL: &str =
                        "cannot set completionTime when there is no Complete=True condition";
                    errors.push(FieldError::invalid(&at, json!(end), DETAIL));
                }
                None if complete => {
                    const DETAIL: &str = "completionTime is required for Complete jobs";
                    errors.push(FieldError::required(&at, DETAIL));
                }
                _ => {}
            }
        }
        if let (Some(start), Some(end)) = (start, end)
            && (start_changed || end_changed)
            && end.0 < start.0
        {
            const DETAIL: &str = "must be equal to or after `startTime`";
            errors.push(FieldError::invalid(&at, json!(end), DETAIL));
        }
    }

    /// What must not be there any more once a job has ended.
    fn end(&self, path: &Path<'_>, errors: &mut Errors) {
        if !finished(self.new) {
            return;
        }
        let ended = self.changed(finished);
        let status = self.new;
        let active = status.active.unwrap_or_default();
        if active > 0 && (ended || self.changed(|status| status.active)) {
            const DETAIL: &str = "active>0 is invalid for finished job";
            errors.push(FieldError::invalid(&path.child("active"), active, DETAIL));
        }
        let start_changed = self.changed(|status| status.start_time.clone());
        if status.start_time.is_none() && (ended || start_changed) {
            const DETAIL: &str = "startTime is required for finished job";
            errors.push(FieldError::required(&path.child("startTime"), DETAIL));
        }
        if let Some(pods) = &status.uncounted_terminated_pods {
            let count = [&pods.succeeded, &pods.failed]
                .map(|uids| uids.as_ref().map_or(0, Vec::len))
                .iter()
                .sum::<usize>();
            let changed = self.changed(|status| status.uncounted_terminated_pods.clone());
            if count > 0 && (ended || changed) {
                const DETAIL: &str = "must be empty for finished job";
                let path = path.child("uncountedTerminatedPods");
                errors.push(FieldError::invalid(&path, json!(pods), DETAIL));
            }
        }
        let terminating = status.terminating.unwrap_or_default();
        if terminating > 0 && (ended || self.changed(|status| status.terminating)) {
            const DETAIL: &str = "terminating>0 is invalid for finished job";
            let path = path.child("terminating");
            errors.push(FieldError::invalid(&path, terminating, DETAIL));
        }
    }

    fn indexes(&self, path: &Path<'_>, errors: &mut Errors) {
        let completed = self.new.completed_indexes.as_deref().unwrap_or_default();
        let failed = self.new.failed_indexes.as_deref();
        let completed_changed = self.changed(|status| status.completed_indexes.clone());
        let failed_changed = self.changed(|status| status.failed_indexes.clone());
        let (at_completed, at_failed) =
            (path.child("completedIndexes"), path.child("failedIndexes"));
        let per_index = self.spec.backoff_limit_per_index.is_some();
        let count = |text: &str| {
            let completions = self.spec.completions?;
            indexes::count(text, completions).err()
        };
        if completed_changed {
            if let Some(error) = count(completed) {
                let detail = format!("error parsing completedIndexes: {error}");
                errors.push(FieldError::invalid(&at_completed, completed, detail));
            }
            let indexed = self.spec.completion_mode.as_deref() == Some(INDEXED);
            if !completed.is_empty() && !indexed {
                const DETAIL: &str =
                    "cannot set non-empty completedIndexes when non-indexed completion mode";
                errors.push(FieldError::invalid(&at_completed, completed, DETAIL));
            }
        }
        let Some(failed) = failed else { return };
        if failed_changed {
            if let Some(error) = count(failed).filter(|_| per_index) {
                let detail = format!("error parsing failedIndexes: {error}");
                errors.push(FieldError::invalid(&at_failed, failed, detail));
            }
            if !per_index {
                const DETAIL: &str =
                    "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
                errors.push(FieldError::invalid(&at_failed, failed, DETAIL));
            }
        }
        if let Some(completions) = self.spec.completions
            && (completed_changed || failed_changed)
            && let Some(index) = indexes::overlap(completed, failed, completions)
        {
            let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
            errors.push(FieldError::invalid(&at_failed, failed, detail));
        }
    }

    /// What may not become of the report before.
    fn transitions(&self, path: &Path<'_>, errors: &mut Errors) {
        let at = path.child("conditions");
        let lost = |kind| holds(self.old, kind) && !holds(self.new, kind);
        for kind in [FAILED, COMPLETE, FAILURE_TARGET] {
            if lost(kind) {
                let detail = format!("cannot disable the terminal {kind}=True condition");
                errors.push(FieldError::inconsistent(&at, detail));
            }
        }
        self.counters(path, errors);
        let (new, old) = (self.new, self.old);
        if let (Some(now), Some(then)) = (&new.completion_time, &old.completion_time)
            && now != then
        {
            let path = path.child("completionTime");
            errors.push(FieldError::invalid(&path, json!(now), "field is immutable"));
        }
        let suspended = self.spec.suspend == Some(true);
        if old.start_time.is_some() && old.start_time != new.start_time && !suspended {
            const DETAIL: &str = "startTime cannot be removed for unsuspended job";
            errors.push(FieldError::required(&path.child("startTime"), DETAIL));
        }
        if lost(SUCCESS) {
            const DETAIL: &str = "cannot disable the SuccessCriteriaMet=True condition";
            errors.push(FieldError::inconsistent(&at, DETAIL));
        }
        if holds(old, COMPLETE) && !holds(old, SUCCESS) && holds(new, SUCCESS) {
            const DETAIL: &str =
                "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
            errors.push(FieldError::inconsistent(&at, DETAIL));
        }
    }

    /// Pods that have ended stay ended, but for those of an indexed job that shrinks.
    fn counters(&self, path: &Path<'_>, errors: &mut Errors) {
        let indexed = self.spec.completion_mode.as_deref() == Some(INDEXED);
        let shrinks = indexed && self.spec.completions == self.spec.parallelism;
        let (new, old) = (self.new, self.old);
        for (field, now, then, may) in [
            ("failed", new.failed, old.failed, false),
            ("succeeded", new.succeeded, old.succeeded, shrinks),
        ] {
            let now = now.unwrap_or_default();
            if !may && now < then.unwrap_or_default() {
                let detail = format!("cannot decrease the {field} counter");
                errors.push(FieldError::invalid(&path.child(field), now, detail));
            }
        }
    }
}
