//! The built-in kinds. Each file holds a kind's entry for the registry and, beside it, all of its rules.
//!
//! To add a kind: a file with its `resource()` and its `impl Kind`, and a line in [`all`].

mod config_map;
mod endpoint_slice;
mod endpoints;
mod event;
mod lease;
mod namespace;
mod node;
pub(crate) mod pod;
mod pod_spec;
mod pod_template;
mod print;
mod priority_class;
mod rbac;
mod replication_controller;
mod runtime_class;
mod secret;
pub(crate) mod service;
mod service_account;
mod storage_class;
#[cfg(test)]
mod testing;

use k8s_openapi::ListableResource;

use crate::registry::{Kind, Resource, ScalePaths, SelectableField, Subresource, Typed, Verb};

/// Every built-in resource.
pub(crate) fn all() -> Vec<Resource> {
    vec![
        config_map::resource(),
        endpoint_slice::resource(),
        endpoints::resource(),
        event::resource(),
        lease::resource(),
        namespace::resource(),
        node::resource(),
        pod::resource(),
        pod_template::resource(),
        priority_class::resource(),
        replication_controller::resource(),
        runtime_class::resource(),
        secret::resource(),
        service::resource(),
        service_account::resource(),
        storage_class::resource(),
    ]
    .into_iter()
    .chain(rbac::resources())
    .collect()
}

/// The entry of a kind that is stored and has all the usual verbs.
fn stored<K: Kind + ListableResource>(singular: &str, namespaced: bool) -> Resource {
    let mut selectable = vec![SelectableField::NAME];
    selectable.extend(namespaced.then_some(SelectableField::NAMESPACE));
    selectable.extend_from_slice(K::SELECTABLE);
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
        selectable,
        rules: Box::new(Typed::<K>::new()),
    }
}

/// What entries are refined by.
impl Resource {
    fn short(mut self, names: &[&str]) -> Self {
        self.short_names = names.iter().map(ToString::to_string).collect();
        self
    }

    /// Puts the kind among those that `kubectl get all` shows.
    fn in_all(mut self) -> Self {
        self.categories.push("all".to_owned());
        self
    }

    /// A subresource that shows the object itself.
    fn view(self, name: &str, verbs: &[Verb]) -> Self {
        let (group, version, kind) = (self.group.clone(), self.version.clone(), self.kind.clone());
        self.sub(name, (&group, &version, &kind), verbs)
    }

    fn with_status(self) -> Self {
        self.view("status", &[Verb::Get, Verb::Patch, Verb::Update])
    }

    /// A subresource of another group, version and kind.
    fn sub(
        mut self,
        name: &str,
        (group, version, kind): (&str, &str, &str),
        verbs: &[Verb],
    ) -> Self {
        self.subresources.push(Subresource {
            name: name.to_owned(),
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            verbs: verbs.to_vec(),
        });
        self
    }

    /// The `scale` subresource over the usual three fields.
    fn scalable(mut self) -> Self {
        let path = |fields: [&str; 2]| fields.map(str::to_owned).to_vec();
        self.scale = Some(ScalePaths {
            replicas: path(["spec", "replicas"]),
            status_replicas: path(["status", "replicas"]),
            selector: path(["spec", "selector"]),
        });
        self.sub(
            "scale",
            ("autoscaling", "v1", "Scale"),
            &[Verb::Get, Verb::Patch, Verb::Update],
        )
    }
}
