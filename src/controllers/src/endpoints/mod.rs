//! Endpoints: which pods stand behind each Service, right now.
//!
//! For every Service with a selector this keeps its `EndpointSlice`s (what proxies read) and the older `Endpoints` object
//! of the same name. Services without a selector are left to whoever made them; `mirror` tells their Endpoints as slices.

mod backend;
mod mirror;
mod slices;
mod subsets;
mod topology;
mod written;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::{
    core::v1::{Endpoints, Node, Pod, Service, ServiceSpec},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};

use self::{
    backend::{Backend, Facts},
    written::Written,
};
use vaquita_reconcile::{
    Context, ObjectKey,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta,
    queue::{Pacing, WorkQueue},
};

/// Between two looks at the same Service: a hundred pods that become ready at once are worth a few writes.
const PACE: Duration = Duration::from_millis(10);
/// Label of a node with its zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// When to look again if a write of ours has not come back by the watch.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Why a look at a Service failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// A slice could not be created.
    #[error("creating an endpoint slice")]
    CreateSlice(#[source] kube::Error),
    /// A slice could not be updated.
    #[error("updating endpoint slice {0}")]
    UpdateSlice(String, #[source] kube::Error),
    /// A slice could not be deleted.
    #[error("deleting endpoint slice {0}")]
    DeleteSlice(String, #[source] kube::Error),
    /// The `Endpoints` object could not be written.
    #[error("writing the endpoints")]
    WriteEndpoints(#[source] kube::Error),
    /// The `Endpoints` object of a Service that is gone could not be deleted.
    #[error("deleting the endpoints")]
    DeleteEndpoints(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let queue = WorkQueue::new(Pacing {
        interval: PACE,
        ..Pacing::default()
    });
    let controller = Arc::new(Controller {
        services: context.informers.of(),
        pods: context.informers.of(),
        slices: context.informers.of(),
        endpoints: context.informers.of(),
        nodes: context.informers.of(),
        written: Written::default(),
        queue: queue.clone(),
        context: context.clone(),
    });
    let synced = controller.services.synced().await
        && controller.pods.synced().await
        && controller.slices.synced().await
        && controller.endpoints.synced().await
        && controller.nodes.synced().await;
    if !synced {
        return;
    }
    controller.listen();
    tokio::join!(
        context.drive(controller, queue),
        mirror::run(context.clone())
    );
}

fn zone(node: &Node) -> Option<&str> {
    let zone = node.labels().get(ZONE_LABEL)?;
    Some(zone.as_str()).filter(|zone| !zone.is_empty())
}

struct Controller {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    slices: Informer<EndpointSlice>,
    endpoints: Informer<Endpoints>,
    nodes: Informer<Node>,
    written: Written,
    queue: WorkQueue<ObjectKey>,
}

impl Reconciler for Controller {
    type Key = ObjectKey;
    type Error = SyncError;
    const NAME: &'static str = "endpoints";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(service) = self.services.store().get(key) else {
            self.written.forget(key);
            // The slices have an owner and are collected; the older object never had one.
            self.delete_endpoints(key).await?;
            return Ok(Next::Wait);
        };
        let Some(selector) = selector(&service) else {
            return Ok(Next::Wait);
        };
        let slices = self.slices_of(key);
        let endpoints = self.endpoints.store().get(key);
        if !self
            .written
            .all_seen(key, &versions(&slices, endpoints.as_deref()))
        {
            return Ok(Next::After(SECOND_LOOK));
        }
        let pods = self
            .pods
            .store()
            .in_namespace(&key.namespace, |pod| has_all(pod.labels(), selector));
        let backends: Vec<_> = pods
            .iter()
            .filter_map(|pod| Backend::of(&service, pod, |node| self.zone_of(node)))
            .collect();
        let shares = topology::is_wanted(&service).then(|| {
            let nodes = self.nodes.store().all();
            let parts = topology::zones(nodes.iter().map(|node| &**node))?;
            topology::assign(&backends, &parts)
        });
        let plan = slices::plan(&service, &backends, shares.as_ref(), slices);
        let wanted = subsets::endpoints(&service, &backends);
        // Side by side, so that proxies wait for no more than their own write.
        let (slices, endpoints) = futures::join!(
            self.carry_out(key, plan),
            self.write_endpoints(key, wanted, endpoints.as_deref())
        );
        slices.and(endpoints)?;
        Ok(Next::Wait)
    }
}

impl Controller {
    fn listen(self: &Arc<Self>) {
        let listener = Arc::clone(self);
        self.services
            .subscribe(move |change| listener.queue.add(ObjectKey::of(change.object())));
        let listener = Arc::clone(self);
        self.pods
            .subscribe(move |change| listener.pod_changed(change));
        let listener = Arc::clone(self);
        self.slices
            .subscribe(move |change| listener.slice_changed(change));
        let listener = Arc::clone(self);
        self.endpoints
            .subscribe(move |change| listener.endpoints_changed(change));
        let listener = Arc::clone(self);
        self.nodes
            .subscribe(move |change| listener.node_changed(change));
    }

    /// The zone that a node is in, if it says so.
    fn zone_of(&self, node: &str) -> Option<String> {
        let node = self.nodes.store().get(&ObjectKey::new("", node))?;
        zone(&node).map(str::to_owned)
    }

    /// A node that comes with a zone, or changes it, may have pods already: any Service may be concerned.
    fn node_changed(&self, change: &Change<'_, Node>) {
        let is_news = match change {
            Change::Added(node) => zone(node).is_some(),
            Change::Modified { old, new } => zone(old) != zone(new),
            Change::Deleted(_) => false,
        };
        let concerned = if is_news {
            self.services.store().all()
        } else if share_changed(change) {
            self.services.store().matching(topology::is_wanted)
        } else {
            Vec::new()
        };
        for service in concerned {
            self.queue.add(ObjectKey::of(&*service));
        }
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        match change {
            Change::Added(pod) | Change::Deleted(pod) => self.queue_services(pod, pod),
            Change::Modified { old, new } => {
                if old.metadata.labels != new.metadata.labels || Facts::of(old) != Facts::of(new) {
                    self.queue_services(old, new);
                }
            }
        }
    }

    /// Queues the Services that select this pod as it was or as it is.
    fn queue_services(&self, old: &Pod, new: &Pod) {
        let selects = |service: &Service| {
            selector(service).is_some_and(|selector| {
                has_all(old.labels(), selector) || has_all(new.labels(), selector)
            })
        };
        for service in self
            .services
            .store()
            .in_namespace(&new.namespace().unwrap_or_default(), selects)
        {
            self.queue.add(ObjectKey::of(&*service));
        }
    }

    fn slice_changed(&self, change: &Change<'_, EndpointSlice>) {
        let slice = change.object();
        let Some(service) = slices::service_of(slice) else {
            return;
        };
        let gone = matches!(change, Change::Deleted(_));
        if self
            .written
            .is_news(&service, meta::uid(slice), version(slice), gone)
        {
            self.queue.add(service);
        }
    }

    fn endpoints_changed(&self, change: &Change<'_, Endpoints>) {
        let endpoints = change.object();
        let key = ObjectKey::of(endpoints);
        let gone = matches!(change, Change::Deleted(_));
        let news = self
            .written
            .is_news(&key, meta::uid(endpoints), version(endpoints), gone);
        if news && subsets::is_ours(endpoints) {
            self.queue.add(key);
        }
    }

    /// The slices of a Service that this controller keeps.
    fn slices_of(&self, service: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        let of_service = |slice: &EndpointSlice| slices::is_of(slice, &service.name);
        self.slices
            .store()
            .in_namespace(&service.namespace, of_service)
    }

    /// Writes what is new before it deletes what is old: nobody should see fewer endpoints than there are.
    async fn carry_out(&self, service: &ObjectKey, plan: slices::Plan) -> Result<(), SyncError> {
        let api = Api::<EndpointSlice>::namespaced(self.context.client.clone(), &service.namespace);
        for slice in &plan.update {
            let name = slice.name_any();
            match api.replace(&name, &PostParams::default(), slice).await {
                Ok(slice) => self
                    .written
                    .wrote(service, meta::uid(&slice), version(&slice)),
                Err(error) => return Err(SyncError::UpdateSlice(name, error)),
            }
        }
        for slice in &plan.create {
            match api.create(&PostParams::default(), slice).await {
                Ok(slice) => self
                    .written
                    .wrote(service, meta::uid(&slice), version(&slice)),
                Err(error) if meta::is_namespace_terminating(&error) => return Ok(()),
                Err(error) => return Err(SyncError::CreateSlice(error)),
            }
        }
        for slice in &plan.delete {
            let name = slice.name_any();
            match api.delete(&name, &exactly(&**slice)).await {
                Ok(_) => self.written.deleted(service, meta::uid(&**slice)),
                Err(error) if meta::is_not_found(&error) => {}
                Err(error) => return Err(SyncError::DeleteSlice(name, error)),
            }
        }
        Ok(())
    }

    async fn write_endpoints(
        &self,
        service: &ObjectKey,
        mut wanted: Endpoints,
        known: Option<&Endpoints>,
    ) -> Result<(), SyncError> {
        let api = Api::<Endpoints>::namespaced(self.context.client.clone(), &service.namespace);
        let result = match known {
            Some(known) if subsets::is_up_to_date(known, &wanted) => return Ok(()),
            Some(known) => {
                wanted
                    .metadata
                    .resource_version
                    .clone_from(&known.metadata.resource_version);
                api.replace(&service.name, &PostParams::default(), &wanted)
                    .await
            }
            None => api.create(&PostParams::default(), &wanted).await,
        };
        match result {
            Ok(endpoints) => {
                self.written
                    .wrote(service, meta::uid(&endpoints), version(&endpoints));
                Ok(())
            }
            Err(error) if meta::is_namespace_terminating(&error) => Ok(()),
            Err(error) => Err(SyncError::WriteEndpoints(error)),
        }
    }

    async fn delete_endpoints(&self, service: &ObjectKey) -> Result<(), SyncError> {
        let Some(endpoints) = self
            .endpoints
            .store()
            .get(service)
            .filter(|known| subsets::is_ours(known))
        else {
            return Ok(());
        };
        let api = Api::<Endpoints>::namespaced(self.context.client.clone(), &service.namespace);
        match api.delete(&service.name, &exactly(&*endpoints)).await {
            Ok(_) => Ok(()),
            Err(error) if meta::is_not_found(&error) => Ok(()),
            Err(error) => Err(SyncError::DeleteEndpoints(error)),
        }
    }
}

/// Whether Services whose endpoints are shared out by what nodes have may want it otherwise.
fn share_changed(change: &Change<'_, Node>) -> bool {
    match change {
        Change::Added(node) | Change::Deleted(node) => topology::share(node).is_some(),
        Change::Modified { old, new } => topology::share(old) != topology::share(new),
    }
}

/// What the Service selects by; nothing for one that is not this controller's business.
fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service
        .spec
        .as_ref()
        .filter(|spec| spec.type_.as_deref() != Some("ExternalName"))?;
    spec.selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
}

fn has_all(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether clients find the pods themselves, without a virtual IP in front.
fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// The uid and version of everything of a Service that the local copies show.
fn versions(slices: &[Arc<EndpointSlice>], endpoints: Option<&Endpoints>) -> BTreeMap<String, u64> {
    let slices = slices
        .iter()
        .map(|slice| (meta::uid(&**slice).to_owned(), version(&**slice)));
    slices
        .chain(endpoints.map(|endpoints| (meta::uid(endpoints).to_owned(), version(endpoints))))
        .collect()
}

/// The object's version as a number, so that two can be compared; 0 if it is none.
fn version<K: Resource>(object: &K) -> u64 {
    object
        .meta()
        .resource_version
        .as_deref()
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

/// Deletes this very object, not a namesake.
fn exactly<K: Resource>(object: &K) -> DeleteParams {
    DeleteParams::default().preconditions(Preconditions {
        uid: object.meta().uid.clone(),
        resource_version: None,
    })
}

#[cfg(test)]
mod tests;
