//! Pods on this node: one worker for each, from the moment it is bound here until its object is gone.
//!
//! - [`worker`]: the pod's life, a state machine; it hires one [`container`] runner for each container.
//! - [`board`]: what is known of the pod, shared by all of these; [`status`] makes the pod's status of it, and [`publish`]
//!   writes that to the API server.
//! - [`storage`] has the pod's volumes, kept current by [`follow`].
//! - [`backoff`], [`resize`], [`restore`]: the parts, mostly pure.

mod backoff;
pub(crate) mod board;
mod container;
mod follow;
mod image_volume;
mod publish;
mod pull;
pub(crate) mod resize;
mod restore;
mod settings;
pub(crate) mod status;
pub(crate) mod storage;
mod wasm_policy;
mod worker;

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use tokio::sync::watch;
use vaquita_backends::{Backend, Runnable};
use vaquita_logs::LogStore;
use vaquita_manifest::{Capacity, own_grace};
use vaquita_service_proxy::ServiceLinks;
use vaquita_volumes::{Sources, Store, claims::Claims};

pub(crate) use follow::Follower;
pub(crate) use settings::container_settings;
pub(crate) use worker::Worker;

use crate::{
    events::Recorder,
    eviction::Pressure,
    images::{ImageProblem, Images},
    refused::Refused,
};

/// What all workers of a node need.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) sources: Arc<dyn Sources>,
    pub(crate) host_ips: Vec<IpAddr>,
    pub(crate) capacity: Capacity,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) images: Images,
    pub(crate) events: Recorder,
    pub(crate) logs: LogStore,
    pub(crate) services: ServiceLinks,
    /// Where pods have their volumes.
    pub(crate) volumes: Store,
    /// What makes persistent volumes, if anything does.
    pub(crate) claims: Option<Claims>,
    pub(crate) follower: Follower,
    /// What the node is short of.
    pub(crate) pressure: watch::Receiver<Pressure>,
    /// Images that this node cannot run.
    pub(crate) refused: Refused,
    /// What the pods have been given.
    pub(crate) ledger: resize::Ledger,
    /// The module of small commands for containers that have none, if there is one.
    pub(crate) toolbox: Option<Bytes>,
}

impl Context {
    /// The image of that name that is at hand: in the node's store, or the Docker engine's.
    pub(crate) async fn find_image(&self, name: &str) -> Result<Option<Runnable>, ImageProblem> {
        if let Some(image) = self.images.find(name).await? {
            return Ok(Some(image.into()));
        }
        // An engine that does not answer is as good as none: another attempt will be made.
        Ok(self.backend.image(name).await.unwrap_or_else(|error| {
            tracing::debug!(name, error, "the engine was not asked for an image");
            None
        }))
    }
}

/// A pod as the API server has it, as far as the node knows.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    pub(crate) pod: Arc<Pod>,
    /// Whether the object is gone.
    pub(crate) is_gone: bool,
}

impl Feed {
    /// How long the pod may take to end, if it is to end.
    fn grace(&self) -> Option<Duration> {
        if self.is_gone {
            return Some(Duration::ZERO);
        }
        self.pod.metadata.deletion_timestamp.as_ref()?;
        let granted = self.pod.metadata.deletion_grace_period_seconds;
        let granted = granted.and_then(|seconds| u64::try_from(seconds).ok());
        Some(granted.map_or_else(|| own_grace(&self.pod), Duration::from_secs))
    }
}

#[cfg(test)]
mod change_tests;
#[cfg(test)]
mod tests;
