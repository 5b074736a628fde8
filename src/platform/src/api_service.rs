//! `apiregistration.k8s.io/v1` `APIService`: what serves a version of a group, this server itself or another one.

use jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceSpec};
use serde_json::{Value, json};

use crate::checks::{keep_metadata, one_of};
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names::{self, Problems};
use vaquita_api::registry::{Kind, Part, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::{Object, meta};

const AVAILABLE: &str = "Available";

pub(super) fn resource() -> Resource {
    stored::<APIService>("apiservice", false)
        .in_category("api-extensions")
        .with_status()
}

impl Kind<Here> for APIService {
    /// The name follows from the specification.
    const NAME: fn(&str) -> Problems = |_| Problems::new();
    const UNCONDITIONAL_UPDATE: bool = false;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Service", "The service that serves the version."),
        Column::string("Available", "Whether it can be reached."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
        let spec = self.spec.get_or_insert_default();
        if let Some(service) = &mut spec.service {
            service.port.get_or_insert(443);
        }
    }

    /// What this server serves itself is available from the start.
    fn prepare_create(object: &mut Object) {
        let local = meta::at(object, &["spec", "service"]).is_none_or(Value::is_null);
        let since = meta::at(object, &["metadata", "creationTimestamp"]).cloned();
        let condition = json!({
            "type": AVAILABLE, "status": "True", "lastTransitionTime": since,
            "reason": "Local", "message": "Local APIServices are always available",
        });
        let status = if local {
            json!({"conditions": [condition]})
        } else {
            json!({})
        };
        object.insert("status".to_owned(), status);
    }

    fn prepare_update(new: &mut Object, old: &Object, part: Part, _now: Timestamp) {
        if part == Part::Status {
            keep_metadata(new, old);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let spec = self.spec.clone().unwrap_or_default();
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let wanted = format!(
            "{}.{}",
            spec.version.as_deref().unwrap_or_default(),
            spec.group.as_deref().unwrap_or_default()
        );
        if name != wanted && names::path_segment(name).is_empty() && !name.is_empty() {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            let metadata = Path::root("metadata");
            errors.push(FieldError::invalid(&metadata.child("name"), name, detail));
        }
        validate_spec(&spec, &Path::root("spec"), errors);
    }

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        let path = Path::root("status");
        let path = path.child("conditions");
        let status = self.status.iter();
        let conditions = status.flat_map(|status| status.conditions.iter().flatten());
        for (at, condition) in conditions.enumerate() {
            let at = path.index(at);
            let known = ["False", "True", "Unknown"];
            one_of(&condition.status, &known, &at.child("status"), errors);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.as_ref();
        let service = spec.and_then(|spec| spec.service.as_ref());
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let service = service.map_or_else(
            || "Local".to_owned(),
            |service| format!("{}/{}", text(&service.namespace), text(&service.name)),
        );
        vec![
            self.name_cell(),
            service.into(),
            available(self).into(),
            self.age_cell(now),
        ]
    }
}

/// The status of the condition, and why it is not true.
fn available(service: &APIService) -> String {
    let status = service.status.iter();
    let mut conditions = status.flat_map(|status| status.conditions.iter().flatten());
    let Some(condition) = conditions.find(|condition| condition.type_ == AVAILABLE) else {
        return "Unknown".to_owned();
    };
    let reason = condition.reason.as_deref().unwrap_or_default();
    if condition.status == "True" || reason.is_empty() {
        condition.status.clone()
    } else {
        format!("{} ({reason})", condition.status)
    }
}

fn validate_spec(spec: &APIServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let group = spec.group.as_deref().unwrap_or_default();
    let version = spec.version.as_deref().unwrap_or_default();
    let at = path.child("group");
    if !group.is_empty() {
        invalid(&at, group, names::dns1123_subdomain(group), errors);
    } else if version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.push(FieldError::required(&at, detail));
    }
    let problems = names::dns1035_label(version);
    invalid(&path.child("version"), version, problems, errors);
    for (field, value, max) in [
        ("groupPriorityMinimum", spec.group_priority_minimum, 20_000),
        ("versionPriority", spec.version_priority, 1000),
    ] {
        if !(1..=max).contains(&value) {
            let detail = format!("must be positive and less than {max}");
            errors.push(FieldError::invalid(&path.child(field), value, detail));
        }
    }
    let bundle = spec.ca_bundle.as_ref().map_or(0, |bundle| bundle.0.len());
    let insecure = spec.insecure_skip_tls_verify.unwrap_or_default();
    let at_insecure = path.child("insecureSkipTLSVerify");
    let Some(service) = &spec.service else {
        if bundle > 0 {
            let (value, at) = (format!("{bundle} bytes"), path.child("caBundle"));
            let detail = "local APIServices may not have a caBundle";
            errors.push(FieldError::invalid(&at, value, detail));
        }
        if insecure {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(FieldError::invalid(&at_insecure, insecure, detail));
        }
        return;
    };
    let at = path.child("service");
    for (field, value) in [("namespace", &service.namespace), ("name", &service.name)] {
        if value.as_ref().is_none_or(String::is_empty) {
            errors.push(FieldError::required(&at.child(field), ""));
        }
    }
    let port = service.port.unwrap_or(443);
    let problems = names::port_number(port.into());
    if !problems.is_empty() {
        let detail = format!("port is not valid: {}", problems.join(", "));
        errors.push(FieldError::invalid(&at.child("port"), port, detail));
    }
    if insecure && bundle > 0 {
        let detail = "may not be true if caBundle is present";
        errors.push(FieldError::invalid(&at_insecure, insecure, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    fn service(spec: &Value) -> Value {
        let mut all = json!({"group": "example.com", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15});
        if let (Value::Object(all), Value::Object(spec)) = (&mut all, spec) {
            all.extend(spec.clone());
        }
        json!({"metadata": {"name": "v1.example.com"}, "spec": all})
    }

    #[test]
    fn is_available_if_it_is_local() {
        let local = created(&resource(), service(&json!({})));
        assert_stable(&resource(), &local);
        let row = resource().row(&local, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["v1.example.com", "Local", "True", "0s"])
        );
        let elsewhere = json!({"service": {"namespace": "n", "name": "s"}});
        let old = created(&resource(), service(&elsewhere));
        assert_eq!(old["spec"]["service"]["port"], 443);
        assert_eq!(old["status"], json!({}));
        let status = |status: &str| {
            let new = changed(&old, |service| {
                service["metadata"]["resourceVersion"] = "1".into();
                service["status"] = json!({"conditions": [
                    {"type": "Available", "status": status, "reason": "MissingEndpoints", "message": ""},
                ]});
            });
            updated(&resource(), &old, new, Part::Status)
        };
        let row = resource().row(&status("False").unwrap(), Timestamp::UNIX_EPOCH);
        assert_eq!(row[1], "n/s");
        assert_eq!(row[2], "False (MissingEndpoints)");
        assert_eq!(causes(status("Maybe")).len(), 1);
    }

    #[test]
    fn is_named_by_what_it_serves() {
        assert_eq!(
            refused(&resource(), service(&json!({"version": "v2"}))),
            [
                "metadata.name: Invalid value: \"v1.example.com\": must be `spec.version+\".\"+spec.group`: \"v2.example.com\""
            ]
        );
        assert_eq!(
            refused(
                &resource(),
                service(
                    &json!({"versionPriority": 0, "insecureSkipTLSVerify": true, "caBundle": "eA=="})
                )
            ),
            [
                "spec.versionPriority: Invalid value: 0: must be positive and less than 1000",
                "spec.caBundle: Invalid value: \"1 bytes\": local APIServices may not have a caBundle",
                "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
            ]
        );
    }
}
