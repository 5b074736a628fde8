//! What the targets share.

use std::sync::LazyLock;

use vaquita_api::registry::{Registry, Resource};

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let kinds = vaquita_kinds::resources().into_iter();
    Registry::new(
        kinds
            .chain(vaquita_workloads::resources())
            .chain(vaquita_platform::resources()),
    )
});

/// Takes the first byte as the choice of a kind, and gives the rest.
pub fn choose(data: &[u8]) -> Option<(&'static Resource, &[u8])> {
    let (choice, rest) = data.split_first()?;
    let count = REGISTRY.iter().count();
    let resource = REGISTRY.iter().nth(usize::from(*choice) % count)?;
    Some((resource, rest))
}

/// What a client may send is refused, or becomes an object that stays as it is.
pub fn decode(resource: &Resource, value: serde_json::Value) {
    let Ok(decoded) = resource.decode(value) else {
        return;
    };
    let again = resource
        .decode(decoded.object.clone().into())
        .expect("what has been decoded decodes");
    assert_eq!(again.object, decoded.object);
    let _ = resource.validate_create(&decoded.object);
}
