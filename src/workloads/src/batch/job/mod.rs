//! `batch/v1` Job.

mod indexes;
mod policies;
mod selector;
mod spec;
mod status;
mod update;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use serde_json::{Value, json};
use vaquita_api::Object;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource, SelectableField};
use vaquita_api::table::{self, Column};
use vaquita_kinds::pod_spec;

use crate::{Here, print, stored, template};

pub(super) use spec::validate_unselected;

/// A completion mode in which each pod has an index.
const INDEXED: &str = "Indexed";

pub(super) fn resource() -> Resource {
    stored::<Job>("job").in_all().with_status()
}

impl Kind<Here> for Job {
    const GENERATION: bool = true;

    const SELECTABLE: &'static [SelectableField] = &[SelectableField::new(
        "status.successful",
        &["status", "succeeded"],
        "0",
    )];

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Status", "What the job is doing, or how it ended."),
        Column::string(
            "Completions",
            "How many pods succeeded, of those that must.",
        ),
        Column::string("Duration", "How long the job took, or has run until now."),
        Column::AGE,
        print::CONTAINERS,
        print::IMAGES,
        print::SELECTOR,
    ];

    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
        let spec = self.spec.get_or_insert_default();
        apply_defaults(spec);
        let labels = spec
            .template
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.labels.as_ref());
        let own = self.metadata.labels.as_ref();
        if let Some(labels) = labels
            && own.is_none_or(std::collections::BTreeMap::is_empty)
        {
            self.metadata.labels = Some(labels.clone());
        }
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({}));
        selector::generate(object);
    }

    fn validate(&self, errors: &mut Errors) {
        pod_spec::warn_of_name(&self.metadata, "Pod names and hostnames", errors);
        selector::validate(self, true, errors);
        validate_spec(self, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        selector::validate(self, selector::is_prefixed(old), errors);
        validate_spec(self, errors);
        update::validate(self, old, &Path::root("spec"), errors);
    }

    fn validate_status(&self, old: &Self, errors: &mut Errors) {
        status::validate(self, old, &Path::root("status"), errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let (no_spec, no_status) = (JobSpec::default(), JobStatus::default());
        let spec = self.spec.as_ref().unwrap_or(&no_spec);
        let status = self.status.as_ref().unwrap_or(&no_status);
        let [names, images] = print::containers(Some(&spec.template));
        vec![
            self.name_cell(),
            summary(self, status).into(),
            completions(spec, status).into(),
            duration(status, now).into(),
            self.age_cell(now),
            names,
            images,
            print::selector(spec.selector.as_ref()),
        ]
    }
}

/// Fills in what a job's specification leaves out.
fn apply_defaults(spec: &mut JobSpec) {
    if spec.completions.is_none() && spec.parallelism.is_none() {
        spec.completions = Some(1);
    }
    spec.parallelism.get_or_insert(1);
    let per_index = spec.backoff_limit_per_index.is_some();
    spec.backoff_limit
        .get_or_insert(if per_index { i32::MAX } else { 6 });
    spec.completion_mode
        .get_or_insert_with(|| "NonIndexed".to_owned());
    spec.suspend.get_or_insert(false);
    spec.manual_selector.get_or_insert(false);
    apply_policy_defaults(spec);
    let replaced = if spec.pod_failure_policy.is_some() {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    spec.pod_replacement_policy
        .get_or_insert_with(|| replaced.to_owned());
    template::apply_defaults(&mut spec.template);
}

fn apply_policy_defaults(spec: &mut JobSpec) {
    let rules = spec
        .pod_failure_policy
        .iter_mut()
        .flat_map(|policy| &mut policy.rules);
    for pattern in rules.flat_map(|rule| rule.on_pod_conditions.iter_mut().flatten()) {
        pattern.status.get_or_insert_with(|| "True".to_owned());
    }
}

fn validate_spec(job: &Job, errors: &mut Errors) {
    let Some(spec) = &job.spec else { return };
    spec::validate(spec, &Path::root("spec"), errors);
    // The last pod has the longest name, and it is its host name too.
    let completions = spec.completions.unwrap_or_default();
    if spec.completion_mode.as_deref() == Some(INDEXED) && completions > 0 {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let longest = format!("{name}-{}", completions - 1);
        if !names::dns1123_label(&longest).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {longest}");
            let metadata = Path::root("metadata");
            errors.push(FieldError::invalid(&metadata.child("name"), name, detail));
        }
    }
}

/// Whether a condition of this type is there and holds.
fn holds(status: &JobStatus, condition: &str) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|found| found.type_ == condition && found.status == "True")
}

fn summary(job: &Job, status: &JobStatus) -> &'static str {
    let first = |types: &[&'static str]| types.iter().find(|kind| holds(status, kind)).copied();
    if let Some(ended) = first(&["Complete", "Failed"]) {
        ended
    } else if job.metadata.deletion_timestamp.is_some() {
        "Terminating"
    } else {
        first(&["Suspended", "FailureTarget", "SuccessCriteriaMet"]).unwrap_or("Running")
    }
}

fn completions(spec: &JobSpec, status: &JobStatus) -> String {
    let succeeded = status.succeeded.unwrap_or_default();
    match (spec.completions, spec.parallelism.unwrap_or_default()) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, workers @ 2..) => format!("{succeeded}/1 of {workers}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(status: &JobStatus, now: Timestamp) -> String {
    let Some(start) = &status.start_time else {
        return String::new();
    };
    let end = status.completion_time.as_ref().map_or(now, |time| time.0);
    table::human_duration(end.as_second() - start.0.as_second())
}

#[cfg(test)]
mod tests;
