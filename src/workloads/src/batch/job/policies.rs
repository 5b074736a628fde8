//! Mistakes in what says when a job has failed or succeeded.

use std::collections::HashSet;

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule, SuccessPolicy, SuccessPolicyRule,
};
use serde_json::json;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;

use super::{INDEXED, indexes};
use crate::rules;

const RULES_MAX: usize = 20;
const PATTERNS_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
/// The longest list of indexes, in bytes.
const INDEXES_MAX: usize = 64 << 10;

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

pub(super) fn validate(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    if let Some(policy) = &spec.pod_failure_policy {
        validate_failure(policy, spec, &path.child("podFailurePolicy"), errors);
    }
    if let Some(policy) = &spec.success_policy {
        let path = path.child("successPolicy");
        if spec.completion_mode.as_deref() == Some(INDEXED) {
            validate_success(policy, spec, &path, errors);
        } else {
            const DETAIL: &str = "requires indexed completion mode";
            errors.push(FieldError::invalid(&path, json!(policy), DETAIL));
        }
    }
    if let Some(policy) = &spec.pod_replacement_policy {
        // A pod that is still terminating has no outcome yet that a policy could look at.
        let allowed: &[&str] = if spec.pod_failure_policy.is_some() {
            &["Failed"]
        } else {
            &["Failed", "TerminatingOrFailed"]
        };
        rules::supported(policy, allowed, &path.child("podReplacementPolicy"), errors);
    }
}

/// One of an enumeration, which a missing one is told of too.
fn required(value: &str, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        let quoted: Vec<String> = allowed.iter().map(|value| format!("{value:?}")).collect();
        let detail = format!("valid values: [{}]", quoted.join(" "));
        errors.push(FieldError::required(path, detail));
    } else {
        rules::supported(value, allowed, path, errors);
    }
}

fn validate_failure(
    policy: &PodFailurePolicy,
    spec: &JobSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let path = path.child("rules");
    if policy.rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(&path, policy.rules.len(), RULES_MAX));
    }
    let pod = spec.template.spec.as_ref();
    let containers = pod.map_or(&[][..], |pod| &pod.containers);
    let inits = pod.and_then(|pod| pod.init_containers.as_deref());
    let names: HashSet<&str> = containers
        .iter()
        .chain(inits.unwrap_or_default())
        .map(|container| container.name.as_str())
        .collect();
    for (at, rule) in policy.rules.iter().enumerate() {
        validate_failure_rule(rule, spec, &names, &path.index(at), errors);
    }
}

fn validate_failure_rule(
    rule: &PodFailurePolicyRule,
    spec: &JobSpec,
    containers: &HashSet<&str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let at = path.child("action");
    required(&rule.action, &ACTIONS, &at, errors);
    if rule.action == "FailIndex" && spec.backoff_limit_per_index.is_none() {
        const DETAIL: &str = "requires the backoffLimitPerIndex to be set";
        errors.push(FieldError::invalid(&at, rule.action.as_str(), DETAIL));
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    if let Some(codes) = &rule.on_exit_codes {
        validate_codes(codes, containers, &path.child("onExitCodes"), errors);
    }
    validate_patterns(patterns, &path.child("onPodConditions"), errors);
    match (rule.on_exit_codes.is_some(), !patterns.is_empty()) {
        (true, true) => errors.push(FieldError::inconsistent(
            path,
            "specifying both OnExitCodes and OnPodConditions is not supported",
        )),
        (false, false) => errors.push(FieldError::inconsistent(
            path,
            "specifying one of OnExitCodes and OnPodConditions is required",
        )),
        _ => {}
    }
}

fn validate_patterns(
    patterns: &[PodFailurePolicyOnPodConditionsPattern],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if patterns.len() > PATTERNS_MAX {
        errors.push(FieldError::too_many(path, patterns.len(), PATTERNS_MAX));
    }
    for (at, pattern) in patterns.iter().enumerate() {
        let path = path.index(at);
        let kind = pattern.type_.as_str();
        invalid(
            &path.child("type"),
            kind,
            names::qualified_name(kind),
            errors,
        );
        let status = pattern.status.as_deref().unwrap_or_default();
        required(status, &STATUSES, &path.child("status"), errors);
    }
}

fn validate_codes(
    codes: &PodFailurePolicyOnExitCodesRequirement,
    containers: &HashSet<&str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    required(
        &codes.operator,
        &["In", "NotIn"],
        &path.child("operator"),
        errors,
    );
    if let Some(name) = &codes.container_name
        && !containers.contains(name.as_str())
    {
        const DETAIL: &str =
            "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(
            &path.child("containerName"),
            name.as_str(),
            DETAIL,
        ));
    }
    let path = path.child("values");
    let values = &codes.values;
    if values.is_empty() {
        const DETAIL: &str = "at least one value is required";
        errors.push(FieldError::invalid(&path, json!(values), DETAIL));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(FieldError::too_many(&path, values.len(), EXIT_CODES_MAX));
    }
    let mut seen = HashSet::new();
    for (at, value) in values.iter().enumerate() {
        if codes.operator == "In" && *value == 0 {
            const DETAIL: &str = "must not be 0 for the In operator";
            errors.push(FieldError::invalid(&path.index(at), *value, DETAIL));
        }
        if !seen.insert(value) {
            errors.push(FieldError::duplicate(&path.index(at), *value));
        }
    }
    if !values.is_sorted() {
        errors.push(FieldError::invalid(&path, json!(values), "must be ordered"));
    }
}

fn validate_success(policy: &SuccessPolicy, spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("rules");
    if policy.rules.is_empty() {
        const DETAIL: &str =
            "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(&path, DETAIL));
    }
    if policy.rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(&path, policy.rules.len(), RULES_MAX));
    }
    let completions = spec.completions.unwrap_or_default();
    for (at, rule) in policy.rules.iter().enumerate() {
        validate_success_rule(rule, completions, &path.index(at), errors);
    }
}

fn validate_success_rule(
    rule: &SuccessPolicyRule,
    completions: i32,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        const DETAIL: &str = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(path, DETAIL));
    }
    let mut listed = 0;
    if let Some(text) = &rule.succeeded_indexes {
        let path = path.child("succeededIndexes");
        if text.len() > INDEXES_MAX {
            errors.push(FieldError::too_long(&path, INDEXES_MAX));
        }
        match indexes::count(text, completions) {
            Ok(count) => listed = count,
            Err(error) => errors.push(FieldError::invalid(
                &path,
                text.as_str(),
                format!("error parsing succeededIndexes: {error}"),
            )),
        }
    }
    let Some(count) = rule.succeeded_count else {
        return;
    };
    let path = path.child("succeededCount");
    rules::not_negative(count, &path, errors);
    let mut too_many = |limit: i64, what: &str| {
        if i64::from(count) > limit {
            let detail = format!("must be less than or equal to {limit} (the number of {what})");
            errors.push(FieldError::invalid(&path, count, detail));
        }
    };
    too_many(completions.into(), "specified completions");
    if rule.succeeded_indexes.is_some() {
        too_many(listed, "indexes in the specified succeededIndexes field");
    }
}
