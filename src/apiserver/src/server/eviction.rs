//! `pods/eviction`: a deletion that asks first whether the pod's application can spare it.
//!
//! A pod that has ended, or has not begun, is simply deleted. For any other, the one `PodDisruptionBudget` that matches it
//! has to allow a disruption: it is counted down, and the pod noted in it, before the pod is deleted, so that two who
//! drain two nodes at once cannot both spend the last one. The controller of the budgets counts up again.

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions},
};
use serde_json::{Value, json};
use vaquita_api::{Object, body, meta, selector::LabelSelector, status::Status};

use super::{
    answer::{self, Answer},
    call::Call,
    delete::{Deletion, delete_admitted},
    pod::created,
    update::modify_at,
    write::ATTEMPTS,
};
use crate::query::Writing;

/// Pods that a budget may remember as about to go; more means that nobody counts.
const MAX_DISRUPTED: usize = 2000;
/// After how many seconds to ask again when a budget has not been looked at yet.
const RETRY_SECONDS: u32 = 10;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// The reason of the cause in a refusal, by which clients know that waiting helps.
const CAUSE: &str = "DisruptionBudget";

/// Deletes a pod on behalf of whoever drains its node.
pub(crate) async fn evict(call: &mut Call<'_>) -> Answer {
    let write = call.write_options(Writing::Create)?;
    let parsed = call.parse_body_as(|bytes| body::EVICTION.parse_protobuf(bytes));
    let (eviction, _) = body::EVICTION.decode(parsed.await?.value)?;
    let name = eviction.metadata.name.as_deref().unwrap_or_default();
    if !name.is_empty() && name != call.name() {
        return Err(Status::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let mut options = eviction.delete_options.unwrap_or_default();
    if write.dry_run {
        options.dry_run = Some(vec!["All".to_owned()]);
    }
    let eviction = Eviction {
        dry_run: Deletion::new(options.clone())?.dry_run,
        options,
    };
    let Some(pod) = eviction.unguarded(call).await? else {
        return Ok(created(call));
    };
    let budgets = budgets(call, &pod)?;
    let budget = match budgets.as_slice() {
        [] => None,
        [budget] => Some(budget),
        _ => return Ok(too_many_budgets(call)),
    };
    let guarded = match budget {
        Some(budget) => eviction.spend(call, &pod, budget).await?,
        None => Guard::Spent,
    };
    eviction.delete(call, &pod, guarded, budget).await?;
    Ok(created(call))
}

/// Why a pod may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// There is no budget, or it allowed it.
    Spent,
    /// The pod is of no use to its application as it is: it may go as long as that is so.
    Unhealthy,
}

struct Eviction {
    options: DeleteOptions,
    dry_run: bool,
}

impl Eviction {
    /// The version of the pod that the client insists on.
    fn version(&self) -> Option<&str> {
        self.options
            .preconditions
            .as_ref()?
            .resource_version
            .as_deref()
    }

    /// The deletion of exactly this version, or, without one, as the client has it.
    fn deletion(&self, version: Option<&str>) -> Result<Deletion, Status> {
        let mut options = self.options.clone();
        if let Some(version) = version {
            let preconditions = options
                .preconditions
                .get_or_insert_with(Preconditions::default);
            preconditions.resource_version = Some(version.to_owned());
        }
        Deletion::new(options)
    }

    /// Deletes a pod that no budget guards. `Some(pod)` if this one is guarded.
    async fn unguarded(&self, call: &Call<'_>) -> Result<Option<Object>, Status> {
        let mut attempts = ATTEMPTS;
        loop {
            let entry = call.entry()?;
            let pod = entry.value().map_err(Status::internal)?;
            let phase = phase(&pod);
            let ended =
                matches!(phase, "Succeeded" | "Failed") || meta::deletion_timestamp(&pod).is_some();
            if !ended && phase != "Pending" {
                return Ok(Some(pod));
            }
            // One that has not begun may begin at any moment.
            let enforced = !ended && self.version().is_none();
            let version = enforced.then(|| meta::resource_version(&pod).to_owned());
            let deletion = self.deletion(version.as_deref())?;
            attempts -= 1;
            match delete_admitted(call, entry, &deletion).await {
                Err(status) if enforced && status.code() == 409 && attempts > 0 => {}
                Err(status) => return Err(status),
                Ok(_) => return Ok(None),
            }
        }
    }

    /// Takes one of the disruptions that `budget` allows, if the pod needs one.
    async fn spend(
        &self,
        call: &Call<'_>,
        pod: &Object,
        budget: &PodDisruptionBudget,
    ) -> Result<Guard, Status> {
        if !is_ready(pod) && lets_unhealthy_go(budget) {
            return Ok(Guard::Unhealthy);
        }
        let server = call.server;
        let served = server.served("policy", "v1", "poddisruptionbudgets");
        let served = served.ok_or_else(Status::no_such_path)?;
        let name = budget.metadata.name.as_deref().unwrap_or_default();
        let key = served.collection.key(call.info.namespace.as_deref(), name);
        let now = Timestamp::now();
        let spent = modify_at(server, &served, &key, name, self.dry_run, |object| {
            let budget = typed(object)?;
            check(&budget)?;
            take(object, &budget, call.name(), now);
            Ok(())
        });
        spent.await.map_err(|status| match status.code() {
            409 => Status::timeout(
                format!("couldn't update PodDisruptionBudget {name:?} due to conflicts"),
                RETRY_SECONDS,
            ),
            _ => status,
        })?;
        Ok(Guard::Spent)
    }

    /// Notes in the pod why it goes, and deletes it.
    async fn delete(
        &self,
        call: &Call<'_>,
        pod: &Object,
        guard: Guard,
        budget: Option<&PodDisruptionBudget>,
    ) -> Result<(), Status> {
        let seen = match guard {
            Guard::Unhealthy => Some(meta::resource_version(pod)),
            Guard::Spent => None,
        };
        // What the client insists on goes before what we saw.
        let insisted = self.version();
        let result = self.mark_and_delete(call, insisted.or(seen)).await;
        match (result, budget) {
            (Err(status), Some(budget))
                if status.code() == 409 && seen.is_some() && insisted.is_none() =>
            {
                Err(unprocessed(budget))
            }
            (result, _) => result,
        }
    }

    async fn mark_and_delete(&self, call: &Call<'_>, version: Option<&str>) -> Result<(), Status> {
        let now = Timestamp::now();
        let (server, served, key) = (call.server, call.served, call.key());
        let marked = modify_at(server, served, &key, call.name(), self.dry_run, |pod| {
            if version.is_some_and(|version| version != meta::resource_version(pod)) {
                return Err(call.stale());
            }
            mark(pod, now);
            Ok(())
        });
        let entry = marked.await?;
        let version = version.map(|_| entry.revision.to_string());
        let deletion = self.deletion(version.as_deref())?;
        delete_admitted(call, call.entry()?, &deletion).await?;
        Ok(())
    }
}

fn phase(pod: &Object) -> &str {
    let phase = meta::at(pod, &["status", "phase"]);
    phase.and_then(Value::as_str).unwrap_or_default()
}

fn is_ready(pod: &Object) -> bool {
    let conditions = meta::at(pod, &["status", "conditions"]).and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn typed(budget: &Object) -> Result<PodDisruptionBudget, Status> {
    serde_json::from_value(Value::Object(budget.clone())).map_err(Status::internal)
}

/// The budgets whose selectors match the pod.
fn budgets(call: &Call<'_>, pod: &Object) -> Result<Vec<PodDisruptionBudget>, Status> {
    let labels = meta::labels(pod);
    let served = call.server.served("policy", "v1", "poddisruptionbudgets");
    let Some(served) = served.filter(|_| !labels.is_empty()) else {
        return Ok(Vec::new());
    };
    let scope = served.collection.scope(call.info.namespace.as_deref());
    let mut budgets = Vec::new();
    for entry in served.collection.snapshot().range(&scope, None) {
        let budget = typed(&*entry.parsed().map_err(Status::internal)?)?;
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        // A selector that makes no sense selects nothing; validation lets none in.
        if LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches(&labels)) {
            budgets.push(budget);
        }
    }
    Ok(budgets)
}

fn too_many_budgets(call: &Call<'_>) -> Response {
    let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "code": 500,
    });
    answer::value(
        StatusCode::INTERNAL_SERVER_ERROR,
        &status,
        call.accepted.encoding,
    )
}

/// Whether a pod that is not ready may go without being counted.
fn lets_unhealthy_go(budget: &PodDisruptionBudget) -> bool {
    let policy = budget
        .spec
        .as_ref()
        .and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
    let status = budget.status.clone().unwrap_or_default();
    let (needs, has) = healthy(&status);
    policy == Some("AlwaysAllow") || has >= needs && needs > 0
}

/// How many healthy pods a budget needs, and how many it has.
fn healthy(status: &PodDisruptionBudgetStatus) -> (i32, i32) {
    let (needs, has) = (status.desired_healthy, status.current_healthy);
    (needs.unwrap_or(0), has.unwrap_or(0))
}

/// Refuses if the budget allows no disruption now.
fn check(budget: &PodDisruptionBudget) -> Result<(), Status> {
    let name = budget.metadata.name.as_deref().unwrap_or_default();
    let status = budget.status.clone().unwrap_or_default();
    if status.observed_generation.unwrap_or(0) < budget.metadata.generation.unwrap_or(0) {
        return Err(unprocessed(budget));
    }
    let forbidden = |why| Status::forbidden("policy", "poddisruptionbudget", name, why);
    let allowed = status.disruptions_allowed.unwrap_or(0);
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    if status
        .disrupted_pods
        .as_ref()
        .is_some_and(|pods| pods.len() > MAX_DISRUPTED)
    {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(forbidden(why));
    }
    if allowed > 0 {
        return Ok(());
    }
    let (needs, has) = healthy(&status);
    let failed = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "DisruptionAllowed" && condition.reason == "SyncFailed"
    });
    let why = match failed {
        _ if has <= needs => {
            format!(
                "The disruption budget {name} needs {needs} healthy pods and has {has} currently"
            )
        }
        Some(condition) => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
            condition.message
        ),
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    };
    Err(Status::too_many_requests(REFUSED, 0).with_cause(CAUSE, &why, ""))
}

/// The controller has not looked at the budget as it is now.
fn unprocessed(budget: &PodDisruptionBudget) -> Status {
    let name = budget.metadata.name.as_deref().unwrap_or_default();
    let why = format!("The disruption budget {name} is still being processed by the server.");
    Status::too_many_requests(REFUSED, RETRY_SECONDS).with_cause(CAUSE, &why, "")
}

/// Counts one disruption down in `object`, which is `budget`, for the pod named `pod`.
fn take(object: &mut Object, budget: &PodDisruptionBudget, pod: &str, now: Timestamp) {
    let status = budget.status.clone().unwrap_or_default();
    let left = status.disruptions_allowed.unwrap_or(0) - 1;
    let new = meta::object_mut(object, "status");
    new.insert("disruptionsAllowed".to_owned(), left.into());
    meta::object_mut(new, "disruptedPods").insert(pod.to_owned(), meta::time(now).into());
    if left == 0 {
        let condition = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": status.observed_generation.unwrap_or(0),
        });
        set_condition(new, condition, now);
    }
}

/// Says in the pod's status why it goes.
fn mark(pod: &mut Object, now: Timestamp) {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    });
    set_condition(meta::object_mut(pod, "status"), condition, now);
}

/// Puts a condition in the place of the one of its type. The time of the transition stays if there is none.
fn set_condition(status: &mut Object, mut condition: Value, now: Timestamp) {
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else {
        return;
    };
    condition["lastTransitionTime"] = meta::time(now).into();
    let same = conditions
        .iter_mut()
        .find(|own| own["type"] == condition["type"]);
    match same {
        Some(own) => {
            if own["status"] == condition["status"] {
                condition["lastTransitionTime"] = own["lastTransitionTime"].clone();
            }
            *own = condition;
        }
        None => conditions.push(condition),
    }
}
