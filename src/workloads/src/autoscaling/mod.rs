//! `autoscaling/v1` and `autoscaling/v2`: how many pods there should be, by what they have to do. Stored as v2; v1 is a view.

mod v1;
mod v2;

use vaquita_api::registry::Resource;

pub(super) fn resources() -> Vec<Resource> {
    vec![v1::resource(), v2::resource()]
}
