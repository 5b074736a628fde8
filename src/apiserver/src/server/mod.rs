//! Requests, from their arrival to their answer.
//!
//! [`dispatch::dispatch`] is the one entry: it finds out who asks and for what, and hands the request to the module of its
//! verb. All of them work on one [`Server`].

#![allow(clippy::similar_names, reason = "a server, and what is served by it")]

mod admission;
pub(crate) mod answer;
mod apply;
pub(crate) mod bootstrap;
pub(crate) mod call;
pub(crate) mod catalog;
mod collection_delete;
mod compress;
mod connect;
mod create;
pub(crate) mod custom;
mod delete;
mod discovery;
pub(crate) mod dispatch;
pub(crate) mod events;
mod eviction;
mod get;
mod health;
mod list;
mod log;
mod openapi;
mod patch;
mod pod;
mod present;
mod protobuf;
mod proxy;
mod resource_metrics;
mod reviews;
mod scale;
mod select;
mod services;
mod token;
mod update;
mod watch;
mod watch_socket;
mod write;

use std::{
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use vaquita_api::{registry::Registry, status::Status};
use vaquita_store::{Revision, Store};

use self::{
    catalog::{Catalog, Served},
    services::Services,
};
use crate::{
    Config, Dialer, HostNetwork, NodeTransport, authn::Authenticator, authz::Access,
    metrics::Metrics,
};
use vaquita_cache::{Cache, Collection, resource_prefix};

/// The kinds that every server has.
pub(crate) fn built_in() -> Registry {
    let kinds = vaquita_kinds::resources().into_iter();
    Registry::new(
        kinds
            .chain(vaquita_workloads::resources())
            .chain(vaquita_platform::resources())
            .chain(resource_metrics::resources())
            .chain([vaquita_crd::definition::resource()]),
    )
}

/// How long a request waits for the cache to reach a revision: its own write's, or one that the client names.
const REVISION_DEADLINE: Duration = Duration::from_secs(3);

/// Everything that a request may need.
pub(crate) struct Server {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<Cache>,
    /// What is served now.
    catalog: ArcSwap<Catalog>,
    /// Held by whoever changes what is served.
    installing: tokio::sync::Mutex<()>,
    pub(crate) authenticator: Authenticator,
    /// Who may do what, and how tokens are told.
    pub(crate) access: Access,
    pub(crate) config: Config,
    /// Permits for reads that end by themselves.
    reading: Semaphore,
    /// Permits for writes.
    writing: Semaphore,
    pub(crate) metrics: Metrics,
    /// Figures of other parts of the process, for `/metrics`.
    pub(crate) more_metrics: OnceLock<MoreMetrics>,
    /// How to reach nodes, once there is a way.
    pub(crate) nodes: RwLock<Option<Arc<dyn NodeTransport>>>,
    /// How to reach pods.
    pub(crate) dialer: RwLock<Arc<dyn Dialer>>,
    /// Permits for connections that may last for hours.
    pub(crate) streams: Arc<Semaphore>,
    /// Gives addresses and ports out.
    pub(crate) services: Services,
    /// What nodes said lately about what they use.
    samples: resource_metrics::Samples,
    /// The `OpenAPI` documents, made when first asked for.
    openapi: openapi::Documents,
    /// Set when the store no longer tells what happens in it.
    pub(crate) lost: AtomicBool,
    /// Cancelled when the server stops: endless answers end.
    pub(crate) closing: CancellationToken,
}

/// Writes figures in the text format, without the mark of its end.
pub(crate) type MoreMetrics = Box<dyn Fn() -> String + Send + Sync>;

impl Server {
    /// A server of the resources in `registry`, out of `cache`, which follows `store`.
    pub(crate) fn new(
        registry: Registry,
        store: Arc<dyn Store>,
        cache: Arc<Cache>,
        authenticator: Authenticator,
        config: Config,
    ) -> Self {
        let streams = Arc::new(Semaphore::new(config.max_streams));
        Self {
            catalog: ArcSwap::from_pointee(Catalog::new(registry, &cache, None)),
            installing: tokio::sync::Mutex::default(),
            reading: Semaphore::new(config.max_reads_in_flight),
            writing: Semaphore::new(config.max_writes_in_flight),
            services: Services::new(&config),
            store,
            cache,
            authenticator,
            access: Access::new(&config),
            config,
            metrics: Metrics::new(),
            more_metrics: OnceLock::new(),
            nodes: RwLock::default(),
            dialer: RwLock::new(Arc::new(HostNetwork)),
            streams,
            samples: resource_metrics::Samples::default(),
            openapi: openapi::Documents::default(),
            lost: AtomicBool::new(false),
            closing: CancellationToken::new(),
        }
    }

    /// How to reach nodes, if there is a way by now.
    pub(crate) fn nodes(&self) -> Option<Arc<dyn NodeTransport>> {
        self.nodes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How to reach pods.
    pub(crate) fn dialer(&self) -> Arc<dyn Dialer> {
        self.dialer
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The objects of a built-in core resource that the server itself looks at.
    pub(crate) fn core(&self, plural: &str) -> Option<Arc<Collection>> {
        self.cache.collection(&resource_prefix("", plural))
    }

    /// Waits until the cache shows everything up to `revision`.
    pub(crate) async fn reached(&self, revision: Revision) -> Result<(), Status> {
        let progress = self.cache.progress();
        if progress.applied() >= revision {
            return Ok(());
        }
        tokio::time::timeout(REVISION_DEADLINE, progress.reached(revision))
            .await
            .map_err(|_| Status::too_large_resource_version(revision, progress.applied()))
    }

    /// Notes the addresses and ports that Services have, as the server starts.
    pub(crate) fn remember_services(&self) {
        let Some(services) = self.core("services") else {
            return;
        };
        for entry in services.snapshot().range(services.prefix(), None) {
            if let Ok(service) = entry.value() {
                self.services.remember(&service);
            }
        }
    }

    /// Whether the cache is cut off from the store.
    pub(crate) fn store_is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Every resource's name and number of objects.
    pub(crate) fn counts(&self) -> Vec<(Arc<str>, usize)> {
        let catalog = self.catalog.load();
        let counted = catalog.iter().map(count);
        counted.collect()
    }
}

fn count(served: &Arc<Served>) -> (Arc<str>, usize) {
    (served.label.clone(), served.collection.len())
}

#[cfg(test)]
mod tests;
