//! The kinds of the core group and its satellites (coordination, discovery, events, node, scheduling).
//!
//! Each file holds a kind's entry for the registry and, beside it, all of its rules. To add a kind: a file with its
//! `resource()` and its `impl Kind`, and a line in [`resources`]. What makes pods is shared with other families of kinds:
//! [`pod_spec`].
//!
//! ```
//! use serde_json::json;
//! use vaquita_api::registry::{NewObject, Registry};
//!
//! let registry = Registry::new(vaquita_kinds::resources());
//! let maps = registry.get("", "v1", "configmaps").expect("a built-in kind");
//! let body = json!({"metadata": {"name": "settings"}, "data": {"colour": "grey"}, "colour": "grey"});
//!
//! let decoded = maps.decode(body)?;
//! assert_eq!(decoded.unknown, ["colour"]);
//!
//! let mut object = decoded.object;
//! let new = NewObject {
//!     namespace: "default",
//!     now: jiff::Timestamp::UNIX_EPOCH,
//!     uid: "5dd6c0a8-4f3a-4b0e-9d57-2f1e6c8b9a10".to_owned(),
//!     entropy: 0,
//! };
//! maps.prepare_create(&mut object, &new)?;
//! maps.validate_create(&object)?;
//! assert_eq!(object["metadata"]["namespace"], "default");
//! # Ok::<(), vaquita_api::status::Status>(())
//! ```

mod binding;
mod cidr;
mod component_status;
mod config_map;
mod diff;
mod endpoint_slice;
mod endpoints;
mod event;
mod lease;
mod limit_range;
mod namespace;
mod node;
mod persistent_volume;
pub mod pod;
pub mod pod_spec;
mod pod_template;
pub mod print;
mod priority_class;
mod replication_controller;
mod resource_names;
mod resource_quota;
mod runtime_class;
mod secret;
pub mod service;
mod service_account;
mod volume_sources;

pub use persistent_volume::claim::validate_spec as validate_claim_spec;

use k8s_openapi::ListableResource;
use vaquita_api::registry::{self, Kind, Resource, Verb};

/// Marks the implementations of this crate; see [`Kind`].
pub enum Here {}

/// What a connection to a pod is opened by: a WebSocket by GET, SPDY by POST.
const STREAM: [Verb; 2] = [Verb::Create, Verb::Get];

/// What passes through a proxy. Whatever else HTTP has counts as one of these.
const PROXY: [Verb; 5] = [
    Verb::Create,
    Verb::Delete,
    Verb::Get,
    Verb::Patch,
    Verb::Update,
];

/// The entry of a kind that is stored and has all the usual verbs.
fn stored<K: Kind<Here> + ListableResource>(singular: &str, namespaced: bool) -> Resource {
    registry::stored::<K, Here>(singular, namespaced)
}

/// Every resource of these groups.
pub fn resources() -> Vec<Resource> {
    vec![
        binding::resource(),
        component_status::resource(),
        config_map::resource(),
        endpoint_slice::resource(),
        endpoints::resource(),
        event::resource(),
        event::v1::resource(),
        lease::resource(),
        limit_range::resource(),
        namespace::resource(),
        node::resource(),
        persistent_volume::resource(),
        persistent_volume::claim::resource(),
        pod::resource(),
        pod_template::resource(),
        priority_class::resource(),
        replication_controller::resource(),
        resource_quota::resource(),
        runtime_class::resource(),
        secret::resource(),
        service::resource(),
        service_account::resource(),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn laws_hold() {
        vaquita_api::testing::laws::hold(super::resources());
    }
}
