//! The kinds of apps, batch, autoscaling and policy.
//!
//! Each file (or folder) holds a kind's entry for the registry and, beside it, all of its rules. To add a kind: a file
//! with its `resource()` and its `impl Kind`, and a line in [`resources`]. What several of them check is in `rules`, what
//! several of them print is in `print`.

mod apps;
mod autoscaling;
mod batch;
mod policy;
mod print;
mod rules;
mod template;

use k8s_openapi::ListableResource;
use vaquita_api::registry::{self, Kind, Resource};

/// Marks the implementations of this crate; see [`Kind`].
pub enum Here {}

/// The entry of a kind that is stored in namespaces and has all the usual verbs.
fn stored<K: Kind<Here> + ListableResource>(singular: &str) -> Resource {
    registry::stored::<K, Here>(singular, true)
}

/// Every resource of these groups.
pub fn resources() -> Vec<Resource> {
    let groups = [
        apps::resources(),
        autoscaling::resources(),
        batch::resources(),
        policy::resources(),
    ];
    groups.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn laws_hold() {
        vaquita_api::testing::laws::hold(super::resources());
    }
}
