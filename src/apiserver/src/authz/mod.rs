//! Who may do what: by the cluster's roles and bindings, for every request.
//!
//! [`Access`] keeps the policy that they make, and makes it anew when one of them has changed. `system:masters` may do
//! everything, whatever the policy says: somebody has to be able to mend it.

pub(crate) mod escalation;
mod policies;

use std::sync::Arc;

use http::Method;
use vaquita_api::{selector::FieldSelector, status::Status};
use vaquita_auth::{
    User,
    rbac::{Attributes, Decision, Policy, Resource, Target},
    tokens::{SigningKey, Verifier},
};

use self::policies::Policies;
use crate::{
    Config,
    query::Query,
    request::{RequestInfo, Verb},
    server::{Server, call::Call},
};

/// What the server knows about who may do what, and what it needs to tell tokens.
#[derive(Debug)]
pub(crate) struct Access {
    policies: Policies,
    key: Option<SigningKey>,
    verifier: Option<Verifier>,
    audiences: Vec<String>,
}

impl Access {
    pub(crate) fn new(config: &Config) -> Self {
        let key = config.service_account_key.clone();
        let issuer = config.service_account_issuer.clone();
        Self {
            policies: Policies::default(),
            verifier: key.clone().map(|key| Verifier::new(key, issuer.clone())),
            key,
            audiences: vec![issuer],
        }
    }

    /// The key that signs the tokens of service accounts.
    pub(crate) fn key(&self) -> Option<&SigningKey> {
        self.key.as_ref()
    }

    pub(crate) fn verifier(&self) -> Option<&Verifier> {
        self.verifier.as_ref()
    }

    /// For whom a token must be that is used with this API, and who a token is for that says nothing else.
    pub(crate) fn audiences(&self) -> &[String] {
        &self.audiences
    }
}

impl Server {
    /// All roles and bindings, as they are now.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.access.policies.current(&self.cache)
    }

    /// Whether `user` may do this.
    pub(crate) fn authorize(&self, user: &User, wanted: &Attributes<'_>) -> Decision {
        if user.is_master() {
            return Decision::Allowed(None);
        }
        self.policy().authorize(user, wanted)
    }

    /// The same, with the answer to those who may not.
    pub(crate) fn must_be_allowed(
        &self,
        user: &User,
        wanted: &Attributes<'_>,
    ) -> Result<(), Status> {
        let decision = self.authorize(user, wanted);
        if decision.is_allowed() {
            return Ok(());
        }
        let mut why = wanted.refusal(&user.name);
        let reason = decision.reason();
        if !reason.is_empty() {
            why = format!("{why}: {reason}");
        }
        Err(match wanted.target {
            Target::Path(_) => Status::forbidden("", "", "", why),
            Target::Resource(of) => Status::forbidden(of.group, of.resource, of.name, why),
        })
    }
}

/// Whether `user` may use a path that names no resource.
pub(crate) fn path(
    server: &Server,
    user: &User,
    path: &str,
    method: &Method,
) -> Result<(), Status> {
    let verb = method.as_str().to_ascii_lowercase();
    server.must_be_allowed(user, &Attributes::path(&verb, path))
}

/// Whether `user` may do `verb` to what a request names.
pub(crate) fn resource(
    server: &Server,
    user: &User,
    verb: Verb,
    info: &RequestInfo,
    query: &Query<'_>,
) -> Result<(), Status> {
    if user.is_master() {
        return Ok(());
    }
    let selected = selected_name(verb, info, query);
    let name = info.name.as_deref().or(selected.as_deref());
    let is_namespace = info.group.is_empty() && info.resource == "namespaces";
    let wanted = Resource {
        group: &info.group,
        resource: &info.resource,
        subresource: info.subresource.as_deref().unwrap_or_default(),
        // Who may read everything in a namespace may read the namespace itself.
        namespace: if is_namespace {
            info.name.as_deref().unwrap_or_default()
        } else {
            info.namespace.as_deref().unwrap_or_default()
        },
        name: name.unwrap_or_default(),
    };
    server.must_be_allowed(user, &Attributes::resource(verb.as_str(), wanted))
}

/// Whether whoever asks by PUT or PATCH for an object that is not there may create it. A POST has been checked for that.
pub(crate) fn creation(call: &Call<'_>) -> Result<(), Status> {
    if call.parts.method == Method::POST {
        return Ok(());
    }
    resource(call.server, call.user, Verb::Create, call.info, &call.query)
}

/// The one object that a request for a collection selects by its name: rules about that name are about the request.
fn selected_name(verb: Verb, info: &RequestInfo, query: &Query<'_>) -> Option<String> {
    let of_collection = matches!(verb, Verb::List | Verb::Watch | Verb::DeleteCollection);
    if info.name.is_some() || !of_collection {
        return None;
    }
    let selector = FieldSelector::parse(query.get("fieldSelector")?).ok()?;
    selector.requires("metadata.name").map(str::to_owned)
}
