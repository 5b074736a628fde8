//! The namespace in which everything happens.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::time::{Instant, sleep};

use super::{
    objects,
    target::{Target, message},
};

/// How long the namespace may take to be gone.
const DELETION: Duration = Duration::from_mins(10);
/// How long a server may take until it lets pods into a new namespace.
const ADMISSION: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// A namespace of our own.
#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
}

impl Namespace {
    pub(super) async fn create(target: &Target) -> anyhow::Result<Self> {
        let (id, ..) = uuid::Uuid::new_v4().as_fields();
        let name = format!("vaquita-bench-{id:08x}");
        let uri = target.uri("/api/v1/namespaces")?;
        let mut connection = target.connect().await?;
        connection
            .call(Method::POST, uri, objects::namespace(&name))
            .await
            .context("cannot make a namespace")?;
        Ok(Self { name })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The path of a collection of core resources in it.
    pub(super) fn path(&self, plural: &str) -> String {
        format!("/api/v1/namespaces/{}/{plural}", self.name)
    }

    /// Waits until pods can be made. A stock cluster first has to make the service account that they run as.
    pub(super) async fn wait_until_pods_are_admitted(&self, target: &Target) -> anyhow::Result<()> {
        let deadline = Instant::now() + ADMISSION;
        let mut connection = target.connect().await?;
        loop {
            let uri = target.uri(&self.path("pods"))?;
            let (status, body) = connection
                .exchange(Method::POST, uri, objects::idle_pod("first"))
                .await?;
            match status {
                status if status.is_success() => break,
                StatusCode::FORBIDDEN if Instant::now() < deadline => sleep(PAUSE).await,
                status => bail!("cannot make pods: {status}: {}", message(&body)),
            }
        }
        let uri = target.uri(&format!("{}/first", self.path("pods")))?;
        connection.call(Method::DELETE, uri, Bytes::new()).await?;
        Ok(())
    }

    /// Deletes it with all that is in it, and waits until it is gone.
    pub(super) async fn delete(self, target: &Target) -> anyhow::Result<()> {
        let uri = target.uri(&format!("/api/v1/namespaces/{}", self.name))?;
        let mut connection = target.connect().await?;
        connection
            .call(Method::DELETE, uri.clone(), Bytes::new())
            .await
            .with_context(|| format!("cannot delete the namespace {}", self.name))?;
        let deadline = Instant::now() + DELETION;
        while Instant::now() < deadline {
            let (status, _) = connection
                .exchange(Method::GET, uri.clone(), Bytes::new())
                .await?;
            if status == StatusCode::NOT_FOUND {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
        bail!(
            "the namespace {} is still being deleted after {} s",
            self.name,
            DELETION.as_secs()
        )
    }
}
