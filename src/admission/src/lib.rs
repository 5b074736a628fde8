//! What is done to a write between its decoding and the store: an ordered chain of small plugins.
//!
//! A write passes twice. [`Chain::mutate`] runs before the kind's own validation: plugins fill in what the cluster decides
//! (a service account, a priority, tolerations). [`Chain::validate`] runs after it: plugins refuse what the cluster
//! forbids. Both stop at the first error, which is the answer to the client. The order is that of [`Chain::standard`];
//! webhooks and admission policies will be plugins too, at the places which upstream gives them.
//!
//! Plugins see the cluster through [`Cluster`], so that none of them does I/O of its own.

mod certificates;
mod default_classes;
mod limit_ranger;
mod namespace_lifecycle;
mod pod_security;
mod priority;
mod request;
mod resource_quota;
mod runtime_class;
mod service_account;
#[cfg(test)]
mod testing;
mod tolerations;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use vaquita_api::Object;
use vaquita_api::status::Status;

pub use request::{Operation, Request, Requester};

/// What plugins may ask about the cluster. Resources are named by group and plural; the version is the stored one.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// The object of this name, as it is now. `namespace` is "" for cluster-scoped resources.
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Object>>;

    /// All objects of a resource in `namespace`, or in all of them for "".
    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Object>>;

    /// Whether `requester` may do `verb` to the object that group, plural and name name, which is in no namespace.
    fn allows(&self, _requester: Requester<'_>, _verb: &str, _object: (&str, &str, &str)) -> bool {
        false
    }

    /// Replaces the status of the object that `object` names, if its `resourceVersion` is still the stored one; says whether
    /// it was. This is for plugins that count, such as quota.
    async fn replace_status(
        &self,
        group: &str,
        plural: &str,
        object: Object,
    ) -> Result<bool, Status>;
}

/// One rule of admission.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// The name, as upstream's options name it: `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Whether the plugin has anything to say about a request.
    fn handles(&self, request: &Request<'_>) -> bool;

    /// Changes the object, or refuses it.
    async fn mutate(
        &self,
        _request: &mut Request<'_>,
        _cluster: &dyn Cluster,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// Looks at the object as it will be stored, and refuses it. May add warnings, but not change the object.
    async fn validate(
        &self,
        _request: &mut Request<'_>,
        _cluster: &dyn Cluster,
    ) -> Result<(), Status> {
        Ok(())
    }
}

/// Plugins in their order.
pub struct Chain {
    plugins: Vec<Box<dyn Plugin>>,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Chain {
    /// A chain of these plugins.
    pub fn new(plugins: Vec<Box<dyn Plugin>>) -> Self {
        Self { plugins }
    }

    /// The plugins that are on by default, in upstream's order.
    pub fn standard() -> Self {
        Self::new(vec![
            Box::new(namespace_lifecycle::NamespaceLifecycle),
            Box::new(limit_ranger::LimitRanger),
            Box::new(service_account::ServiceAccount),
            Box::new(pod_security::PodSecurity),
            Box::new(priority::Priority),
            Box::new(tolerations::DefaultTolerationSeconds),
            Box::new(default_classes::DefaultStorageClass),
            Box::new(runtime_class::RuntimeClass),
            Box::new(certificates::CertificateApproval),
            Box::new(certificates::CertificateSigning),
            Box::new(certificates::CertificateSubjectRestriction),
            Box::new(default_classes::DefaultIngressClass),
            Box::new(resource_quota::ResourceQuota),
        ])
    }

    /// The names of the plugins, for logs and metrics.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.plugins.iter().map(|plugin| plugin.name())
    }

    /// Lets each plugin change the object. Before the kind's validation.
    pub async fn mutate(
        &self,
        request: &mut Request<'_>,
        cluster: &dyn Cluster,
    ) -> Result<(), Status> {
        for plugin in &self.plugins {
            if plugin.handles(request) {
                plugin.mutate(request, cluster).await?;
            }
        }
        Ok(())
    }

    /// Lets each plugin refuse the object. After the kind's validation.
    pub async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &dyn Cluster,
    ) -> Result<(), Status> {
        for plugin in &self.plugins {
            if plugin.handles(request) {
                plugin.validate(request, cluster).await?;
            }
        }
        Ok(())
    }
}
