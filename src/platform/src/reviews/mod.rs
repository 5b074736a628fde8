//! Questions that are asked by creating an object: who is this, and what may they do? The answer comes back in the status,
//! and nothing is kept.
//!
//! Here is what the questions look like. Who answers them is the server, which knows users and permissions.

mod authentication;
mod authorization;

use vaquita_api::registry::{self, Kind, Resource};

use crate::Here;

pub use authentication::token_request;

pub(super) fn resources() -> [Resource; 6] {
    [
        authentication::self_subject_review(),
        authentication::token_review(),
        authorization::local_subject_access_review(),
        authorization::self_subject_access_review(),
        authorization::self_subject_rules_review(),
        authorization::subject_access_review(),
    ]
}

fn review<K: Kind<Here>>(singular: &str, namespaced: bool) -> Resource {
    registry::created_only::<K, Here>(singular, namespaced)
}
