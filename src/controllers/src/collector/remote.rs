//! What the collector asks of the API server: all by metadata, each write for one version of one object only.

use std::{borrow::Cow, fmt::Write as _, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy},
};
use serde_json::{Value, json};
use tracing::debug;

use super::{
    CollectError, Kinds,
    graph::{Cascade, Object},
    verdict::Standing,
};
use vaquita_reconcile::{
    meta,
    served::{Metadata, group_of},
};

/// What API servers say about a path that leads nowhere, as opposed to an object that isn't there.
const NO_SUCH_PATH: &str = "the server could not find the requested resource";

pub(super) struct Remote {
    client: Client,
}

impl Remote {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// How the owner stands that a reference of an object in `namespace` names.
    pub(super) async fn find_owner(
        &self,
        kinds: &Kinds,
        owner: &OwnerReference,
        namespace: &str,
    ) -> Result<Standing, kube::Error> {
        let kind = (group_of(&owner.api_version).to_owned(), owner.kind.clone());
        let Some(resource) = kinds.get(&kind) else {
            debug!(kind = owner.kind, "owner of a kind that is not served");
            return Ok(Standing::Unknowable);
        };
        if resource.namespaced && namespace.is_empty() {
            // A cluster-scoped object can't be owned from within a namespace. Which one is meant can't be told.
            return Ok(Standing::Unknowable);
        }
        let Some(name) = path_segment(&owner.name) else {
            return Ok(Standing::Gone);
        };
        match resource.metadata(&self.client, namespace).get(&name).await {
            Ok(found) if found.metadata.uid.as_deref() != Some(&owner.uid) => Ok(Standing::Gone),
            Ok(found) => Ok(match Object::new(Arc::clone(resource), found.metadata) {
                Some(found) if found.deletes_dependents() => Standing::Waiting,
                _ => Standing::Asked,
            }),
            Err(error) if is_absence(&error) => Ok(Standing::Gone),
            Err(error) => Err(error),
        }
    }

    /// The object as it is now, if it is still there.
    pub(super) async fn current(&self, object: &Object) -> Result<Option<Object>, CollectError> {
        let meta = self.read(object).await?;
        Ok(meta.and_then(|meta| Object::new(Arc::clone(&object.resource), meta)))
    }

    /// Deletes exactly this version of the object. It does not matter if it is gone already.
    pub(super) async fn delete(
        &self,
        object: &Object,
        policy: PropagationPolicy,
    ) -> Result<(), CollectError> {
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: Some(object.uid.to_string()),
                resource_version: Some(object.version.clone()),
            }),
            ..DeleteParams::default()
        };
        match self.api(object).delete(&name(object), &params).await {
            Ok(_) => {
                debug!(%object, "deleted, as its owners are gone or going");
                Ok(())
            }
            Err(error) if meta::is_not_found(&error) => Ok(()),
            Err(source) => Err(CollectError::Delete {
                object: object.to_string(),
                source,
            }),
        }
    }

    /// Gives the object these owners and no others. Returns it as it is then; nothing if it is gone.
    pub(super) async fn set_owners(
        &self,
        object: &Object,
        owners: &[OwnerReference],
    ) -> Result<Option<Object>, CollectError> {
        let owners = if owners.is_empty() {
            Value::Null
        } else {
            json!(owners)
        };
        let guarded = ObjectMeta {
            uid: Some(object.uid.to_string()),
            resource_version: Some(object.version.clone()),
            ..ObjectMeta::default()
        };
        let patch = meta::guarded_patch(&guarded, json!({ "ownerReferences": owners }));
        match self.patch(object, patch).await {
            Ok(changed) => {
                Ok(changed.and_then(|meta| Object::new(Arc::clone(&object.resource), meta)))
            }
            Err(source) => Err(CollectError::ChangeOwners {
                object: object.to_string(),
                source,
            }),
        }
    }

    /// Lets the owners of the object go before it does. Returns it as it is then.
    pub(super) async fn unblock_owners(&self, object: &Object) -> Result<Object, CollectError> {
        let mut owners = object.owners.clone();
        for owner in &mut owners {
            owner.block_owner_deletion = Some(false);
        }
        let unblocked = self.set_owners(object, &owners).await?;
        Ok(unblocked.unwrap_or_else(|| object.clone()))
    }

    /// Takes away the finalizer by which the object waits for its dependents.
    pub(super) async fn release(
        &self,
        object: &Object,
        cascade: Cascade,
    ) -> Result<(), CollectError> {
        let Some(meta) = self.read(object).await? else {
            return Ok(());
        };
        let mut finalizers = meta.finalizers.clone().unwrap_or_default();
        finalizers.retain(|held| held != cascade.finalizer());
        let patch = meta::guarded_patch(&meta, json!({ "finalizers": finalizers }));
        match self.patch(object, patch).await {
            Ok(_) => Ok(()),
            Err(source) => Err(CollectError::RemoveFinalizer {
                object: object.to_string(),
                source,
            }),
        }
    }

    async fn read(&self, object: &Object) -> Result<Option<ObjectMeta>, CollectError> {
        match self.api(object).get(&name(object)).await {
            Ok(found) if found.metadata.uid.as_deref() != Some(&*object.uid) => Ok(None),
            Ok(found) => Ok(Some(found.metadata)),
            Err(error) if is_absence(&error) => Ok(None),
            Err(source) => Err(CollectError::Read {
                object: object.to_string(),
                source,
            }),
        }
    }

    async fn patch(
        &self,
        object: &Object,
        patch: Value,
    ) -> Result<Option<ObjectMeta>, kube::Error> {
        let patched = self
            .api(object)
            .patch(&name(object), &PatchParams::default(), &Patch::Merge(patch))
            .await;
        match patched {
            Ok(patched) => Ok(Some(patched.metadata)),
            Err(error) if meta::is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn api(&self, object: &Object) -> Api<Metadata> {
        object.resource.metadata(&self.client, &object.namespace)
    }
}

/// Whether the API server said that this object is not there, rather than that it knows no such path.
fn is_absence(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status)
        if status.reason == "NotFound" && status.message != NO_SUCH_PATH)
}

fn name(object: &Object) -> Cow<'_, str> {
    path_segment(&object.name).unwrap_or(Cow::Borrowed(&object.name))
}

/// `name` as one segment of a path. Nothing if no object can have that name, as a path could not lead to it.
///
/// The names in owner references are whatever somebody wrote there: they must not lead anywhere else.
fn path_segment(name: &str) -> Option<Cow<'_, str>> {
    if matches!(name, "" | "." | "..") || name.contains(['/', '%']) {
        return None;
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    if name.bytes().all(plain) {
        return Some(Cow::Borrowed(name));
    }
    let mut escaped = String::with_capacity(name.len() + 8);
    for byte in name.bytes() {
        if plain(byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    Some(Cow::Owned(escaped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_its_object_or_nowhere() {
        assert_eq!(path_segment("front-1.x").as_deref(), Some("front-1.x"));
        assert_eq!(path_segment("system:node").as_deref(), Some("system:node"));
        assert_eq!(
            path_segment("x?watch=1#é").as_deref(),
            Some("x%3Fwatch%3D1%23%C3%A9")
        );
        for nowhere in ["", ".", "..", "a/log", "../nodes/b", "a%2Flog"] {
            assert_eq!(path_segment(nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn a_path_that_leads_nowhere_says_nothing_about_an_object() {
        let answer = |message: &str, reason: &str| {
            let status = kube::core::Status::failure(message, reason).with_code(404);
            is_absence(&kube::Error::Api(status.boxed()))
        };
        assert!(answer("pods \"a\" not found", "NotFound"));
        assert!(!answer(NO_SUCH_PATH, "NotFound"));
        assert!(!answer("404 page not found", "Failed to parse error data"));
    }
}
