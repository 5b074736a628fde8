//! `policy/v1`: how many pods may be away at once.

mod pod_disruption_budget;

use vaquita_api::registry::Resource;

pub(super) fn resources() -> Vec<Resource> {
    vec![pod_disruption_budget::resource()]
}
