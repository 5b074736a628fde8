//! Role-based access control (`rbac.authorization.k8s.io/v1`).
//!
//! Permissions only add up: a request is allowed if one rule of one role that is bound to the user allows it. A [`Policy`]
//! holds all roles and bindings, found by who they are about; [`Policy::authorize`] is the question it answers.

mod covers;
mod policy;
mod rule;

pub use covers::{compact, missing};
pub use policy::{
    Binding, Decision, Grant, MissingRole, Policy, Role, RoleKind, RoleRef, Subject, SubjectKind,
};
pub use rule::Rule;
pub(crate) use rule::quoted;

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// The verb, such as `list`; for a path, the HTTP method in lower case.
    pub verb: &'a str,
    /// To what.
    pub target: Target<'a>,
}

/// What somebody wants to do something to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// Objects.
    Resource(Resource<'a>),
    /// A path that names no resource, such as `/healthz`.
    Path(&'a str),
}

/// Objects, as a request names them. Empty where it does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resource<'a> {
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The plural.
    pub resource: &'a str,
    /// Such as `log` or `status`.
    pub subresource: &'a str,
    /// Empty at the cluster scope, which is also how a request for all namespaces reads.
    pub namespace: &'a str,
    /// Empty for a collection.
    pub name: &'a str,
}

impl<'a> Attributes<'a> {
    /// A verb on objects.
    pub fn resource(verb: &'a str, resource: Resource<'a>) -> Self {
        Self {
            verb,
            target: Target::Resource(resource),
        }
    }

    /// An HTTP method (in lower case) on a path.
    pub fn path(verb: &'a str, path: &'a str) -> Self {
        Self {
            verb,
            target: Target::Path(path),
        }
    }

    /// The namespace in question; empty at the cluster scope.
    pub fn namespace(&self) -> &'a str {
        match self.target {
            Target::Resource(resource) => resource.namespace,
            Target::Path(_) => "",
        }
    }

    /// What `user` is told who may not do this.
    pub fn refusal(&self, user: &str) -> String {
        let verb = self.verb;
        match self.target {
            Target::Path(path) => format!("User {user:?} cannot {verb} path {path:?}"),
            Target::Resource(of) => {
                let resource = of.combined();
                let scope = match of.namespace {
                    "" => "at the cluster scope".to_owned(),
                    namespace => format!("in the namespace {namespace:?}"),
                };
                let group = of.group;
                format!(
                    "User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}"
                )
            }
        }
    }
}

impl Resource<'_> {
    /// `pods`, or `pods/log`.
    fn combined(&self) -> String {
        match self.subresource {
            "" => self.resource.to_owned(),
            subresource => format!("{}/{subresource}", self.resource),
        }
    }
}

#[cfg(test)]
mod tests;
