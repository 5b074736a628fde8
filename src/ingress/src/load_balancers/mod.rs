//! Addresses for Services of type LoadBalancer.
//!
//! A controller gives each such Service an address of a [`Pool`] and writes it into its status; the network of each node
//! listens there. What is written in the statuses is the only record: after a restart, it is read back before anything
//! is given out. A finalizer keeps a Service that is deleted until its address is free again.

mod pool;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use vaquita_reconcile::{
    Context, ObjectKey, Recorder,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta,
    queue::{Pacing, WorkQueue},
};

use pool::{Allocations, Port};
pub use pool::{ParsePoolError, Pool};

/// The class by which a Service asks for this controller; one without a class is its business too.
pub const CLASS: &str = "vaquita.dev/load-balancer";

/// What keeps a deleted Service until its address is taken back.
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// Gives out addresses until the context is shut down.
pub async fn run(context: Context, pool: Pool) {
    let services = context.informers.of::<Service>();
    let queue = WorkQueue::new(Pacing::default());
    let synced = context
        .shutdown
        .run_until_cancelled(services.synced())
        .await;
    if synced != Some(true) {
        return;
    }
    let mut allocations = Allocations::new(pool);
    recall(&services, &mut allocations);
    let queued = queue.clone();
    services.subscribe(move |change| {
        let before = match change {
            Change::Modified { old, .. } => concerns_us(old),
            Change::Added(_) | Change::Deleted(_) => false,
        };
        if before || concerns_us(change.object()) {
            queued.add(ObjectKey::of(change.object()));
        }
    });
    let controller = Controller {
        client: context.client.clone(),
        recorder: context.recorder("service-controller"),
        services,
        queue: queue.clone(),
        allocations: Mutex::new(allocations),
        waiting: Mutex::default(),
    };
    context.drive(Arc::new(controller), queue).await;
}

/// Takes back what was given out before a restart, the oldest first: if two have one, the younger has to move.
fn recall(services: &Informer<Service>, allocations: &mut Allocations) {
    let mut ours = services.store().matching(wants);
    ours.sort_by_cached_key(|service| {
        let made = service.metadata.creation_timestamp.as_ref();
        (made.map(|time| time.0), ObjectKey::of(&**service))
    });
    for service in ours {
        if let Some(ip) = addresses(&service).first().copied() {
            // Whoever fails is looked at again, and told.
            let _ =
                allocations.allocate(&ObjectKey::of(&*service), &ports(&service), None, Some(ip));
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("writing Service {service}")]
struct WriteError {
    service: ObjectKey,
    source: kube::Error,
}

struct Controller {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    queue: WorkQueue<ObjectKey>,
    allocations: Mutex<Allocations>,
    /// Services that got nothing, to be tried again when something is given back.
    waiting: Mutex<BTreeSet<ObjectKey>>,
}

impl Reconciler for Controller {
    type Key = ObjectKey;
    type Error = WriteError;
    const NAME: &'static str = "load-balancers";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, WriteError> {
        let Some(service) = self.services.store().get(key) else {
            self.free(key);
            return Ok(Next::Wait);
        };
        let done = if wants(&service) {
            self.ensure(key, &service).await
        } else {
            self.clean_up(key, &service).await
        };
        match done {
            Ok(()) => Ok(Next::Wait),
            Err(source) if meta::is_not_found(&source) => Ok(Next::Wait),
            Err(source) => Err(WriteError {
                service: key.clone(),
                source,
            }),
        }
    }
}

impl Controller {
    async fn ensure(&self, key: &ObjectKey, service: &Service) -> Result<(), kube::Error> {
        let has = addresses(service);
        let asked = match asked(service) {
            Ok(asked) => asked,
            Err(message) => {
                self.free(key);
                return self.fail(service, message).await;
            }
        };
        let (had, chosen) = {
            let mut all = lock(&self.allocations);
            let had = all.has(key);
            (
                had,
                all.allocate(key, &ports(service), asked, has.first().copied()),
            )
        };
        let ip = match chosen {
            Ok(ip) => ip,
            Err(error) => {
                if had {
                    // What it had is free now; it must not wake itself, though.
                    self.retry_waiting();
                }
                lock(&self.waiting).insert(key.clone());
                return self.fail(service, error.to_string()).await;
            }
        };
        lock(&self.waiting).remove(key);
        if !service.finalizers().iter().any(|name| name == FINALIZER) {
            // First, so that no address is given to a Service that could vanish without giving it back.
            let message = "Ensuring load balancer".to_owned();
            self.recorder
                .normal(service, "EnsuringLoadBalancer", message);
            let mut finalizers = service.finalizers().to_vec();
            finalizers.push(FINALIZER.to_owned());
            // The change of the Service brings it back here.
            return self.patch_finalizers(service, &finalizers).await;
        }
        if has == [ip] {
            return Ok(());
        }
        self.write_status(service, json!([{"ip": ip.to_string(), "ipMode": "VIP"}]))
            .await?;
        if !has.is_empty() {
            // It moved: somebody may have waited for the old place.
            self.retry_waiting();
        }
        let message = "Ensured load balancer".to_owned();
        self.recorder
            .normal(service, "EnsuredLoadBalancer", message);
        Ok(())
    }

    /// Says that a Service gets no address, and takes away one that is no longer its own.
    async fn fail(&self, service: &Service, message: String) -> Result<(), kube::Error> {
        let message = format!("Error syncing load balancer: {message}");
        self.recorder
            .warning(service, "SyncLoadBalancerFailed", message);
        if addresses(service).is_empty() {
            return Ok(());
        }
        self.write_status(service, Value::Null).await
    }

    /// Takes back what a Service had that does not want it any more, or is being deleted.
    async fn clean_up(&self, key: &ObjectKey, service: &Service) -> Result<(), kube::Error> {
        if !service.finalizers().iter().any(|name| name == FINALIZER) {
            self.free(key);
            return Ok(());
        }
        if is_of_another_class(service) && !lock(&self.allocations).release(key) {
            // Somebody else's finalizer has the same name.
            return Ok(());
        }
        let message = "Deleting load balancer".to_owned();
        self.recorder
            .normal(service, "DeletingLoadBalancer", message);
        if !addresses(service).is_empty() {
            self.write_status(service, Value::Null).await?;
        }
        self.free(key);
        let message = "Deleted load balancer".to_owned();
        self.recorder
            .normal(service, "DeletedLoadBalancer", message);
        let mut finalizers = service.finalizers().to_vec();
        finalizers.retain(|name| name != FINALIZER);
        self.patch_finalizers(service, &finalizers).await
    }

    fn free(&self, key: &ObjectKey) {
        lock(&self.waiting).remove(key);
        if lock(&self.allocations).release(key) {
            self.retry_waiting();
        }
    }

    fn retry_waiting(&self) {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        for key in waiting {
            self.queue.add(key);
        }
    }

    fn api(&self, service: &Service) -> Api<Service> {
        Api::namespaced(
            self.client.clone(),
            &service.namespace().unwrap_or_default(),
        )
    }

    async fn patch_finalizers(
        &self,
        service: &Service,
        finalizers: &[String],
    ) -> Result<(), kube::Error> {
        // A list is replaced as a whole: only the version that it was read from may be changed.
        let patch = meta::guarded_patch(&service.metadata, json!({ "finalizers": finalizers }));
        self.api(service)
            .patch(
                &service.name_any(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await
            .map(drop)
    }

    async fn write_status(&self, service: &Service, ingress: Value) -> Result<(), kube::Error> {
        let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        self.api(service)
            .patch_status(
                &service.name_any(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await
            .map(drop)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spec(service: &Service) -> Option<&ServiceSpec> {
    service.spec.as_ref()
}

fn is_balancer(service: &Service) -> bool {
    spec(service).and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer")
}

fn is_of_another_class(service: &Service) -> bool {
    let class = spec(service).and_then(|spec| spec.load_balancer_class.as_deref());
    class.is_some_and(|class| class != CLASS)
}

/// Whether the Service is to have an address of ours.
fn wants(service: &Service) -> bool {
    is_balancer(service)
        && !is_of_another_class(service)
        && !meta::is_terminating(&service.metadata)
}

/// Whether there may be something to do about it.
fn concerns_us(service: &Service) -> bool {
    is_balancer(service) || service.finalizers().iter().any(|name| name == FINALIZER)
}

/// The address that the Service asks for.
fn asked(service: &Service) -> Result<Option<IpAddr>, String> {
    let wish = spec(service).and_then(|spec| spec.load_balancer_ip.as_deref());
    match wish.filter(|wish| !wish.is_empty()) {
        None => Ok(None),
        Some(wish) => wish
            .parse()
            .map(Some)
            .map_err(|_| format!("the address {wish:?} that is asked for is none")),
    }
}

fn ports(service: &Service) -> BTreeSet<Port> {
    let ports = spec(service).and_then(|spec| spec.ports.as_deref());
    let ports = ports.unwrap_or_default().iter();
    ports
        .filter_map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_owned();
            Some((protocol, u16::try_from(port.port).ok()?))
        })
        .collect()
}

/// The addresses in the Service's status.
fn addresses(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let points = balancer.and_then(|balancer| balancer.ingress.as_deref());
    let points = points.unwrap_or_default().iter();
    points
        .filter_map(|point| point.ip.as_deref()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests;
