//! What a plugin is told about a request.

use vaquita_api::Object;
use vaquita_api::registry::Resource;
use vaquita_api::status::Status;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// An object comes into being; by PUT or apply too.
    Create,
    /// An object, or a part of it, is replaced; by PATCH too.
    Update,
    /// An object is deleted, alone or with its collection.
    Delete,
    /// A stream is opened: exec, attach, port-forward, proxy.
    Connect,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Requester<'r> {
    /// Such as `system:node:one`.
    pub name: &'r str,
    /// Such as `system:nodes`.
    pub groups: &'r [String],
}

/// A request on its way through the chain.
pub struct Request<'r> {
    /// What is done.
    pub operation: Operation,
    /// To which resource.
    pub resource: &'r Resource,
    /// To which subresource of it; "" for the object itself.
    pub subresource: &'r str,
    /// "" for cluster-scoped resources.
    pub namespace: &'r str,
    /// "" where there is none yet, and for whole collections.
    pub name: &'r str,
    /// The object as it will be stored, in its stored form; for subresources such as `binding` or `eviction` what was sent.
    /// `None` for deletions.
    pub object: Option<&'r mut Object>,
    /// The object as it is stored; `None` for creations.
    pub old: Option<&'r Object>,
    /// Who asks.
    pub requester: Requester<'r>,
    /// Nothing will be stored: leave no trace.
    pub dry_run: bool,
    /// What the client should be warned of (`Warning` headers).
    pub warnings: Vec<String>,
}

impl Request<'_> {
    /// Whether the request is about this resource itself, not about a subresource.
    pub fn is_about(&self, group: &str, plural: &str) -> bool {
        self.subresource.is_empty()
            && self.resource.group == group
            && self.resource.plural == plural
    }

    /// Whether a pod is about to be created.
    pub fn creates_pod(&self) -> bool {
        self.operation == Operation::Create && self.is_about("", "pods")
    }

    /// The name of the object, or what its name is made from.
    pub fn object_name(&self) -> &str {
        let given = self
            .object
            .as_deref()
            .map(vaquita_api::meta::name)
            .unwrap_or_default();
        if given.is_empty() { self.name } else { given }
    }

    /// The 403 of a plugin: `pods "web" is forbidden: why`.
    pub fn forbidden(&self, why: impl std::fmt::Display) -> Status {
        Status::forbidden(
            &self.resource.group,
            &self.resource.plural,
            self.object_name(),
            why,
        )
    }
}
