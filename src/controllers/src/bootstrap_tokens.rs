//! Bootstrap tokens that have expired are deleted.
//!
//! A bootstrap token is a Secret in `kube-system` that may say until when it is good. The API server refuses it after that by
//! itself; here its Secret is taken away, so that nobody goes on looking at it. What cannot be read as a time counts as
//! over, as it does for the API server.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Preconditions},
};

use vaquita_reconcile::{
    Context, ObjectKey,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta,
    queue::{Pacing, WorkQueue},
};

/// The type of the Secrets.
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Where they are. Others of that type mean nothing.
const NAMESPACE: &str = "kube-system";
/// Until when a token is good, in its Secret.
const EXPIRATION: &str = "expiration";
/// The longest wait without another look: the clock may be set meanwhile.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

/// Why a token that has expired is still there.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// Its Secret could not be deleted.
    #[error("deleting the secret")]
    Delete(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let cleaner = Arc::new(Cleaner {
        secrets: context.informers.selected(&format!("type={TYPE}")),
        context: context.clone(),
    });
    if !cleaner.secrets.synced().await {
        return;
    }
    let queue = WorkQueue::new(Pacing::default());
    let secrets = queue.clone();
    cleaner.secrets.subscribe(move |change| {
        let secret = change.object();
        let is_token = secret.namespace().as_deref() == Some(NAMESPACE);
        if is_token && !matches!(change, Change::Deleted(_)) {
            secrets.add(ObjectKey::of(secret));
        }
    });
    context.drive(cleaner, queue).await;
}

struct Cleaner {
    context: Context,
    secrets: Informer<Secret>,
}

impl Reconciler for Cleaner {
    /// The Secret's name.
    type Key = ObjectKey;
    type Error = CleanError;
    const NAME: &'static str = "bootstrap-tokens";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, CleanError> {
        let Some(secret) = self.secrets.store().get(key) else {
            return Ok(Next::Wait);
        };
        match left(&secret, self.context.now()) {
            _ if meta::is_terminating(&secret.metadata) => Ok(Next::Wait),
            Left::Endless => Ok(Next::Wait),
            Left::For(left) => Ok(Next::After(left.min(LONGEST_WAIT))),
            Left::Nothing => self.delete(&secret).await.map(|()| Next::Wait),
        }
    }
}

impl Cleaner {
    async fn delete(&self, secret: &Secret) -> Result<(), CleanError> {
        let this_one = Preconditions {
            uid: secret.uid(),
            // It may have been prolonged a moment ago.
            resource_version: secret.resource_version(),
        };
        let api = Api::<Secret>::namespaced(self.context.client.clone(), NAMESPACE);
        let params = DeleteParams::default().preconditions(this_one);
        match api.delete(&secret.name_any(), &params).await {
            Err(error) if !meta::is_not_found(&error) => Err(CleanError::Delete(error)),
            _ => Ok(()),
        }
    }
}

/// How much of a token's time is left.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    Endless,
    For(Duration),
    Nothing,
}

fn left(secret: &Secret, now: Timestamp) -> Left {
    let data = secret.data.as_ref();
    let Some(text) = data.and_then(|data| data.get(EXPIRATION)) else {
        return Left::Endless;
    };
    if text.0.is_empty() {
        return Left::Endless;
    }
    let at = std::str::from_utf8(&text.0).ok();
    let at = at.and_then(|text| text.parse::<Timestamp>().ok());
    let left = at.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
    match left.filter(|left| !left.is_zero()) {
        Some(left) => Left::For(left),
        None => Left::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use vaquita_reconcile::{Clock, Options, testing::api::FakeApi};

    const SECRETS: &str = "api/v1/secrets";

    #[tokio::test(start_paused = true)]
    async fn a_token_goes_when_its_time_is_over() {
        let api = FakeApi::new();
        let put = |name: &str, namespace: &str, expiration: &str| {
            let expiration = ByteString(expiration.as_bytes().to_vec());
            let metadata = json!({ "namespace": namespace, "name": name });
            api.put(
                SECRETS,
                &json!({ "metadata": metadata, "type": TYPE, "data": { EXPIRATION: expiration } }),
            );
        };
        put("over", NAMESPACE, "2026-01-01T11:59:59Z");
        put("soon", NAMESPACE, "2026-01-01T14:00:00+01:00");
        put("endless", NAMESPACE, "");
        put("unreadable", NAMESPACE, "tomorrow");
        put("elsewhere", "shop", "2020-01-01T00:00:00Z");
        let begin = Instant::now();
        let noon: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let options = Options {
            clock: Clock::new(move || noon + begin.elapsed()),
            ..Options::default()
        };
        let context = Context::new(api.client(), options, CancellationToken::new());
        tokio::spawn(run(context));
        let there = |api: &FakeApi, name: &str| api.object(SECRETS, NAMESPACE, name).is_some();
        api.until("two less", |api| {
            !there(api, "over") && !there(api, "unreadable")
        })
        .await;
        tokio::time::sleep(Duration::from_mins(59)).await;
        assert!(there(&api, "soon"));
        tokio::time::sleep(Duration::from_mins(2)).await;
        assert!(!there(&api, "soon") && there(&api, "endless"));
        assert_eq!(api.objects(SECRETS).len(), 2);
    }
}
