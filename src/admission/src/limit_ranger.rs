//! `LimitRanger`: containers that say nothing get what their namespace's limit ranges give them, and what asks for too much
//! or too little is refused.

mod bounds;

use async_trait::async_trait;
use serde_json::Value;
use vaquita_api::quota::Amounts;
use vaquita_api::status::Status;
use vaquita_api::{Object, meta, quota};

use crate::{Cluster, Operation, Plugin, Request};

/// Where a pod says what was given to it.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(crate) struct LimitRanger;

/// The two sides of a container's resources: the field, the item's field of its defaults, and the word in the annotation.
const SIDES: [(&str, &str, &str); 2] = [
    ("requests", "defaultRequest", "request"),
    ("limits", "default", "limit"),
];

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        request.creates_pod() || writes && request.is_about("", "persistentvolumeclaims")
    }

    async fn mutate(&self, request: &mut Request<'_>, cluster: &dyn Cluster) -> Result<(), Status> {
        if !request.creates_pod() {
            return Ok(());
        }
        let ranges = cluster.list("", "limitranges", request.namespace);
        if let Some(pod) = request.object.as_deref_mut() {
            let mut given = Vec::new();
            for range in &ranges {
                give_defaults(pod, range, &mut given);
            }
            if !given.is_empty() {
                let text = format!("LimitRanger plugin set: {}", given.join("; "));
                let annotations = meta::object_mut(meta::metadata_mut(pod), "annotations");
                annotations.insert(ANNOTATION.to_owned(), text.into());
            }
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &dyn Cluster,
    ) -> Result<(), Status> {
        let Some(object) = request.object.as_deref() else {
            return Ok(());
        };
        let mut problems = Vec::new();
        for range in cluster.list("", "limitranges", request.namespace) {
            for item in items(&range) {
                bounds::check(
                    object,
                    request.resource.plural == "pods",
                    item,
                    &mut problems,
                );
            }
            // One range's mistakes are enough to mend at a time.
            match problems.as_slice() {
                [] => {}
                [one] => return Err(request.forbidden(one)),
                many => return Err(request.forbidden(format_args!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

fn items(range: &Object) -> impl Iterator<Item = &Value> {
    let items = meta::at(range, &["spec", "limits"]).and_then(Value::as_array);
    items.into_iter().flatten()
}

fn amounts(value: &Value, field: &str) -> Amounts {
    let map = value.get(field).and_then(Value::as_object);
    map.into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.parse().ok()?)))
        .collect()
}

fn give_defaults(pod: &mut Object, range: &Object, given: &mut Vec<String>) {
    let defaults: Vec<(&str, &str, Amounts)> = SIDES
        .iter()
        .map(|(field, default, word)| {
            let containers = items(range).filter(|item| item["type"] == "Container");
            let all = containers.flat_map(|item| amounts(item, default)).collect();
            (*field, *word, all)
        })
        .collect();
    let spec = meta::object_mut(pod, "spec");
    for (list, title) in [
        ("containers", "container"),
        ("initContainers", "init container"),
    ] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Value::Object(container) = container else {
                continue;
            };
            let name = container.get("name").and_then(Value::as_str);
            let name = name.unwrap_or_default().to_owned();
            for (field, word, defaults) in &defaults {
                let added = fill(container, field, defaults);
                if !added.is_empty() {
                    given.push(format!("{} {word} for {title} {name}", added.join(", ")));
                }
            }
        }
    }
}

/// Adds what is missing on one side of a container's resources; gives the names of it.
fn fill(container: &mut Object, field: &str, defaults: &Amounts) -> Vec<String> {
    if defaults.is_empty() {
        return Vec::new();
    }
    let side = meta::object_mut(meta::object_mut(container, "resources"), field);
    let missing: Amounts = defaults
        .iter()
        .filter(|(name, _)| !side.contains_key(*name))
        .map(|(name, amount)| (name.clone(), *amount))
        .collect();
    if let Value::Object(missing) = quota::to_value(&missing) {
        side.extend(missing);
    }
    missing.into_keys().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Fixture, World};

    fn world(limits: &Value) -> World {
        World::default().with(
            "",
            "limitranges",
            json!({"metadata": {"name": "r", "namespace": "ns"}, "spec": {"limits": limits}}),
        )
    }

    fn pod(resources: &Value) -> Fixture {
        Fixture::pod(json!({
            "metadata": {"name": "web"},
            "spec": {"containers": [{"name": "c", "image": "x", "resources": resources}]},
        }))
    }

    async fn refused(limits: &Value, resources: &Value) -> String {
        match pod(resources).validate(&LimitRanger, &world(limits)).await {
            Ok(()) => String::new(),
            Err(status) => status.message().to_owned(),
        }
    }

    #[tokio::test]
    async fn the_silent_get_defaults() {
        let limits = json!([{
            "type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "500m"},
        }]);
        let mut pod = pod(&json!({"requests": {"memory": "1Mi"}, "limits": {"cpu": "2"}}));
        pod.mutate(&LimitRanger, &world(&limits)).await.unwrap();
        let pod = pod.object();
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "500m", "memory": "1Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; memory limit for container c"
        );
    }

    #[tokio::test]
    async fn another_namespaces_ranges_do_not_matter() {
        let limits = json!([{"type": "Container", "default": {"cpu": "1"}, "max": {"cpu": "1"}}]);
        let mut other = pod(&json!({})).namespace("other");
        other.mutate(&LimitRanger, &world(&limits)).await.unwrap();
        assert!(other.object()["metadata"].get("annotations").is_none());
        let other = pod(&json!({})).namespace("other");
        assert!(other.validate(&LimitRanger, &world(&limits)).await.is_ok());
    }

    #[tokio::test]
    async fn containers_keep_within_their_bounds() {
        let limits = json!([{
            "type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "2"},
        }]);
        let fits = json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}});
        assert_eq!(refused(&limits, &fits).await, "");
        assert_eq!(
            refused(
                &limits,
                &json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "1500m"}})
            )
            .await,
            "pods \"web\" is forbidden: [minimum cpu usage per Container is 100m, but request is 50m, maximum cpu usage \
             per Container is 1, but limit is 1500m, cpu max limit to request ratio per Container is 2, but provided \
             ratio is 30.000000]"
        );
        assert_eq!(
            refused(&limits, &json!({})).await,
            "pods \"web\" is forbidden: [minimum cpu usage per Container is 100m.  No request is specified, maximum cpu \
             usage per Container is 1.  No limit is specified, cpu max limit to request ratio per Container is 2, but no \
             request is specified or request is 0]"
        );
    }

    #[tokio::test]
    async fn pods_and_claims_keep_within_theirs() {
        let limits = json!([{"type": "Pod", "max": {"memory": "1Gi"}}]);
        assert_eq!(
            refused(
                &limits,
                &json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "2Gi"}})
            )
            .await,
            "pods \"web\" is forbidden: maximum memory usage per Pod is 1Gi, but limit is 2Gi"
        );
        let limits = json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]);
        let claim = |storage: &str| {
            Fixture::creation(
                "",
                "persistentvolumeclaims",
                json!({"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": storage}}}}),
            )
        };
        let world = world(&limits);
        assert!(claim("1Gi").validate(&LimitRanger, &world).await.is_ok());
        let status = claim("3Gi")
            .validate(&LimitRanger, &world)
            .await
            .unwrap_err();
        assert_eq!(
            status.message(),
            "persistentvolumeclaims \"data\" is forbidden: maximum storage usage per PersistentVolumeClaim is 2Gi, but \
             request is 3Gi"
        );
    }
}
