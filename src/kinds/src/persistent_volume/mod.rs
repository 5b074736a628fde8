//! `v1` `PersistentVolume`, and in [`claim`] what asks for them.

pub(crate) mod claim;
mod sources;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec};
use serde_json::{Value, json};

use crate::resource_names;
use crate::{Here, pod_spec, print, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Part, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::{Object, meta};

/// How volumes can be mounted, and in what order and by what names tables show that.
const ACCESS_MODES: [(&str, &str); 4] = [
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
];
const RECLAIM_POLICIES: [&str; 3] = ["Delete", "Recycle", "Retain"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

pub(crate) fn resource() -> Resource {
    stored::<PersistentVolume>("persistentvolume", false)
        .short(&["pv"])
        .with_status()
}

impl Kind<Here> for PersistentVolume {
    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Capacity", "How large the volume is."),
        Column::string("Access Modes", "How the volume can be mounted."),
        Column::string("Reclaim Policy", "What becomes of it without its claim."),
        Column::string("Status", "Whether the volume is in use."),
        Column::string("Claim", "Whose volume it is."),
        Column::string("StorageClass", "What sort of volume it is."),
        Column::string("VolumeAttributesClass", "How fast the volume is."),
        Column::string("Reason", "Why the volume is as it is."),
        Column::AGE,
        Column::string("VolumeMode", "Whether the volume has a file system.").wide(),
    ];

    fn apply_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        let fill = |field: &mut Option<String>, value: &str| {
            field.get_or_insert_with(|| value.to_owned());
        };
        fill(&mut spec.persistent_volume_reclaim_policy, "Retain");
        fill(&mut spec.volume_mode, "Filesystem");
        sources::apply_defaults(spec);
        fill(&mut self.status.get_or_insert_default().phase, "Pending");
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({"phase": "Pending"}));
        note_transition(object, None);
    }

    fn prepare_update(new: &mut Object, old: &Object, part: Part, now: Timestamp) {
        if part == Part::Status {
            note_transition(new, Some((old, now)));
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let empty = PersistentVolumeSpec::default();
        let spec = self.spec.as_ref().unwrap_or(&empty);
        let name = self.metadata.name.as_deref().unwrap_or_default();
        validate_spec(spec, name, &Path::root("spec"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        self.validate(errors);
        if let (Some(new), Some(old)) = (&self.spec, &old.spec) {
            validate_change(new, old, errors);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let phase = if self.metadata.deletion_timestamp.is_some() {
            "Terminating".to_owned()
        } else {
            status.phase.unwrap_or_default()
        };
        let capacity = spec
            .capacity
            .as_ref()
            .and_then(|capacity| capacity.get("storage"));
        let claim = spec.claim_ref.map_or_else(String::new, |claim| {
            let text = |text: Option<String>| text.unwrap_or_default();
            format!("{}/{}", text(claim.namespace), text(claim.name))
        });
        let old_class = self
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(claim::CLASS_ANNOTATION));
        let class = old_class.cloned().or(spec.storage_class_name);
        let text = |text: Option<String>| Value::from(text.unwrap_or_default());
        vec![
            self.name_cell(),
            capacity
                .map_or_else(|| "0".to_owned(), |capacity| capacity.0.clone())
                .into(),
            short_modes(access_modes(spec.access_modes.as_ref())).into(),
            text(spec.persistent_volume_reclaim_policy),
            phase.into(),
            claim.into(),
            text(class),
            print::or_unset(spec.volume_attributes_class_name),
            text(status.reason),
            self.age_cell(now),
            print::or_unset(spec.volume_mode),
        ]
    }
}

fn access_modes(modes: Option<&Vec<String>>) -> &[String] {
    modes.map_or(&[], Vec::as_slice)
}

/// `RWO,RWX`.
fn short_modes(modes: &[String]) -> String {
    let has = |long: &str| modes.iter().any(|mode| mode == long);
    let shown = ACCESS_MODES.iter().filter(|(long, _)| has(long));
    shown.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn validate_modes(modes: &[String], path: &Path<'_>, errors: &mut Errors) {
    let known = ACCESS_MODES.map(|(long, _)| long);
    for mode in modes.iter().filter(|mode| !known.contains(&mode.as_str())) {
        errors.push(FieldError::not_supported(path, mode.as_str(), &known));
    }
    let alone = modes.iter().any(|mode| mode == "ReadWriteOncePod");
    let others = modes
        .iter()
        .any(|mode| mode != "ReadWriteOncePod" && known.contains(&mode.as_str()));
    if alone && others {
        const DETAIL: &str = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(path, DETAIL));
    }
}

/// The name of a class, where there is one.
fn class_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if !name.is_empty() {
        invalid(path, name, names::dns1123_subdomain(name), errors);
    }
}

/// Writes down when the phase changed last.
fn note_transition(new: &mut Object, from: Option<(&Object, Timestamp)>) {
    const FIELD: &str = "lastPhaseTransitionTime";
    let phase = |object: &Object| meta::at(object, &["status", "phase"]).cloned();
    let time = match from {
        None => meta::at(new, &["metadata", "creationTimestamp"]).cloned(),
        Some((old, now)) if phase(new) != phase(old) => {
            let given = meta::at(new, &["status", FIELD]);
            let fresh = given.filter(|given| Some(*given) != meta::at(old, &["status", FIELD]));
            fresh.cloned().or_else(|| Some(meta::time(now).into()))
        }
        Some(_) => return,
    };
    if let Some(time) = time {
        meta::object_mut(new, "status").insert(FIELD.to_owned(), time);
    }
}

fn validate_spec(spec: &PersistentVolumeSpec, name: &str, path: &Path<'_>, errors: &mut Errors) {
    let modes = access_modes(spec.access_modes.as_ref());
    let at = path.child("accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required(&at, ""));
    }
    validate_modes(modes, &at, errors);
    validate_capacity(spec, &path.child("capacity"), errors);
    let policy = spec
        .persistent_volume_reclaim_policy
        .as_deref()
        .unwrap_or_default();
    let at_policy = path.child("persistentVolumeReclaimPolicy");
    if !policy.is_empty() && !RECLAIM_POLICIES.contains(&policy) {
        errors.push(FieldError::not_supported(
            &at_policy,
            policy,
            &RECLAIM_POLICIES,
        ));
    }
    if let Some(affinity) = &spec.node_affinity {
        let path = path.child("nodeAffinity");
        let path = path.child("required");
        match &affinity.required {
            Some(selector) => pod_spec::validate_node_selector(selector, &path, errors),
            None => errors.push(FieldError::required(
                &path,
                "must specify required node constraints",
            )),
        }
    }
    sources::validate(spec, name, path, errors);
    let root = spec
        .host_path
        .as_ref()
        .is_some_and(|source| is_root(&source.path));
    if root && policy == "Recycle" {
        const DETAIL: &str = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(&at_policy, DETAIL));
    }
    if let Some(name) = spec.storage_class_name.as_deref() {
        class_name(name, &path.child("storageClassName"), errors);
    }
    if let Some(mode) = spec.volume_mode.as_deref()
        && !VOLUME_MODES.contains(&mode)
    {
        errors.push(FieldError::not_supported(
            &path.child("volumeMode"),
            mode,
            &VOLUME_MODES,
        ));
    }
    if let Some(name) = spec.volume_attributes_class_name.as_deref() {
        let at = path.child("volumeAttributesClassName");
        if name.is_empty() {
            errors.push(FieldError::required(&at, "an empty string is disallowed"));
        }
        class_name(name, &at, errors);
        if spec.csi.is_none() {
            const DETAIL: &str = "has to be specified when using volumeAttributesClassName";
            errors.push(FieldError::required(&path.child("csi"), DETAIL));
        }
    }
}

/// Whether a path leads to `/`, however it is written.
fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "." | ".."))
}

fn validate_capacity(spec: &PersistentVolumeSpec, path: &Path<'_>, errors: &mut Errors) {
    let capacity = spec.capacity.clone().unwrap_or_default();
    if capacity.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    if !capacity.contains_key("storage") || capacity.len() > 1 {
        errors.push(FieldError::not_supported(
            path,
            json!(capacity),
            &["storage"],
        ));
    }
    for (name, quantity) in &capacity {
        let path = path.key(name);
        resource_names::basic(quantity, &path, errors);
        resource_names::positive(quantity, &path, errors);
    }
}

/// A volume stays where it is.
fn validate_change(new: &PersistentVolumeSpec, old: &PersistentVolumeSpec, errors: &mut Errors) {
    let mut source = new.clone();
    if let (Some(now), Some(before)) = (&mut source.csi, &old.csi)
        && before.controller_expand_secret_ref.is_none()
    {
        now.controller_expand_secret_ref = None;
    }
    let (now, before) = (sources_of(&source), sources_of(old));
    if now != before {
        let path = Path::root("spec");
        let changed = crate::diff::changed(&before, &now, "spec.persistentvolumesource");
        let detail = format!(
            "spec.persistentvolumesource is immutable after creation\nchanged: {}",
            changed.join(", ")
        );
        errors.push(FieldError::forbidden(
            &path.child("persistentvolumesource"),
            detail,
        ));
    }
    if new.volume_mode != old.volume_mode {
        errors.push(FieldError::invalid(
            &Path::root("volumeMode"),
            new.volume_mode.clone().unwrap_or_default(),
            "field is immutable",
        ));
    }
    if old.node_affinity.is_some() && without_beta_labels(old) != without_beta_labels(new) {
        errors.push(FieldError::invalid(
            &Path::root("nodeAffinity"),
            json!(new.node_affinity),
            "field is immutable, except for updating from beta label to GA",
        ));
    }
    if old.volume_attributes_class_name.is_some() && new.volume_attributes_class_name.is_none() {
        let path = Path::root("spec");
        errors.push(FieldError::forbidden(
            &path.child("volumeAttributesClassName"),
            "update from non-nil value to nil is forbidden",
        ));
    }
}

/// The sources of a volume alone. Whatever is no source is named here.
fn sources_of(spec: &PersistentVolumeSpec) -> Value {
    const OTHERS: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let mut value = json!(spec);
    if let Value::Object(fields) = &mut value {
        fields.retain(|field, _| !OTHERS.contains(&field.as_str()));
    }
    value
}

/// The affinity with the labels' present names.
fn without_beta_labels(spec: &PersistentVolumeSpec) -> PersistentVolumeSpec {
    const RENAMED: [(&str, &str); 5] = [
        (
            "failure-domain.beta.kubernetes.io/zone",
            "topology.kubernetes.io/zone",
        ),
        (
            "failure-domain.beta.kubernetes.io/region",
            "topology.kubernetes.io/region",
        ),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        (
            "beta.kubernetes.io/instance-type",
            "node.kubernetes.io/instance-type",
        ),
    ];
    let mut affinity = spec.node_affinity.clone();
    let terms = affinity
        .iter_mut()
        .flat_map(|affinity| &mut affinity.required)
        .flat_map(|selector| &mut selector.node_selector_terms);
    for expression in terms.flat_map(|term| term.match_expressions.iter_mut().flatten()) {
        for (beta, present) in RENAMED {
            if expression.key == beta {
                present.clone_into(&mut expression.key);
            }
        }
    }
    PersistentVolumeSpec {
        node_affinity: affinity,
        ..PersistentVolumeSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::testing::{assert_stable, causes, changed, created, object, refused, updated};

    fn volume() -> Value {
        json!({
            "metadata": {"name": "v"},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"}},
        })
    }

    #[test]
    fn reads_back_like_the_real_one() {
        let volume = created(&resource(), volume());
        assert_eq!(
            volume["spec"],
            json!({
                "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
                "hostPath": {"path": "/data", "type": ""}, "persistentVolumeReclaimPolicy": "Retain",
                "volumeMode": "Filesystem",
            })
        );
        assert_eq!(
            volume["status"],
            json!({"phase": "Pending", "lastPhaseTransitionTime": "1970-01-01T00:00:00Z"})
        );
        assert_stable(&resource(), &volume);
        let bound = object(changed(&volume, |volume| {
            volume["spec"]["claimRef"] = json!({"namespace": "ns", "name": "c"});
            volume["status"]["phase"] = "Bound".into();
        }));
        assert_eq!(
            Value::from(resource().row(&bound, Timestamp::UNIX_EPOCH)),
            json!([
                "v",
                "1Gi",
                "RWO",
                "Retain",
                "Bound",
                "ns/c",
                "",
                "<unset>",
                "",
                "0s",
                "Filesystem"
            ])
        );
    }

    #[test]
    fn notes_when_its_phase_changes() {
        let old = created(&resource(), volume());
        let mut new = object(changed(&old, |volume| {
            volume["status"]["phase"] = "Available".into();
        }));
        let now = Timestamp::from_second(60).unwrap();
        resource()
            .prepare_update(&mut new, &old, Part::Status, now)
            .unwrap();
        assert_eq!(
            new["status"]["lastPhaseTransitionTime"],
            "1970-01-01T00:01:00Z"
        );
    }

    /// A change and the mistake that it is.
    type Case = (fn(&mut Value), &'static str);

    #[test]
    fn refuses_what_is_no_volume() {
        let with = |change: fn(&mut Value)| {
            let mut volume = volume();
            change(&mut volume["spec"]);
            refused(&resource(), volume)
        };
        let cases: [Case; 7] = [
            (
                |spec| spec["hostPath"] = Value::Null,
                "spec: Required value: must specify a volume type",
            ),
            (
                |spec| spec["nfs"] = json!({"server": "s", "path": "/"}),
                "spec.nfs: Forbidden: may not specify more than 1 volume type",
            ),
            (
                |spec| spec["hostPath"]["path"] = json!("/a/../b"),
                "spec.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            ),
            (
                |spec| spec["capacity"] = json!({"storage": "-1"}),
                "spec.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
            ),
            (
                |spec| {
                    spec["persistentVolumeReclaimPolicy"] = json!("Recycle");
                    spec["hostPath"]["path"] = json!("//");
                },
                "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
            ),
            (
                |spec| {
                    spec["hostPath"] = Value::Null;
                    spec["local"] = json!({"path": "/mnt"});
                },
                "spec.nodeAffinity: Required value: Local volume requires node affinity",
            ),
            (
                |spec| {
                    spec["hostPath"] = Value::Null;
                    spec["csi"] = json!({"driver": "d.example.com"});
                },
                "spec.csi.volumeHandle: Required value",
            ),
        ];
        for (change, want) in cases {
            assert_eq!(with(change)[0], want);
        }
    }

    #[test]
    fn stays_where_it_is() {
        let old = created(&resource(), volume());
        let moved = changed(&old, |volume| {
            volume["spec"]["hostPath"]["path"] = "/other".into();
        });
        assert_eq!(
            causes(updated(&resource(), &old, moved, Part::Main)),
            [
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\nchanged: spec.persistentvolumesource.hostPath.path"
            ]
        );
        let kept = changed(&old, |volume| {
            volume["spec"]["persistentVolumeReclaimPolicy"] = "Delete".into();
        });
        assert!(updated(&resource(), &old, kept, Part::Main).is_ok());
    }
}
