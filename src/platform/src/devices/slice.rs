//! `ResourceSlice`: devices that a driver has found.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::{
    CounterSet, Device, ResourcePool, ResourceSlice, ResourceSliceSpec,
};
use serde_json::{Value, json};

use super::device;
use super::shared::{self, each_once};
use crate::checks::{driver_name, immutable};
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Part, Resource, SelectableField};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::{Object, meta};
use vaquita_kinds::pod_spec::validate_node_selector;

const DEVICES_MAX: usize = 128;
/// As many devices may have taints or consume counters.
const COSTLY_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;

pub(super) fn resource() -> Resource {
    stored::<ResourceSlice>("resourceslice", false)
}

impl Kind<Here> for ResourceSlice {
    const GENERATION: bool = true;

    const SELECTABLE: &'static [SelectableField] = &[
        SelectableField::new("spec.nodeName", &["spec", "nodeName"], ""),
        SelectableField::new("spec.driver", &["spec", "driver"], ""),
    ];

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Node", "The node that has the devices."),
        Column::string("Driver", "The driver that found them."),
        Column::string("Pool", "The pool that they belong to."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        let devices = self.spec.devices.iter_mut().flatten();
        devices.for_each(device::apply_defaults);
        for set in self.spec.shared_counters.iter_mut().flatten() {
            device::default_counters(&mut set.counters);
        }
    }

    fn prepare_create(object: &mut Object) {
        let now = meta::at(object, &["metadata", "creationTimestamp"]).cloned();
        date_taints(object, &now.unwrap_or_default());
    }

    fn prepare_update(new: &mut Object, _old: &Object, _part: Part, now: Timestamp) {
        date_taints(new, &meta::time(now).into());
    }

    fn validate(&self, errors: &mut Errors) {
        validate_spec(&self.spec, None, &Path::root("spec"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        validate_spec(&self.spec, Some(&old.spec), &Path::root("spec"), errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = &self.spec;
        vec![
            self.name_cell(),
            spec.node_name.clone().unwrap_or_default().into(),
            spec.driver.clone().into(),
            spec.pool.name.clone().into(),
            self.age_cell(now),
        ]
    }
}

/// Says since when taints are there.
fn date_taints(slice: &mut Object, now: &Value) {
    let devices = meta::object_mut(slice, "spec").get_mut("devices");
    let devices = devices.and_then(Value::as_array_mut).into_iter().flatten();
    let taints = devices.filter_map(|device| device.get_mut("taints")?.as_array_mut());
    for taint in taints.flatten().filter_map(Value::as_object_mut) {
        taint.entry("timeAdded").or_insert_with(|| now.clone());
    }
}

fn validate_spec(
    spec: &ResourceSliceSpec,
    old: Option<&ResourceSliceSpec>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    driver_name(&spec.driver, &path.child("driver"), errors);
    let pool = path.child("pool");
    validate_pool(&spec.pool, &pool, errors);
    if let Some(old) = old {
        let at = pool.child("name");
        immutable(&spec.pool.name, &old.pool.name, &at, errors);
        immutable(&spec.driver, &old.driver, &path.child("driver"), errors);
        let at = path.child("nodeName");
        immutable(&spec.node_name, &old.node_name, &at, errors);
    }
    validate_nodes(spec, path, errors);
    if spec.shared_counters.is_some() && spec.devices.is_some() {
        let detail = "only one of `sharedCounters` or `devices` is allowed";
        errors.push(FieldError::invalid(path, "", detail));
    }
    let devices = spec.devices.as_deref();
    let costly = |device: &Device| {
        let some = |count: Option<usize>| count.is_some_and(|count| count > 0);
        some(device.taints.as_ref().map(Vec::len))
            || some(device.consumes_counters.as_ref().map(Vec::len))
    };
    let max = if devices.unwrap_or_default().iter().any(costly) {
        COSTLY_DEVICES_MAX
    } else {
        DEVICES_MAX
    };
    let chosen = spec.per_device_node_selection.unwrap_or_default();
    let before = old.and_then(|old| old.devices.as_deref());
    each_once(
        devices,
        max,
        &path.child("devices"),
        errors,
        |device| device.name.clone(),
        |new, path, errors| {
            let mut before = before.unwrap_or_default().iter();
            let old = before.find(|old| old.name == new.name);
            device::validate(new, old, chosen, path, errors);
        },
    );
    each_once(
        spec.shared_counters.as_deref(),
        COUNTER_SETS_MAX,
        &path.child("sharedCounters"),
        errors,
        |set| set.name.clone(),
        validate_counter_set,
    );
}

fn validate_pool(pool: &ResourcePool, path: &Path<'_>, errors: &mut Errors) {
    shared::pool_name(&pool.name, &path.child("name"), errors);
    if pool.resource_slice_count <= 0 {
        let at = path.child("resourceSliceCount");
        let detail = "must be greater than zero";
        errors.push(FieldError::invalid(&at, pool.resource_slice_count, detail));
    }
    if pool.generation < 0 {
        let at = path.child("generation");
        let detail = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(&at, pool.generation, detail));
    }
}

/// Which nodes reach the devices; there are four ways to say it, of which one is taken.
fn validate_nodes(spec: &ResourceSliceSpec, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut given = Vec::new();
    if let Some(name) = &spec.node_name {
        let at = path.child("nodeName");
        if name.is_empty() {
            let detail = "must be either unset or set to a non-empty string";
            errors.push(FieldError::invalid(&at, "", detail));
        } else {
            given.push("`nodeName`");
            invalid(&at, name, names::dns1123_subdomain(name), errors);
        }
    }
    if let Some(selector) = &spec.node_selector {
        given.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        validate_node_selector(selector, &at, errors);
        if selector.node_selector_terms.len() != 1 {
            let value = json!(selector.node_selector_terms);
            let detail = "must have exactly one node selector term";
            let at = at.child("nodeSelectorTerms");
            errors.push(FieldError::invalid(&at, value, detail));
        }
    }
    for (field, quoted, value) in [
        ("allNodes", "`allNodes`", spec.all_nodes),
        (
            "perDeviceNodeSelection",
            "`perDeviceNodeSelection`",
            spec.per_device_node_selection,
        ),
    ] {
        match value {
            Some(true) => given.push(quoted),
            Some(false) => {
                let detail = "must be either unset or set to true";
                errors.push(FieldError::invalid(&path.child(field), false, detail));
            }
            None => {}
        }
    }
    match given.len() {
        0 => errors.push(FieldError::required(path, DETAIL)),
        1 => {}
        _ => {
            let value = format!("{{{}}}", given.join(", "));
            let detail = format!("{DETAIL}, but multiple fields are set");
            errors.push(FieldError::invalid(path, value, detail));
        }
    }
}

fn validate_counter_set(set: &CounterSet, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("name");
    if set.name.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        shared::label(&set.name, &at, errors);
    }
    device::validate_counters(&set.counters, &path.child("counters"), errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn slice(devices: Value) -> Value {
        json!({
            "metadata": {"name": "node-1-gpus"},
            "spec": {
                "driver": "gpu.example.com", "nodeName": "node-1", "devices": devices,
                "pool": {"name": "node-1", "generation": 1, "resourceSliceCount": 1},
            },
        })
    }

    #[test]
    fn lists_the_devices_of_a_driver() {
        let device = json!({
            "name": "gpu-0", "attributes": {"model": {"string": "x"}, "example.com/version": {"version": "1.2.3-rc.1+b"}},
            "capacity": {"memory": {"value": "8Gi"}}, "taints": [{"key": "example.com/hot", "effect": "NoSchedule"}],
        });
        let old = created(&resource(), slice(json!([device])));
        assert_eq!(
            old["spec"]["devices"][0]["taints"][0]["timeAdded"],
            "1970-01-01T00:00:00Z"
        );
        assert_stable(&resource(), &old);
        let row = resource().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["node-1-gpus", "node-1", "gpu.example.com", "node-1", "0s"])
        );
        let moved = changed(&old, |slice| slice["spec"]["nodeName"] = "node-2".into());
        assert_eq!(
            causes(updated(&resource(), &old, moved, Part::Main)),
            ["spec.nodeName: Invalid value: \"node-2\": field is immutable"]
        );
    }

    #[test]
    fn is_reached_one_way() {
        let with = |change: fn(&mut Value)| {
            let mut slice = slice(json!([]));
            change(&mut slice["spec"]);
            refused(&resource(), slice)
        };
        let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
        assert_eq!(
            with(|spec| spec["nodeName"] = Value::Null),
            [format!("spec: Required value: {detail}")]
        );
        assert_eq!(
            with(|spec| spec["allNodes"] = true.into()),
            [format!(
                "spec: Invalid value: \"{{`nodeName`, `allNodes`}}\": {detail}, but multiple fields are set"
            )]
        );
        assert_eq!(
            with(|spec| spec["pool"]["resourceSliceCount"] = 0.into()),
            ["spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero"]
        );
    }

    #[test]
    fn refuses_devices_that_say_nothing_or_too_much() {
        let with = |device: Value| refused(&resource(), slice(json!([device])));
        let at = "spec.devices[0]";
        assert_eq!(
            with(json!({"name": "a", "attributes": {"x": {}}})),
            [format!(
                "{at}.attributes[x]: Invalid value: \"\": exactly one value must be specified"
            )]
        );
        assert_eq!(
            with(json!({"name": "a", "attributes": {"x": {"version": "1.2"}}})),
            [format!(
                "{at}.attributes[x].version: Invalid value: \"1.2\": must be a string compatible with semver.org spec 2.0.0"
            )]
        );
        assert_eq!(
            with(json!({"name": "a", "capacity": {"m": {"value": "1", "requestPolicy": {}}}})),
            [format!(
                "{at}.capacity[m].requestPolicy: Forbidden: allowMultipleAllocations must be true"
            )]
        );
        assert_eq!(
            with(json!({"name": "a", "bindingConditions": ["x"]})),
            [format!(
                "{at}.bindingFailureConditions: Invalid value: []: bindingFailureConditions are required to use bindingConditions"
            )]
        );
        let many: Vec<Value> = (0..129).map(|n| json!({"name": format!("d{n}")})).collect();
        assert_eq!(
            refused(&resource(), slice(json!(many))),
            ["spec.devices: Too many: 129: must have at most 128 items"]
        );
    }
}
