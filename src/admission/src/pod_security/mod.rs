//! The pod security standards: what pods of a namespace may do, as the labels of the namespace say
//! (`pod-security.kubernetes.io/enforce`, `warn` and `audit`, each with a `-version`).
//!
//! Pods that break the enforced level are refused. Those that break the `warn` level come with a warning; so do the
//! objects that would make such pods, which are never refused themselves.

mod checks;

use async_trait::async_trait;
use serde_json::Value;
use vaquita_api::meta;
use vaquita_api::status::Status;

use crate::{Cluster, Operation, Plugin, Request};

const PREFIX: &str = "pod-security.kubernetes.io/";

pub(crate) struct PodSecurity;

/// How much pods may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// A level as a namespace asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Policy {
    level: Level,
    /// `latest` or `v1.36`, for messages: the rules are those of this version.
    version: String,
}

impl Policy {
    /// What the labels of a namespace say for a mode: `enforce` or `warn`. A level that does not exist counts as the
    /// strictest, so that a slip of the pen opens nothing.
    fn of(namespace: &vaquita_api::Object, mode: &str) -> Self {
        let labels = meta::labels(namespace);
        let label = |suffix: &str| labels.get(&format!("{PREFIX}{mode}{suffix}"));
        let level = match label("").map(String::as_str) {
            None | Some("privileged") => Level::Privileged,
            Some("baseline") => Level::Baseline,
            Some(_) => Level::Restricted,
        };
        let version = label("-version").filter(|version| is_version(version));
        Self {
            level,
            version: version.cloned().unwrap_or_else(|| "latest".to_owned()),
        }
    }

    /// What a pod does that it may not: `violates PodSecurity "baseline:latest": ...`; `None` if all is well.
    fn violations(&self, spec: &Value) -> Option<String> {
        let found: Vec<String> = match self.level {
            Level::Privileged => return None,
            Level::Baseline => checks::baseline(spec),
            Level::Restricted => checks::restricted(spec),
        }
        .into_iter()
        .map(|violation| violation.to_string())
        .collect();
        let policy = format!("{}:{}", self.level.as_str(), self.version);
        (!found.is_empty()).then(|| format!("violate PodSecurity {policy:?}: {}", found.join(", ")))
    }
}

fn is_version(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text == "latest" || text.strip_prefix("v1.").is_some_and(number)
}

/// Where the specification of pods is in what makes pods, by group and plural.
fn template_path(group: &str, plural: &str) -> Option<&'static [&'static str]> {
    match (group, plural) {
        ("", "podtemplates") => Some(&["template", "spec"]),
        ("", "replicationcontrollers")
        | ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets")
        | ("batch", "jobs") => Some(&["spec", "template", "spec"]),
        ("batch", "cronjobs") => Some(&["spec", "jobTemplate", "spec", "template", "spec"]),
        _ => None,
    }
}

fn is_pod(request: &Request<'_>) -> bool {
    request.resource.group.is_empty()
        && request.resource.plural == "pods"
        && matches!(request.subresource, "" | "ephemeralcontainers")
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let (group, plural) = (&request.resource.group, &request.resource.plural);
        let makes_pods = request.subresource.is_empty() && template_path(group, plural).is_some();
        writes && (is_pod(request) || makes_pods)
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &dyn Cluster,
    ) -> Result<(), Status> {
        let (Some(object), Some(namespace)) = (
            request.object.as_deref(),
            cluster.get("", "namespaces", "", request.namespace),
        ) else {
            return Ok(());
        };
        let pod = is_pod(request);
        let path: &[&str] = if pod {
            &["spec"]
        } else {
            template_path(&request.resource.group, &request.resource.plural).unwrap_or_default()
        };
        let Some(spec) = meta::at(object, path) else {
            return Ok(());
        };
        // What a pod does is fixed once it is there, but for its images.
        let unchanged = |old| meta::at(old, path) == Some(spec);
        if request.old.is_some_and(unchanged) {
            return Ok(());
        }
        if pod && let Some(violations) = Policy::of(&namespace, "enforce").violations(spec) {
            let why = violations.replacen("violate", "violates", 1);
            return Err(request.forbidden(why));
        }
        if let Some(violations) = Policy::of(&namespace, "warn").violations(spec) {
            request.warnings.push(format!("would {violations}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Fixture, World};

    fn world(level: &str) -> World {
        let labels = json!({format!("{PREFIX}enforce"): level});
        World::default().with(
            "",
            "namespaces",
            json!({"metadata": {"name": "ns", "labels": labels}}),
        )
    }

    async fn refusal(level: &str, spec: Value) -> String {
        let pod = Fixture::pod(json!({"metadata": {"name": "web"}, "spec": spec}));
        match pod.validate(&PodSecurity, &world(level)).await {
            Ok(()) => String::new(),
            Err(status) => status.message().to_owned(),
        }
    }

    #[tokio::test]
    async fn levels_are_stricter_and_stricter() {
        let plain = json!({"containers": [{"name": "c"}]});
        assert_eq!(refusal("privileged", plain.clone()).await, "");
        assert_eq!(refusal("baseline", plain.clone()).await, "");
        assert_eq!(
            refusal("restricted", plain).await,
            "pods \"web\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false \
             (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities \
             (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \
             \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
             securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        let confined = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
            }}],
        });
        assert_eq!(refusal("restricted", confined).await, "");
    }

    #[tokio::test]
    async fn the_baseline_keeps_pods_off_their_host() {
        let spec = json!({
            "hostNetwork": true, "hostPID": true, "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "containers": [
                {"name": "a", "securityContext": {"privileged": true, "capabilities": {"add": ["SYS_ADMIN"]}}},
                {"name": "b", "ports": [{"hostPort": 80}], "securityContext": {"privileged": true, "procMount": "Unmasked"}},
            ],
        });
        assert_eq!(
            refusal("baseline", spec).await,
            "pods \"web\" is forbidden: violates PodSecurity \"baseline:latest\": non-default capabilities (container \"a\" \
             must not include \"SYS_ADMIN\" in securityContext.capabilities.add), host namespaces (hostNetwork=true, \
             hostPID=true), hostPath volumes (volume \"v\"), hostPort (container \"b\" uses hostPort 80), privileged \
             (containers \"a\", \"b\" must not set securityContext.privileged=true), procMount (container \"b\" must not set \
             securityContext.procMount to \"Unmasked\")"
        );
    }

    #[tokio::test]
    async fn what_makes_pods_is_only_warned_of() {
        let labels =
            json!({format!("{PREFIX}enforce"): "baseline", format!("{PREFIX}warn"): "baseline"});
        let namespace = json!({"metadata": {"name": "ns", "labels": labels}});
        let world = World::default().with("", "namespaces", namespace);
        let template = json!({"spec": {
            "containers": [{"name": "c", "securityContext": {"appArmorProfile": {"type": "Unconfined"}}}],
        }});
        let controller = json!({"metadata": {"name": "web"}, "spec": {"template": template}});
        let mut controller = Fixture::creation("", "replicationcontrollers", controller);
        let warnings = controller.warnings(&PodSecurity, &world).await;
        assert_eq!(
            warnings,
            [
                "would violate PodSecurity \"baseline:latest\": forbidden AppArmor profile (container \"c\" must not set \
                 AppArmor profile type to \"Unconfined\")"
            ]
        );
    }

    #[test]
    fn labels_say_the_level_and_the_version() {
        let namespace = |labels: Value| match json!({"metadata": {"labels": labels}}) {
            Value::Object(namespace) => Policy::of(&namespace, "warn"),
            _ => unreachable!(),
        };
        let policy = namespace(
            json!({format!("{PREFIX}warn"): "baseline", format!("{PREFIX}warn-version"): "v1.30"}),
        );
        assert_eq!((policy.level, &*policy.version), (Level::Baseline, "v1.30"));
        let policy = namespace(
            json!({format!("{PREFIX}warn"): "basline", format!("{PREFIX}warn-version"): "1"}),
        );
        assert_eq!(
            (policy.level, &*policy.version),
            (Level::Restricted, "latest")
        );
        assert_eq!(namespace(json!({})).level, Level::Privileged);
    }
}
