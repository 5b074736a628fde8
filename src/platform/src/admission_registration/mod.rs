//! `admissionregistration.k8s.io/v1`: webhooks and policies that look at writes, and change or refuse them.
//!
//! Expressions are only looked at for being there: what evaluates them knows what they may say.

mod bindings;
mod client;
mod expressions;
mod matching;
mod mutating_policy;
mod rules;
mod validating_policy;
mod webhooks;

use k8s_openapi::ListableResource;
use vaquita_api::registry::{Kind, Resource};

use crate::{Here, stored};

const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const REINVOCATION_POLICIES: [&str; 2] = ["IfNeeded", "Never"];

pub(super) fn resources() -> [Resource; 6] {
    [
        bindings::mutating(),
        bindings::validating(),
        mutating_policy::resource(),
        validating_policy::resource(),
        webhooks::mutating(),
        webhooks::validating(),
    ]
}

/// All of these kinds are of the cluster, and extend it.
fn extension<K: Kind<Here> + ListableResource>(singular: &str) -> Resource {
    stored::<K>(singular, false).in_category("api-extensions")
}
