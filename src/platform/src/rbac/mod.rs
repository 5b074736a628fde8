//! `rbac.authorization.k8s.io/v1`: roles, and who has them.

mod binding;
mod role;

use vaquita_api::registry::Resource;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn resources() -> [Resource; 4] {
    [
        role::cluster_role(),
        role::role(),
        binding::cluster_role_binding(),
        binding::role_binding(),
    ]
}
