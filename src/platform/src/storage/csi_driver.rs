//! `CSIDriver`: what a storage driver can do and wants.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec, TokenRequest};
use serde_json::Value;

use crate::checks::{immutable, joined, one_of, token_lifetime};
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Part, Resource};
use vaquita_api::table::Column;
use vaquita_api::{Object, meta};

const FS_GROUP_POLICIES: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];
const MODES: [&str; 2] = ["Ephemeral", "Persistent"];

pub(super) fn resource() -> Resource {
    stored::<CSIDriver>("csidriver", false)
}

impl Kind<Here> for CSIDriver {
    const UNCONDITIONAL_UPDATE: bool = false;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::boolean(
            "AttachRequired",
            "Whether volumes are attached to a node before use.",
        ),
        Column::boolean(
            "PodInfoOnMount",
            "Whether the driver is told which pod it mounts for.",
        ),
        Column::boolean(
            "StorageCapacity",
            "Whether the driver reports how much room it has.",
        ),
        Column::string(
            "TokenRequests",
            "The audiences of the tokens that the driver gets.",
        ),
        Column::boolean(
            "RequiresRepublish",
            "Whether the driver is called again from time to time.",
        ),
        Column::string("Modes", "How long its volumes may live."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        let spec = &mut self.spec;
        spec.attach_required.get_or_insert(true);
        spec.pod_info_on_mount.get_or_insert(false);
        spec.storage_capacity.get_or_insert(false);
        spec.requires_republish.get_or_insert(false);
        spec.se_linux_mount.get_or_insert(false);
        spec.fs_group_policy
            .get_or_insert_with(|| "ReadWriteOnceWithFSType".to_owned());
        if spec
            .volume_lifecycle_modes
            .as_ref()
            .is_none_or(Vec::is_empty)
        {
            spec.volume_lifecycle_modes = Some(vec!["Persistent".to_owned()]);
        }
    }

    /// The generation is counted from the first change on.
    fn prepare_update(new: &mut Object, old: &Object, part: Part, _now: Timestamp) {
        if part == Part::Main && new.get("spec") != old.get("spec") {
            let generation = meta::generation(old) + 1;
            meta::metadata_mut(new).insert("generation".to_owned(), generation.into());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate_spec(&self.spec, &Path::root("spec"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        self.validate(errors);
        let path = Path::root("spec");
        immutable(
            &self.spec.attach_required,
            &old.spec.attach_required,
            &path.child("attachedRequired"),
            errors,
        );
        immutable(
            &self.spec.volume_lifecycle_modes,
            &old.spec.volume_lifecycle_modes,
            &path.child("volumeLifecycleModes"),
            errors,
        );
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = &self.spec;
        let requests = spec.token_requests.iter().flatten();
        vec![
            self.name_cell(),
            spec.attach_required.unwrap_or(true).into(),
            spec.pod_info_on_mount.unwrap_or_default().into(),
            spec.storage_capacity.unwrap_or_default().into(),
            joined(requests.map(|request| &request.audience), "<unset>"),
            spec.requires_republish.unwrap_or_default().into(),
            joined(spec.volume_lifecycle_modes.iter().flatten(), "<none>"),
            self.age_cell(now),
        ]
    }
}

fn validate_spec(spec: &CSIDriverSpec, path: &Path<'_>, errors: &mut Errors) {
    if let Some(policy) = &spec.fs_group_policy {
        let at = path.child("fsGroupPolicy");
        one_of(policy, &FS_GROUP_POLICIES, &at, errors);
    }
    let requests = spec.token_requests.as_deref().unwrap_or_default();
    validate_requests(requests, &path.child("tokenRequests"), errors);
    for mode in spec.volume_lifecycle_modes.iter().flatten() {
        one_of(mode, &MODES, &path.child("volumeLifecycleModes"), errors);
    }
    let period = spec.node_allocatable_update_period_seconds;
    if let Some(seconds) = period.filter(|seconds| *seconds < 10) {
        let at = path.child("nodeAllocatableUpdatePeriodSeconds");
        let detail = "must be greater than or equal to 10 seconds";
        errors.push(FieldError::invalid(&at, seconds, detail));
    }
}

fn validate_requests(requests: &[TokenRequest], path: &Path<'_>, errors: &mut Errors) {
    let mut audiences = HashSet::new();
    for (at, request) in requests.iter().enumerate() {
        let path = path.index(at);
        if !audiences.insert(request.audience.as_str()) {
            let at = path.child("audience");
            errors.push(FieldError::duplicate(&at, request.audience.as_str()));
        } else if let Some(seconds) = request.expiration_seconds {
            token_lifetime(seconds, &path.child("expirationSeconds"), errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn driver(spec: Value) -> Value {
        json!({"metadata": {"name": "disk.example.com"}, "spec": spec})
    }

    #[test]
    fn attaches_persistent_volumes_unless_told_otherwise() {
        let old = created(&resource(), driver(json!({})));
        assert_eq!(
            old["spec"],
            json!({
                "attachRequired": true, "podInfoOnMount": false, "storageCapacity": false, "requiresRepublish": false,
                "seLinuxMount": false, "fsGroupPolicy": "ReadWriteOnceWithFSType", "volumeLifecycleModes": ["Persistent"],
            })
        );
        assert_stable(&resource(), &old);
        let row = resource().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!([
                "disk.example.com",
                true,
                false,
                false,
                "<unset>",
                false,
                "Persistent",
                "0s"
            ])
        );
        let with = |field: &str, value: Value| {
            let new = changed(&old, |object| {
                object["metadata"]["resourceVersion"] = "1".into();
                object["spec"][field] = value;
            });
            updated(&resource(), &old, new, Part::Main)
        };
        let new = with("storageCapacity", true.into()).unwrap();
        assert_eq!(meta::generation(&new), 1);
        assert_eq!(
            causes(with("attachRequired", false.into())),
            ["spec.attachedRequired: Invalid value: false: field is immutable"]
        );
    }

    #[test]
    fn asks_for_each_audience_once() {
        let requests = json!([{"audience": "a", "expirationSeconds": 60}, {"audience": "a"}]);
        assert_eq!(
            refused(&resource(), driver(json!({"tokenRequests": requests}))),
            [
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            ]
        );
        assert_eq!(
            refused(
                &resource(),
                driver(
                    json!({"volumeLifecycleModes": ["Eternal"], "nodeAllocatableUpdatePeriodSeconds": 1})
                )
            ),
            [
                "spec.volumeLifecycleModes: Unsupported value: \"Eternal\": supported values: \"Ephemeral\", \"Persistent\"",
                "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 1: must be greater than or equal to 10 seconds",
            ]
        );
    }
}
