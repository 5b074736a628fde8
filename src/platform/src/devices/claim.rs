//! `ResourceClaim`: that somebody needs devices, and which ones have been given.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};

use super::{claim_status, requests};
use crate::checks::{immutable, keep_metadata};
use crate::{Here, stored};
use vaquita_api::Object;
use vaquita_api::field::{Errors, Path};
use vaquita_api::registry::{Kind, Part, Resource};
use vaquita_api::table::Column;

pub(super) fn resource() -> Resource {
    stored::<ResourceClaim>("resourceclaim", true).with_status()
}

impl Kind<Here> for ResourceClaim {
    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("State", "Whether devices have been given, and are in use."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
        self.spec.devices.get_or_insert_default();
        requests::apply_defaults(&mut self.spec);
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({}));
    }

    fn prepare_update(new: &mut Object, old: &Object, part: Part, _now: Timestamp) {
        if part == Part::Status {
            keep_metadata(new, old);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        requests::validate(&self.spec, &Path::root("spec"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        immutable(&self.spec, &old.spec, &Path::root("spec"), errors);
    }

    fn validate_status(&self, old: &Self, errors: &mut Errors) {
        claim_status::validate(self, old, &Path::root("status"), errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![self.name_cell(), state(self).into(), self.age_cell(now)]
    }
}

fn state(claim: &ResourceClaim) -> String {
    let deleted = claim.metadata.deletion_timestamp.is_some();
    let status = claim.status.clone().unwrap_or_default();
    let allocated = status.allocation.is_some();
    let reserved = allocated && status.reserved_for.is_some_and(|list| !list.is_empty());
    let all = [
        (deleted, "deleted"),
        (!deleted && !allocated, "pending"),
        (allocated, "allocated"),
        (reserved, "reserved"),
    ];
    let found: Vec<&str> = all
        .into_iter()
        .filter_map(|(holds, state)| holds.then_some(state))
        .collect();
    found.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn claim(requests: Value) -> Value {
        json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": requests}}})
    }

    fn exactly(more: Value) -> Value {
        let mut exactly = json!({"deviceClassName": "gpu"});
        if let (Value::Object(exactly), Value::Object(more)) = (&mut exactly, more) {
            exactly.extend(more);
        }
        json!([{"name": "gpu", "exactly": exactly}])
    }

    fn result() -> Value {
        json!({"request": "gpu", "driver": "gpu.example.com", "pool": "node-1", "device": "gpu-0"})
    }

    #[test]
    fn asks_for_one_device_of_a_class() {
        let old = created(
            &resource(),
            claim(exactly(json!({"tolerations": [{"key": "a"}]}))),
        );
        assert_eq!(
            old["spec"]["devices"]["requests"][0]["exactly"],
            json!({
                "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1,
                "tolerations": [{"key": "a", "operator": "Equal"}],
            })
        );
        assert_stable(&resource(), &old);
        let row = resource().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(row), json!(["c", "pending", "0s"]));
        let more = changed(&old, |claim| {
            claim["spec"]["devices"]["requests"][0]["exactly"]["count"] = 2.into();
        });
        let errors = causes(updated(&resource(), &old, more, Part::Main));
        assert!(errors[0].ends_with("field is immutable"), "{errors:?}");
    }

    #[test]
    fn refuses_requests_that_nobody_could_fulfil() {
        let with = |requests| refused(&resource(), claim(requests));
        assert_eq!(
            with(json!([{"name": "a"}])),
            [
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"
            ]
        );
        assert_eq!(
            with(exactly(json!({"allocationMode": "All", "count": 2}))),
            [
                "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'"
            ]
        );
        assert_eq!(
            with(exactly(json!({"count": -1, "selectors": [{}]}))),
            [
                "spec.devices.requests[0].exactly.selectors[0].cel: Required value",
                "spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero",
            ]
        );
        let mut constrained = claim(exactly(json!({})));
        constrained["spec"]["devices"]["constraints"] =
            json!([{"requests": ["fpga"], "matchAttribute": "example.com/numa"}]);
        assert_eq!(
            refused(&resource(), constrained),
            [
                "spec.devices.constraints[0].requests[0]: Invalid value: \"fpga\": must be the name of a request in the claim \
                 or the name of a request and a subrequest separated by '/'"
            ]
        );
        let twice = json!([exactly(json!({}))[0], exactly(json!({}))[0]]);
        assert_eq!(
            with(twice),
            ["spec.devices.requests[1]: Duplicate value: \"gpu\""]
        );
    }

    #[test]
    fn is_given_devices_then_used() {
        let old = created(&resource(), claim(exactly(json!({}))));
        let with = |old: &Object, status: Value| {
            let new = changed(old, |claim| claim["status"] = status);
            updated(&resource(), old, new, Part::Status)
        };
        let pod = json!({"resource": "pods", "name": "p", "uid": "u"});
        assert_eq!(
            causes(with(&old, json!({"reservedFor": [pod]}))),
            ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
        );
        let allocation = json!({"devices": {"results": [result()]}});
        let given = with(
            &old,
            json!({"allocation": allocation, "reservedFor": [pod]}),
        )
        .unwrap();
        let row = resource().row(&given, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1], "allocated,reserved");
        let mut other = allocation.clone();
        other["devices"]["results"][0]["device"] = "gpu-1".into();
        let errors = causes(with(&given, json!({"allocation": other})));
        assert!(errors[0].ends_with("field is immutable"), "{errors:?}");
        let device = json!({"driver": "gpu.example.com", "pool": "node-1", "device": "gpu-7"});
        assert_eq!(
            causes(with(
                &given,
                json!({"allocation": allocation, "devices": [device]})
            )),
            [
                "status.devices[0]: Invalid value: \"gpu.example.com/node-1/gpu-7\": must be an allocated device in the claim"
            ]
        );
    }
}
