//! The cluster, as far as volumes come from it.

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Secret, ServiceAccount},
};
use kube::{Api, Client, api::PostParams};

/// A token of a service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What to show.
    pub text: String,
    /// Until when it is good.
    pub expires_at: Timestamp,
}

/// Where the contents of volumes and variables come from that are not in the pod.
#[async_trait]
pub trait Sources: Send + Sync {
    /// The config map of that name, if there is one.
    async fn config_map(&self, namespace: &str, name: &str) -> kube::Result<Option<ConfigMap>>;

    /// The secret of that name, if there is one.
    async fn secret(&self, namespace: &str, name: &str) -> kube::Result<Option<Secret>>;

    /// A new token of a service account.
    async fn token(
        &self,
        namespace: &str,
        account: &str,
        wanted: TokenRequestSpec,
    ) -> kube::Result<Token>;
}

#[async_trait]
impl Sources for Client {
    async fn config_map(&self, namespace: &str, name: &str) -> kube::Result<Option<ConfigMap>> {
        Api::namespaced(self.clone(), namespace).get_opt(name).await
    }

    async fn secret(&self, namespace: &str, name: &str) -> kube::Result<Option<Secret>> {
        Api::namespaced(self.clone(), namespace).get_opt(name).await
    }

    async fn token(
        &self,
        namespace: &str,
        account: &str,
        wanted: TokenRequestSpec,
    ) -> kube::Result<Token> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.clone(), namespace);
        let request = TokenRequest {
            spec: Some(wanted),
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await?;
        let token = answer.status.and_then(|status| {
            Some(Token {
                text: status.token?,
                expires_at: status.expiration_timestamp?.0,
            })
        });
        token.ok_or_else(|| {
            let message = "the answer to a TokenRequest has no token";
            kube::Error::Service(message.into())
        })
    }
}
