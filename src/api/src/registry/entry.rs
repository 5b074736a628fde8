//! How the entries of built-in kinds are written down: [`stored`] or [`created_only`], then what differs from the usual.

use k8s_openapi::ListableResource;

use super::{Kind, Resource, ScalePaths, SelectableField, Storage, Subresource, Typed, Verb};

/// The entry of a kind that is stored and has all the usual verbs.
pub fn stored<K: Kind<Here> + ListableResource, Here: 'static>(
    singular: &str,
    namespaced: bool,
) -> Resource {
    Resource {
        list_kind: K::LIST_KIND.to_owned(),
        ..entry::<K, Here>(singular, namespaced)
    }
}

/// The entry of a kind that is answered and forgotten, as reviews are: it has no lists, and can only be created.
pub fn created_only<K: Kind<Here>, Here: 'static>(singular: &str, namespaced: bool) -> Resource {
    entry::<K, Here>(singular, namespaced)
        .only(&[Verb::Create])
        .kept(Storage::Nowhere)
}

fn entry<K: Kind<Here>, Here: 'static>(singular: &str, namespaced: bool) -> Resource {
    let mut selectable = vec![SelectableField::NAME];
    selectable.extend(namespaced.then_some(SelectableField::NAMESPACE));
    selectable.extend_from_slice(K::SELECTABLE);
    Resource {
        group: K::GROUP.to_owned(),
        version: K::VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        list_kind: format!("{}List", K::KIND),
        plural: K::URL_PATH_SEGMENT.to_owned(),
        singular: singular.to_owned(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced,
        verbs: Verb::ALL.to_vec(),
        subresources: Vec::new(),
        scale: None,
        selectable,
        storage: Storage::Own,
        rules: Box::new(Typed::<K, Here>::new()),
    }
}

/// What entries are refined by.
impl Resource {
    /// Shorter names for the command line.
    #[must_use]
    pub fn short(mut self, names: &[&str]) -> Self {
        self.short_names = names.iter().map(ToString::to_string).collect();
        self
    }

    /// Puts the kind among those that `kubectl get all` shows.
    #[must_use]
    pub fn in_all(self) -> Self {
        self.in_category("all")
    }

    /// Puts the kind among those that `kubectl get CATEGORY` shows.
    #[must_use]
    pub fn in_category(mut self, category: &str) -> Self {
        self.categories.push(category.to_owned());
        self
    }

    /// What can be done with it, where that is not everything.
    #[must_use]
    pub fn only(mut self, verbs: &[Verb]) -> Self {
        self.verbs = verbs.to_vec();
        self
    }

    /// Keeps its objects elsewhere than under its own name.
    #[must_use]
    pub fn kept(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// A subresource that shows the object itself.
    #[must_use]
    pub fn view(self, name: &str, verbs: &[Verb]) -> Self {
        let (group, version, kind) = (self.group.clone(), self.version.clone(), self.kind.clone());
        self.sub(name, (&group, &version, &kind), verbs)
    }

    /// The `status` subresource.
    #[must_use]
    pub fn with_status(self) -> Self {
        self.view("status", &[Verb::Get, Verb::Patch, Verb::Update])
    }

    /// A subresource of another group, version and kind.
    #[must_use]
    pub fn sub(
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
    #[must_use]
    pub fn scalable(mut self) -> Self {
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
