//! `v1` `PersistentVolumeClaim`, and what claims have in common wherever they are written.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus,
    PersistentVolumeClaimTemplate,
};
use serde_json::{Value, json};

use super::{VOLUME_MODES, access_modes, class_name, short_modes, validate_modes};
use crate::print;
use crate::resource_names::{self, Amounts, parsed};
use crate::{Here, stored};
use vaquita_api::Object;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::quantity::Quantity;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::{annotations, invalid, labels};
use vaquita_api::validate::selectors;

/// How the class of a claim was given before there was a field for it.
pub(super) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

const RESIZE_STATES: [&str; 5] = [
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

pub(crate) fn resource() -> Resource {
    stored::<PersistentVolumeClaim>("persistentvolumeclaim", true)
        .short(&["pvc"])
        .with_status()
}

impl Kind<Here> for PersistentVolumeClaim {
    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Status", "Whether the claim has its volume."),
        Column::string("Volume", "The volume."),
        Column::string("Capacity", "How large the volume is."),
        Column::string("Access Modes", "How the volume can be mounted."),
        Column::string("StorageClass", "What sort of volume is asked for."),
        Column::string("VolumeAttributesClass", "How fast the volume is to be."),
        Column::AGE,
        Column::string("VolumeMode", "Whether the volume has a file system.").wide(),
    ];

    fn apply_defaults(&mut self) {
        apply_defaults(self.spec.get_or_insert_default());
        let phase = &mut self.status.get_or_insert_default().phase;
        phase.get_or_insert_with(|| "Pending".to_owned());
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({"phase": "Pending"}));
        let decoded = object.get("spec").cloned();
        let spec = decoded.and_then(|spec| serde_json::from_value(spec).ok());
        if let Some(mut spec) = spec {
            match_sources(&mut spec);
            object.insert("spec".to_owned(), json!(spec));
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let empty = PersistentVolumeClaimSpec::default();
        let spec = self.spec.as_ref().unwrap_or(&empty);
        validate_spec(spec, &Path::root("spec"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        self.validate(errors);
        validate_change(self, old, errors);
    }

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        if let Some(status) = &self.status {
            validate_status(status, &Path::root("status"), errors);
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
        let volume = spec.volume_name.clone().unwrap_or_default();
        let (capacity, modes) = if volume.is_empty() {
            (String::new(), String::new())
        } else {
            let capacity = storage(status.capacity.as_ref()).map(|storage| storage.to_string());
            let modes = status.access_modes.as_deref().unwrap_or_default();
            (
                capacity.unwrap_or_else(|| "0".to_owned()),
                short_modes(modes),
            )
        };
        let old_class = self
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(CLASS_ANNOTATION));
        let class = old_class.cloned().or(spec.storage_class_name);
        vec![
            self.name_cell(),
            phase.into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            class.unwrap_or_default().into(),
            print::or_unset(spec.volume_attributes_class_name),
            self.age_cell(now),
            print::or_unset(spec.volume_mode),
        ]
    }
}

/// What a claim leaves out, wherever it is written.
pub(crate) fn apply_defaults(spec: &mut PersistentVolumeClaimSpec) {
    spec.volume_mode
        .get_or_insert_with(|| "Filesystem".to_owned());
    spec.resources.get_or_insert_default();
}

/// The older and the newer field for what a volume starts with follow each other.
fn match_sources(spec: &mut PersistentVolumeClaimSpec) {
    if let (Some(old), None) = (&spec.data_source, &spec.data_source_ref) {
        let group = old.api_group.clone().unwrap_or_default();
        // What the older field could never name is dropped.
        if matches!(
            (group.as_str(), old.kind.as_str()),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        ) {
            spec.data_source_ref = serde_json::from_value(json!(old)).ok();
        } else {
            spec.data_source = None;
        }
    } else if let (None, Some(new)) = (&spec.data_source, &spec.data_source_ref)
        && new.namespace.as_ref().is_none_or(String::is_empty)
    {
        let group = new.api_group.clone().unwrap_or_default();
        if matches!(
            (group.as_str(), new.kind.as_str()),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        ) {
            spec.data_source = serde_json::from_value(json!(new)).ok();
        }
    }
}

fn storage(amounts: Option<&Amounts>) -> Option<Quantity> {
    amounts.and_then(|amounts| amounts.get("storage").map(parsed))
}

fn requested(spec: &PersistentVolumeClaimSpec) -> Option<&Amounts> {
    spec.resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref())
}

/// A claim that is made for a pod or by a set; only labels and annotations of its metadata are used.
pub(crate) fn validate_template(
    template: &PersistentVolumeClaimTemplate,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(metadata) = &template.metadata {
        let path = path.child("metadata");
        let pairs = |map: &Option<std::collections::BTreeMap<String, String>>| {
            map.clone().unwrap_or_default()
        };
        let (given_labels, given) = (pairs(&metadata.labels), pairs(&metadata.annotations));
        annotations(
            given
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str())),
            &path.child("annotations"),
            errors,
        );
        labels(
            given_labels
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str())),
            &path.child("labels"),
            errors,
        );
        let all = serde_json::to_value(metadata).unwrap_or_default();
        for field in all.as_object().into_iter().flat_map(|map| map.keys()) {
            if !matches!(field.as_str(), "annotations" | "labels") {
                errors.push(FieldError::forbidden(&path.child(field), "cannot be set"));
            }
        }
    }
    validate_spec(&template.spec, &path.child("spec"), errors);
}

/// Mistakes in what is claimed.
pub fn validate_spec(spec: &PersistentVolumeClaimSpec, path: &Path<'_>, errors: &mut Errors) {
    let modes = access_modes(spec.access_modes.as_ref());
    let at = path.child("accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required(
            &at,
            "at least 1 access mode is required",
        ));
    }
    selectors::label_selector(spec.selector.as_ref(), &path.child("selector"), errors);
    validate_modes(modes, &at, errors);
    let at = path.child("resources");
    let at = at.key("storage");
    match requested(spec).and_then(|requests| requests.get("storage")) {
        None => errors.push(FieldError::required(&at, "")),
        Some(storage) => resource_names::positive(storage, &at, errors),
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
    validate_sources(spec, path, errors);
    if let Some(name) = spec.volume_attributes_class_name.as_deref() {
        class_name(name, &path.child("volumeAttributesClassName"), errors);
    }
}

fn validate_sources(spec: &PersistentVolumeClaimSpec, path: &Path<'_>, errors: &mut Errors) {
    let (old, new) = (&spec.data_source, &spec.data_source_ref);
    if let Some(old) = old {
        let source = (old.name.as_str(), old.kind.as_str(), &old.api_group);
        validate_source(source, &path.child("dataSource"), errors);
    }
    if let Some(new) = new {
        let path = path.child("dataSourceRef");
        validate_source((&new.name, &new.kind, &new.api_group), &path, errors);
        if let Some(namespace) = new.namespace.as_deref().filter(|name| !name.is_empty()) {
            let problems = names::dns1123_label(namespace);
            invalid(&path.child("namespace"), namespace, problems, errors);
        }
    }
    let (Some(old), Some(new)) = (old, new) else {
        return;
    };
    let shown = path.child("dataSource").to_string();
    let elsewhere = new.namespace.as_ref().is_some_and(|name| !name.is_empty());
    if elsewhere {
        const DETAIL: &str = "may not be specified when dataSourceRef.namespace is specified";
        errors.push(FieldError::invalid(path, shown, DETAIL));
    } else if (&old.api_group, &old.kind, &old.name) != (&new.api_group, &new.kind, &new.name) {
        errors.push(FieldError::invalid(path, shown, "must match dataSourceRef"));
    }
}

fn validate_source(
    (name, kind, group): (&str, &str, &Option<String>),
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (field, value) in [("name", name), ("kind", kind)] {
        if value.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
    let group = group.as_deref().unwrap_or_default();
    if !group.is_empty() {
        let problems = names::dns1123_subdomain(group);
        invalid(&path.child("apiGroup"), group, problems, errors);
    } else if kind != "PersistentVolumeClaim" {
        const DETAIL: &str =
            "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(FieldError::invalid(path, kind, DETAIL));
    }
}

/// A claim stays what it is, but for its size and its class of attributes once it is bound, and its volume until then.
fn validate_change(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim, errors: &mut Errors) {
    let (now, before) = (
        new.spec.clone().unwrap_or_default(),
        old.spec.clone().unwrap_or_default(),
    );
    let annotation = |claim: &PersistentVolumeClaim| {
        let annotations = claim.metadata.annotations.as_ref();
        annotations.and_then(|map| map.get(CLASS_ANNOTATION).cloned())
    };
    let (class_now, class_before) = (annotation(new), annotation(old));
    let mut comparable = now.clone();
    let mut expected = before.clone();
    if expected.volume_name.as_ref().is_none_or(String::is_empty) {
        expected.volume_name.clone_from(&comparable.volume_name);
    }
    // The class may move from the annotation to its field, or be filled in where there was none.
    let moves = class_before.is_some()
        && before.storage_class_name.is_none()
        && now.storage_class_name == class_before
        && class_now
            .as_ref()
            .is_none_or(|class| Some(class) == class_before.as_ref());
    if moves {
        comparable.storage_class_name = None;
    } else {
        if class_now != class_before {
            let path = Path::root("metadata");
            let path = path.child("annotations");
            errors.push(FieldError::invalid(
                &path.child(CLASS_ANNOTATION),
                class_now.unwrap_or_default(),
                "field is immutable",
            ));
        }
        let filled_in = before.storage_class_name.is_none() && now.storage_class_name.is_some();
        if filled_in && (class_before.is_none() || class_before == now.storage_class_name) {
            comparable.storage_class_name = None;
        }
    }
    let status = new.status.as_ref();
    if status.and_then(|status| status.phase.as_deref()) == Some("Bound") {
        keep_storage(&mut comparable, &before);
        if comparable.volume_attributes_class_name.is_some() {
            let class = &before.volume_attributes_class_name;
            comparable.volume_attributes_class_name.clone_from(class);
        }
    }
    let path = Path::root("spec");
    if comparable != expected {
        const DETAIL: &str = "spec is immutable after creation except resources.requests and \
            volumeAttributesClassName for bound claims";
        let changed = crate::diff::changed(&expected, &comparable, "spec").join(", ");
        let detail = format!("{DETAIL}\nchanged: {changed}");
        errors.push(FieldError::forbidden(&path, detail));
    }
    validate_size(&now, &before, old.status.as_ref(), errors);
    if now.volume_mode != before.volume_mode {
        errors.push(FieldError::invalid(
            &Path::root("volumeMode"),
            now.volume_mode.unwrap_or_default(),
            "field is immutable",
        ));
    }
    let detail = match (
        &before.volume_attributes_class_name,
        now.volume_attributes_class_name.as_deref(),
    ) {
        (Some(_), None) => "update from non-nil value to nil is forbidden",
        (Some(before), Some("")) if !before.is_empty() => {
            "update from non-nil value to an empty string is forbidden"
        }
        _ => return,
    };
    let path = path.child("volumeAttributesClassName");
    errors.push(FieldError::forbidden(&path, detail));
}

fn keep_storage(spec: &mut PersistentVolumeClaimSpec, old: &PersistentVolumeClaimSpec) {
    let requests = spec
        .resources
        .as_mut()
        .and_then(|resources| resources.requests.as_mut());
    let before = requested(old).and_then(|requests| requests.get("storage"));
    if let (Some(requests), Some(before)) = (requests, before) {
        requests.insert("storage".to_owned(), before.clone());
    }
}

/// A volume can't be made smaller; a wish that was too large can be taken back as far as the volume has not grown yet.
fn validate_size(
    new: &PersistentVolumeClaimSpec,
    old: &PersistentVolumeClaimSpec,
    status: Option<&PersistentVolumeClaimStatus>,
    errors: &mut Errors,
) {
    let size = |spec| storage(requested(spec)).unwrap_or(Quantity::ZERO);
    let capacity = storage(status.and_then(|status| status.capacity.as_ref()));
    if size(new) < size(old) && size(new) <= capacity.unwrap_or(Quantity::ZERO) {
        let path = Path::root("spec");
        let path = path.child("resources");
        let path = path.child("requests");
        errors.push(FieldError::forbidden(
            &path.child("storage"),
            "field can not be less than status.capacity",
        ));
    }
}

fn validate_status(status: &PersistentVolumeClaimStatus, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("capacity");
    for (name, quantity) in status.capacity.iter().flatten() {
        resource_names::basic(quantity, &at.key(name), errors);
    }
    let at = path.child("allocatedResourceStatus");
    for (name, state) in status.allocated_resource_statuses.iter().flatten() {
        resource_key(name, &at, errors);
        if !RESIZE_STATES.contains(&state.as_str()) {
            errors.push(FieldError::not_supported(
                &at,
                name.as_str(),
                &RESIZE_STATES,
            ));
        }
    }
    let at = path.child("allocatedResources");
    for (name, quantity) in status.allocated_resources.iter().flatten() {
        if resource_key(name, &at, errors) {
            resource_names::basic(quantity, &at.key(name), errors);
        }
    }
    let at = path.child("conditions");
    let mut seen = HashSet::new();
    for (index, condition) in status.conditions.iter().flatten().enumerate() {
        if !seen.insert(&condition.type_) {
            let path = at.index(index);
            errors.push(FieldError::duplicate(&path, condition.type_.as_str()));
        }
    }
}

/// Of the resources that Kubernetes knows, a claim has storage alone.
fn resource_key(name: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let problems = names::qualified_name(name);
    if !problems.is_empty() {
        invalid(path, name, problems, errors);
        return false;
    }
    let fits = name == "storage" || !resource_names::is_native(name);
    if !fits {
        errors.push(FieldError::not_supported(path, name, &["storage"]));
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, object, refused, updated};

    fn claim() -> Value {
        json!({
            "metadata": {"name": "c"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        })
    }

    #[test]
    fn reads_back_like_the_real_one() {
        let claim = created(&resource(), claim());
        assert_eq!(claim["status"], json!({"phase": "Pending"}));
        assert_eq!(claim["spec"]["volumeMode"], "Filesystem");
        assert_stable(&resource(), &claim);
        let row = resource().row(&claim, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!([
                "c",
                "Pending",
                "",
                "",
                "",
                "",
                "<unset>",
                "0s",
                "Filesystem"
            ])
        );
        let bound = object(changed(&claim, |claim| {
            claim["spec"]["volumeName"] = "v".into();
            claim["status"] = json!({"phase": "Bound", "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]});
        }));
        let row = resource().row(&bound, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row[1..5].to_vec()),
            json!(["Bound", "v", "2Gi", "RWO,RWX"])
        );
    }

    #[test]
    fn refuses_what_no_volume_could_be() {
        let with = |change: fn(&mut Value)| {
            let mut claim = claim();
            change(&mut claim["spec"]);
            refused(&resource(), claim)
        };
        assert_eq!(
            with(|spec| spec["accessModes"] = json!([])),
            ["spec.accessModes: Required value: at least 1 access mode is required"]
        );
        assert_eq!(
            with(|spec| spec["accessModes"] = json!(["ReadWriteOncePod", "ReadOnlyMany"])),
            ["spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"]
        );
        assert_eq!(
            with(|spec| spec["resources"] = json!({})),
            ["spec.resources[storage]: Required value"]
        );
        assert_eq!(
            with(|spec| spec["resources"]["requests"]["storage"] = json!("0")),
            ["spec.resources[storage]: Invalid value: \"0\": must be greater than zero"]
        );
        assert_eq!(
            with(|spec| spec["volumeMode"] = json!("Tape")),
            [
                "spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \"Filesystem\""
            ]
        );
    }

    #[test]
    fn grows_once_it_is_bound_and_changes_nothing_else() {
        let old = created(&resource(), claim());
        let larger = |claim: &Object| {
            changed(claim, |claim| {
                claim["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
            })
        };
        let refused = causes(updated(&resource(), &old, larger(&old), Part::Main));
        assert!(
            refused[0].starts_with("spec: Forbidden: spec is immutable after creation except"),
            "{refused:?}"
        );
        assert!(refused[0].ends_with("changed: spec.resources.requests.storage"));
        let bound = object(changed(&old, |claim| {
            claim["spec"]["volumeName"] = "v".into();
            claim["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        }));
        let grown = updated(&resource(), &bound, larger(&bound), Part::Main).unwrap();
        let smaller = changed(&grown, |claim| {
            claim["spec"]["resources"]["requests"]["storage"] = "512Mi".into();
        });
        assert_eq!(
            causes(updated(&resource(), &grown, smaller, Part::Main)),
            [
                "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"
            ]
        );
        let moved = changed(&bound, |claim| claim["spec"]["volumeName"] = "w".into());
        assert_eq!(
            causes(updated(&resource(), &bound, moved, Part::Main)).len(),
            1
        );
    }

    #[test]
    fn keeps_both_fields_for_its_source_in_step() {
        let mut new = claim();
        new["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "other"});
        let claim = created(&resource(), new);
        assert_eq!(claim["spec"]["dataSourceRef"], claim["spec"]["dataSource"]);
    }
}
