//! `apiextensions.k8s.io/v1` `CustomResourceDefinition`: the kind that declares kinds.
//!
//! Here is what a definition must be like. What becomes of one is in [`crate::compile()`] (the resources it makes) and
//! [`crate::naming`] (the names it gets, and its conditions).

mod conversion;
mod defaults;
mod names;
mod rules;
mod schema;
mod structural;
#[cfg(test)]
mod tests;
mod versions;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition,
};
use serde_json::{Value, json};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Part, Resource, stored};
use vaquita_api::table::Column;
use vaquita_api::{Object, meta};

use crate::Here;

pub(crate) use names::{APPROVAL, Approval, approval};

/// The port of a webhook's Service, where the definition names none.
const WEBHOOK_PORT: i32 = 443;

/// The entry of the kind.
pub fn resource() -> Resource {
    let mut resource = stored::<CustomResourceDefinition, Here>("customresourcedefinition", false)
        .short(&["crd", "crds"])
        .with_status();
    resource.categories.push("api-extensions".to_owned());
    resource
}

impl Kind<Here> for CustomResourceDefinition {
    const GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;
    // The rules of schemas are parsed.
    const THINKS_LONG: bool = true;
    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::date("Created At", "When the definition was created."),
    ];

    fn apply_defaults(&mut self) {
        let names = &mut self.spec.names;
        if names.singular.as_deref().unwrap_or_default().is_empty() {
            names.singular = Some(names.kind.to_lowercase());
        }
        if names.list_kind.as_deref().unwrap_or_default().is_empty() && !names.kind.is_empty() {
            names.list_kind = Some(format!("{}List", names.kind));
        }
        let conversion = self
            .spec
            .conversion
            .get_or_insert_with(|| CustomResourceConversion {
                strategy: "None".to_owned(),
                webhook: None,
            });
        let service = conversion
            .webhook
            .as_mut()
            .and_then(|webhook| webhook.client_config.as_mut()?.service.as_mut());
        if let Some(service) = service {
            service.port.get_or_insert(WEBHOOK_PORT);
        }
        if self.spec.preserve_unknown_fields == Some(false) {
            self.spec.preserve_unknown_fields = None;
        }
    }

    fn prepare_create(object: &mut Object) {
        remember_storage_version(object);
    }

    fn prepare_update(new: &mut Object, _old: &Object, part: Part, _now: Timestamp) {
        if part == Part::Main {
            remember_storage_version(new);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let spec = Path::root("spec");
        let wanted = format!("{}.{}", self.spec.names.plural, self.spec.group);
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if name != wanted {
            const DETAIL: &str = r#"must be spec.names.plural+"."+spec.group"#;
            let metadata = Path::root("metadata");
            errors.push(FieldError::invalid(&metadata.child("name"), name, DETAIL));
        }
        versions::validate(&self.spec, &spec, errors);
        names::validate_spec(&self.spec.names, &spec.child("names"), errors);
        let accepted = self.status.as_ref();
        if let Some(accepted) = accepted.and_then(|status| status.accepted_names.as_ref()) {
            let status = Path::root("status");
            names::validate(accepted, &status.child("acceptedNames"), errors);
        }
        let strict = versions::is_established(self);
        conversion::validate(self.spec.conversion.as_ref(), strict, errors);
        names::validate_approval(self, None, errors);
        if self.spec.preserve_unknown_fields == Some(true) {
            const DETAIL: &str = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                                  spec.versions[*].schema instead";
            let path = spec.child("preserveUnknownFields");
            errors.push(FieldError::invalid(&path, true, DETAIL));
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let mut found = Errors::default();
        self.validate(&mut found);
        // An approval that is missing may stay so.
        let approval = names::approval_changed(self, old);
        errors.extend(
            found
                .iter()
                .filter(|error| approval || !error.field().starts_with(names::APPROVAL_FIELD))
                .cloned(),
        );
        versions::validate_update(self, old, errors);
    }

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        let accepted = self.status.as_ref();
        if let Some(accepted) = accepted.and_then(|status| status.accepted_names.as_ref()) {
            let status = Path::root("status");
            names::validate(accepted, &status.child("acceptedNames"), errors);
        }
        versions::validate_stored(self, errors);
    }

    fn begin_deletion(object: &mut Object, now: Timestamp) {
        crate::naming::begin_deletion(object, now);
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        let created = self.metadata.creation_timestamp.as_ref();
        vec![
            self.name_cell(),
            created.map_or(Value::Null, |time| meta::time(time.0).into()),
        ]
    }
}

/// Adds the storage version to `status.storedVersions`: objects may be stored in it from now on.
fn remember_storage_version(object: &mut Object) {
    let versions = meta::at(object, &["spec", "versions"]).and_then(Value::as_array);
    let storage = versions
        .into_iter()
        .flatten()
        .find(|version| version["storage"] == true)
        .and_then(|version| version["name"].as_str())
        .map(str::to_owned);
    let Some(storage) = storage else {
        return;
    };
    let status = meta::object_mut(object, "status");
    match status.get_mut("storedVersions") {
        Some(Value::Array(stored)) => {
            if !stored.iter().any(|version| version == storage.as_str()) {
                stored.push(storage.into());
            }
        }
        _ => {
            status.insert("storedVersions".to_owned(), json!([storage]));
        }
    }
}
