//! Mistakes in a job's specification.

use k8s_openapi::api::batch::v1::JobSpec;
use serde_json::json;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::selector::LabelSelector;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::selectors;
use vaquita_kinds::pod_spec;

use super::{INDEXED, policies};
use crate::{rules, template};

/// The most pods at once, and the most failed indexes, of an indexed job: both are listed in its status.
const INDEXED_MAX: i32 = 100_000;
/// The same above [`INDEXED_MAX`] completions, if each index has its own limit of failures.
const MANY_MAX: i32 = 10_000;
/// The longest name of a controller, in bytes.
const MANAGED_BY_MAX: usize = 63;

/// A job's own specification.
pub(super) fn validate(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    validate_unselected(spec, path, errors);
    let at = path.child("selector");
    if spec.selector.is_none() {
        errors.push(FieldError::required(&at, ""));
    }
    selectors::label_selector(spec.selector.as_ref(), &at, errors);
    if let Ok(selector) = LabelSelector::from_object(spec.selector.as_ref()) {
        template::must_match(&spec.template, &selector, &path.child("template"), errors);
    }
}

/// All but the selector, which a job that is still to be made has not got.
pub(in super::super) fn validate_unselected(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    validate_numbers(spec, path, errors);
    if let Some(manager) = &spec.managed_by {
        validate_manager(manager, &path.child("managedBy"), errors);
    }
    validate_mode(spec, path, errors);
    policies::validate(spec, path, errors);
    let at = path.child("template");
    pod_spec::validate_template(&spec.template, &at, errors);
    validate_restarts(spec, &at, errors);
}

fn validate_numbers(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    let numbers = [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(i64::from)),
        (
            "ttlSecondsAfterFinished",
            spec.ttl_seconds_after_finished.map(i64::from),
        ),
        (
            "backoffLimitPerIndex",
            spec.backoff_limit_per_index.map(i64::from),
        ),
        ("maxFailedIndexes", spec.max_failed_indexes.map(i64::from)),
    ];
    rules::none_negative(&numbers, path, errors);
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        errors.push(FieldError::required(
            &path.child("backoffLimitPerIndex"),
            "when maxFailedIndexes is specified",
        ));
    }
}

/// `example.com/controller`
fn validate_manager(manager: &str, path: &Path<'_>, errors: &mut Errors) {
    const NO_PATH: &str =
        r"Invalid path (regex used for validation is '[A-Za-z0-9/\-._~%!$&'()*+,;=:]+')";
    let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    match manager.split_once('/') {
        _ if manager.is_empty() => errors.push(FieldError::required(path, "")),
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            invalid(path, domain, names::dns1123_subdomain(domain), errors);
            if !rest.bytes().all(in_path) {
                errors.push(FieldError::invalid(path, rest, NO_PATH));
            }
        }
        _ => {
            const DETAIL: &str = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(FieldError::invalid(path, manager, DETAIL));
        }
    }
    if manager.len() > MANAGED_BY_MAX {
        errors.push(FieldError::too_long(path, MANAGED_BY_MAX));
    }
}

fn validate_mode(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    match spec.completion_mode.as_deref() {
        Some(INDEXED) => validate_indexed(spec, path, errors),
        None | Some("NonIndexed") => {
            for (field, limit) in [
                ("backoffLimitPerIndex", spec.backoff_limit_per_index),
                ("maxFailedIndexes", spec.max_failed_indexes),
            ] {
                if let Some(limit) = limit {
                    const DETAIL: &str = "requires indexed completion mode";
                    errors.push(FieldError::invalid(&path.child(field), limit, DETAIL));
                }
            }
        }
        Some(other) => {
            let path = path.child("completionMode");
            errors.push(FieldError::not_supported(
                &path,
                other,
                &[INDEXED, "NonIndexed"],
            ));
        }
    }
}

fn validate_indexed(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    let at_failed = path.child("maxFailedIndexes");
    if spec.completions.is_none() {
        let detail = format!("when completion mode is {INDEXED}");
        errors.push(FieldError::required(&path.child("completions"), detail));
    }
    if let Some(parallelism) = spec.parallelism.filter(|number| *number > INDEXED_MAX) {
        let detail = format!(
            "must be less than or equal to {INDEXED_MAX} when completion mode is {INDEXED}"
        );
        errors.push(FieldError::invalid(
            &path.child("parallelism"),
            parallelism,
            detail,
        ));
    }
    if let (Some(completions), Some(failed)) = (spec.completions, spec.max_failed_indexes)
        && failed > completions
    {
        const DETAIL: &str = "must be less than or equal to completions";
        errors.push(FieldError::invalid(&at_failed, failed, DETAIL));
    }
    if let Some(failed) = spec
        .max_failed_indexes
        .filter(|number| *number > INDEXED_MAX)
    {
        let detail = format!("must be less than or equal to {INDEXED_MAX}");
        errors.push(FieldError::invalid(&at_failed, failed, detail));
    }
    let many = spec.completions.is_some_and(|number| number > INDEXED_MAX);
    if many && spec.backoff_limit_per_index.is_some() {
        validate_many(spec, path, errors);
    }
}

/// So many completions that the lists of their indexes must be kept short.
fn validate_many(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    if spec.max_failed_indexes.is_none() {
        let detail = format!("must be specified when completions is above {INDEXED_MAX}");
        errors.push(FieldError::required(
            &path.child("maxFailedIndexes"),
            detail,
        ));
    }
    for (field, number) in [
        ("parallelism", spec.parallelism),
        ("maxFailedIndexes", spec.max_failed_indexes),
    ] {
        if let Some(number) = number.filter(|number| *number > MANY_MAX) {
            let detail = format!(
                "must be less than or equal to {MANY_MAX} when completions are above {INDEXED_MAX} and used with \
                 backoff limit per index"
            );
            errors.push(FieldError::invalid(&path.child(field), number, detail));
        }
    }
}

/// The pods of a job must be able to end.
fn validate_restarts(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("spec");
    let path = path.child("restartPolicy");
    let pod = spec.template.spec.as_ref();
    match pod
        .and_then(|pod| pod.restart_policy.as_deref())
        .unwrap_or_default()
    {
        "" | "Always" => {
            const DETAIL: &str = "valid values: \"OnFailure\", \"Never\"";
            errors.push(FieldError::required(&path, DETAIL));
        }
        "Never" => {}
        "OnFailure" => {
            if spec.pod_failure_policy.is_some() {
                const DETAIL: &str =
                    "only \"Never\" is supported when podFailurePolicy is specified";
                errors.push(FieldError::invalid(&path, json!("OnFailure"), DETAIL));
            }
        }
        other => errors.push(FieldError::not_supported(
            &path,
            other,
            &["Never", "OnFailure"],
        )),
    }
}
