//! A device of a slice: what it is like, what it has, and which nodes reach it.

use k8s_openapi::api::resource::v1::{Counter, Device, DeviceAttribute, DeviceCounterConsumption};
use serde_json::{Value, json};

use super::capacity;
use super::shared::{self, each, each_entry, each_once};
use regex::Regex;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;
use vaquita_kinds::pod_spec::validate_node_selector;

const ATTRIBUTES_AND_CAPACITIES_MAX: usize = 32;
const TAINTS_MAX: usize = 16;
const CONSUMPTIONS_MAX: usize = 2;
const COUNTERS_MAX: usize = 32;
/// The longest text of an attribute, in bytes.
const VALUE_MAX: usize = 64;

/// A version by semver.org, 2.0.0.
static VERSION: LazyLock<Option<Regex>> = LazyLock::new(|| {
    const NUMBER: &str = r"(0|[1-9]\d*)";
    const BEFORE: &str = r"(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)";
    const BUILD: &str = r"[0-9a-zA-Z-]+";
    Regex::new(&format!(
        r"^{NUMBER}\.{NUMBER}\.{NUMBER}(-{BEFORE}(\.{BEFORE})*)?(\+{BUILD}(\.{BUILD})*)?$"
    ))
    .ok()
});

/// Amounts that were left out are nothing.
pub(super) fn apply_defaults(device: &mut Device) {
    for capacity in device.capacity.iter_mut().flat_map(BTreeMap::values_mut) {
        capacity::apply_defaults(capacity);
    }
    for consumption in device.consumes_counters.iter_mut().flatten() {
        default_counters(&mut consumption.counters);
    }
}

pub(super) fn default_counters(counters: &mut BTreeMap<String, Counter>) {
    for counter in counters.values_mut() {
        capacity::or_zero(&mut counter.value);
    }
}

/// `chosen` says that each device of the slice chooses its own nodes.
pub(super) fn validate(
    device: &Device,
    old: Option<&Device>,
    chosen: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    shared::label(&device.name, &path.child("name"), errors);
    validate_properties(device, path, errors);
    // Taints that stay may break rules which came later.
    if old.is_none_or(|old| old.taints != device.taints) {
        let at = path.child("taints");
        each(
            device.taints.as_deref(),
            TAINTS_MAX,
            &at,
            errors,
            shared::taint,
        );
    }
    each_once(
        device.consumes_counters.as_deref(),
        CONSUMPTIONS_MAX,
        &path.child("consumesCounters"),
        errors,
        |consumption| consumption.counter_set.clone(),
        validate_consumption,
    );
    if chosen {
        validate_nodes(device, path, errors);
    } else if device.node_name.is_some()
        || device.node_selector.is_some()
        || device.all_nodes.is_some()
    {
        let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true \
                      in the ResourceSlice spec";
        errors.push(FieldError::invalid(path, Value::Null, detail));
    }
    shared::binding_conditions(
        device.binding_conditions.as_deref(),
        device.binding_failure_conditions.as_deref(),
        path,
        errors,
    );
}

fn validate_properties(device: &Device, path: &Path<'_>, errors: &mut Errors) {
    let (no_attributes, no_capacity) = (BTreeMap::new(), BTreeMap::new());
    let attributes = device.attributes.as_ref().unwrap_or(&no_attributes);
    let capacities = device.capacity.as_ref().unwrap_or(&no_capacity);
    let count = attributes.len() + capacities.len();
    if count > ATTRIBUTES_AND_CAPACITIES_MAX {
        let detail = format!(
            "the total number of attributes and capacities must not exceed {ATTRIBUTES_AND_CAPACITIES_MAX}"
        );
        errors.push(FieldError::invalid(path, count, detail));
        return;
    }
    let at = path.child("attributes");
    each_entry(
        attributes,
        usize::MAX,
        &at,
        errors,
        |name, attribute, path, errors| {
            shared::qualified_name(name, path, errors);
            validate_attribute(attribute, path, errors);
        },
    );
    let shared_device = device.allow_multiple_allocations.unwrap_or_default();
    let at = path.child("capacity");
    each_entry(
        capacities,
        usize::MAX,
        &at,
        errors,
        |name, capacity, path, errors| {
            shared::qualified_name(name, path, errors);
            capacity::validate(capacity, shared_device, path, errors);
        },
    );
}

fn validate_attribute(attribute: &DeviceAttribute, path: &Path<'_>, errors: &mut Errors) {
    let given = [
        attribute.bool.is_some(),
        attribute.int.is_some(),
        attribute.string.is_some(),
        attribute.version.is_some(),
        attribute.bools.is_some(),
        attribute.ints.is_some(),
        attribute.strings.is_some(),
        attribute.versions.is_some(),
    ];
    if let Some(text) = &attribute.string {
        short(text, &path.child("string"), errors);
    }
    if let Some(version) = &attribute.version {
        let at = path.child("version");
        if !VERSION
            .as_ref()
            .is_some_and(|pattern| pattern.is_match(version))
        {
            let detail = "must be a string compatible with semver.org spec 2.0.0";
            errors.push(FieldError::invalid(&at, version.as_str(), detail));
        }
        short(version, &at, errors);
    }
    let detail = "exactly one value must be specified";
    match given.into_iter().filter(|given| *given).count() {
        0 => errors.push(FieldError::invalid(path, "", detail)),
        1 => {}
        _ => errors.push(FieldError::invalid(path, json!(attribute), detail)),
    }
}

fn short(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.len() > VALUE_MAX {
        errors.push(FieldError::too_long(path, VALUE_MAX));
    }
}

fn validate_consumption(
    consumption: &DeviceCounterConsumption,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let (at, set) = (path.child("counterSet"), consumption.counter_set.as_str());
    if set.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        shared::label(set, &at, errors);
    }
    validate_counters(&consumption.counters, &path.child("counters"), errors);
}

/// Named amounts, of which a device takes its part.
pub(super) fn validate_counters(
    counters: &BTreeMap<String, Counter>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if counters.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    each_entry(
        counters,
        COUNTERS_MAX,
        path,
        errors,
        |name, _, path, errors| shared::label(name, path, errors),
    );
}

fn validate_nodes(device: &Device, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when \
                          `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    let mut given = Vec::new();
    if let Some(name) = &device.node_name {
        let at = path.child("nodeName");
        if name.is_empty() {
            errors.push(FieldError::invalid(&at, "", "must not be empty"));
        } else {
            given.push("`nodeName`");
            invalid(&at, name, names::dns1123_subdomain(name), errors);
        }
    }
    if let Some(selector) = &device.node_selector {
        given.push("`nodeSelector`");
        validate_node_selector(selector, &path.child("nodeSelector"), errors);
    }
    match device.all_nodes {
        Some(true) => given.push("`allNodes`"),
        Some(false) => {
            let detail = "must be either unset or set to true";
            errors.push(FieldError::invalid(&path.child("allNodes"), false, detail));
        }
        None => {}
    }
    match given.len() {
        0 => errors.push(FieldError::required(path, DETAIL)),
        1 => {}
        _ => {
            let value = format!("{{{}}}", given.join(", "));
            errors.push(FieldError::invalid(path, value, DETAIL));
        }
    }
}
