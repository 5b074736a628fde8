//! The `scale` subresource of objects of any kind, named as references name them: by `apiVersion` and `kind`.
//!
//! References name kinds and requests need the names of resources; [`Scales`] asks the API server for the latter, and
//! remembers them for a while.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::autoscaling::v1::Scale,
    apimachinery::pkg::apis::meta::v1::{APIResource, APIResourceList},
};
use kube::{
    Api, Client,
    api::{DynamicObject, PostParams},
    discovery::ApiResource,
};
use tokio::{sync::Mutex, time::Instant};

use crate::{meta, served::group_of};

/// How long an answer about what is served is believed.
const BELIEVED: Duration = Duration::from_secs(30);

/// Why a scale could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ScaleError {
    /// Nothing of this kind is served.
    #[error("no matches for kind {kind:?} in group {group:?}")]
    NoSuchKind {
        /// As the reference has it.
        kind: String,
        /// As the reference has it.
        group: String,
    },
    /// Its objects have no scale.
    #[error("{0} does not implement the scale subresource")]
    NoScale(String),
    /// The API server does not tell what it serves.
    #[error("learning what {group_version} serves")]
    Discovery {
        /// Such as `apps/v1`.
        group_version: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// The request failed.
    #[error(transparent)]
    Request(#[from] kube::Error),
}

impl ScaleError {
    /// Whether the object that was meant does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Request(error) if meta::is_not_found(error))
    }
}

/// Which object's scale is meant. Its namespace is given beside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Such as `apps/v1`.
    pub api_version: String,
    /// Such as `Deployment`.
    pub kind: String,
    /// The object's name.
    pub name: String,
}

/// What is served, and since when that is known, by group and version.
type Served = Mutex<HashMap<String, (Instant, Arc<Vec<APIResource>>)>>;

/// Reads and writes scales. Cheap to clone; clones share what they learned.
#[derive(Clone)]
pub struct Scales {
    client: Client,
    served: Arc<Served>,
}

impl std::fmt::Debug for Scales {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scales").finish_non_exhaustive()
    }
}

impl Scales {
    /// By `client`, which must be allowed to read and write the `scale` of whatever it is asked for.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            served: Arc::default(),
        }
    }

    /// The scale of an object.
    pub async fn get(&self, namespace: &str, target: &Target) -> Result<Scale, ScaleError> {
        let api = self.api(namespace, target).await?;
        Ok(api.get_scale(&target.name).await?)
    }

    /// Writes `scale`, which was read of `target`; a conflict if that has changed since.
    pub async fn set(
        &self,
        namespace: &str,
        target: &Target,
        scale: &Scale,
    ) -> Result<Scale, ScaleError> {
        let api = self.api(namespace, target).await?;
        Ok(api
            .replace_scale(&target.name, &PostParams::default(), scale)
            .await?)
    }

    /// The resource of `target`, as requests name it.
    pub async fn resource(&self, target: &Target) -> Result<ApiResource, ScaleError> {
        let served = self.served(&target.api_version).await?;
        let named = served
            .iter()
            .find(|resource| resource.kind == target.kind && !resource.name.contains('/'));
        let group = group_of(&target.api_version);
        let Some(named) = named else {
            return Err(ScaleError::NoSuchKind {
                kind: target.kind.clone(),
                group: group.to_owned(),
            });
        };
        let version = target.api_version.rsplit('/').next().unwrap_or_default();
        Ok(ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: target.api_version.clone(),
            kind: target.kind.clone(),
            plural: named.name.clone(),
        })
    }

    async fn api(
        &self,
        namespace: &str,
        target: &Target,
    ) -> Result<Api<DynamicObject>, ScaleError> {
        let resource = self.resource(target).await?;
        let scale = format!("{}/scale", resource.plural);
        let served = self.served(&target.api_version).await?;
        if !served.iter().any(|resource| resource.name == scale) {
            let name = match &*resource.group {
                "" => resource.plural,
                group => format!("{}.{group}", resource.plural),
            };
            return Err(ScaleError::NoScale(name));
        }
        let client = self.client.clone();
        Ok(Api::namespaced_with(client, namespace, &resource))
    }

    async fn served(&self, group_version: &str) -> Result<Arc<Vec<APIResource>>, ScaleError> {
        // Held while asking: one question at a time is enough, and the next finds the answer.
        let mut served = self.served.lock().await;
        if let Some((since, resources)) = served.get(group_version)
            && since.elapsed() < BELIEVED
        {
            return Ok(Arc::clone(resources));
        }
        let resources = match self.ask(group_version).await {
            Ok(list) => list.resources,
            Err(error) if meta::is_not_found(&error) => Vec::new(),
            Err(source) => {
                return Err(ScaleError::Discovery {
                    group_version: group_version.to_owned(),
                    source,
                });
            }
        };
        let resources = Arc::new(resources);
        served.retain(|_, (since, _)| since.elapsed() < BELIEVED);
        served.insert(
            group_version.to_owned(),
            (Instant::now(), Arc::clone(&resources)),
        );
        Ok(resources)
    }

    async fn ask(&self, group_version: &str) -> Result<APIResourceList, kube::Error> {
        if group_version.contains('/') {
            self.client.list_api_group_resources(group_version).await
        } else {
            self.client.list_core_api_resources(group_version).await
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::api::FakeApi;

    fn target(api_version: &str, kind: &str) -> Target {
        Target {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: "web".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_scale_is_read_and_written_by_the_names_of_references() {
        let api = FakeApi::new();
        let path = "api/v1/replicationcontrollers";
        let web = json!({
            "metadata": { "namespace": "shop", "name": "web" }, "spec": { "replicas": 3 }, "status": { "replicas": 2 },
        });
        api.put(path, &web);
        let scales = Scales::new(api.client());
        let target = target("v1", "ReplicationController");
        let mut scale = scales.get("shop", &target).await.unwrap();
        assert_eq!(scale.spec.as_ref().and_then(|spec| spec.replicas), Some(3));
        assert_eq!(scale.status.as_ref().map(|status| status.replicas), Some(2));
        scale.spec.as_mut().unwrap().replicas = Some(5);
        scales.set("shop", &target, &scale).await.unwrap();
        let web = api.object(path, "shop", "web").unwrap();
        assert_eq!(web["spec"]["replicas"], 5);
        let again = scales.set("shop", &target, &scale).await.unwrap_err();
        assert!(matches!(&again, ScaleError::Request(error) if meta::is_conflict(error)));
        let elsewhere = scales.get("other", &target).await.unwrap_err();
        assert!(elsewhere.is_not_found());
    }

    #[tokio::test]
    async fn what_has_no_scale_is_told_from_what_is_not_there() {
        let scales = Scales::new(FakeApi::new().client());
        let error = |target: Target| {
            let scales = scales.clone();
            async move { scales.get("shop", &target).await.unwrap_err().to_string() }
        };
        assert_eq!(
            error(target("v1", "ConfigMap")).await,
            "configmaps does not implement the scale subresource"
        );
        assert_eq!(
            error(target("stars.example.com/v1", "Star")).await,
            "no matches for kind \"Star\" in group \"stars.example.com\""
        );
    }
}
