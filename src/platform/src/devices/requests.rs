//! What a claim asks for.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{
    DeviceClaim, DeviceClaimConfiguration, DeviceConstraint, DeviceRequest, DeviceSelector,
    DeviceSubRequest, DeviceToleration, ExactDeviceRequest, ResourceClaimSpec,
};
use serde_json::Value;

use super::shared::{self, LIST_MAX, each, each_once};
use crate::checks::required;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;

/// The most alternatives of a request.
const ALTERNATIVES_MAX: usize = 8;
const TOLERATIONS_MAX: usize = 16;
const EXACT_COUNT: &str = "ExactCount";

pub(super) fn apply_defaults(spec: &mut ResourceClaimSpec) {
    let requests = spec.devices.iter_mut();
    for request in requests.flat_map(|devices| devices.requests.iter_mut().flatten()) {
        if let Some(exact) = &mut request.exactly {
            default_count(&mut exact.allocation_mode, &mut exact.count);
            default_tolerations(exact.tolerations.as_deref_mut());
        }
        for sub in request.first_available.iter_mut().flatten() {
            default_count(&mut sub.allocation_mode, &mut sub.count);
            default_tolerations(sub.tolerations.as_deref_mut());
        }
    }
}

fn default_count(mode: &mut Option<String>, count: &mut Option<i64>) {
    if mode.as_ref().is_none_or(String::is_empty) {
        *mode = Some(EXACT_COUNT.to_owned());
    }
    if mode.as_deref() == Some(EXACT_COUNT) && count.unwrap_or_default() == 0 {
        *count = Some(1);
    }
}

fn default_tolerations(tolerations: Option<&mut [DeviceToleration]>) {
    for toleration in tolerations.into_iter().flatten() {
        let operator = &mut toleration.operator;
        if operator.as_ref().is_none_or(String::is_empty) {
            *operator = Some("Equal".to_owned());
        }
    }
}

/// The names of a claim's requests, with those of their alternatives.
pub(super) struct Names<'c>(BTreeMap<&'c str, BTreeSet<&'c str>>);

impl<'c> Names<'c> {
    pub(super) fn of(claim: Option<&'c DeviceClaim>) -> Self {
        let requests = claim.and_then(|claim| claim.requests.as_deref());
        let names = requests.unwrap_or_default().iter().map(|request| {
            let alternatives = request.first_available.iter().flatten();
            let names = alternatives.map(|sub| sub.name.as_str()).collect();
            (request.name.as_str(), names)
        });
        Self(names.collect())
    }

    fn has(&self, name: &str) -> bool {
        match name.split_once('/') {
            None => self.0.contains_key(name),
            Some((name, sub)) => self.0.get(name).is_some_and(|names| names.contains(sub)),
        }
    }

    /// A reference to a request or to one of its alternatives.
    pub(super) fn validate(&self, name: &str, path: &Path<'_>, errors: &mut Errors) {
        const DETAIL: &str = "must be the name of a request in the claim or the name of a request and a subrequest \
                              separated by '/'";
        if name.matches('/').count() < 2 {
            for part in name.split('/') {
                shared::label(part, path, errors);
            }
        }
        if !self.has(name) {
            errors.push(FieldError::invalid(path, name, DETAIL));
        }
    }

    pub(super) fn validate_all(
        &self,
        names: Option<&[String]>,
        path: &Path<'_>,
        errors: &mut Errors,
    ) {
        each_once(
            names,
            LIST_MAX,
            path,
            errors,
            Clone::clone,
            |name, path, errors| self.validate(name, path, errors),
        );
    }
}

pub(super) fn validate(spec: &ResourceClaimSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(devices) = &spec.devices else { return };
    let path = path.child("devices");
    let names = Names::of(Some(devices));
    each_once(
        devices.requests.as_deref(),
        LIST_MAX,
        &path.child("requests"),
        errors,
        |request| request.name.clone(),
        validate_request,
    );
    each(
        devices.constraints.as_deref(),
        LIST_MAX,
        &path.child("constraints"),
        errors,
        |constraint, path, errors| validate_constraint(constraint, &names, path, errors),
    );
    each(
        devices.config.as_deref(),
        LIST_MAX,
        &path.child("config"),
        errors,
        |config: &DeviceClaimConfiguration, path, errors| {
            names.validate_all(config.requests.as_deref(), &path.child("requests"), errors);
            shared::configuration(config.opaque.as_ref(), path, errors);
        },
    );
}

fn validate_request(request: &DeviceRequest, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "exactly one of `exactly` or `firstAvailable` is required";
    shared::label(&request.name, &path.child("name"), errors);
    let alternatives = request.first_available.as_deref().unwrap_or_default();
    match (&request.exactly, alternatives) {
        (None, []) => errors.push(FieldError::required(path, DETAIL)),
        (Some(_), [_, ..]) => {
            let detail = format!("{DETAIL}, but multiple fields are set");
            errors.push(FieldError::invalid(path, Value::Null, detail));
        }
        (Some(exact), []) => {
            Wanted::from(exact).validate(&path.child("exactly"), errors);
        }
        (None, alternatives) => each_once(
            Some(alternatives),
            ALTERNATIVES_MAX,
            &path.child("firstAvailable"),
            errors,
            |sub| sub.name.clone(),
            |sub, path, errors| {
                shared::label(&sub.name, &path.child("name"), errors);
                Wanted::from(sub).validate(path, errors);
            },
        ),
    }
}

/// What requests and their alternatives have in common.
struct Wanted<'r> {
    class: &'r str,
    selectors: Option<&'r [DeviceSelector]>,
    mode: Option<&'r str>,
    count: i64,
    tolerations: Option<&'r [DeviceToleration]>,
}

impl<'r> From<&'r ExactDeviceRequest> for Wanted<'r> {
    fn from(request: &'r ExactDeviceRequest) -> Self {
        Self {
            class: &request.device_class_name,
            selectors: request.selectors.as_deref(),
            mode: request.allocation_mode.as_deref(),
            count: request.count.unwrap_or_default(),
            tolerations: request.tolerations.as_deref(),
        }
    }
}

impl<'r> From<&'r DeviceSubRequest> for Wanted<'r> {
    fn from(request: &'r DeviceSubRequest) -> Self {
        Self {
            class: &request.device_class_name,
            selectors: request.selectors.as_deref(),
            mode: request.allocation_mode.as_deref(),
            count: request.count.unwrap_or_default(),
            tolerations: request.tolerations.as_deref(),
        }
    }
}

impl Wanted<'_> {
    fn validate(&self, path: &Path<'_>, errors: &mut Errors) {
        required(
            self.class,
            names::dns1123_subdomain,
            &path.child("deviceClassName"),
            errors,
        );
        shared::selectors(self.selectors, &path.child("selectors"), errors);
        let (at, count) = (path.child("count"), self.count);
        match self.mode.unwrap_or_default() {
            "All" if count != 0 => {
                let detail = "must not be specified when allocationMode is 'All'";
                errors.push(FieldError::invalid(&at, count, detail));
            }
            EXACT_COUNT if count <= 0 => {
                let detail = "must be greater than zero";
                errors.push(FieldError::invalid(&at, count, detail));
            }
            "All" | EXACT_COUNT => {}
            other => errors.push(FieldError::not_supported(
                &path.child("allocationMode"),
                other,
                &["All", EXACT_COUNT],
            )),
        }
        each(
            self.tolerations,
            TOLERATIONS_MAX,
            &path.child("tolerations"),
            errors,
            shared::toleration,
        );
    }
}

fn validate_constraint(
    constraint: &DeviceConstraint,
    names: &Names<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let given = constraint.requests.as_deref();
    names.validate_all(given, &path.child("requests"), errors);
    match (&constraint.match_attribute, &constraint.distinct_attribute) {
        (Some(attribute), _) => {
            let at = path.child("matchAttribute");
            shared::fully_qualified_name(attribute, &at, errors);
        }
        (None, Some(attribute)) => {
            let at = path.child("distinctAttribute");
            shared::fully_qualified_name(attribute, &at, errors);
        }
        (None, None) => {
            let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errors.push(FieldError::required(path, detail));
        }
    }
}
