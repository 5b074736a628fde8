//! `v1` Namespace.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceSpec};
use serde_json::{Value, json};

use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names::{self, Problems};
use vaquita_api::registry::{Kind, Part, Resource, SelectableField, Verb};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::finalizer_name;
use vaquita_api::{Object, meta};

/// The label by which selectors find a namespace by its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) fn resource() -> Resource {
    let mut resource = stored::<Namespace>("namespace", false)
        .short(&["ns"])
        .with_status()
        .view("finalize", &[Verb::Update]);
    resource
        .verbs
        .retain(|verb| *verb != Verb::DeleteCollection);
    resource
}

impl Kind<Here> for Namespace {
    const NAME: fn(&str) -> Problems = names::dns1123_label;

    const SELECTABLE: &'static [SelectableField] = &[SelectableField::new(
        "status.phase",
        &["status", "phase"],
        "",
    )];

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Status", "Whether the namespace is being deleted."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        if let Some(name) = &self.metadata.name {
            self.metadata
                .labels
                .get_or_insert_default()
                .insert(NAME_LABEL.to_owned(), name.clone());
        }
        self.spec.get_or_insert_default();
        let phase = &mut self.status.get_or_insert_default().phase;
        phase.get_or_insert_with(|| "Active".to_owned());
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({"phase": "Active"}));
        let name = meta::name(object).to_owned();
        let labels = meta::object_mut(meta::metadata_mut(object), "labels");
        labels.insert(NAME_LABEL.to_owned(), name.into());
        // Stands for all that lives in the namespace; taken away by `finalize` when it is empty.
        let spec = meta::object_mut(object, "spec");
        let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
        if let Value::Array(finalizers) = finalizers
            && !finalizers.contains(&json!("kubernetes"))
        {
            finalizers.push(json!("kubernetes"));
        }
    }

    fn prepare_update(new: &mut Object, old: &Object, part: Part, _now: Timestamp) {
        match part {
            Part::Main
            | Part::Status
            | Part::EphemeralContainers
            | Part::Resize
            | Part::Approval => {
                let kept = meta::at(old, &["spec", "finalizers"]).cloned();
                let spec = meta::object_mut(new, "spec");
                match kept {
                    Some(finalizers) => spec.insert("finalizers".to_owned(), finalizers),
                    None => spec.remove("finalizers"),
                };
            }
            Part::Finalize => {
                if let Some(status) = old.get("status") {
                    new.insert("status".to_owned(), status.clone());
                }
            }
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate_finalizers(self.spec.as_ref(), errors);
    }

    // Nothing but metadata changes this way.
    fn validate_update(&self, _old: &Self, _errors: &mut Errors) {}

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        validate_finalizers(self.spec.as_ref(), errors);
        let phase = self
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            .unwrap_or_default();
        let (allowed, when) = if self.metadata.deletion_timestamp.is_none() {
            ("Active", "empty")
        } else {
            ("Terminating", "not empty")
        };
        if phase != allowed {
            let detail = format!("may only be '{allowed}' if `deletionTimestamp` is {when}");
            errors.push(FieldError::invalid(
                &Path::root("status").child("Phase"),
                phase,
                detail,
            ));
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let phase = self
            .status
            .as_ref()
            .and_then(|status| status.phase.clone())
            .unwrap_or_default();
        vec![self.name_cell(), phase.into(), self.age_cell(now)]
    }
}

fn validate_finalizers(spec: Option<&NamespaceSpec>, errors: &mut Errors) {
    let path = Path::root("spec");
    let path = path.child("finalizers");
    for finalizer in spec
        .and_then(|spec| spec.finalizers.as_deref())
        .unwrap_or_default()
    {
        finalizer_name(finalizer, &path, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::testing::{created, object, refused};

    #[test]
    fn starts_active_with_its_finalizer_and_label() {
        let namespace = created(&resource(), json!({"metadata": {"name": "a"}}));
        assert_eq!(namespace["spec"], json!({"finalizers": ["kubernetes"]}));
        assert_eq!(namespace["status"], json!({"phase": "Active"}));
        assert_eq!(
            namespace["metadata"]["labels"],
            json!({"kubernetes.io/metadata.name": "a"})
        );
        assert_eq!(
            refused(&resource(), json!({"metadata": {"name": "a.b"}})).len(),
            1
        );
    }

    #[test]
    fn gives_its_finalizer_up_by_finalize_alone() {
        let old = created(&resource(), json!({"metadata": {"name": "a"}}));
        for (part, left) in [(Part::Main, 1), (Part::Status, 1), (Part::Finalize, 0)] {
            let mut new = object(
                json!({"metadata": {"name": "a"}, "spec": {}, "status": {"phase": "Active"}}),
            );
            resource()
                .prepare_update(&mut new, &old, part, Timestamp::UNIX_EPOCH)
                .unwrap();
            resource().validate_update(&new, &old, part).unwrap();
            let finalizers = meta::at(&new, &["spec", "finalizers"]).and_then(Value::as_array);
            assert_eq!(finalizers.map_or(0, Vec::len), left, "{part:?}");
        }
    }
}
