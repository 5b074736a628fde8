//! Every namespace has a `ServiceAccount` named `default`, which pods run as that name none.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{Namespace, ServiceAccount},
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

/// The account's name.
const DEFAULT: &str = "default";

/// Why a namespace could not be given its account.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The account could not be created.
    #[error("creating the service account")]
    Create(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let queue = WorkQueue::new(Pacing::default());
    let controller = Arc::new(Controller {
        namespaces: context.informers.of(),
        accounts: context.informers.of(),
        context: context.clone(),
    });
    if !(controller.namespaces.synced().await && controller.accounts.synced().await) {
        return;
    }
    let namespaces = queue.clone();
    controller.namespaces.subscribe(move |change| {
        if let Change::Added(namespace) = change {
            namespaces.add(namespace.name_any());
        }
    });
    let namespaces = queue.clone();
    controller.accounts.subscribe(move |change| {
        if let Change::Deleted(account) = change {
            namespaces.add(account.namespace().unwrap_or_default());
        }
    });
    context.drive(controller, queue).await;
}

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

impl Reconciler for Controller {
    /// The namespace's name.
    type Key = String;
    type Error = SyncError;
    const NAME: &'static str = "service-accounts";

    async fn reconcile(&self, namespace: &String) -> Result<Next, SyncError> {
        let Some(known) = self.namespaces.store().get(&ObjectKey::new("", namespace)) else {
            return Ok(Next::Wait);
        };
        let is_there = self
            .accounts
            .store()
            .get(&ObjectKey::new(namespace, DEFAULT))
            .is_some();
        if is_there || meta::is_terminating(&known.metadata) {
            return Ok(Next::Wait);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(DEFAULT.to_owned()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        let api = Api::<ServiceAccount>::namespaced(self.context.client.clone(), namespace);
        match api.create(&PostParams::default(), &account).await {
            Ok(_) => Ok(Next::Wait),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Next::Wait),
            Err(error) if meta::is_namespace_terminating(&error) || meta::is_not_found(&error) => {
                Ok(Next::Wait)
            }
            Err(error) => Err(SyncError::Create(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use vaquita_reconcile::{Options, testing::api::FakeApi};

    const ACCOUNTS: &str = "api/v1/serviceaccounts";
    const NAMESPACES: &str = "api/v1/namespaces";

    #[tokio::test(start_paused = true)]
    async fn every_living_namespace_has_its_account_and_gets_it_back() {
        let api = FakeApi::new();
        api.put(NAMESPACES, &json!({ "metadata": { "name": "shop" } }));
        let going = json!({ "name": "going", "deletionTimestamp": "2030-01-01T00:00:00Z" });
        api.put(NAMESPACES, &json!({ "metadata": going }));
        let context = Context::new(api.client(), Options::default(), CancellationToken::new());
        tokio::spawn(run(context));
        api.until("an account", |api| {
            api.object(ACCOUNTS, "shop", DEFAULT).is_some()
        })
        .await;
        api.put(NAMESPACES, &json!({ "metadata": { "name": "later" } }));
        api.until("another", |api| {
            api.object(ACCOUNTS, "later", DEFAULT).is_some()
        })
        .await;
        api.remove(ACCOUNTS, "shop", DEFAULT);
        api.until("a new one", |api| {
            api.object(ACCOUNTS, "shop", DEFAULT).is_some()
        })
        .await;
        api.settle().await;
        assert!(api.object(ACCOUNTS, "going", DEFAULT).is_none());
        assert_eq!(api.writes().len(), 3);
    }
}
