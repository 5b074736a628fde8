//! The kinds that describe the platform: networking, storage, access, admission, extension, devices.
//!
//! Each file holds a kind's entry for the registry and, beside it, all of its rules. To add a kind: a file with its
//! `resource()` and its `impl Kind`, and a line in [`resources`].

mod rbac;
mod storage_class;

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
    vec![storage_class::resource()]
        .into_iter()
        .chain(rbac::resources())
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn laws_hold() {
        vaquita_api::testing::laws::hold(super::resources());
    }
}
