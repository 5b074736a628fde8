//! The kinds of apps, batch, autoscaling and policy.
//!
//! Each file holds a kind's entry for the registry and, beside it, all of its rules. To add a kind: a file with its
//! `resource()` and its `impl Kind`, and a line in [`resources`].

use vaquita_api::registry::Resource;

/// Every resource of these groups.
pub fn resources() -> Vec<Resource> {
    Vec::new()
}
