//! The kinds that describe the platform: networking, storage, access, admission, extension, devices.
//!
//! Each file holds a kind's entry for the registry and, beside it, all of its rules. To add a kind: a file with its
//! `resource()` and its `impl Kind`, and a line in [`resources`].

mod admission_registration;
mod api_service;
pub mod certificates;
mod checks;
mod devices;
pub mod flow_control;
mod networking;
mod rbac;
pub mod reviews;
mod storage;

use k8s_openapi::ListableResource;
use vaquita_api::registry::{self, Kind, Resource};

/// Marks the implementations of this crate; see [`Kind`].
pub enum Here {}

/// The entry of a kind that is stored and has all the usual verbs.
fn stored<K: Kind<Here> + ListableResource>(singular: &str, namespaced: bool) -> Resource {
    registry::stored::<K, Here>(singular, namespaced)
}

/// Every resource of these groups.
pub fn resources() -> Vec<Resource> {
    let mut resources = Vec::new();
    resources.extend(admission_registration::resources());
    resources.push(api_service::resource());
    resources.push(certificates::resource());
    resources.extend(devices::resources());
    resources.extend(flow_control::resources());
    resources.extend(networking::resources());
    resources.extend(rbac::resources());
    resources.extend(reviews::resources());
    resources.extend(storage::resources());
    resources
}

#[cfg(test)]
mod tests {
    #[test]
    fn laws_hold() {
        vaquita_api::testing::laws::hold(super::resources());
    }
}
