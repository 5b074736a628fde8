//! Pods stay for five minutes on a node that has stopped answering, unless they say otherwise.

use async_trait::async_trait;
use serde_json::{Value, json};
use vaquita_api::meta;
use vaquita_api::status::Status;

use crate::{Cluster, Operation, Plugin, Request};

/// What a node is tainted with that is gone or unwell.
const TAINTS: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];
const SECONDS: i64 = 300;

pub(crate) struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        writes && request.is_about("", "pods")
    }

    async fn mutate(
        &self,
        request: &mut Request<'_>,
        _cluster: &dyn Cluster,
    ) -> Result<(), Status> {
        let Some(pod) = request.object.as_deref_mut() else {
            return Ok(());
        };
        let spec = meta::object_mut(pod, "spec");
        let given = spec
            .get("tolerations")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let missing = TAINTS
            .iter()
            .filter(|taint| !given.iter().any(|toleration| tolerates(toleration, taint)));
        let added: Vec<Value> = missing
            .map(|taint| {
                json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS})
            })
            .collect();
        if !added.is_empty() {
            let all: Vec<Value> = given.into_iter().chain(added).collect();
            spec.insert("tolerations".to_owned(), all.into());
        }
        Ok(())
    }
}

/// Whether a toleration says anything about being evicted for `taint`.
fn tolerates(toleration: &Value, taint: &str) -> bool {
    let text = |field: &str| toleration[field].as_str().unwrap_or_default();
    let (key, effect) = (text("key"), text("effect"));
    (key.is_empty() || key == taint) && (effect.is_empty() || effect == "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixture, World};

    async fn tolerations(given: Value) -> Vec<Value> {
        let mut pod =
            Fixture::pod(json!({"metadata": {"name": "web"}, "spec": {"tolerations": given}}));
        pod.mutate(&DefaultTolerationSeconds, &World::default())
            .await
            .unwrap();
        pod.object()["spec"]["tolerations"]
            .as_array()
            .unwrap()
            .clone()
    }

    #[tokio::test]
    async fn adds_what_is_not_said() {
        let added = tolerations(json!([])).await;
        assert_eq!(added.len(), 2);
        assert_eq!(
            added[0],
            json!({"key": TAINTS[0], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
        );
        assert_eq!(tolerations(json!([{"operator": "Exists"}])).await.len(), 1);
        let one = json!([{"key": TAINTS[1], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]);
        assert_eq!(tolerations(one).await.len(), 2);
        assert_eq!(
            tolerations(json!([{"key": TAINTS[1], "effect": "NoSchedule"}]))
                .await
                .len(),
            3
        );
    }
}
