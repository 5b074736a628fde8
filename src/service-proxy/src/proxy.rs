//! Follows Services and endpoint slices, and has the tables of the network follow them.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, ResourceExt as _,
    core::PartialObjectMeta,
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
    spec::Place,
    table::{Report, Table},
};

/// How often node ports that were taken by others are tried again.
const RETRY_EVERY: Duration = Duration::from_secs(10);

/// Label of a node with its zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Keeps the tables.
pub(crate) struct Proxy {
    client: Client,
    node: String,
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
        let place = Place {
            node: node.clone(),
            zone: None,
        };
        let health = HealthChecks::new(fabric.config().node_ports);
        Self {
            client,
            node,
            table: Table::new(fabric.services(), place, report, health),
            shared,
        }
    }

    /// Follows the cluster until told to stop.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let config = watcher::Config::default();
        let services: Api<Service> = Api::all(self.client.clone());
        let slices: Api<EndpointSlice> = Api::all(self.client.clone());
        let nodes: Api<PartialObjectMeta<Node>> = Api::all(self.client.clone());
        let own = config
            .clone()
            .fields(&format!("metadata.name={}", self.node));
        let mut nodes = watcher(nodes, own).default_backoff().boxed();
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
                Some(event) = nodes.next() => match event {
                    Ok(event) => self.node_event(event),
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

    fn node_event(&mut self, event: Event<PartialObjectMeta<Node>>) -> Vec<ServiceKey> {
        match event {
            Event::Apply(node) | Event::InitApply(node) => {
                let zone = node.labels().get(ZONE_LABEL).cloned();
                self.table.set_zone(zone.filter(|zone| !zone.is_empty()))
            }
            Event::Init | Event::InitDone | Event::Delete(_) => Vec::new(),
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
