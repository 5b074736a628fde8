//! Tokens of service accounts that are kept in Secrets, as they were before tokens had an end.
//!
//! Whoever wants one makes a Secret of type `kubernetes.io/service-account-token` that names its account in an annotation.
//! It is filled here with a token, the cluster's certificate and the namespace, and deleted with its account; such a
//! token is good for as long as it is in its Secret.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, ServiceAccount},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams, Preconditions},
};

use vaquita_reconcile::{
    Context, ObjectKey, SecretToken,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta,
    queue::{Pacing, WorkQueue},
};

/// The type of the Secrets.
const TYPE: &str = "kubernetes.io/service-account-token";
/// Annotation with the account's name.
const ACCOUNT: &str = "kubernetes.io/service-account.name";
/// Annotation with the account's uid.
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// Why a Secret could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The account could not be looked up.
    #[error("looking for the service account")]
    Account(#[source] kube::Error),
    /// The token could not be signed.
    #[error("signing the token: {0}")]
    Sign(String),
    /// The Secret could not be filled.
    #[error("filling the secret")]
    Fill(#[source] kube::Error),
    /// The Secret could not be deleted.
    #[error("deleting the secret")]
    Delete(#[source] kube::Error),
}

/// Runs the controller until shutdown. Without something to sign with, it does nothing.
pub async fn run(context: Context) {
    if context.options.tokens.is_none() {
        return context.shutdown.cancelled().await;
    }
    let controller = Arc::new(Controller {
        secrets: context.informers.selected(&format!("type={TYPE}")),
        accounts: context.informers.of(),
        context: context.clone(),
    });
    if !(controller.secrets.synced().await && controller.accounts.synced().await) {
        return;
    }
    let queue = WorkQueue::new(Pacing::default());
    let secrets = queue.clone();
    controller.secrets.subscribe(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            secrets.add(ObjectKey::of(change.object()));
        }
    });
    let (listener, secrets) = (Arc::clone(&controller), queue.clone());
    controller.accounts.subscribe(move |change| {
        let account = change.object();
        if matches!(change, Change::Modified { .. }) {
            return;
        }
        let name = account.name_any();
        let of_account = |secret: &Secret| secret.annotations().get(ACCOUNT) == Some(&name);
        let namespace = account.namespace().unwrap_or_default();
        for secret in listener
            .secrets
            .store()
            .in_namespace(&namespace, of_account)
        {
            secrets.add(ObjectKey::of(&*secret));
        }
    });
    context.drive(controller, queue).await;
}

struct Controller {
    context: Context,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
}

impl Reconciler for Controller {
    /// The Secret's name.
    type Key = ObjectKey;
    type Error = SyncError;
    const NAME: &'static str = "tokens";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(secret) = self.secrets.store().get(key) else {
            return Ok(Next::Wait);
        };
        if meta::is_terminating(&secret.metadata) {
            return Ok(Next::Wait);
        }
        match self.account(&secret).await? {
            Some(account) => self.fill(&secret, &account).await?,
            None => self.delete(&secret).await?,
        }
        Ok(Next::Wait)
    }
}

impl Controller {
    /// The account that the Secret is about. Before none is found, the API server itself is asked.
    async fn account(&self, secret: &Secret) -> Result<Option<Arc<ServiceAccount>>, SyncError> {
        let annotations = secret.annotations();
        let Some(name) = annotations.get(ACCOUNT).filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let uid = annotations.get(ACCOUNT_UID).filter(|uid| !uid.is_empty());
        let is_meant = |account: &ServiceAccount| uid.is_none_or(|uid| uid == meta::uid(account));
        let namespace = secret.namespace().unwrap_or_default();
        let known = self
            .accounts
            .store()
            .get(&ObjectKey::new(&*namespace, name));
        if let Some(account) = known.filter(|account| is_meant(account)) {
            return Ok(Some(account));
        }
        let api = Api::<ServiceAccount>::namespaced(self.context.client.clone(), &namespace);
        let found = api.get_opt(name).await.map_err(SyncError::Account)?;
        Ok(found.filter(is_meant).map(Arc::new))
    }

    async fn fill(&self, secret: &Secret, account: &ServiceAccount) -> Result<(), SyncError> {
        let namespace = secret.namespace().unwrap_or_default();
        let mut filled = secret.clone();
        let uid = meta::uid(account).to_owned();
        filled
            .annotations_mut()
            .insert(ACCOUNT_UID.to_owned(), uid.clone());
        let data: &mut BTreeMap<_, _> = filled.data.get_or_insert_default();
        let mut set = |name: &str, value: &str| {
            data.insert(name.to_owned(), ByteString(value.as_bytes().to_vec()));
        };
        if let Some(authority) = &self.context.options.root_ca {
            set("ca.crt", authority);
        }
        set("namespace", &namespace);
        let has_token = data.get("token").is_some_and(|token| !token.0.is_empty());
        if !has_token && let Some(tokens) = &self.context.options.tokens {
            let token = tokens.sign(&SecretToken {
                namespace: namespace.clone(),
                secret: secret.name_any(),
                account: account.name_any(),
                uid,
            });
            let token = token.map_err(SyncError::Sign)?;
            data.insert("token".to_owned(), ByteString(token.into_bytes()));
        }
        if filled == *secret {
            return Ok(());
        }
        let api = Api::<Secret>::namespaced(self.context.client.clone(), &namespace);
        let (name, params) = (secret.name_any(), PostParams::default());
        match api.replace(&name, &params, &filled).await {
            Err(error) if !meta::is_not_found(&error) => Err(SyncError::Fill(error)),
            _ => Ok(()),
        }
    }

    async fn delete(&self, secret: &Secret) -> Result<(), SyncError> {
        let namespace = secret.namespace().unwrap_or_default();
        let api = Api::<Secret>::namespaced(self.context.client.clone(), &namespace);
        let this_one = Preconditions {
            uid: secret.uid(),
            resource_version: secret.resource_version(),
        };
        let params = DeleteParams::default().preconditions(this_one);
        match api.delete(&secret.name_any(), &params).await {
            Err(error) if !meta::is_not_found(&error) => Err(SyncError::Delete(error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use vaquita_reconcile::{Options, TokenSigner, testing::api::FakeApi};

    const SECRETS: &str = "api/v1/secrets";
    const ACCOUNTS: &str = "api/v1/serviceaccounts";

    #[tokio::test(start_paused = true)]
    async fn a_secret_is_filled_for_its_account_and_goes_with_it() {
        let api = FakeApi::new();
        let account = json!({ "metadata": { "namespace": "shop", "name": "web", "uid": "a1" } });
        api.put(ACCOUNTS, &account);
        let secret = |name: &str, account: &str| {
            let annotations = json!({ ACCOUNT: account });
            let metadata = json!({ "namespace": "shop", "name": name, "annotations": annotations });
            json!({ "metadata": metadata, "type": TYPE })
        };
        api.put(SECRETS, &secret("web-token", "web"));
        api.put(SECRETS, &secret("stray", "nobody"));
        let options = Options {
            root_ca: Some("PEM".to_owned()),
            tokens: Some(TokenSigner::new(|of| {
                Ok(format!("{}/{}", of.account, of.uid))
            })),
            ..Options::default()
        };
        let context = Context::new(api.client(), options, CancellationToken::new());
        tokio::spawn(run(context));
        let data = |api: &FakeApi, field: &str| {
            let secret = api.object(SECRETS, "shop", "web-token").unwrap();
            let value = secret["data"][field].clone();
            let bytes = serde_json::from_value::<Option<ByteString>>(value).unwrap();
            String::from_utf8(bytes.map(|bytes| bytes.0).unwrap_or_default()).unwrap()
        };
        api.until("a token", |api| data(api, "token") == "web/a1")
            .await;
        assert_eq!(data(&api, "ca.crt"), "PEM");
        assert_eq!(data(&api, "namespace"), "shop");
        api.until("no stray", |api| {
            api.object(SECRETS, "shop", "stray").is_none()
        })
        .await;
        api.remove(ACCOUNTS, "shop", "web");
        api.until("nothing", |api| api.objects(SECRETS).is_empty())
            .await;
    }
}
