//! `certificates.k8s.io/v1` `CertificateSigningRequest`: asks a signer for a certificate, which somebody approves.
//!
//! The object has three writers, each with its own part: the one who asks (the specification, once), the one who approves
//! or denies (the conditions, through `approval`), and the signer (the certificate, through `status`). Who asked is not for
//! the client to say: the server calls [`set_requester`].

mod pem;
mod signer;
mod usages;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use serde_json::{Value, json};

use crate::checks::one_of;
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names::Problems;
use vaquita_api::registry::{Kind, Part, Resource, SelectableField, Verb};
use vaquita_api::table::{self, Column};
use vaquita_api::{Object, meta};

/// Conditions that are true once they are there, and stay.
const FINAL: [&str; 3] = ["Approved", "Denied", "Failed"];
/// Conditions that only `approval` sets.
const APPROVAL: [&str; 2] = ["Approved", "Denied"];
/// The fields of the specification that the server sets.
const REQUESTER: [&str; 4] = ["extra", "groups", "uid", "username"];
/// The shortest lifetime that may be asked for, in seconds.
const EXPIRATION_MIN: i32 = 600;

pub(super) fn resource() -> Resource {
    stored::<CertificateSigningRequest>("certificatesigningrequest", false)
        .short(&["csr"])
        .view("approval", &[Verb::Get, Verb::Patch, Verb::Update])
        .with_status()
}

/// Writes down who asks for the certificate. To be called for each `CertificateSigningRequest` that is created, after
/// [`Resource::prepare_create`], which removes whatever the client said about it.
pub fn set_requester(request: &mut Object, user: &UserInfo) {
    let spec = meta::object_mut(request, "spec");
    let mut set = |field: &str, value: Value| match value {
        Value::Null => spec.remove(field),
        value => spec.insert(field.to_owned(), value),
    };
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    set("username", given(&user.username).into());
    set("uid", given(&user.uid).into());
    set(
        "groups",
        json!(user.groups.as_ref().filter(|groups| !groups.is_empty())),
    );
    set(
        "extra",
        json!(user.extra.as_ref().filter(|extra| !extra.is_empty())),
    );
}

impl Kind<Here> for CertificateSigningRequest {
    /// Whatever fits into a path.
    const NAME: fn(&str) -> Problems = |_| Problems::new();

    const SELECTABLE: &'static [SelectableField] = &[SelectableField::new(
        "spec.signerName",
        &["spec", "signerName"],
        "",
    )];

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::AGE,
        Column::string("SignerName", "Who shall sign."),
        Column::string("Requestor", "Who asks."),
        Column::string(
            "RequestedDuration",
            "How long the certificate shall be valid.",
        ),
        Column::string("Condition", "What has become of the request."),
    ];

    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
    }

    fn prepare_create(object: &mut Object) {
        let spec = meta::object_mut(object, "spec");
        spec.retain(|field, _| !REQUESTER.contains(&field.as_str()));
        object.insert("status".to_owned(), json!({}));
    }

    fn prepare_update(new: &mut Object, old: &Object, part: Part, now: Timestamp) {
        match part {
            Part::Main => {
                if let Some(spec) = old.get("spec") {
                    new.insert("spec".to_owned(), spec.clone());
                }
            }
            Part::Status => {
                for ty in APPROVAL {
                    restore_conditions(new, old, ty);
                }
                date_conditions(new, old, now);
            }
            Part::Approval => {
                date_conditions(new, old, now);
                let conditions = meta::object_mut(new, "status").remove("conditions");
                let mut status = old.get("status").cloned().unwrap_or_else(|| json!({}));
                if let Value::Object(status) = &mut status {
                    status.remove("conditions");
                    status.extend(conditions.map(|list| ("conditions".to_owned(), list)));
                }
                new.insert("status".to_owned(), status);
            }
            Part::Finalize | Part::EphemeralContainers | Part::Resize => {}
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let (path, spec) = (Path::root("spec"), &self.spec);
        if let Err(error) = pem::check_request(&spec.request.0) {
            let shown = json!(spec.request);
            errors.push(FieldError::invalid(
                &path.child("request"),
                shown,
                error.to_string(),
            ));
        }
        let given = spec.usages.as_deref().unwrap_or_default();
        usages::validate(given, &path.child("usages"), errors);
        signer::validate(&spec.signer_name, &path.child("signerName"), errors);
        if let Some(seconds) = spec
            .expiration_seconds
            .filter(|seconds| *seconds < EXPIRATION_MIN)
        {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.push(FieldError::invalid(
                &path.child("expirationSeconds"),
                seconds,
                detail,
            ));
        }
    }

    /// Specification and status are the old ones.
    fn validate_update(&self, _old: &Self, _errors: &mut Errors) {}

    fn validate_status(&self, old: &Self, errors: &mut Errors) {
        validate_conditions(self, old, errors);
        for ty in APPROVAL {
            // Those that were there have been restored.
            if count(self, ty) > count(old, ty) {
                let detail = format!("updates may not add a condition of type {ty:?}");
                let path = Path::root("status");
                errors.push(FieldError::forbidden(&path.child("conditions"), detail));
            }
        }
        let certificate = |request: &Self| {
            let status = request.status.clone().unwrap_or_default();
            status
                .certificate
                .map(|bytes| bytes.0)
                .filter(|bytes| !bytes.is_empty())
        };
        let (new, old) = (certificate(self), certificate(old));
        if new == old {
            return;
        }
        let path = Path::root("status");
        let path = path.child("certificate");
        if let Err(error) = pem::check_certificates(&new.unwrap_or_default()) {
            errors.push(FieldError::invalid(
                &path,
                "<certificate data>",
                error.to_string(),
            ));
        }
        if old.is_some() {
            let detail = "updates may not modify existing certificate content";
            errors.push(FieldError::forbidden(&path, detail));
        }
    }

    fn validate_part(&self, old: &Self, part: Part, errors: &mut Errors) {
        if part == Part::Approval {
            validate_conditions(self, old, errors);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let or_none = |text: Option<String>| {
            Value::from(
                text.filter(|text| !text.is_empty())
                    .unwrap_or_else(|| "<none>".to_owned()),
            )
        };
        let duration = self
            .spec
            .expiration_seconds
            .map(|seconds| table::human_duration(seconds.into()));
        vec![
            self.name_cell(),
            self.age_cell(now),
            or_none(Some(self.spec.signer_name.clone())),
            self.spec.username.clone().unwrap_or_default().into(),
            or_none(duration),
            condition(self.status.as_ref()).into(),
        ]
    }
}

/// `Pending`, `Approved`, `Denied`, and what came of it.
fn condition(status: Option<&CertificateSigningRequestStatus>) -> String {
    let has = |ty: &str| {
        let conditions = status.and_then(|status| status.conditions.as_deref());
        conditions
            .unwrap_or_default()
            .iter()
            .any(|condition| condition.type_ == ty)
    };
    let certificate = status.and_then(|status| status.certificate.as_ref());
    let decision = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    };
    let failed = if has("Failed") { ",Failed" } else { "" };
    let issued = certificate.is_some_and(|certificate| !certificate.0.is_empty());
    format!("{decision}{failed}{}", if issued { ",Issued" } else { "" })
}

fn conditions(of: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    let status = of.status.as_ref();
    status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default()
}

fn count(of: &CertificateSigningRequest, ty: &str) -> usize {
    conditions(of)
        .iter()
        .filter(|condition| condition.type_ == ty)
        .count()
}

fn conditions_mut(of: &mut Object) -> impl Iterator<Item = &mut Object> {
    let list = of
        .get_mut("status")
        .and_then(|status| status.get_mut("conditions"));
    let list = list.and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn conditions_of(of: &Object) -> impl Iterator<Item = &Object> {
    let list = meta::at(of, &["status", "conditions"]).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_object)
}

/// Puts the old conditions of a type in place of as many new ones; of another number, validation says what is wrong.
fn restore_conditions(new: &mut Object, old: &Object, ty: &str) {
    let is = |condition: &Object| condition.get("type").is_some_and(|given| given == ty);
    let before: Vec<&Object> = conditions_of(old)
        .filter(|condition| is(condition))
        .collect();
    let after: Vec<&mut Object> = conditions_mut(new)
        .filter(|condition| is(condition))
        .collect();
    if before.len() == after.len() {
        for (after, before) in after.into_iter().zip(before) {
            after.clone_from(before);
        }
    }
}

/// Gives conditions the times that they lack: that of this update, and that since which they have their status.
fn date_conditions(new: &mut Object, old: &Object, now: Timestamp) {
    for condition in conditions_mut(new) {
        let same = |before: &&Object| {
            ["type", "status"]
                .iter()
                .all(|field| before.get(*field) == condition.get(*field))
        };
        let since = conditions_of(old)
            .filter(same)
            .find_map(|before| {
                before
                    .get("lastTransitionTime")
                    .filter(|time| !time.is_null())
            })
            .cloned();
        for (field, time) in [
            ("lastUpdateTime", meta::time(now).into()),
            (
                "lastTransitionTime",
                since.unwrap_or_else(|| meta::time(now).into()),
            ),
        ] {
            let given = condition.entry(field).or_insert(Value::Null);
            if given.is_null() {
                *given = time;
            }
        }
    }
}

fn validate_conditions(
    new: &CertificateSigningRequest,
    old: &CertificateSigningRequest,
    errors: &mut Errors,
) {
    let path = Path::root("status");
    let path = path.child("conditions");
    let all = conditions(new);
    for (at, condition) in all.iter().enumerate() {
        let path = path.index(at);
        let (ty, status) = (condition.type_.as_str(), condition.status.as_str());
        let at_type = path.child("type");
        if ty.is_empty() {
            errors.push(FieldError::required(&at_type, ""));
        }
        if status.is_empty() {
            errors.push(FieldError::required(&path.child("status"), ""));
        } else if FINAL.contains(&ty) {
            one_of(status, &["True"], &path.child("status"), errors);
        } else {
            one_of(
                status,
                &["False", "True", "Unknown"],
                &path.child("status"),
                errors,
            );
        }
        let before = |types: &[&str]| {
            all[..at]
                .iter()
                .any(|earlier| types.contains(&earlier.type_.as_str()))
        };
        if APPROVAL.contains(&ty)
            && before(&APPROVAL.map(|other| if other == ty { "" } else { other }))
        {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(&at_type, ty, detail));
        }
        if before(&[ty]) {
            errors.push(FieldError::duplicate(&at_type, ty));
        }
    }
    for ty in FINAL {
        if count(new, ty) < count(old, ty) {
            let detail = format!("updates may not remove a condition of type {ty:?}");
            errors.push(FieldError::forbidden(&path, detail));
        }
    }
}

#[cfg(test)]
mod tests;
