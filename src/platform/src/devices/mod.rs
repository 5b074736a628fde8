//! `resource.k8s.io/v1`: devices that nodes have, and claims for them.

mod capacity;
mod claim;
mod claim_status;
mod claim_template;
mod class;
mod device;
mod requests;
mod shared;
mod slice;

use vaquita_api::registry::Resource;

pub(super) fn resources() -> [Resource; 4] {
    [
        class::resource(),
        claim::resource(),
        claim_template::resource(),
        slice::resource(),
    ]
}
