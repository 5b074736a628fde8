//! The built-in kinds. Each file holds a kind's entry for the registry and, beside it, all of its rules.
//!
//! To add a kind: a file with its `resource()` and its `impl Kind`, and a line in [`all`].

mod config_map;

use crate::registry::{Kind, Resource, Typed, Verb};

/// Every built-in resource.
pub(crate) fn all() -> Vec<Resource> {
    vec![config_map::resource()]
}

/// The entry of a kind with the usual verbs; the rest is added by the methods below.
fn stored<K: Kind>(singular: &str, namespaced: bool) -> Resource
where
    K: k8s_openapi::ListableResource,
{
    Resource {
        group: K::GROUP.to_owned(),
        version: K::VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        list_kind: K::LIST_KIND.to_owned(),
        plural: K::URL_PATH_SEGMENT.to_owned(),
        singular: singular.to_owned(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced,
        verbs: Verb::ALL.to_vec(),
        subresources: Vec::new(),
        scale: None,
        rules: Box::new(Typed::<K>::new()),
    }
}

impl Resource {
    fn short(mut self, names: &[&str]) -> Self {
        self.short_names = names.iter().map(ToString::to_string).collect();
        self
    }
}
