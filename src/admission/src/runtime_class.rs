//! A pod of a runtime class carries the class's overhead, and goes where the class can run.

use async_trait::async_trait;
use serde_json::{Value, json};
use vaquita_api::status::Status;
use vaquita_api::{Object, meta};

use crate::{Cluster, Plugin, Request};

pub(crate) struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates_pod()
    }

    async fn mutate(&self, request: &mut Request<'_>, cluster: &dyn Cluster) -> Result<(), Status> {
        let Some(pod) = request.object.as_deref() else {
            return Ok(());
        };
        let name = meta::at(pod, &["spec", "runtimeClassName"]).and_then(Value::as_str);
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Ok(());
        };
        let Some(class) = cluster.get("node.k8s.io", "runtimeclasses", "", name) else {
            return Err(request.forbidden(format_args!(
                "pod rejected: RuntimeClass {name:?} not found"
            )));
        };
        let outcome = match request.object.as_deref_mut() {
            Some(pod) => impose(&class, meta::object_mut(pod, "spec")),
            None => Ok(()),
        };
        outcome.map_err(|why| request.forbidden(why))
    }

    async fn validate(&self, request: &mut Request<'_>, _: &dyn Cluster) -> Result<(), Status> {
        let spec = |field| {
            let pod = request.object.as_deref()?;
            meta::at(pod, &["spec", field]).filter(|value| !value.is_null())
        };
        if spec("overhead").is_some() && spec("runtimeClassName").is_none() {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return Err(request.forbidden(why));
        }
        Ok(())
    }
}

/// Makes a pod's specification one that suits the class; says why it can't.
fn impose(class: &Object, spec: &mut Object) -> Result<(), String> {
    let given = |value: Option<&Value>| value.filter(|value| !value.is_null()).cloned();
    if let Some(overhead) = given(meta::at(class, &["overhead", "podFixed"])) {
        if given(spec.get("overhead")).is_some_and(|other| other != overhead) {
            let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            return Err(why.to_owned());
        }
        spec.insert("overhead".to_owned(), overhead);
    }
    if let Some(Value::Object(selector)) = meta::at(class, &["scheduling", "nodeSelector"]) {
        let own = meta::object_mut(spec, "nodeSelector");
        for (key, value) in selector {
            let other = own.entry(key.clone()).or_insert_with(|| value.clone());
            if other != value {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    text(value),
                    text(other)
                ));
            }
        }
    }
    if let Some(Value::Array(tolerations)) = meta::at(class, &["scheduling", "tolerations"]) {
        let own = spec.entry("tolerations").or_insert_with(|| json!([]));
        if own.is_null() {
            *own = json!([]);
        }
        for toleration in tolerations {
            if let Value::Array(own) = own
                && !own.contains(toleration)
            {
                own.push(toleration.clone());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixture, World};

    async fn spec(spec: Value) -> Result<Value, String> {
        let class = json!({
            "metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"memory": "64Mi"}},
            "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]},
        });
        let world = World::default().with("node.k8s.io", "runtimeclasses", class);
        let mut pod = Fixture::pod(json!({"metadata": {"name": "web"}, "spec": spec}));
        match pod.mutate(&RuntimeClass, &world).await {
            Ok(()) => Ok(pod.object()["spec"].clone()),
            Err(status) => Err(status.message().to_owned()),
        }
    }

    #[tokio::test]
    async fn a_class_has_its_price_and_its_place() {
        assert_eq!(
            spec(json!({"runtimeClassName": "vm"})).await.unwrap(),
            json!({
                "runtimeClassName": "vm", "overhead": {"memory": "64Mi"}, "nodeSelector": {"vm": "yes"},
                "tolerations": [{"key": "vm", "operator": "Exists"}],
            })
        );
        assert_eq!(spec(json!({})).await.unwrap(), json!({}));
        assert_eq!(
            spec(json!({"runtimeClassName": "none"})).await.unwrap_err(),
            "pods \"web\" is forbidden: pod rejected: RuntimeClass \"none\" not found"
        );
        let elsewhere = json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}});
        assert_eq!(
            spec(elsewhere).await.unwrap_err(),
            "pods \"web\" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no"
        );
    }

    #[tokio::test]
    async fn overhead_comes_from_a_class() {
        let pod =
            Fixture::pod(json!({"metadata": {"name": "web"}, "spec": {"overhead": {"cpu": "1"}}}));
        let refused = pod.validate(&RuntimeClass, &World::default()).await;
        assert!(refused.is_err());
    }
}
