//! `VolumeAttachment`: that a volume shall be, or is, attached to a node.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{
    VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentStatus, VolumeError,
};
use serde_json::{Value, json};

use crate::checks::{driver_name, immutable, keep_metadata};
use crate::{Here, stored};
use vaquita_api::Object;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Part, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;

/// The most that a driver may say about an attachment, keys and values, in bytes.
const METADATA_MAX: usize = 256 << 10;
/// The longest message of an error, in bytes.
const MESSAGE_MAX: usize = 1024;

pub(super) fn resource() -> Resource {
    stored::<VolumeAttachment>("volumeattachment", false).with_status()
}

impl Kind<Here> for VolumeAttachment {
    const UNCONDITIONAL_UPDATE: bool = false;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Attacher", "What attaches the volume."),
        Column::string("PV", "The volume."),
        Column::string("Node", "The node."),
        Column::boolean("Attached", "Whether the volume is attached."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({"attached": false}));
    }

    fn prepare_update(new: &mut Object, old: &Object, part: Part, _now: Timestamp) {
        if part == Part::Status {
            keep_metadata(new, old);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::root("spec");
        driver_name(&self.spec.attacher, &path.child("attacher"), errors);
        validate_source(&self.spec.source, &path.child("source"), errors);
        let node = &self.spec.node_name;
        let problems = names::dns1123_subdomain(node);
        invalid(&path.child("nodeName"), node, problems, errors);
        if let Some(status) = &self.status {
            validate_status(status, &Path::root("status"), errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        self.validate(errors);
        immutable(&self.spec, &old.spec, &Path::root("spec"), errors);
    }

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        self.validate(errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let volume = self.spec.source.persistent_volume_name.clone();
        vec![
            self.name_cell(),
            self.spec.attacher.clone().into(),
            volume.unwrap_or_default().into(),
            self.spec.node_name.clone().into(),
            self.status
                .as_ref()
                .is_some_and(|status| status.attached)
                .into(),
            self.age_cell(now),
        ]
    }
}

fn validate_source(source: &VolumeAttachmentSource, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (&source.inline_volume_spec, &source.persistent_volume_name) {
        (None, None) => errors.push(FieldError::required(path, DETAIL)),
        (Some(_), Some(_)) => errors.push(FieldError::forbidden(path, DETAIL)),
        (None, Some(name)) => {
            let at = path.child("persistentVolumeName");
            if name.is_empty() {
                let detail = "must specify non empty persistentVolumeName";
                errors.push(FieldError::required(&at, detail));
            }
            invalid(&at, name, names::dns1123_subdomain(name), errors);
        }
        (Some(_), None) => {}
    }
}

fn validate_status(status: &VolumeAttachmentStatus, path: &Path<'_>, errors: &mut Errors) {
    let metadata = status.attachment_metadata.iter().flatten();
    let size: usize = metadata.map(|(key, value)| key.len() + value.len()).sum();
    if size > METADATA_MAX {
        let at = path.child("attachmentMetadata");
        errors.push(FieldError::too_long(&at, METADATA_MAX));
    }
    for (field, error) in [
        ("attachError", &status.attach_error),
        ("detachError", &status.detach_error),
    ] {
        if let Some(error) = error {
            validate_error(error, &path.child(field), errors);
        }
    }
}

fn validate_error(error: &VolumeError, path: &Path<'_>, errors: &mut Errors) {
    if error
        .message
        .as_ref()
        .is_some_and(|message| message.len() > MESSAGE_MAX)
    {
        errors.push(FieldError::too_long(&path.child("message"), METADATA_MAX));
    }
    if let Some(code) = error.error_code.filter(|code| *code < 0) {
        let detail = format!("must be between 0 and {}, inclusive", i32::MAX);
        errors.push(FieldError::invalid(&path.child("errorCode"), code, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn attachment(source: Value) -> Value {
        let spec = json!({"attacher": "disk.example.com", "nodeName": "n", "source": source});
        json!({"metadata": {"name": "a"}, "spec": spec})
    }

    #[test]
    fn is_asked_for_and_reported() {
        let old = created(
            &resource(),
            attachment(json!({"persistentVolumeName": "pv"})),
        );
        assert_eq!(old["status"], json!({"attached": false}));
        assert_stable(&resource(), &old);
        let status = changed(&old, |object| {
            object["metadata"]["resourceVersion"] = "1".into();
            object["metadata"]["labels"] = json!({"a": "b"});
            object["status"] = json!({"attached": true});
        });
        let new = updated(&resource(), &old, status, Part::Status).unwrap();
        assert!(new["metadata"].get("labels").is_none());
        let row = resource().row(&new, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["a", "disk.example.com", "pv", "n", true, "0s"])
        );
        let moved = changed(&old, |object| {
            object["metadata"]["resourceVersion"] = "1".into();
            object["spec"]["nodeName"] = "m".into();
        });
        let errors = causes(updated(&resource(), &old, moved, Part::Main));
        assert!(errors[0].ends_with("field is immutable"), "{errors:?}");
    }

    #[test]
    fn is_of_one_volume() {
        let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        assert_eq!(
            refused(&resource(), attachment(json!({}))),
            [format!("spec.source: Required value: {detail}")]
        );
        assert_eq!(
            refused(
                &resource(),
                attachment(json!({"persistentVolumeName": "pv", "inlineVolumeSpec": {}}))
            ),
            [format!("spec.source: Forbidden: {detail}")]
        );
    }
}
