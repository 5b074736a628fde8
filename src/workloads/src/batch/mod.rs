//! x

pub(super) fn resources() -> Vec<vaquita_api::registry::Resource> {
    Vec::new()
}
