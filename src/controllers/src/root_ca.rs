//! Every namespace has a `ConfigMap` named `kube-root-ca.crt`, by which its pods verify the API server.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, ResourceExt, api::PostParams};

use vaquita_reconcile::{
    Context, ObjectKey,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta,
    queue::{Pacing, WorkQueue},
};

/// The map's name.
const NAME: &str = "kube-root-ca.crt";
/// The key of the certificate in it.
const KEY: &str = "ca.crt";

/// Why a namespace could not be given the certificate.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The map could not be created.
    #[error("creating the map of the root certificate")]
    Create(#[source] kube::Error),
    /// The map could not be put right.
    #[error("updating the map of the root certificate")]
    Update(#[source] kube::Error),
}

/// Runs the controller until shutdown; does nothing if there is no certificate.
pub async fn run(context: Context) {
    let Some(certificate) = context.options.root_ca.clone() else {
        return;
    };
    let queue = WorkQueue::new(Pacing::default());
    let controller = Arc::new(Controller {
        certificate,
        namespaces: context.informers.of(),
        // There may be many other maps, and large ones.
        maps: context.informers.selected(&format!("metadata.name={NAME}")),
        context: context.clone(),
    });
    if !(controller.namespaces.synced().await && controller.maps.synced().await) {
        return;
    }
    let namespaces = queue.clone();
    controller.namespaces.subscribe(move |change| {
        if let Change::Added(namespace) = change {
            namespaces.add(namespace.name_any());
        }
    });
    let namespaces = queue.clone();
    controller.maps.subscribe(move |change| {
        namespaces.add(change.object().namespace().unwrap_or_default());
    });
    context.drive(controller, queue).await;
}

struct Controller {
    certificate: String,
    context: Context,
    namespaces: Informer<Namespace>,
    maps: Informer<ConfigMap>,
}

impl Controller {
    fn data(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(KEY.to_owned(), self.certificate.clone())])
    }
}

impl Reconciler for Controller {
    /// The namespace's name.
    type Key = String;
    type Error = SyncError;
    const NAME: &'static str = "root-ca";

    async fn reconcile(&self, namespace: &String) -> Result<Next, SyncError> {
        let Some(known) = self.namespaces.store().get(&ObjectKey::new("", namespace)) else {
            return Ok(Next::Wait);
        };
        if meta::is_terminating(&known.metadata) {
            return Ok(Next::Wait);
        }
        let api = Api::<ConfigMap>::namespaced(self.context.client.clone(), namespace);
        let present = self.maps.store().get(&ObjectKey::new(namespace, NAME));
        let outcome = match present {
            Some(map) if map.data.as_ref() == Some(&self.data()) => return Ok(Next::Wait),
            Some(map) => {
                let mut map = ConfigMap::clone(&map);
                map.data = Some(self.data());
                let replaced = api.replace(NAME, &PostParams::default(), &map).await;
                replaced.map_err(SyncError::Update)
            }
            None => {
                let map = ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(NAME.to_owned()),
                        ..ObjectMeta::default()
                    },
                    data: Some(self.data()),
                    ..ConfigMap::default()
                };
                let created = api.create(&PostParams::default(), &map).await;
                created.map_err(SyncError::Create)
            }
        };
        match outcome {
            Ok(_) => Ok(Next::Wait),
            // Our copy of the map is behind, and will tell when it no longer is.
            Err(SyncError::Create(kube::Error::Api(status))) if status.is_already_exists() => {
                Ok(Next::Wait)
            }
            Err(SyncError::Create(error))
                if meta::is_namespace_terminating(&error) || meta::is_not_found(&error) =>
            {
                Ok(Next::Wait)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use vaquita_reconcile::{Options, testing::api::FakeApi};

    const MAPS: &str = "api/v1/configmaps";
    const NAMESPACES: &str = "api/v1/namespaces";

    fn certificate(api: &FakeApi, namespace: &str) -> Option<Value> {
        Some(api.object(MAPS, namespace, NAME)?["data"][KEY].take())
    }

    #[tokio::test(start_paused = true)]
    async fn every_living_namespace_has_the_certificate_and_keeps_it() {
        let api = FakeApi::new();
        api.put(NAMESPACES, &json!({ "metadata": { "name": "shop" } }));
        let going = json!({ "name": "going", "deletionTimestamp": "2030-01-01T00:00:00Z" });
        api.put(NAMESPACES, &json!({ "metadata": going }));
        let options = Options {
            root_ca: Some("PEM".to_owned()),
            ..Options::default()
        };
        let context = Context::new(api.client(), options, CancellationToken::new());
        tokio::spawn(run(context));
        let is_there = |api: &FakeApi| certificate(api, "shop") == Some("PEM".into());
        api.until("the certificate", is_there).await;
        api.edit(MAPS, "shop", NAME, |map| {
            map["data"] = json!({"ca.crt": "other"});
        });
        api.until("it put right", is_there).await;
        api.remove(MAPS, "shop", NAME);
        api.until("it made again", is_there).await;
        api.settle().await;
        assert_eq!(certificate(&api, "going"), None);
    }
}
