//! Controller revisions: how stateful sets and daemon sets remember the templates that they had, for
//! `kubectl rollout history` and `undo`.
//!
//! A revision's data is a strategic merge patch of its owner that puts the template back. Revisions are numbered; the
//! highest number is the template of now, and a template that comes back takes its old revision along to the top.

use std::{collections::HashSet, sync::Arc};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, runtime::RawExtension},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};

use crate::replicas::template;
use vaquita_reconcile::{informer::Watched, meta};

/// How many names are tried for a revision before the next look goes on.
const ATTEMPTS: i32 = 8;

/// Why the history of an owner could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The revision of a new template could not be created.
    #[error("creating a revision")]
    Create(#[source] kube::Error),
    /// All names that were tried are taken by revisions of other templates.
    #[error("the name {0} is taken by a revision of another template")]
    Collision(String),
    /// A revision that is used again could not be numbered anew.
    #[error("numbering a revision")]
    Number(#[source] kube::Error),
    /// A revision that is in use could not be read.
    #[error("reading a revision")]
    Read(#[source] kube::Error),
    /// A revision of the past could not be deleted.
    #[error("deleting a revision")]
    Delete(#[source] kube::Error),
}

/// The revisions of one owner.
pub(crate) struct History<'a, O> {
    pub(crate) client: &'a Client,
    pub(crate) owner: &'a O,
    /// The label by which a revision carries its hash.
    pub(crate) hash_label: &'static str,
    /// All that are known to be the owner's.
    pub(crate) known: Vec<Arc<ControllerRevision>>,
}

/// The revision of the template of now.
pub(crate) struct Latest {
    pub(crate) revision: Arc<ControllerRevision>,
    /// How often a hash was found taken by another template, this time included.
    pub(crate) collisions: i32,
}

impl<O> History<'_, O>
where
    O: Watched + Resource<Scope = NamespaceResourceScope>,
{
    /// The revision of `template` with the highest number of all: found, or made.
    pub(crate) async fn settle(
        &self,
        template: &PodTemplateSpec,
        collisions: i32,
    ) -> Result<Latest, HistoryError> {
        let highest = self.known.iter().map(|revision| revision.revision).max();
        let highest = highest.unwrap_or(0);
        let same = self.known.iter().filter(|known| is_of(known, template));
        if let Some(found) = same.max_by_key(|known| known.revision) {
            let revision = if found.revision == highest {
                Arc::clone(found)
            } else {
                self.number(found, highest.saturating_add(1)).await?
            };
            return Ok(Latest {
                revision,
                collisions,
            });
        }
        let number = highest.saturating_add(1);
        let mut name = String::new();
        for collisions in collisions..collisions.saturating_add(ATTEMPTS) {
            let model = self.model(template, collisions, number);
            name = model.name_any();
            if let Some(revision) = self.create(&model, template).await? {
                return Ok(Latest {
                    revision,
                    collisions,
                });
            }
        }
        Err(HistoryError::Collision(name))
    }

    /// The revision of this name, also if the local copy does not show it yet.
    pub(crate) async fn find(
        &self,
        name: &str,
    ) -> Result<Option<Arc<ControllerRevision>>, HistoryError> {
        if let Some(known) = self.known.iter().find(|known| known.name_any() == name) {
            return Ok(Some(Arc::clone(known)));
        }
        let live = self.api().get_opt(name).await.map_err(HistoryError::Read)?;
        Ok(live.filter(|live| self.is_ours(live)).map(Arc::new))
    }

    /// Deletes the oldest revisions of which no pod is and that are not in `live`, down to `limit`.
    pub(crate) async fn truncate(
        &self,
        live: &HashSet<String>,
        limit: i32,
    ) -> Result<(), HistoryError> {
        let mut past: Vec<_> = self.known.iter().collect();
        past.retain(|known| {
            !live.contains(&known.name_any()) && !meta::is_terminating(&known.metadata)
        });
        past.sort_by_key(|known| known.revision);
        let surplus = past
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(0));
        for revision in past.into_iter().take(surplus) {
            let this_one = Preconditions {
                uid: revision.uid(),
                resource_version: None,
            };
            let params = DeleteParams::background().preconditions(this_one);
            match self.api().delete(&revision.name_any(), &params).await {
                Ok(_) => {}
                Err(error) if meta::is_not_found(&error) || meta::is_conflict(&error) => {}
                Err(error) => return Err(HistoryError::Delete(error)),
            }
        }
        Ok(())
    }

    fn api(&self) -> Api<ControllerRevision> {
        let namespace = self.owner.namespace().unwrap_or_default();
        Api::namespaced(self.client.clone(), &namespace)
    }

    fn is_ours(&self, revision: &ControllerRevision) -> bool {
        meta::controller_of(revision).is_some_and(|owner| owner.uid == meta::uid(self.owner))
    }

    fn model(
        &self,
        template: &PodTemplateSpec,
        collisions: i32,
        number: i64,
    ) -> ControllerRevision {
        let hash = template::hash(template, Some(collisions).filter(|count| *count > 0));
        let labels = template.metadata.as_ref();
        let mut labels = labels
            .and_then(|metadata| metadata.labels.clone())
            .unwrap_or_default();
        labels.insert(self.hash_label.to_owned(), hash.clone());
        let mut annotations = self.owner.annotations().clone();
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        ControllerRevision {
            metadata: ObjectMeta {
                name: Some(template::set_name(&self.owner.name_any(), &hash)),
                namespace: self.owner.namespace(),
                labels: Some(labels),
                annotations: Some(annotations).filter(|all| !all.is_empty()),
                owner_references: Some(vec![meta::controller_reference(self.owner)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(patch(template))),
            revision: number,
        }
    }

    /// Creates the revision; nothing if its name is taken by another template's.
    async fn create(
        &self,
        model: &ControllerRevision,
        template: &PodTemplateSpec,
    ) -> Result<Option<Arc<ControllerRevision>>, HistoryError> {
        match self.api().create(&PostParams::default(), model).await {
            Ok(created) => Ok(Some(Arc::new(created))),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                // Ours of a moment ago, which the local copy does not show yet; or the hashes of two templates collide.
                let found = self.api().get_opt(&model.name_any()).await;
                let found = found.map_err(HistoryError::Read)?;
                let ours = found.filter(|found| self.is_ours(found) && is_of(found, template));
                Ok(ours.map(Arc::new))
            }
            Err(error) => Err(HistoryError::Create(error)),
        }
    }

    async fn number(
        &self,
        revision: &ControllerRevision,
        number: i64,
    ) -> Result<Arc<ControllerRevision>, HistoryError> {
        let mut patch = meta::guarded_patch(&revision.metadata, json!({}));
        patch["revision"] = json!(number);
        let (api, name) = (self.api(), revision.name_any());
        let patch = Patch::Merge(patch);
        let patched = api.patch(&name, &PatchParams::default(), &patch).await;
        patched.map(Arc::new).map_err(HistoryError::Number)
    }
}

/// The hash that a revision carries.
pub(crate) fn hash(revision: &ControllerRevision, hash_label: &str) -> String {
    revision
        .labels()
        .get(hash_label)
        .cloned()
        .unwrap_or_default()
}

/// The template that a revision puts back, unless it is somebody else's idea of one.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let data = &revision.data.as_ref()?.0;
    let mut template = data.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// What puts the template back in place of whatever there is.
fn patch(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = json!("replace");
    json!({ "spec": { "template": template } })
}

fn is_of(revision: &ControllerRevision, wanted: &PodTemplateSpec) -> bool {
    template(revision).is_some_and(|known| template::same(&known, wanted))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;

    use super::*;
    use vaquita_reconcile::testing::{api::FakeApi, objects::named};

    const REVISIONS: &str = "apis/apps/v1/controllerrevisions";
    const LABEL: &str = "controller.kubernetes.io/hash";

    fn owner() -> StatefulSet {
        StatefulSet {
            metadata: named("shop", "db"),
            ..StatefulSet::default()
        }
    }

    fn of(image: &str) -> PodTemplateSpec {
        let value = json!({
            "metadata": { "labels": { "app": "db" } },
            "spec": { "containers": [{ "name": "main", "image": image }] },
        });
        serde_json::from_value(value).unwrap()
    }

    fn known(api: &FakeApi) -> Vec<Arc<ControllerRevision>> {
        let objects = api.objects(REVISIONS).into_iter();
        objects
            .map(|object| Arc::new(serde_json::from_value(object).unwrap()))
            .collect()
    }

    async fn settled(api: &FakeApi, image: &str, known: Vec<Arc<ControllerRevision>>) -> Latest {
        let (client, owner) = (api.client(), owner());
        let history = History {
            client: &client,
            owner: &owner,
            hash_label: LABEL,
            known,
        };
        history.settle(&of(image), 0).await.unwrap()
    }

    #[tokio::test]
    async fn a_template_that_comes_back_takes_its_revision_along() {
        let api = FakeApi::new();
        let first = settled(&api, "v1", known(&api)).await.revision;
        assert_eq!(settled(&api, "v2", known(&api)).await.revision.revision, 2);
        let back = settled(&api, "v1", known(&api)).await.revision;
        assert_eq!((back.name_any(), back.revision), (first.name_any(), 3));
        assert_eq!(api.objects(REVISIONS).len(), 2);
        assert_eq!(template(&back), Some(of("v1")));
        assert_eq!(
            back.name_any(),
            format!("db-{}", hash(&back, LABEL)),
            "the hash is the name's end"
        );
    }

    #[tokio::test]
    async fn a_late_copy_makes_no_second_revision_and_a_collision_is_evaded() {
        let api = FakeApi::new();
        let first = settled(&api, "v1", Vec::new()).await.revision;
        let again = settled(&api, "v1", Vec::new()).await.revision;
        assert_eq!(first.name_any(), again.name_any());
        api.edit(REVISIONS, "shop", &first.name_any(), |revision| {
            revision["data"]["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other");
        });
        let evaded = settled(&api, "v1", Vec::new()).await;
        assert_eq!(evaded.collisions, 1);
        assert_ne!(evaded.revision.name_any(), first.name_any());
    }

    #[tokio::test]
    async fn only_the_oldest_that_nobody_needs_go() {
        let api = FakeApi::new();
        let mut names = Vec::new();
        for image in ["v1", "v2", "v3", "v4"] {
            names.push(settled(&api, image, known(&api)).await.revision.name_any());
        }
        let (client, owner) = (api.client(), owner());
        let history = History {
            client: &client,
            owner: &owner,
            hash_label: LABEL,
            known: known(&api),
        };
        let live = HashSet::from([names[0].clone(), names[3].clone()]);
        history.truncate(&live, 1).await.unwrap();
        let mut left: Vec<_> = known(&api).iter().map(|known| known.name_any()).collect();
        left.sort();
        let mut expected = vec![names[0].clone(), names[2].clone(), names[3].clone()];
        expected.sort();
        assert_eq!(left, expected);
    }
}
