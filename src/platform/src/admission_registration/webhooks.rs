//! `ValidatingWebhookConfiguration` and `MutatingWebhookConfiguration`.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations,
    ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::{
    FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES, client, expressions, extension, rules,
};
use crate::Here;
use crate::checks::{fully_qualified_name, one_of};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::selectors;

/// The versions of the question that is put to webhooks.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// What a webhook may do to the world besides answering, if it is asked about rehearsals, too.
const NO_SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
const SIDE_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::integer("Webhooks", "How many webhooks there are."),
    Column::AGE,
];

pub(super) fn validating() -> Resource {
    extension::<ValidatingWebhookConfiguration>("validatingwebhookconfiguration")
}

pub(super) fn mutating() -> Resource {
    extension::<MutatingWebhookConfiguration>("mutatingwebhookconfiguration")
}

/// What both sorts of webhooks have.
struct Hook<'h> {
    name: &'h str,
    client: &'h WebhookClientConfig,
    rules: &'h [RuleWithOperations],
    failure_policy: Option<&'h str>,
    match_policy: Option<&'h str>,
    side_effects: &'h str,
    timeout: Option<i32>,
    namespaces: Option<&'h LabelSelector>,
    objects: Option<&'h LabelSelector>,
    reinvocation: Option<&'h str>,
    conditions: Option<&'h [MatchCondition]>,
    versions: &'h [String],
}

macro_rules! configuration {
    ($kind:ty, $hook:ty, $default:expr, |$shown:ident| $reinvocation:expr) => {
        impl Kind<Here> for $kind {
            const GENERATION: bool = true;
            const UNCONDITIONAL_UPDATE: bool = false;
            const COLUMNS: &'static [Column] = COLUMNS;

            fn apply_defaults(&mut self) {
                for hook in self.webhooks.iter_mut().flatten() {
                    let fail = || "Fail".to_owned();
                    hook.failure_policy.get_or_insert_with(fail);
                    let equivalent = || "Equivalent".to_owned();
                    hook.match_policy.get_or_insert_with(equivalent);
                    hook.namespace_selector.get_or_insert_default();
                    hook.object_selector.get_or_insert_default();
                    hook.timeout_seconds.get_or_insert(10);
                    let given = hook.rules.iter_mut().flatten();
                    given.for_each(rules::apply_defaults);
                    client::apply_defaults(&mut hook.client_config);
                    let more: fn(&mut $hook) = $default;
                    more(hook);
                }
            }

            fn validate(&self, errors: &mut Errors) {
                validate(&self.hooks(), &Strictness::FULL, errors);
            }

            fn validate_update(&self, old: &Self, errors: &mut Errors) {
                validate(&self.hooks(), &Strictness::since(&old.hooks()), errors);
            }

            fn row(&self, now: Timestamp) -> Vec<Value> {
                vec![
                    self.name_cell(),
                    self.webhooks.as_ref().map_or(0, Vec::len).into(),
                    self.age_cell(now),
                ]
            }
        }

        impl Hooks for $kind {
            fn hooks(&self) -> Vec<Hook<'_>> {
                let view = |$shown| {
                    let hook: &$hook = $shown;
                    Hook {
                        name: &hook.name,
                        client: &hook.client_config,
                        rules: hook.rules.as_deref().unwrap_or_default(),
                        failure_policy: hook.failure_policy.as_deref(),
                        match_policy: hook.match_policy.as_deref(),
                        side_effects: &hook.side_effects,
                        timeout: hook.timeout_seconds,
                        namespaces: hook.namespace_selector.as_ref(),
                        objects: hook.object_selector.as_ref(),
                        reinvocation: $reinvocation,
                        conditions: hook.match_conditions.as_deref(),
                        versions: &hook.admission_review_versions,
                    }
                };
                self.webhooks.iter().flatten().map(view).collect()
            }
        }
    };
}

trait Hooks {
    fn hooks(&self) -> Vec<Hook<'_>>;
}

configuration!(
    ValidatingWebhookConfiguration,
    ValidatingWebhook,
    |_| {},
    |hook| None
);
configuration!(
    MutatingWebhookConfiguration,
    MutatingWebhook,
    |hook| {
        let never = || "Never".to_owned();
        hook.reinvocation_policy.get_or_insert_with(never);
    },
    |hook| hook.reinvocation_policy.as_deref()
);

/// Rules that came later: a configuration which broke one before may go on to do so.
struct Strictness {
    no_side_effects: bool,
    known_version: bool,
    unique_names: bool,
}

impl Strictness {
    const FULL: Self = Self {
        no_side_effects: true,
        known_version: true,
        unique_names: true,
    };

    fn since(old: &[Hook<'_>]) -> Self {
        let mut names = HashSet::new();
        Self {
            no_side_effects: old
                .iter()
                .all(|hook| NO_SIDE_EFFECTS.contains(&hook.side_effects)),
            known_version: old
                .iter()
                .all(|hook| hook.versions.is_empty() || knows_version(hook.versions)),
            unique_names: old.iter().all(|hook| names.insert(hook.name)),
        }
    }
}

fn knows_version(versions: &[String]) -> bool {
    versions
        .iter()
        .any(|version| VERSIONS.contains(&version.as_str()))
}

fn validate(hooks: &[Hook<'_>], strictness: &Strictness, errors: &mut Errors) {
    let path = Path::root("webhooks");
    let mut names = HashSet::new();
    for (at, hook) in hooks.iter().enumerate() {
        let path = path.index(at);
        validate_hook(hook, strictness, &path, errors);
        let at = path.child("admissionReviewVersions");
        validate_versions(hook.versions, strictness.known_version, &at, errors);
        if strictness.unique_names && !hook.name.is_empty() && !names.insert(hook.name) {
            errors.push(FieldError::duplicate(&path.child("name"), hook.name));
        }
    }
}

fn validate_hook(hook: &Hook<'_>, strictness: &Strictness, path: &Path<'_>, errors: &mut Errors) {
    fully_qualified_name(hook.name, &path.child("name"), errors);
    let at = path.child("rules");
    for (index, rule) in hook.rules.iter().enumerate() {
        rules::validate(rule, &at.index(index), errors);
    }
    if let Some(policy) = hook.failure_policy {
        let at = path.child("failurePolicy");
        one_of(policy, &FAILURE_POLICIES, &at, errors);
    }
    if let Some(policy) = hook.match_policy {
        one_of(policy, &MATCH_POLICIES, &path.child("matchPolicy"), errors);
    }
    let allowed: &[&str] = if strictness.no_side_effects {
        &NO_SIDE_EFFECTS
    } else {
        &SIDE_EFFECTS
    };
    let at = path.child("sideEffects");
    if hook.side_effects.is_empty() {
        let detail = format!("must specify one of {}", allowed.join(", "));
        errors.push(FieldError::required(&at, detail));
    } else {
        one_of(hook.side_effects, allowed, &at, errors);
    }
    if let Some(seconds) = hook.timeout.filter(|seconds| !(1..=30).contains(seconds)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(
            &path.child("timeoutSeconds"),
            seconds,
            detail,
        ));
    }
    for (field, selector) in [
        ("namespaceSelector", hook.namespaces),
        ("objectSelector", hook.objects),
    ] {
        selectors::label_selector(selector, &path.child(field), errors);
    }
    if let Some(policy) = hook.reinvocation {
        let at = path.child("reinvocationPolicy");
        one_of(policy, &REINVOCATION_POLICIES, &at, errors);
    }
    client::validate(hook.client, &path.child("clientConfig"), errors);
    let at = path.child("matchConditions");
    expressions::validate_conditions(hook.conditions, &at, errors);
}

fn validate_versions(versions: &[String], known: bool, path: &Path<'_>, errors: &mut Errors) {
    let all = VERSIONS.join(", ");
    if versions.is_empty() {
        let detail = format!("must specify one of {all}");
        errors.push(FieldError::required(path, detail));
        return;
    }
    let mut seen = HashSet::new();
    for (at, version) in versions.iter().enumerate() {
        let path = path.index(at);
        if seen.insert(version) {
            invalid(&path, version, names::dns1035_label(version), errors);
        } else {
            let detail = "duplicate version";
            errors.push(FieldError::invalid(&path, version.as_str(), detail));
        }
    }
    if known && !knows_version(versions) {
        let detail = format!("must include at least one of {all}");
        errors.push(FieldError::invalid(path, json!(versions), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::meta;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    fn hook() -> Value {
        json!({
            "name": "check.example.com", "clientConfig": {"service": {"name": "s", "namespace": "n"}}, "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        })
    }

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn configuration(hooks: Value) -> Value {
        json!({"metadata": {"name": "c"}, "webhooks": hooks})
    }

    #[test]
    fn fills_in_what_webhooks_leave_out() {
        let stored = created(&mutating(), configuration(json!([hook()])));
        let hook_stored = &stored["webhooks"][0];
        for (field, value) in [
            ("failurePolicy", json!("Fail")),
            ("matchPolicy", json!("Equivalent")),
            ("namespaceSelector", json!({})),
            ("objectSelector", json!({})),
            ("timeoutSeconds", json!(10)),
            ("reinvocationPolicy", json!("Never")),
        ] {
            assert_eq!(hook_stored[field], value, "{field}");
        }
        assert_eq!(hook_stored["rules"][0]["scope"], "*");
        assert_eq!(hook_stored["clientConfig"]["service"]["port"], 443);
        assert_stable(&mutating(), &stored);
        let old = created(&validating(), configuration(json!([hook()])));
        assert!(old["webhooks"][0].get("reinvocationPolicy").is_none());
        let row = validating().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(row), json!(["c", 1, "0s"]));
        let none = changed(&old, |configuration| {
            configuration["metadata"]["resourceVersion"] = "1".into();
            configuration["webhooks"] = json!([]);
        });
        let new = updated(&validating(), &old, none, Part::Main).unwrap();
        assert_eq!(meta::generation(&new), 2);
    }

    #[test]
    fn refuses_webhooks_that_could_not_be_called() {
        let with = |change: fn(&mut Value)| {
            let mut hook = hook();
            change(&mut hook);
            refused(&mutating(), configuration(json!([hook])))
        };
        assert_eq!(
            with(|hook| hook["name"] = "check".into()),
            [
                "webhooks[0].name: Invalid value: \"check\": should be a domain with at least three segments separated by dots"
            ]
        );
        assert_eq!(
            with(|hook| hook["sideEffects"] = Value::Null),
            ["webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"]
        );
        assert_eq!(
            with(|hook| hook["sideEffects"] = "Some".into()),
            [
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\""
            ]
        );
        assert_eq!(
            with(|hook| hook["timeoutSeconds"] = 31.into()),
            [
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"
            ]
        );
        assert_eq!(
            with(|hook| hook["admissionReviewVersions"] = json!(["v7", "v7"])),
            [
                "webhooks[0].admissionReviewVersions[1]: Invalid value: \"v7\": duplicate version",
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v7\",\"v7\"]: must include at least one of v1, v1beta1",
            ]
        );
        assert_eq!(
            with(|hook| hook["matchConditions"] =
                json!([{"name": "a"}, {"name": "a", "expression": "true"}])),
            [
                "webhooks[0].matchConditions[0].expression: Required value",
                "webhooks[0].matchConditions[1].name: Duplicate value: \"a\""
            ]
        );
        assert_eq!(
            refused(&validating(), configuration(json!([hook(), hook()]))),
            ["webhooks[1].name: Duplicate value: \"check.example.com\""]
        );
    }

    #[test]
    fn bears_with_what_was_there_before() {
        let mut old = created(&validating(), configuration(json!([hook()])));
        old["webhooks"][0]["sideEffects"] = "Unknown".into();
        let new = changed(&old, |configuration| {
            configuration["metadata"]["resourceVersion"] = "1".into();
            configuration["webhooks"][0]["timeoutSeconds"] = 5.into();
        });
        assert_eq!(
            causes(updated(&validating(), &old, new, Part::Main)),
            [""; 0]
        );
    }
}
