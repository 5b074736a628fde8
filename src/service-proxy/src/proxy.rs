//! Follows Services and endpoint slices, and has the tables of the network follow them.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio_util::sync::CancellationToken;
use vaquita_net::{Fabric, ServiceKey};

use crate::{
    ServiceLinks,
    health::HealthChecks,
    table::{Report, Table},
};

/// How often node ports that were taken by others are tried again.
const RETRY_EVERY: Duration = Duration::from_secs(10);

/// Keeps the tables.
pub(crate) struct Proxy {
    client: Client,
    table: Table,
    shared: ServiceLinks,
}

impl Proxy {
    pub(crate) fn new(
        client: Client,
        node: String,
        fabric: &Fabric,
        report: Report,
        shared: ServiceLinks,
    ) -> Self {
        let health = HealthChecks::new(fabric.config().node_ports);
        Self {
            client,
            table: Table::new(fabric.services(), node, report, health),
            shared,
        }
    }

    /// Follows the cluster until told to stop.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let config = watcher::Config::default();
        let services: Api<Service> = Api::all(self.client.clone());
        let slices: Api<EndpointSlice> = Api::all(self.client.clone());
        let mut services = watcher(services, config.clone()).default_backoff().boxed();
        let mut slices = watcher(slices, config).default_backoff().boxed();
        let mut retry = tokio::time::interval(RETRY_EVERY);
        loop {
            let dirty = tokio::select! {
                () = shutdown.cancelled() => return,
                _ = retry.tick() => self.table.retry(),
                Some(event) = services.next() => match event {
                    Ok(event) => self.service_event(event),
                    Err(error) => complain(&error),
                },
                Some(event) = slices.next() => match event {
                    Ok(event) => self.table.slice_event(event),
                    Err(error) => complain(&error),
                },
            };
            for key in dirty {
                self.table.refresh(&key);
            }
        }
    }

    fn service_event(&mut self, event: Event<Service>) -> Vec<ServiceKey> {
        let is_done = matches!(event, Event::InitDone);
        let dirty = self.table.service_event(event);
        for key in &dirty {
            self.shared.put(key.clone(), self.table.service(key));
        }
        if is_done {
            self.shared.set_synced();
        }
        dirty
    }
}

fn complain(error: &watcher::Error) -> Vec<ServiceKey> {
    tracing::warn!(%error, "cannot follow Services");
    Vec::new()
}
