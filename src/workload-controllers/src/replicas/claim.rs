//! Whose replicas are whose: adoption of orphans that match the selector, release of those that no longer do.

use std::sync::Arc;

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use vaquita_api::selector::LabelSelector;
use vaquita_reconcile::{
    informer::{Store, Watched},
    meta,
};

/// Why the ownership of replicas could not be settled.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The owner could not be read again before adopting in its name.
    #[error("reading the owner before adopting")]
    Recheck(#[source] kube::Error),
    /// The owner is another one by now, or is going: the local copy is late.
    #[error("the owner has changed since")]
    OwnerChanged,
    /// An orphan could not be taken.
    #[error("adopting {name}")]
    Adopt {
        /// The orphan.
        name: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// A replica could not be let go.
    #[error("releasing {name}")]
    Release {
        /// The replica.
        name: String,
        /// What the API server said.
        source: kube::Error,
    },
}

/// What is to become of an object that may be a replica.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is the owner's and stays so.
    Keep,
    /// It is nobody's and matches: take it.
    Adopt,
    /// It is the owner's and no longer matches: let it go.
    Release,
    /// It is none of the owner's business.
    Leave,
}

fn judge<O: Resource, K: Resource>(owner: &O, object: &K, matches: bool) -> Verdict {
    let owner_is_going = meta::is_terminating(owner.meta());
    match meta::controller_of(object) {
        Some(controller) if controller.uid != meta::uid(owner) => Verdict::Leave,
        Some(_) if matches => Verdict::Keep,
        Some(_) if owner_is_going => Verdict::Leave,
        Some(_) => Verdict::Release,
        None if matches && !owner_is_going && !meta::is_terminating(object.meta()) => {
            Verdict::Adopt
        }
        None => Verdict::Leave,
    }
}

/// What `owner` controls of a local copy, after adopting the orphans that `selector` selects and releasing what it no longer
/// does; see [`claim`].
pub(crate) async fn dependents<O, K>(
    client: &Client,
    owner: &O,
    known: &Store<K>,
    selector: &LabelSelector,
) -> Result<Vec<Arc<K>>, ClaimError>
where
    O: Watched + Resource<Scope = NamespaceResourceScope>,
    K: Watched + Resource<Scope = NamespaceResourceScope>,
{
    let mut candidates = known.controlled_by(meta::uid(owner));
    candidates.extend(known.orphans(&owner.namespace().unwrap_or_default()));
    let matches = |object: &K| selector.matches(object.labels());
    claim(client, owner, candidates, matches).await
}

/// Settles which of `candidates` are `owner`'s replicas and returns those.
///
/// Orphans for which `matches` holds are adopted, after a live look whether the owner is still there: the local copy
/// may show an owner that was deleted a moment ago with its replicas orphaned on purpose. Replicas that no longer match
/// are released.
pub(crate) async fn claim<O, K>(
    client: &Client,
    owner: &O,
    candidates: Vec<Arc<K>>,
    matches: impl Fn(&K) -> bool,
) -> Result<Vec<Arc<K>>, ClaimError>
where
    O: Watched + Resource<Scope = NamespaceResourceScope>,
    K: Watched + Resource<Scope = NamespaceResourceScope>,
{
    let mut claimed = Vec::with_capacity(candidates.len());
    let mut may_adopt = false;
    for object in candidates {
        match judge(owner, &*object, matches(&object)) {
            Verdict::Keep => claimed.push(object),
            Verdict::Leave => {}
            Verdict::Release => release(client, owner, &*object).await?,
            Verdict::Adopt => {
                if !may_adopt {
                    recheck(client, owner).await?;
                    may_adopt = true;
                }
                claimed.extend(adopt(client, owner, &*object).await?.map(Arc::new));
            }
        }
    }
    Ok(claimed)
}

async fn recheck<O>(client: &Client, owner: &O) -> Result<(), ClaimError>
where
    O: Watched + Resource<Scope = NamespaceResourceScope>,
{
    let api = Api::<O>::namespaced(client.clone(), &owner.namespace().unwrap_or_default());
    let live = api
        .get_opt(&owner.name_any())
        .await
        .map_err(ClaimError::Recheck)?;
    match live {
        Some(live) if live.uid() == owner.uid() && !meta::is_terminating(live.meta()) => Ok(()),
        _ => Err(ClaimError::OwnerChanged),
    }
}

/// Makes `owner` the controller of `object`; nothing if the object is gone.
async fn adopt<O, K>(client: &Client, owner: &O, object: &K) -> Result<Option<K>, ClaimError>
where
    O: Watched,
    K: Watched + Resource<Scope = NamespaceResourceScope>,
{
    let mut owners = object.owner_references().to_vec();
    owners.retain(|reference| reference.uid != meta::uid(owner));
    owners.push(meta::controller_reference(owner));
    match set_owners(client, object, &owners).await {
        Ok(adopted) => Ok(Some(adopted)),
        Err(error) if meta::is_not_found(&error) => Ok(None),
        Err(source) => Err(ClaimError::Adopt {
            name: object.name_any(),
            source,
        }),
    }
}

/// Takes `owner` out of the owners of `object`.
async fn release<O, K>(client: &Client, owner: &O, object: &K) -> Result<(), ClaimError>
where
    O: Watched,
    K: Watched + Resource<Scope = NamespaceResourceScope>,
{
    let mut owners = object.owner_references().to_vec();
    owners.retain(|reference| reference.uid != meta::uid(owner));
    match set_owners(client, object, &owners).await {
        Ok(_) => Ok(()),
        Err(error) if meta::is_not_found(&error) => Ok(()),
        Err(source) => Err(ClaimError::Release {
            name: object.name_any(),
            source,
        }),
    }
}

async fn set_owners<K>(
    client: &Client,
    object: &K,
    owners: &[OwnerReference],
) -> Result<K, kube::Error>
where
    K: Watched + Resource<Scope = NamespaceResourceScope>,
{
    let api = Api::<K>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let patch = meta::guarded_patch(object.meta(), json!({ "ownerReferences": owners }));
    api.patch(
        &object.name_any(),
        &PatchParams::default(),
        &Patch::Merge(patch),
    )
    .await
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::{
        api::core::v1::{Pod, ReplicationController},
        apimachinery::pkg::apis::meta::v1::Time,
    };

    use super::*;
    use vaquita_reconcile::testing::objects::{named, owned_by, pod};

    fn owner() -> ReplicationController {
        ReplicationController {
            metadata: named("shop", "rc"),
            ..ReplicationController::default()
        }
    }

    fn going<K: Resource>(mut object: K) -> K {
        object.meta_mut().deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        object
    }

    fn mine() -> Pod {
        owned_by(pod("shop", "mine"), "shop-rc-uid")
    }

    #[test]
    fn replicas_stay_while_they_match() {
        assert_eq!(judge(&owner(), &mine(), true), Verdict::Keep);
        assert_eq!(judge(&owner(), &mine(), false), Verdict::Release);
        assert_eq!(
            judge(&owner(), &owned_by(mine(), "another"), true),
            Verdict::Leave
        );
    }

    #[test]
    fn orphans_are_adopted_when_they_match() {
        let orphan = pod("shop", "orphan");
        assert_eq!(judge(&owner(), &orphan, true), Verdict::Adopt);
        assert_eq!(judge(&owner(), &orphan, false), Verdict::Leave);
        assert_eq!(judge(&owner(), &going(orphan), true), Verdict::Leave);
    }

    #[test]
    fn an_owner_on_its_way_out_changes_nothing() {
        let owner = going(owner());
        assert_eq!(judge(&owner, &mine(), true), Verdict::Keep);
        assert_eq!(judge(&owner, &mine(), false), Verdict::Leave);
        assert_eq!(judge(&owner, &pod("shop", "orphan"), true), Verdict::Leave);
    }
}
