//! Nothing is created in a namespace that is not there or on its way out, and some namespaces stay.

use async_trait::async_trait;
use vaquita_api::meta;
use vaquita_api::status::Status;

use crate::{Cluster, Operation, Plugin, Request};

/// The namespaces without which a cluster is none.
const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];

pub(crate) struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        match request.operation {
            Operation::Create => request.resource.namespaced,
            Operation::Delete => request.is_about("", "namespaces"),
            Operation::Update | Operation::Connect => false,
        }
    }

    /// Comes first in the chain: what later plugins look for would not be there either.
    async fn mutate(&self, request: &mut Request<'_>, cluster: &dyn Cluster) -> Result<(), Status> {
        if request.operation == Operation::Delete {
            return if IMMORTAL.contains(&request.name) {
                Err(request.forbidden("this namespace may not be deleted"))
            } else {
                Ok(())
            };
        }
        // Whoever asks about access asks so before there is anything to have access to.
        if request.is_about("authorization.k8s.io", "localsubjectaccessreviews") {
            return Ok(());
        }
        let namespace = request.namespace;
        let Some(found) = cluster.get("", "namespaces", "", namespace) else {
            return Err(Status::not_found("", "namespaces", namespace));
        };
        let terminating = meta::deletion_timestamp(&found).is_some()
            || meta::at(&found, &["status", "phase"]).is_some_and(|phase| phase == "Terminating");
        if !terminating {
            return Ok(());
        }
        Err(request
            .forbidden(format_args!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            ))
            .with_cause(
                "NamespaceTerminating",
                &format!("namespace {namespace} is being terminated"),
                "metadata.namespace",
            ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Fixture, World};

    #[tokio::test]
    async fn content_needs_a_living_namespace() {
        let world = World::default()
            .with("", "namespaces", json!({"metadata": {"name": "a"}}))
            .with(
                "",
                "namespaces",
                json!({"metadata": {"name": "b"}, "status": {"phase": "Terminating"}}),
            );
        let create = |namespace: &str| {
            Fixture::pod(json!({"metadata": {"name": "web"}})).namespace(namespace)
        };
        assert!(
            create("a")
                .mutate(&NamespaceLifecycle, &world)
                .await
                .is_ok()
        );
        let ending = create("b")
            .mutate(&NamespaceLifecycle, &world)
            .await
            .unwrap_err();
        assert_eq!(
            ending.message(),
            "pods \"web\" is forbidden: unable to create new content in namespace b because it is being terminated"
        );
        assert_eq!(
            ending.details().unwrap().causes[0].reason,
            "NamespaceTerminating"
        );
        let missing = create("c")
            .mutate(&NamespaceLifecycle, &world)
            .await
            .unwrap_err();
        assert_eq!(
            (missing.code(), missing.message()),
            (404, "namespaces \"c\" not found")
        );
    }

    #[tokio::test]
    async fn some_namespaces_stay() {
        let delete = |name: &str| Fixture::deletion("namespaces", name);
        let world = World::default();
        assert!(
            delete("mine")
                .mutate(&NamespaceLifecycle, &world)
                .await
                .is_ok()
        );
        let refused = delete("kube-system")
            .mutate(&NamespaceLifecycle, &world)
            .await
            .unwrap_err();
        assert_eq!(
            refused.message(),
            "namespaces \"kube-system\" is forbidden: this namespace may not be deleted"
        );
    }
}
