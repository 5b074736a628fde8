//! Creating and deleting pods in the name of their owner, whose events tell of it.

use k8s_openapi::{NamespaceResourceScope, api::core::v1::Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};

use vaquita_reconcile::{Recorder, meta};

/// Acts for one owner.
pub(crate) struct Hand<'a, O> {
    pub(crate) client: &'a Client,
    pub(crate) recorder: &'a Recorder,
    pub(crate) owner: &'a O,
}

impl<O: Resource<DynamicType = (), Scope = NamespaceResourceScope>> Hand<'_, O> {
    /// Creates a pod. A failure is told by [`creation_failed`](Self::creation_failed): of many, only one is news.
    pub(crate) async fn create(&self, model: &Pod) -> Result<(), kube::Error> {
        let created = self.pods().create(&PostParams::default(), model).await?;
        let message = format!("Created pod: {}", created.name_any());
        self.recorder
            .normal(self.owner, "SuccessfulCreate", message);
        Ok(())
    }

    /// Tells of a failed creation. Nothing if the namespace is going: nothing will come of it, however often it is tried.
    pub(crate) fn creation_failed(&self, error: kube::Error) -> Result<(), kube::Error> {
        if meta::is_namespace_terminating(&error) {
            return Ok(());
        }
        let message = format!("Error creating: {}", meta::message(&error));
        self.recorder.warning(self.owner, "FailedCreate", message);
        Err(error)
    }

    /// Deletes exactly this pod. Returns whether there was anything to delete.
    pub(crate) async fn delete(&self, pod: &Pod) -> Result<bool, kube::Error> {
        let this_one = Preconditions {
            uid: pod.uid(),
            resource_version: None,
        };
        let params = DeleteParams::default().preconditions(this_one);
        match self.pods().delete(&pod.name_any(), &params).await {
            Ok(_) => {
                let message = format!("Deleted pod: {}", pod.name_any());
                self.recorder
                    .normal(self.owner, "SuccessfulDelete", message);
                Ok(true)
            }
            Err(error) if meta::is_not_found(&error) || meta::is_conflict(&error) => Ok(false),
            Err(error) => {
                let message = format!("Error deleting: {}", meta::message(&error));
                self.recorder.warning(self.owner, "FailedDelete", message);
                Err(error)
            }
        }
    }

    fn pods(&self) -> Api<Pod> {
        let namespace = self.owner.namespace().unwrap_or_default();
        Api::namespaced(self.client.clone(), &namespace)
    }
}
