//! A job's selector, which is made for it: the pods are those that carry its uid.

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::selector::LabelSelector;
use vaquita_api::{Object, meta};

const UID: &str = "batch.kubernetes.io/controller-uid";
const NAME: &str = "batch.kubernetes.io/job-name";
/// The labels' names of old, without a prefix.
const LEGACY_UID: &str = "controller-uid";
const LEGACY_NAME: &str = "job-name";

/// Labels the template and makes the selector, unless the client wants to do so. What is there is left alone; whether it
/// is right is for [`validate`] to say.
pub(super) fn generate(object: &mut Object) {
    let manual = meta::at(object, &["spec", "manualSelector"]);
    if manual == Some(&Value::Bool(true)) {
        return;
    }
    let (name, uid) = (meta::name(object).to_owned(), meta::uid(object).to_owned());
    let spec = meta::object_mut(object, "spec");
    let template = meta::object_mut(spec, "template");
    let labels = meta::object_mut(meta::object_mut(template, "metadata"), "labels");
    for (label, value) in [
        (LEGACY_NAME, &name),
        (NAME, &name),
        (LEGACY_UID, &uid),
        (UID, &uid),
    ] {
        labels
            .entry(label)
            .or_insert_with(|| Value::from(value.as_str()));
    }
    let labels = labels.clone();
    let selected = meta::object_mut(meta::object_mut(spec, "selector"), "matchLabels");
    selected.entry(UID).or_insert_with(|| Value::from(uid));
    // A job without labels has those of its template.
    let own = meta::object_mut(meta::metadata_mut(object), "labels");
    if own.is_empty() {
        *own = labels;
    }
}

/// Whether the template has the labels that every job has got since they have a prefix.
pub(super) fn is_prefixed(job: &Job) -> bool {
    let labels = template_labels(job);
    labels.contains_key(UID) && labels.contains_key(NAME)
}

fn template_labels(job: &Job) -> BTreeMap<String, String> {
    let template = job.spec.as_ref().map(|spec| &spec.template);
    let metadata = template.and_then(|template| template.metadata.as_ref());
    metadata
        .and_then(|metadata| metadata.labels.clone())
        .unwrap_or_default()
}

/// The labels and the selector must be those that [`generate`] makes.
pub(super) fn validate(job: &Job, prefixed: bool, errors: &mut Errors) {
    let Some(spec) = &job.spec else { return };
    let Some(selector) = &spec.selector else {
        return;
    };
    if spec.manual_selector == Some(true) {
        return;
    }
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    if uid.is_empty() {
        let metadata = Path::root("metadata");
        errors.push(FieldError::required(&metadata.child("uid"), ""));
    }
    let mut expected = vec![(LEGACY_UID, uid), (LEGACY_NAME, name)];
    if prefixed {
        expected.extend([(UID, uid), (NAME, name)]);
    }
    let path = Path::root("spec");
    let template = path.child("template");
    let metadata = template.child("metadata");
    has_labels(
        &template_labels(job),
        &expected,
        &metadata.child("labels"),
        errors,
    );
    let expected: BTreeMap<String, String> = expected
        .into_iter()
        .map(|(label, value)| (label.to_owned(), value.to_owned()))
        .collect();
    if let Ok(understood) = LabelSelector::from_object(Some(selector))
        && !understood.matches(&expected)
    {
        const DETAIL: &str = "`selector` not auto-generated";
        errors.push(FieldError::invalid(
            &path.child("selector"),
            json!(selector),
            DETAIL,
        ));
    }
}

fn has_labels(
    labels: &BTreeMap<String, String>,
    expected: &[(&str, &str)],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (label, value) in expected {
        let detail = format!("must be '{value}'");
        match labels.get(*label) {
            Some(found) if found == value => {}
            Some(_) => {
                errors.push(FieldError::invalid(&path.key(label), json!(labels), detail));
            }
            None => errors.push(FieldError::required(&path.key(label), detail)),
        }
    }
}
