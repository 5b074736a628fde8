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
            invalid(
                &path.child("strategy"),
                strategy,
                names::qualified_name(strategy),
                errors,
            );
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
