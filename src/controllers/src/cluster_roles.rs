//! Cluster roles that are the sum of others: whatever carries the right labels adds its rules.

use std::{collections::HashSet, sync::Arc};

use k8s_openapi::{
    api::rbac::v1::{ClusterRole, PolicyRule},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use vaquita_api::selector::LabelSelector as Selector;

use vaquita_reconcile::{
    Context, ObjectKey,
    drive::{Next, Reconciler},
    informer::Informer,
    queue::{Pacing, WorkQueue},
};

/// Why a role could not be added up.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The rules could not be written.
    #[error("writing the rules of the cluster role")]
    Write(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let queue = WorkQueue::new(Pacing::default());
    let controller = Arc::new(Controller {
        roles: context.informers.of(),
        context: context.clone(),
    });
    if !controller.roles.synced().await {
        return;
    }
    let (names, roles) = (queue.clone(), controller.roles.clone());
    controller.roles.subscribe(move |_| {
        // Any role may be part of any sum, by labels that it has or no longer has.
        for role in roles
            .store()
            .matching(|role| role.aggregation_rule.is_some())
        {
            names.add(role.name_any());
        }
    });
    context.drive(controller, queue).await;
}

struct Controller {
    context: Context,
    roles: Informer<ClusterRole>,
}

impl Reconciler for Controller {
    /// The role's name.
    type Key = String;
    type Error = SyncError;
    const NAME: &'static str = "cluster-roles";

    async fn reconcile(&self, name: &String) -> Result<Next, SyncError> {
        let Some(role) = self.roles.store().get(&ObjectKey::new("", name)) else {
            return Ok(Next::Wait);
        };
        let Some(aggregation) = &role.aggregation_rule else {
            return Ok(Next::Wait);
        };
        let selectors = aggregation.cluster_role_selectors.as_deref();
        let mut others = self.roles.store().all();
        others.retain(|other| other.name_any() != *name);
        others.sort_by_key(|other| other.name_any());
        let rules = sum(selectors.unwrap_or_default(), &others);
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Ok(Next::Wait);
        }
        let api = Api::<ClusterRole>::all(self.context.client.clone());
        let patch = Patch::Merge(json!({ "rules": rules }));
        match api.patch(name, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(Next::Wait),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Next::Wait),
            Err(error) => Err(SyncError::Write(error)),
        }
    }
}

/// The rules of all roles that one of the selectors matches, each rule once: in the order of the selectors, then of the
/// roles.
fn sum(selectors: &[LabelSelector], roles: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let mut seen = HashSet::new();
    let mut sum = Vec::new();
    for selector in selectors {
        // One that cannot be read was refused by the API server, and matches nothing here.
        let selector =
            Selector::from_object(Some(selector)).unwrap_or_else(|_| Selector::nothing());
        for role in roles {
            if !selector.matches(role.labels()) {
                continue;
            }
            for rule in role.rules.iter().flatten() {
                if seen.insert(json!(rule).to_string()) {
                    sum.push(rule.clone());
                }
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use vaquita_reconcile::{Options, testing::api::FakeApi};

    const ROLES: &str = "apis/rbac.authorization.k8s.io/v1/clusterroles";

    fn part(name: &str, label: &str, resource: &str) -> Value {
        json!({
            "metadata": { "name": name, "labels": { label: "true" } },
            "rules": [{ "apiGroups": [""], "resources": [resource], "verbs": ["get"] }],
        })
    }

    fn resources(api: &FakeApi) -> Vec<String> {
        let role = api.object(ROLES, "", "whole").unwrap();
        let rules = role["rules"].as_array().cloned().unwrap_or_default();
        rules
            .iter()
            .map(|rule| rule["resources"][0].as_str().unwrap().to_owned())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_is_the_sum_of_what_is_labelled_for_it() {
        let api = FakeApi::new();
        let selector = json!({ "matchLabels": { "to-whole": "true" } });
        api.put(
            ROLES,
            &json!({
                "metadata": { "name": "whole", "labels": { "to-whole": "true" } },
                "aggregationRule": { "clusterRoleSelectors": [selector] },
            }),
        );
        api.put(ROLES, &part("b", "to-whole", "pods"));
        api.put(ROLES, &part("a", "to-whole", "secrets"));
        api.put(ROLES, &part("c", "other", "nodes"));
        let context = Context::new(api.client(), Options::default(), CancellationToken::new());
        tokio::spawn(run(context));
        api.until("both parts", |api| resources(api) == ["secrets", "pods"])
            .await;
        api.put(ROLES, &part("d", "to-whole", "pods"));
        api.remove(ROLES, "", "a");
        api.until("one part", |api| resources(api) == ["pods"])
            .await;
        api.edit(ROLES, "", "c", |role| {
            role["metadata"]["labels"] = json!({ "to-whole": "true" });
        });
        api.until("a new part", |api| resources(api) == ["pods", "nodes"])
            .await;
    }
}
