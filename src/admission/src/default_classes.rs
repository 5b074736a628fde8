//! Claims and Ingresses that name no class get the default one, if there is one.

use std::cmp::Reverse;
use std::sync::Arc;

use async_trait::async_trait;
use vaquita_api::status::Status;
use vaquita_api::{Object, meta};

use crate::{Cluster, Operation, Plugin, Request};

/// Where a kind names its class, and which class is the default.
struct Classes {
    group: &'static str,
    plural: &'static str,
    /// The annotations that mark a class as the default.
    marks: &'static [&'static str],
    /// The field of the specification that names the class.
    field: &'static str,
    /// The annotation that named it before there was a field.
    annotation: &'static str,
}

const STORAGE: Classes = Classes {
    group: "storage.k8s.io",
    plural: "storageclasses",
    marks: &[
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ],
    field: "storageClassName",
    annotation: "volume.beta.kubernetes.io/storage-class",
};

const INGRESS: Classes = Classes {
    group: "networking.k8s.io",
    plural: "ingressclasses",
    marks: &["ingressclass.kubernetes.io/is-default-class"],
    field: "ingressClassName",
    annotation: "kubernetes.io/ingress.class",
};

impl Classes {
    /// Of several defaults the youngest counts, and of those of one age the first by name.
    fn default(&self, cluster: &dyn Cluster) -> Option<Arc<Object>> {
        let is_default = |class: &Object| {
            let annotations = meta::annotations(class);
            let is_marked = |mark: &&str| annotations.get(*mark).is_some_and(|text| text == "true");
            self.marks.iter().any(is_marked)
        };
        let classes = cluster.list(self.group, self.plural, "").into_iter();
        classes
            .filter(|class| is_default(class))
            .min_by_key(|class| {
                let made = meta::creation_timestamp(class);
                (Reverse(made), meta::name(class).to_owned())
            })
    }

    fn fill(&self, object: &mut Object, cluster: &dyn Cluster) {
        let named = meta::at(object, &["spec", self.field]).is_some_and(|name| !name.is_null());
        if named || meta::annotations(object).contains_key(self.annotation) {
            return;
        }
        if let Some(class) = self.default(cluster) {
            let spec = meta::object_mut(object, "spec");
            spec.insert(self.field.to_owned(), meta::name(&class).into());
        }
    }
}

macro_rules! default_class {
    ($plugin:ident, $name:literal, $classes:expr, $group:literal, $plural:literal) => {
        pub(crate) struct $plugin;

        #[async_trait]
        impl Plugin for $plugin {
            fn name(&self) -> &'static str {
                $name
            }

            fn handles(&self, request: &Request<'_>) -> bool {
                request.operation == Operation::Create && request.is_about($group, $plural)
            }

            async fn mutate(
                &self,
                request: &mut Request<'_>,
                cluster: &dyn Cluster,
            ) -> Result<(), Status> {
                if let Some(object) = request.object.as_deref_mut() {
                    $classes.fill(object, cluster);
                }
                Ok(())
            }
        }
    };
}

default_class!(
    DefaultStorageClass,
    "DefaultStorageClass",
    STORAGE,
    "",
    "persistentvolumeclaims"
);
default_class!(
    DefaultIngressClass,
    "DefaultIngressClass",
    INGRESS,
    "networking.k8s.io",
    "ingresses"
);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Fixture, World};

    fn class(name: &str, default: &str, made: &str) -> Value {
        json!({"metadata": {
            "name": name, "creationTimestamp": made, "annotations": {STORAGE.marks[0]: default, INGRESS.marks[0]: default},
        }})
    }

    fn world() -> World {
        let storage = |world: World, class| world.with(STORAGE.group, STORAGE.plural, class);
        let world = storage(
            World::default(),
            class("old", "true", "2020-01-01T00:00:00Z"),
        );
        let world = storage(world, class("b", "true", "2021-01-01T00:00:00Z"));
        let world = storage(world, class("a", "true", "2021-01-01T00:00:00Z"));
        let world = storage(world, class("young", "false", "2022-01-01T00:00:00Z"));
        world.with(
            INGRESS.group,
            INGRESS.plural,
            class("only", "true", "2020-01-01T00:00:00Z"),
        )
    }

    #[tokio::test]
    async fn claims_get_the_youngest_default() {
        let class = async |claim: Value| {
            let mut claim = Fixture::creation("", "persistentvolumeclaims", claim);
            claim.mutate(&DefaultStorageClass, &world()).await.unwrap();
            claim.object()["spec"].get("storageClassName").cloned()
        };
        assert_eq!(class(json!({"spec": {}})).await, Some(json!("a")));
        let none = json!({"spec": {"storageClassName": ""}});
        assert_eq!(class(none).await, Some(json!("")));
        let annotated = json!({"metadata": {"annotations": {STORAGE.annotation: "x"}}, "spec": {}});
        assert_eq!(class(annotated).await, None);
    }

    #[test]
    fn ingresses_get_theirs() {
        let Value::Object(mut ingress) = json!({"spec": {}}) else {
            unreachable!()
        };
        INGRESS.fill(&mut ingress, &World::default());
        assert_eq!(ingress["spec"], json!({}));
        INGRESS.fill(&mut ingress, &world());
        assert_eq!(ingress["spec"]["ingressClassName"], "only");
    }
}
