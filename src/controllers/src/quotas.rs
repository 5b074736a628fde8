//! Counts what each namespace uses of its quotas.
//!
//! Admission adds to a quota's count whatever it lets pass, and enforces the count. This controller takes away what is gone,
//! by counting again: it makes the first count of a quota, and a new one when the quota changes, when something that was
//! counted goes or comes to use less, and now and then in any case. It does not count again when something comes: then
//! admission has done so, and knew of it earlier. Of the kinds that are not watched here, the garbage collector tells what
//! goes.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus, Service,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use serde::Serialize;
use serde_json::Value;
use tokio::{
    sync::{
        Mutex,
        broadcast::{self, error::RecvError},
    },
    time::Instant,
};
use vaquita_api::{
    Object,
    quantity::{self, Format},
    quota::{self, Amounts, Counted},
};

use crate::departures::{Departure, Departures};
use vaquita_reconcile::{
    Context, ObjectKey,
    drive::{Next, Reconciler},
    informer::{Change, Informer, Watched},
    meta,
    queue::{Pacing, WorkQueue},
    served::{Served, survey},
};

/// How long to wait for more of what was counted to go, before counting again.
const GATHER: Duration = Duration::from_millis(200);
/// Counting a large namespace takes long: it is waited for so many times as long as that took, but not longer than this.
const REST: u32 = 10;
const LONGEST_GATHER: Duration = Duration::from_secs(10);
/// How many objects are counted before others get their turn.
const AT_ONCE: usize = 256;
/// How often everything is counted again, should a change have been missed.
const RECOUNT: Duration = Duration::from_mins(5);
/// The resources of the core group that are watched.
const WATCHED: [&str; 3] = ["persistentvolumeclaims", "pods", "services"];

/// Why a quota could not be counted.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// An object is not what its type says.
    #[error("reading an object")]
    Read(#[source] serde_json::Error),
    /// The API server does not tell what it serves.
    #[error("learning what is served")]
    Survey(#[source] kube::Error),
    /// The objects of a kind could not be counted.
    #[error("counting {resource}")]
    Count {
        /// Such as `deployments.apps`.
        resource: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// The count could not be written.
    #[error("writing the count")]
    Write(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context, departures: Departures) {
    let gone = departures.listen();
    let queue = WorkQueue::new(Pacing::default());
    let counter = Arc::new(Counter {
        quotas: context.informers.of(),
        pods: context.informers.of(),
        services: context.informers.of(),
        claims: context.informers.of(),
        served: Mutex::default(),
        took: std::sync::Mutex::default(),
        context: context.clone(),
    });
    let synced = counter.quotas.synced().await
        && counter.pods.synced().await
        && counter.services.synced().await
        && counter.claims.synced().await;
    if !synced {
        return;
    }
    let quotas = queue.clone();
    counter.quotas.subscribe(move |change| {
        let news = match change {
            Change::Added(_) => true,
            Change::Modified { old, new } => old.spec != new.spec,
            Change::Deleted(_) => false,
        };
        if news {
            quotas.add(ObjectKey::of(change.object()));
        }
    });
    counter.listen(&counter.pods, "pods", &queue);
    counter.listen(&counter.services, "services", &queue);
    counter.listen(&counter.claims, "persistentvolumeclaims", &queue);
    let hearing = {
        let (counter, queue) = (Arc::clone(&counter), queue.clone());
        async move { counter.hear(gone, &queue).await }
    };
    let shutdown = context.shutdown.clone();
    let hearing = shutdown.run_until_cancelled(hearing);
    tokio::join!(context.drive(counter, queue), hearing);
}

struct Counter {
    context: Context,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    /// What the API server serves, and when it said so.
    served: Mutex<Option<(Instant, Arc<Vec<Served>>)>>,
    /// How long it took to count each quota the last time.
    took: std::sync::Mutex<HashMap<ObjectKey, Duration>>,
}

/// The object as [`quota`] reads it.
fn object_of(object: &impl Serialize) -> Result<Object, CountError> {
    match serde_json::to_value(object).map_err(CountError::Read)? {
        Value::Object(object) => Ok(object),
        _ => Ok(Object::new()),
    }
}

/// What an object of the core group uses, by every name.
fn usage_of(plural: &str, object: &impl Serialize, now: Timestamp) -> Amounts {
    let Ok(object) = object_of(object) else {
        return Amounts::new();
    };
    let counted = Counted {
        group: "",
        plural,
        object: &object,
    };
    counted.usage(now)
}

impl Reconciler for Counter {
    /// The quota's name.
    type Key = ObjectKey;
    type Error = CountError;
    const NAME: &'static str = "resource-quota";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, CountError> {
        let Some(known) = self.quotas.store().get(key) else {
            self.took().remove(key);
            return Ok(Next::Wait);
        };
        if meta::is_terminating(&known.metadata) {
            return Ok(Next::Wait);
        }
        let quota = object_of(&*known)?;
        let start = Instant::now();
        let used = self.count(&key.namespace, &quota).await?;
        self.took().insert(key.clone(), start.elapsed());
        self.write(&known, used).await?;
        Ok(Next::After(RECOUNT))
    }
}

impl Counter {
    /// Counts again in the namespaces where something goes, or comes to use less than before.
    fn listen<K: Watched + Serialize>(
        self: &Arc<Self>,
        informer: &Informer<K>,
        plural: &'static str,
        queue: &WorkQueue<ObjectKey>,
    ) {
        let (counter, queue) = (Arc::clone(self), queue.clone());
        informer.subscribe(move |change| {
            let namespace = change.object().namespace().unwrap_or_default();
            let quotas = counter.quotas.store().in_namespace(&namespace, |_| true);
            if quotas.is_empty() {
                return;
            }
            let less = match change {
                Change::Added(_) => false,
                Change::Modified { old, new } => {
                    let now = counter.context.now();
                    usage_of(plural, &**old, now) != usage_of(plural, &**new, now)
                }
                Change::Deleted(_) => true,
            };
            for quota in quotas.iter().filter(|_| less) {
                let quota = ObjectKey::of(&**quota);
                let wait = counter.gather(&quota);
                queue.add_after(quota, wait);
            }
        });
    }

    /// How long to wait for more before the quota is counted again.
    fn gather(&self, quota: &ObjectKey) -> Duration {
        let took = self.took().get(quota).copied().unwrap_or_default();
        (took * REST).clamp(GATHER, LONGEST_GATHER)
    }

    fn took(&self) -> MutexGuard<'_, HashMap<ObjectKey, Duration>> {
        self.took.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts again where something goes that is not watched here.
    async fn hear(&self, mut gone: broadcast::Receiver<Departure>, queue: &WorkQueue<ObjectKey>) {
        loop {
            let concerned = match gone.recv().await {
                Ok(departure) => self.concerned(&departure),
                // Too many to hear of each.
                Err(RecvError::Lagged(_)) => self.quotas.store().all(),
                // The collector ended, so all do.
                Err(RecvError::Closed) => return std::future::pending().await,
            };
            for quota in concerned {
                let quota = ObjectKey::of(&*quota);
                let wait = self.gather(&quota);
                queue.add_after(quota, wait);
            }
        }
    }

    /// The quotas that count what went.
    fn concerned(&self, departure: &Departure) -> Vec<Arc<ResourceQuota>> {
        let (group, plural) = (&*departure.group, &*departure.plural);
        if group.is_empty() && WATCHED.contains(&plural) {
            return Vec::new();
        }
        let counts = |quota: &ResourceQuota| {
            let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
            let mut names = hard.into_iter().flat_map(BTreeMap::keys);
            names.any(|name| quota::counted_resource(name) == Some((plural, group)))
        };
        match &departure.namespace {
            Some(namespace) => self.quotas.store().in_namespace(namespace, counts),
            None => self.quotas.store().matching(counts),
        }
    }

    /// What is used of a quota: an amount for everything that it limits.
    async fn count(&self, namespace: &str, quota: &Object) -> Result<Amounts, CountError> {
        let now = self.context.now();
        let limits = quota::hard(quota);
        let zero = quantity::Quantity::ZERO;
        let mut used: Amounts = limits.keys().map(|name| (name.clone(), zero)).collect();
        add_all(&mut used, quota, "pods", &self.pods, namespace, now).await?;
        add_all(&mut used, quota, "services", &self.services, namespace, now).await?;
        add_all(
            &mut used,
            quota,
            "persistentvolumeclaims",
            &self.claims,
            namespace,
            now,
        )
        .await?;
        for name in limits.keys() {
            let Some((plural, group)) = quota::counted_resource(name) else {
                continue;
            };
            if group.is_empty() && WATCHED.contains(&plural) {
                continue;
            }
            let nothing = Object::new();
            let counted = Counted {
                group,
                plural,
                object: &nothing,
            };
            if counted.is_within(quota) {
                let count = self.objects(namespace, plural, group).await?;
                let count = quantity::Quantity::whole(count, Format::DecimalSi);
                used.insert(name.clone(), count);
            }
        }
        Ok(used)
    }

    /// How many objects of a resource there are; none of a resource that is not served.
    async fn objects(&self, namespace: &str, plural: &str, group: &str) -> Result<i64, CountError> {
        let resources = self.served().await?;
        let served = resources
            .iter()
            .find(|served| served.api.plural == plural && served.api.group == group);
        let Some(served) = served.filter(|served| served.namespaced) else {
            return Ok(0);
        };
        let api = served.metadata(&self.context.client, namespace);
        // Of a long list, the server tells how much is left.
        let mut params = ListParams::default().limit(1);
        let (mut count, mut pages) = (0, 0);
        loop {
            let page = api.list_metadata(&params).await;
            let page = page.map_err(|source| CountError::Count {
                resource: served.qualified_name(),
                source,
            })?;
            count += i64::try_from(page.items.len()).unwrap_or(i64::MAX);
            let token = page.metadata.continue_.filter(|token| !token.is_empty());
            match (token, page.metadata.remaining_item_count) {
                (None, _) => return Ok(count),
                (Some(_), Some(left)) => return Ok(count + left),
                (Some(token), None) => {
                    pages += 1;
                    let size = if pages == 1 { 1 } else { 500 };
                    params = ListParams::default().limit(size).continue_token(&token);
                }
            }
        }
    }

    /// What the API server serves; asked for as often as the garbage collector does.
    async fn served(&self) -> Result<Arc<Vec<Served>>, CountError> {
        let mut served = self.served.lock().await;
        if let Some((since, resources)) = &*served
            && since.elapsed() < self.context.options.discovery_interval
        {
            return Ok(resources.clone());
        }
        let survey = survey(&self.context.client).await;
        let resources = Arc::new(survey.map_err(CountError::Survey)?.resources);
        *served = Some((Instant::now(), resources.clone()));
        Ok(resources)
    }

    /// Writes a count, unless it is there already. What admission has counted meanwhile makes this a conflict, and the next
    /// count knows of it.
    async fn write(&self, known: &ResourceQuota, used: Amounts) -> Result<(), CountError> {
        let hard = known
            .spec
            .as_ref()
            .and_then(|ResourceQuotaSpec { hard, .. }| hard.clone());
        let used = used
            .into_iter()
            .map(|(name, amount)| (name, Quantity(amount.to_string())))
            .collect();
        let status = Some(ResourceQuotaStatus {
            hard: hard.filter(|hard| !hard.is_empty()),
            used: Some(used).filter(|used: &std::collections::BTreeMap<_, _>| !used.is_empty()),
        });
        if known.status.clone().unwrap_or_default() == status.clone().unwrap_or_default() {
            return Ok(());
        }
        let quota = ResourceQuota {
            status,
            ..known.clone()
        };
        let namespace = known.namespace().unwrap_or_default();
        let api = Api::<ResourceQuota>::namespaced(self.context.client.clone(), &namespace);
        let (name, params) = (known.name_any(), PostParams::default());
        match api.replace_status(&name, &params, &quota).await {
            Err(error) if !meta::is_not_found(&error) => Err(CountError::Write(error)),
            _ => Ok(()),
        }
    }
}

/// Adds what all objects of a watched kind use.
async fn add_all<K: Watched + Serialize>(
    used: &mut Amounts,
    quota: &Object,
    plural: &str,
    informer: &Informer<K>,
    namespace: &str,
    now: Timestamp,
) -> Result<(), CountError> {
    let all = informer.store().in_namespace(namespace, |_| true);
    for (number, object) in all.iter().enumerate() {
        if number % AT_ONCE == AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
        let object = object_of(&**object)?;
        let counted = Counted {
            group: "",
            plural,
            object: &object,
        };
        for (name, amount) in counted.usage_of(quota, now) {
            quota::add(used, &name, amount);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use vaquita_reconcile::{Options, testing::api::FakeApi};

    const QUOTAS: &str = "api/v1/resourcequotas";
    const PODS: &str = "api/v1/pods";

    fn start(api: &FakeApi) {
        let context = Context::new(api.client(), Options::default(), CancellationToken::new());
        let departures = Departures::default();
        tokio::spawn(crate::collector::run(context.clone(), departures.clone()));
        tokio::spawn(run(context, departures));
    }

    fn pod(name: &str, cpu: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        })
    }

    fn quota(hard: &Value) -> Value {
        json!({"metadata": {"name": "q", "namespace": "shop"}, "spec": {"hard": hard}})
    }

    fn used(api: &FakeApi) -> Value {
        let mut quota = api.object(QUOTAS, "shop", "q").unwrap();
        quota["status"]["used"].take()
    }

    #[tokio::test(start_paused = true)]
    async fn counts_first_and_whenever_something_goes() {
        let api = FakeApi::new();
        let hard = json!({"pods": "5", "requests.cpu": "2", "services": "1"});
        api.put(QUOTAS, &quota(&hard));
        api.put(PODS, &pod("a", "500m"));
        api.put(PODS, &pod("b", "1"));
        let elsewhere = json!({"metadata": {"name": "c", "namespace": "other"}});
        api.put(PODS, &elsewhere);
        start(&api);
        let counted = |wanted: Value| move |api: &FakeApi| used(api) == wanted;
        let both = json!({"pods": "2", "requests.cpu": "1500m", "services": "0"});
        api.until("the first count", counted(both)).await;
        let status = api.object(QUOTAS, "shop", "q").unwrap()["status"]["hard"].take();
        assert_eq!(status, hard);
        api.remove(PODS, "shop", "a");
        let one = json!({"pods": "1", "requests.cpu": "1", "services": "0"});
        api.until("one pod less", counted(one)).await;
        api.edit(PODS, "shop", "b", |pod| {
            pod["status"] = json!({"phase": "Succeeded"});
        });
        let none = json!({"pods": "0", "requests.cpu": "0", "services": "0"});
        api.until("a pod that has ended", counted(none)).await;
        api.edit(QUOTAS, "shop", "q", |quota| {
            quota["spec"]["hard"] = json!({"count/pods": "3"});
        });
        api.until("a quota that changed", counted(json!({"count/pods": "1"})))
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn counts_kinds_that_it_does_not_watch() {
        let api = FakeApi::new();
        api.put(
            QUOTAS,
            &quota(&json!({"count/configmaps": "5", "count/stars.example.com": "1"})),
        );
        for name in ["a", "b", "c"] {
            let map = json!({"metadata": {"name": name, "namespace": "shop"}});
            api.put("api/v1/configmaps", &map);
        }
        start(&api);
        let counted = |count: &str| {
            let wanted = json!({"count/configmaps": count, "count/stars.example.com": "0"});
            move |api: &FakeApi| used(api) == wanted
        };
        api.until("three maps", counted("3")).await;
        let before = Instant::now();
        api.remove("api/v1/configmaps", "shop", "b");
        api.until("two maps", counted("2")).await;
        assert_eq!(before.elapsed(), GATHER);
    }
}
