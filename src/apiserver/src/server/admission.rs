//! What plugins of admission see of the cluster, and where the writes call them.

use std::sync::Arc;

use async_trait::async_trait;
use vaquita_admission::{Cluster, Operation, Request, Requester};
use vaquita_api::{Object, meta, status::Status};
use vaquita_auth::{
    User,
    rbac::{Attributes, Resource},
};
use vaquita_store::Expect;

use super::{
    Server,
    call::Call,
    write::{Outcome, precondition},
};
use vaquita_cache::resource_prefix;

#[async_trait]
impl Cluster for Server {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let collection = self.cache.collection(&resource_prefix(group, plural))?;
        let key = collection.key(Some(namespace), name);
        collection.get(&key)?.parsed().ok()
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Object>> {
        let Some(collection) = self.cache.collection(&resource_prefix(group, plural)) else {
            return Vec::new();
        };
        let scope = collection.scope(Some(namespace).filter(|namespace| !namespace.is_empty()));
        let snapshot = collection.snapshot();
        let parsed = snapshot.range(&scope, None);
        parsed.filter_map(|entry| entry.parsed().ok()).collect()
    }

    fn allows(
        &self,
        requester: Requester<'_>,
        verb: &str,
        (group, resource, name): (&str, &str, &str),
    ) -> bool {
        let user = User::new(requester.name, requester.groups.iter().cloned());
        let wanted = Resource {
            group,
            resource,
            name,
            ..Resource::default()
        };
        self.authorize(&user, &Attributes::resource(verb, wanted))
            .is_allowed()
    }

    async fn replace_status(
        &self,
        group: &str,
        plural: &str,
        object: Object,
    ) -> Result<bool, Status> {
        let Some(served) = self.stored(group, plural) else {
            return Ok(false);
        };
        let Some(revision) = precondition(&object)? else {
            return Ok(false);
        };
        let namespace = meta::namespace(&object);
        let key = served.collection.key(Some(namespace), meta::name(&object));
        let expect = Expect::Revision(revision);
        let outcome = self.put(&served, key, &object, expect).await?;
        Ok(matches!(outcome, Outcome::Done(_)))
    }
}

/// A write as admission is told of it.
pub(crate) struct Admission<'a> {
    pub(crate) operation: Operation,
    /// "" for the object itself.
    pub(crate) subresource: &'a str,
    /// The object's name, as far as it is known.
    pub(crate) name: &'a str,
    pub(crate) old: Option<&'a Object>,
    pub(crate) dry_run: bool,
}

impl<'a> Admission<'a> {
    /// That of a stream to what the path names.
    pub(crate) fn connection(call: &Call<'a>) -> Self {
        let info = call.info;
        Self {
            operation: Operation::Connect,
            subresource: info.subresource.as_deref().unwrap_or_default(),
            name: info.name.as_deref().unwrap_or_default(),
            old: None,
            dry_run: false,
        }
    }
}

impl Admission<'_> {
    /// Lets plugins refuse what has no object.
    pub(crate) async fn ask(&self, call: &Call<'_>) -> Result<(), Status> {
        self.mutate(call, None).await?;
        self.validate(call, None).await
    }

    /// Lets plugins change or refuse `object`; before it is prepared and validated.
    pub(crate) async fn mutate(
        &self,
        call: &Call<'_>,
        object: Option<&mut Object>,
    ) -> Result<(), Status> {
        let mut request = self.request(call, object);
        let chain = &call.server.config.admission;
        let outcome = chain.mutate(&mut request, &**call.server).await;
        request.warnings.drain(..).for_each(|text| call.warn(text));
        outcome
    }

    /// Lets plugins refuse `object`, which is as it will be stored.
    pub(crate) async fn validate(
        &self,
        call: &Call<'_>,
        object: Option<&mut Object>,
    ) -> Result<(), Status> {
        let mut request = self.request(call, object);
        let chain = &call.server.config.admission;
        let outcome = chain.validate(&mut request, &**call.server).await;
        request.warnings.drain(..).for_each(|text| call.warn(text));
        outcome
    }

    fn request<'r>(&'r self, call: &'r Call<'_>, object: Option<&'r mut Object>) -> Request<'r> {
        Request {
            operation: self.operation,
            resource: call.resource,
            subresource: self.subresource,
            namespace: call.namespace(),
            name: self.name,
            object,
            old: self.old,
            requester: Requester {
                name: &call.user.name,
                groups: &call.user.groups,
            },
            dry_run: self.dry_run,
            warnings: Vec::new(),
        }
    }
}
