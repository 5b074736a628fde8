//! `coordination.k8s.io/v1` Lease.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;

/// The one way without a prefix by which candidates agree on a leader.
const STRATEGY: &str = "OldestEmulationVersion";

pub(super) fn resource() -> Resource {
    stored::<Lease>("lease", true)
}

impl Kind<Here> for Lease {
    const UNCONDITIONAL_UPDATE: bool = false;
    const CREATE_ON_UPDATE: bool = true;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Holder", "Who holds the lease."),
        Column::AGE,
    ];

    fn validate(&self, errors: &mut Errors) {
        let Some(spec) = &self.spec else { return };
        let path = Path::root("spec");
        if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
            let at = path.child("leaseDurationSeconds");
            errors.push(FieldError::invalid(&at, seconds, "must be greater than 0"));
        }
        if let Some(transitions) = spec
            .lease_transitions
            .filter(|transitions| *transitions < 0)
        {
            let at = path.child("leaseTransitions");
            errors.push(FieldError::invalid(
                &at,
                transitions,
                "must be greater than or equal to 0",
            ));
        }
        if let Some(strategy) = &spec.strategy {
            let at = path.child("strategy");
            if strategy.contains('/') {
                invalid(&at, strategy, names::qualified_name(strategy), errors);
            } else if strategy != STRATEGY {
                errors.push(FieldError::not_supported(
                    &at,
                    strategy.as_str(),
                    &[STRATEGY],
                ));
            }
        }
        if spec
            .preferred_holder
            .as_ref()
            .is_some_and(|holder| !holder.is_empty())
            && spec.strategy.as_ref().is_none_or(String::is_empty)
        {
            let at = path.child("preferredHolder");
            errors.push(FieldError::forbidden(
                &at,
                "may only be specified if `strategy` is defined",
            ));
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let holder = self
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.clone())
            .unwrap_or_default();
        vec![self.name_cell(), holder.into(), self.age_cell(now)]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use vaquita_api::testing::{assert_stable, created, refused};

    fn lease(spec: &Value) -> Value {
        json!({"metadata": {"name": "l"}, "spec": spec})
    }

    #[test]
    fn prints_its_holder() {
        let lease = created(
            &resource(),
            lease(&json!({"holderIdentity": "me", "renewTime": "1970-01-01T00:00:00.5Z"})),
        );
        assert_eq!(lease["spec"]["renewTime"], "1970-01-01T00:00:00.500000Z");
        assert_stable(&resource(), &lease);
        let row = resource().row(&lease, Timestamp::UNIX_EPOCH);
        assert_eq!(row, [json!("l"), json!("me"), json!("0s")]);
    }

    #[test]
    fn refuses_times_that_never_end() {
        let cases = [
            (
                json!({"leaseDurationSeconds": 0}),
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            ),
            (
                json!({"leaseTransitions": -1}),
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"strategy": "Loudest"}),
                "spec.strategy: Unsupported value: \"Loudest\": supported values: \"OldestEmulationVersion\"",
            ),
            (
                json!({"preferredHolder": "you"}),
                "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
            ),
        ];
        for (spec, want) in cases {
            assert_eq!(refused(&resource(), lease(&spec)), [want]);
        }
    }
}
