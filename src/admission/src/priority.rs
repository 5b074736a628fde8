//! A pod's priority comes from its class.

use async_trait::async_trait;
use serde_json::Value;
use vaquita_api::status::Status;
use vaquita_api::{Object, meta};

use crate::{Cluster, Operation, Plugin, Request};

const GROUP: &str = "scheduling.k8s.io";
const PREEMPT: &str = "PreemptLowerPriority";

pub(crate) struct Priority;

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        request.creates_pod() || writes && request.is_about(GROUP, "priorityclasses")
    }

    async fn mutate(&self, request: &mut Request<'_>, cluster: &dyn Cluster) -> Result<(), Status> {
        if !request.creates_pod() {
            return Ok(());
        }
        let Some(pod) = request.object.as_deref() else {
            return Ok(());
        };
        let spec = |field| meta::at(pod, &["spec", field]);
        let wanted = spec("priorityClassName")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let class = if wanted.is_empty() {
            default_class(cluster)
        } else {
            let Some(found) = cluster.get(GROUP, "priorityclasses", "", wanted) else {
                return Err(request.forbidden(format_args!(
                    "no PriorityClass with name {wanted} was found"
                )));
            };
            Some(found)
        };
        let (name, priority, policy) = match &class {
            Some(class) => (
                meta::name(class),
                class.get("value").and_then(Value::as_i64).unwrap_or(0),
                class
                    .get("preemptionPolicy")
                    .and_then(Value::as_str)
                    .unwrap_or(PREEMPT),
            ),
            None => ("", 0, PREEMPT),
        };
        if let Some(given) = spec("priority").and_then(Value::as_i64)
            && given != priority
        {
            return Err(request.forbidden(format_args!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
            )));
        }
        if let Some(given) = spec("preemptionPolicy").and_then(Value::as_str)
            && given != policy
        {
            return Err(request.forbidden(format_args!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            )));
        }
        let (name, policy) = (name.to_owned(), policy.to_owned());
        if let Some(pod) = request.object.as_deref_mut() {
            let spec = meta::object_mut(pod, "spec");
            if !name.is_empty() {
                spec.insert("priorityClassName".to_owned(), name.into());
            }
            spec.insert("priority".to_owned(), priority.into());
            spec.insert("preemptionPolicy".to_owned(), policy.into());
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &dyn Cluster,
    ) -> Result<(), Status> {
        if !request.is_about(GROUP, "priorityclasses") {
            return Ok(());
        }
        let Some(class) = request.object.as_deref() else {
            return Ok(());
        };
        if !is_default(class) {
            return Ok(());
        }
        let other = cluster
            .list(GROUP, "priorityclasses", "")
            .into_iter()
            .find(|other| is_default(other) && meta::name(other) != meta::name(class));
        match other {
            Some(other) => Err(request.forbidden(format_args!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                meta::name(&other)
            ))),
            None => Ok(()),
        }
    }
}

fn is_default(class: &Object) -> bool {
    class
        .get("globalDefault")
        .and_then(Value::as_bool)
        .unwrap_or(false)
}

/// Of several defaults (a race made them) the lowest counts.
fn default_class(cluster: &dyn Cluster) -> Option<std::sync::Arc<Object>> {
    let defaults = cluster
        .list(GROUP, "priorityclasses", "")
        .into_iter()
        .filter(|class| is_default(class));
    defaults.min_by_key(|class| class.get("value").and_then(Value::as_i64))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Fixture, World};

    fn world() -> World {
        World::default()
            .with(
                GROUP,
                "priorityclasses",
                json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"}),
            )
            .with(
                GROUP,
                "priorityclasses",
                json!({"metadata": {"name": "usual"}, "value": 10, "globalDefault": true}),
            )
    }

    async fn spec(spec: Value) -> Result<Value, String> {
        let mut pod = Fixture::pod(json!({"metadata": {"name": "web"}, "spec": spec}));
        match pod.mutate(&Priority, &world()).await {
            Ok(()) => Ok(pod.object()["spec"].clone()),
            Err(status) => Err(status.message().to_owned()),
        }
    }

    #[tokio::test]
    async fn the_class_says_the_priority() {
        assert_eq!(
            spec(json!({"priorityClassName": "high"})).await.unwrap(),
            json!({"priorityClassName": "high", "priority": 1000, "preemptionPolicy": "Never"})
        );
        assert_eq!(
            spec(json!({})).await.unwrap(),
            json!({"priorityClassName": "usual", "priority": 10, "preemptionPolicy": PREEMPT})
        );
        assert_eq!(
            spec(json!({"priorityClassName": "none"}))
                .await
                .unwrap_err(),
            "pods \"web\" is forbidden: no PriorityClass with name none was found"
        );
        assert!(spec(json!({"priority": 7})).await.is_err());
        assert!(spec(json!({"priority": 10})).await.is_ok());
    }
}
