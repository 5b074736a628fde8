//! `ResourceQuota`: a write that would use more than its namespace may is refused; what is admitted is counted at once.
//!
//! Counting is a write of its own, to the status of every quota concerned, before the object is stored: two writes that
//! race for the last place can't both have it. Should the object then not be stored after all, the quota controller counts
//! again.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use vaquita_api::quantity::Quantity;
use vaquita_api::quota::{self, Amounts, Counted};
use vaquita_api::registry::Storage;
use vaquita_api::status::Status;
use vaquita_api::{Object, meta};

use crate::{Cluster, Operation, Plugin, Request};

/// How often a write is tried again because others changed the quota meanwhile. Each failure is somebody else's success, so
/// that this many writes must have come in between.
const ATTEMPTS: usize = 64;

pub(crate) struct ResourceQuota;

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let resource = request.resource;
        if request.namespace.is_empty() || resource.plural == "events" {
            return false;
        }
        let in_core = |plurals: &[&str]| {
            resource.group.is_empty() && plurals.contains(&resource.plural.as_str())
        };
        match (request.operation, request.subresource) {
            // What is answered and forgotten uses nothing.
            (Operation::Create, "") => !matches!(resource.storage, Storage::Nowhere),
            // What may come to use more once it is there.
            (Operation::Update, "") => in_core(&["persistentvolumeclaims", "services"]),
            (Operation::Update, "resize") => in_core(&["pods"]),
            _ => false,
        }
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &dyn Cluster,
    ) -> Result<(), Status> {
        let quotas = cluster.list("", "resourcequotas", request.namespace);
        for quota in quotas {
            charge(request, cluster, quota).await?;
        }
        Ok(())
    }
}

/// Counts the request against one quota, as often as it takes.
async fn charge(
    request: &Request<'_>,
    cluster: &dyn Cluster,
    quota: Arc<Object>,
) -> Result<(), Status> {
    let name = meta::name(&quota).to_owned();
    let mut quota = quota;
    for _ in 0..ATTEMPTS {
        let now = Timestamp::now();
        let Some(charged) = charged(request, &quota, now)? else {
            return Ok(());
        };
        if request.dry_run
            || cluster
                .replace_status("", "resourcequotas", charged)
                .await?
        {
            return Ok(());
        }
        match cluster.get("", "resourcequotas", request.namespace, &name) {
            Some(fresh) => quota = fresh,
            // Nobody is bound by a quota that is gone.
            None => return Ok(()),
        }
    }
    Err(Status::stale("", "resourcequotas", &name))
}

/// The quota with the request counted; `None` if the request uses nothing more of it.
fn charged(
    request: &Request<'_>,
    quota: &Object,
    now: Timestamp,
) -> Result<Option<Object>, Status> {
    let Some(object) = request.object.as_deref() else {
        return Ok(None);
    };
    let count = |object| Counted {
        group: &request.resource.group,
        plural: &request.resource.plural,
        object,
    };
    let enforced = quota::enforced(quota);
    let mut wanted = count(object).usage_of(quota, now);
    wanted.retain(|name, _| enforced.contains_key(name));
    if request.operation == Operation::Create {
        demand_details(request, quota, &enforced, &wanted)?;
    }
    if let Some(old) = request.old {
        let before = count(old).usage_of(quota, now);
        for (name, amount) in &mut wanted {
            *amount = *amount - before.get(name).copied().unwrap_or(Quantity::ZERO);
        }
    }
    wanted.retain(|_, amount| !amount.is_zero() && !amount.is_negative());
    if wanted.is_empty() {
        return Ok(None);
    }
    let mut used = quota::used(quota);
    demand_counts(request, quota, &wanted, &used)?;
    for (name, amount) in &wanted {
        quota::add(&mut used, name, *amount);
    }
    let over = |name: &&String| used.get(*name) > enforced.get(*name);
    let exceeded: BTreeSet<&str> = wanted.keys().filter(over).map(String::as_str).collect();
    if !exceeded.is_empty() {
        let before = quota::used(quota);
        return Err(request.forbidden(format_args!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            meta::name(quota),
            shown(&wanted, &exceeded),
            shown(&before, &exceeded),
            shown(&enforced, &exceeded),
        )));
    }
    let mut charged = quota.clone();
    let status = meta::object_mut(&mut charged, "status");
    status.insert("used".to_owned(), quota::to_value(&used));
    Ok(Some(charged))
}

/// Where CPU or memory is limited, nobody may leave open how much of it they take.
fn demand_details(
    request: &Request<'_>,
    quota: &Object,
    enforced: &Amounts,
    wanted: &Amounts,
) -> Result<(), Status> {
    let Some(pod) = request.object.as_deref().filter(|_| request.creates_pod()) else {
        return Ok(());
    };
    // A pod that is not within the quota's scopes uses nothing of it, and one that is, is at least one pod.
    let counted = Counted {
        group: "",
        plural: "pods",
        object: pod,
    };
    if wanted.is_empty() && !counted.is_within(quota) {
        return Ok(());
    }
    let missing = quota::must_specify(pod, enforced.keys().map(String::as_str));
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = missing
        .into_iter()
        .map(|(name, containers)| {
            let containers: Vec<String> = containers.into_iter().collect();
            format!("{name} for: {}", containers.join(","))
        })
        .collect();
    Err(request.forbidden(format_args!(
        "failed quota: {}: must specify {}",
        meta::name(quota),
        list.join("; ")
    )))
}

/// A quota whose use has not been counted yet lets nothing pass.
fn demand_counts(
    request: &Request<'_>,
    quota: &Object,
    wanted: &Amounts,
    used: &Amounts,
) -> Result<(), Status> {
    let uncounted: Vec<&str> = wanted
        .keys()
        .filter(|name| !used.contains_key(*name))
        .map(String::as_str)
        .collect();
    if uncounted.is_empty() {
        return Ok(());
    }
    Err(request.forbidden(format_args!(
        "status unknown for quota: {}, resources: {}",
        meta::name(quota),
        uncounted.join(",")
    )))
}

/// `pods=1,requests.cpu=500m`
fn shown(amounts: &Amounts, names: &BTreeSet<&str>) -> String {
    let pairs: Vec<String> = names
        .iter()
        .map(|name| {
            let amount = amounts.get(*name).copied().unwrap_or(Quantity::ZERO);
            format!("{name}={amount}")
        })
        .collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Fixture, World};

    fn world(spec: &Value, status: &Value) -> World {
        let quota = json!({
            "metadata": {"name": "q", "namespace": "ns", "resourceVersion": "1"}, "spec": spec, "status": status,
        });
        World::default().with("", "resourcequotas", quota)
    }

    fn pod(resources: &Value) -> Fixture {
        Fixture::pod(json!({
            "metadata": {"name": "web"},
            "spec": {"containers": [{"name": "c", "image": "x", "resources": resources}]},
        }))
    }

    async fn answer(fixture: Fixture, world: &World) -> String {
        match fixture.validate(&ResourceQuota, world).await {
            Ok(()) => String::new(),
            Err(status) => status.message().to_owned(),
        }
    }

    #[tokio::test]
    async fn refuses_what_is_too_much_and_counts_the_rest() {
        let hard = json!({"pods": "2", "requests.cpu": "1"});
        let world = world(
            &json!({"hard": hard}),
            &json!({"hard": hard, "used": {"pods": "1", "requests.cpu": "600m"}}),
        );
        let asks = |cpu: &str| pod(&json!({"requests": {"cpu": cpu}}));
        assert_eq!(
            answer(asks("500m"), &world).await,
            "pods \"web\" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, \
             limited: requests.cpu=1"
        );
        assert_eq!(
            answer(pod(&json!({})), &world).await,
            "pods \"web\" is forbidden: failed quota: q: must specify requests.cpu for: c"
        );
        assert_eq!(world.replaced(), [Value::Null; 0]);
        assert_eq!(answer(asks("400m"), &world).await, "");
        assert_eq!(
            world.replaced()[0]["status"]["used"],
            json!({"pods": "2", "requests.cpu": "1"})
        );
    }

    #[tokio::test]
    async fn waits_for_the_first_count() {
        let hard = json!({"count/configmaps": "1"});
        let map = || Fixture::creation("", "configmaps", json!({"metadata": {"name": "settings"}}));
        let new = world(&json!({"hard": hard}), &json!({}));
        assert_eq!(answer(map(), &new).await, "");
        let uncounted = world(&json!({"hard": hard}), &json!({"hard": hard}));
        assert_eq!(
            answer(map(), &uncounted).await,
            "configmaps \"settings\" is forbidden: status unknown for quota: q, resources: count/configmaps"
        );
        let full = json!({"hard": hard, "used": hard});
        assert_eq!(
            answer(map(), &world(&json!({"hard": hard}), &full)).await,
            "configmaps \"settings\" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: \
             count/configmaps=1, limited: count/configmaps=1"
        );
    }

    #[tokio::test]
    async fn scopes_leave_others_alone() {
        let hard = json!({"pods": "0", "limits.memory": "0"});
        let quota = |scope: &str| {
            let used = json!({"pods": "0", "limits.memory": "0"});
            world(
                &json!({"hard": hard, "scopes": [scope]}),
                &json!({"hard": hard, "used": used}),
            )
        };
        assert_eq!(answer(pod(&json!({})), &quota("NotBestEffort")).await, "");
        assert_ne!(answer(pod(&json!({})), &quota("BestEffort")).await, "");
        assert_eq!(answer(pod(&json!({})), &World::default()).await, "");
    }

    #[tokio::test]
    async fn tries_again_after_others_and_gives_up_in_the_end() {
        let hard = json!({"pods": "5"});
        let status = json!({"hard": hard, "used": {"pods": "0"}});
        let busy = world(&json!({"hard": hard}), &status).stale(3);
        assert_eq!(answer(pod(&json!({})), &busy).await, "");
        assert_eq!(busy.replaced().len(), 4);
        let busier = world(&json!({"hard": hard}), &status).stale(usize::MAX);
        assert!(
            answer(pod(&json!({})), &busier)
                .await
                .contains("please apply your changes")
        );
    }

    #[tokio::test]
    async fn a_rehearsal_leaves_no_trace() {
        let hard = json!({"pods": "5"});
        let world = world(
            &json!({"hard": hard}),
            &json!({"hard": hard, "used": {"pods": "0"}}),
        );
        assert_eq!(answer(pod(&json!({})).rehearsed(), &world).await, "");
        assert_eq!(world.replaced(), [Value::Null; 0]);
    }
}
