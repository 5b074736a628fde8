//! What has been given for a claim, to whom, and how the devices are.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, DeviceAllocationConfiguration,
    DeviceRequestAllocationResult, NetworkDeviceData, ResourceClaim,
    ResourceClaimConsumerReference,
};
use serde_json::Value;

use super::requests::Names;
use super::shared::{self, LIST_MAX, each, each_once};
use crate::checks::{conditions, driver_name, immutable, one_of};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_kinds::pod_spec::validate_node_selector;

const CONSUMERS_MAX: usize = 256;
const CONDITIONS_MAX: usize = 8;
const INTERFACE_NAME_MAX: usize = 256;
const HARDWARE_ADDRESS_MAX: usize = 128;
const ADDRESSES_MAX: usize = 16;

pub(super) fn validate(
    new: &ResourceClaim,
    old: &ResourceClaim,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let names = Names::of(new.spec.devices.as_ref());
    let deleted = new.metadata.deletion_timestamp.is_some();
    let (Some(status), before) = (&new.status, old.status.clone().unwrap_or_default()) else {
        return;
    };
    let consumers = status.reserved_for.as_deref();
    let at = path.child("reservedFor");
    each_once(
        consumers,
        CONSUMERS_MAX,
        &at,
        errors,
        |consumer| consumer.uid.clone(),
        validate_consumer,
    );
    let given = status.allocation.as_ref().map(devices).unwrap_or_default();
    each_once(
        status.devices.as_deref(),
        usize::MAX,
        &path.child("devices"),
        errors,
        device_id,
        |device, path, errors| validate_device(device, &given, path, errors),
    );
    let consumers = consumers.unwrap_or_default();
    if !consumers.is_empty() && status.allocation.is_none() {
        let detail = "may not be specified when `allocated` is not set";
        errors.push(FieldError::forbidden(&at, detail));
    } else if deleted {
        let known = before.reserved_for.as_deref().unwrap_or_default();
        if consumers.iter().any(|consumer| !known.contains(consumer)) {
            let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.push(FieldError::forbidden(&at, detail));
        }
    }
    let at = path.child("allocation");
    match (&status.allocation, &before.allocation) {
        (Some(new), Some(old)) => immutable(new, old, &at, errors),
        (Some(new), None) => validate_allocation(new, &names, &at, errors),
        (None, _) => {}
    }
}

fn validate_consumer(
    consumer: &ResourceClaimConsumerReference,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (field, value) in [
        ("resource", &consumer.resource),
        ("name", &consumer.name),
        ("uid", &consumer.uid),
    ] {
        if value.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
}

/// What tells devices apart: `driver/pool/device`, and the share of it.
fn id(driver: &str, pool: &str, device: &str, share: Option<&String>) -> String {
    let share = share.map(|share| format!("/{share}"));
    format!("{driver}/{pool}/{device}{}", share.unwrap_or_default())
}

fn device_id(device: &AllocatedDeviceStatus) -> String {
    id(
        &device.driver,
        &device.pool,
        &device.device,
        device.share_id.as_ref(),
    )
}

/// The devices that were given.
fn devices(allocation: &AllocationResult) -> BTreeSet<String> {
    let results = allocation.devices.iter();
    let results = results.flat_map(|devices| devices.results.iter().flatten());
    results
        .map(|result| {
            id(
                &result.driver,
                &result.pool,
                &result.device,
                result.share_id.as_ref(),
            )
        })
        .collect()
}

fn validate_allocation(
    allocation: &AllocationResult,
    names: &Names<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(devices) = &allocation.devices {
        let path = path.child("devices");
        each(
            devices.results.as_deref(),
            LIST_MAX,
            &path.child("results"),
            errors,
            |result, path, errors| validate_result(result, names, path, errors),
        );
        each(
            devices.config.as_deref(),
            // Those of the class and those of the claim.
            2 * LIST_MAX,
            &path.child("config"),
            errors,
            |config, path, errors| validate_configuration(config, names, path, errors),
        );
    }
    if let Some(selector) = &allocation.node_selector {
        validate_node_selector(selector, &path.child("nodeSelector"), errors);
    }
}

fn validate_result(
    result: &DeviceRequestAllocationResult,
    names: &Names<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    names.validate(&result.request, &path.child("request"), errors);
    driver_name(&result.driver, &path.child("driver"), errors);
    shared::pool_name(&result.pool, &path.child("pool"), errors);
    shared::label(&result.device, &path.child("device"), errors);
    shared::binding_conditions(
        result.binding_conditions.as_deref(),
        result.binding_failure_conditions.as_deref(),
        path,
        errors,
    );
    if let Some(share) = &result.share_id {
        shared::uid(share, &path.child("shareID"), errors);
    }
}

fn validate_configuration(
    config: &DeviceAllocationConfiguration,
    names: &Names<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let at = path.child("source");
    if config.source.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        one_of(&config.source, &["FromClaim", "FromClass"], &at, errors);
    }
    names.validate_all(config.requests.as_deref(), &path.child("requests"), errors);
    shared::configuration(config.opaque.as_ref(), path, errors);
}

fn validate_device(
    device: &AllocatedDeviceStatus,
    given: &BTreeSet<String>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    driver_name(&device.driver, &path.child("driver"), errors);
    shared::pool_name(&device.pool, &path.child("pool"), errors);
    shared::label(&device.device, &path.child("device"), errors);
    if let Some(share) = &device.share_id {
        shared::uid(share, &path.child("shareID"), errors);
    }
    let id = device_id(device);
    if !given.contains(&id) {
        let detail = "must be an allocated device in the claim";
        errors.push(FieldError::invalid(path, id, detail));
    }
    let (at, list) = (
        path.child("conditions"),
        device.conditions.as_deref().unwrap_or_default(),
    );
    if list.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(&at, list.len(), CONDITIONS_MAX));
    }
    conditions(list, &at, errors);
    if let Some(data) = device.data.as_ref().filter(|data| data.0 != Value::Null) {
        shared::free_json(data, &path.child("data"), errors);
    }
    if let Some(network) = &device.network_data {
        validate_network(network, &path.child("networkData"), errors);
    }
}

fn validate_network(network: &NetworkDeviceData, path: &Path<'_>, errors: &mut Errors) {
    for (field, value, max) in [
        ("interfaceName", &network.interface_name, INTERFACE_NAME_MAX),
        (
            "hardwareAddress",
            &network.hardware_address,
            HARDWARE_ADDRESS_MAX,
        ),
    ] {
        if value.as_ref().is_some_and(|value| value.len() > max) {
            errors.push(FieldError::too_long(&path.child(field), max));
        }
    }
    each_once(
        network.ips.as_deref(),
        ADDRESSES_MAX,
        &path.child("ips"),
        errors,
        Clone::clone,
        |address, path, errors| validate_interface_address(address, path, errors),
    );
}

/// An address with the length of its network's prefix.
fn validate_interface_address(text: &str, path: &Path<'_>, errors: &mut Errors) {
    let parsed = text.split_once('/').and_then(|(ip, prefix)| {
        let ip: IpAddr = ip.parse().ok()?;
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= bits)?;
        Some(format!("{ip}/{prefix}"))
    });
    let detail = match parsed {
        None => {
            "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".to_owned()
        }
        Some(canonical) if canonical != text => {
            format!("must be in canonical form ({canonical:?})")
        }
        Some(_) => return,
    };
    errors.push(FieldError::invalid(path, text, detail));
}
