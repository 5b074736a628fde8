//! What containers are for, when they are started again, and what they may use.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod, PodSpec};
use kube::ResourceExt as _;
use vaquita_api::quantity::Quantity;

use vaquita_backends::Resources;

/// The grace of a pod that says none. Upstream's default.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// What a container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one begins.
    Init,
    /// An init container that stays (`restartPolicy: Always`): the next one begins when it has started.
    Sidecar,
    /// What the pod is for.
    Main,
    /// Added while the pod runs, to look into it: runs once, and counts for nothing.
    Ephemeral,
}

/// What happens to containers that end: `spec.restartPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// However it ended.
    Always,
    /// If it failed.
    OnFailure,
    /// It stays ended.
    Never,
}

impl RestartPolicy {
    /// That of a pod: `Always` if it says none.
    pub fn of(pod: &Pod) -> Self {
        let policy = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.as_deref());
        policy.map_or(Self::Always, Self::named)
    }

    fn named(name: &str) -> Self {
        match name {
            "Never" => Self::Never,
            "OnFailure" => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// Whether a container of that role that ended with that code starts again.
    fn restarts(self, role: Role, code: i32) -> bool {
        match (role, self) {
            (Role::Sidecar, _) | (Role::Main, Self::Always) => true,
            (Role::Main | Role::Init, Self::Never) | (Role::Ephemeral, _) => false,
            (Role::Main, Self::OnFailure) | (Role::Init, _) => code != 0,
        }
    }
}

/// Whether a container starts again: as its own rules say (`restartPolicyRules`), or else its own policy
/// (`restartPolicy`), or else the pod's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restarting {
    pod: RestartPolicy,
    own: Option<RestartPolicy>,
    rules: Vec<Rule>,
}

/// Exit codes after which a container starts again, whatever the policies say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    codes: Vec<i32>,
    /// Whether it is all other codes instead.
    is_inverted: bool,
}

impl Rule {
    /// `None` for a rule of a kind that is not known: it never matches.
    fn of(rule: &ContainerRestartRule) -> Option<Self> {
        let codes = rule.exit_codes.as_ref()?;
        let is_inverted = match codes.operator.as_str() {
            "In" => false,
            "NotIn" => true,
            _ => return None,
        };
        (rule.action == "Restart").then(|| Self {
            codes: codes.values.clone().unwrap_or_default(),
            is_inverted,
        })
    }
}

impl Restarting {
    /// What the manifest says of a container of a pod with that policy.
    pub fn of(pod: RestartPolicy, container: &Container) -> Self {
        let rules = container.restart_policy_rules.iter().flatten();
        let own = container.restart_policy.as_deref();
        Self {
            pod,
            own: own.map(RestartPolicy::named),
            rules: rules.filter_map(Rule::of).collect(),
        }
    }

    /// Whether the container, of that role, starts again after it ended with that code.
    pub fn after(&self, role: Role, code: i32) -> bool {
        if matches!(role, Role::Ephemeral | Role::Sidecar) {
            return self.pod.restarts(role, code);
        }
        let matches = |rule: &Rule| rule.codes.contains(&code) != rule.is_inverted;
        match self.own {
            Some(_) if self.rules.iter().any(matches) => true,
            Some(RestartPolicy::Always) => true,
            Some(RestartPolicy::OnFailure) => code != 0,
            Some(RestartPolicy::Never) => false,
            None => self.pod.restarts(role, code),
        }
    }
}

/// The init containers, sidecars among them.
pub fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// The ephemeral containers, as if they were ordinary ones.
pub fn ephemeral_containers(spec: &PodSpec) -> Vec<Container> {
    let all = spec.ephemeral_containers.iter().flatten();
    // They have the same fields, but for the one that says what they are to look at.
    all.filter_map(|container| serde_json::from_value(serde_json::to_value(container).ok()?).ok())
        .collect()
}

/// What an init container is.
pub fn init_role(container: &Container) -> Role {
    if container.restart_policy.as_deref() == Some("Always") {
        Role::Sidecar
    } else {
        Role::Init
    }
}

/// What the manifest says how long the pod may take to end.
pub fn own_grace(pod: &Pod) -> Duration {
    let wanted = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds);
    wanted
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(DEFAULT_GRACE, Duration::from_secs)
}

/// `NAME_NAMESPACE(UID)`, as upstream's messages name pods.
pub fn full_name(pod: &Pod) -> String {
    format!(
        "{}_{}({})",
        pod.name_any(),
        pod.namespace().unwrap_or_default(),
        pod.uid().unwrap_or_default()
    )
}

/// `resources.limits.memory` in bytes.
pub fn memory_limit(container: &Container) -> Option<u64> {
    let limit = container
        .resources
        .as_ref()?
        .limits
        .as_ref()?
        .get("memory")?;
    let bytes = limit.0.parse::<Quantity>().ok()?.value();
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

/// Which of a container's two amounts of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// What it may use.
    Limit,
    /// What it is promised.
    Request,
}

/// `resources.limits.cpu` or `resources.requests.cpu` in thousandths of a core, rounded up.
pub fn millicores(container: &Container, amount: Amount) -> Option<u32> {
    let resources = container.resources.as_ref()?;
    let amounts = match amount {
        Amount::Limit => resources.limits.as_ref(),
        Amount::Request => resources.requests.as_ref(),
    };
    let milli = amounts?
        .get("cpu")?
        .0
        .parse::<Quantity>()
        .ok()?
        .milli_value();
    let milli = u32::try_from(milli).ok()?;
    Some(milli).filter(|milli| *milli > 0)
}

/// What a container may use.
pub fn resources(container: &Container) -> Resources {
    Resources {
        memory_limit: memory_limit(container),
        cpu_limit: millicores(container, Amount::Limit),
        cpu_request: millicores(container, Amount::Request),
    }
}

/// The TCP ports that the manifest declares, each once.
pub fn tcp_ports(container: &Container) -> Vec<u16> {
    let mut ports = Vec::new();
    for declared in container.ports.iter().flatten() {
        let port = u16::try_from(declared.container_port)
            .ok()
            .filter(|port| *port != 0);
        if let Some(port) = port
            && declared.protocol.as_deref().unwrap_or("TCP") == "TCP"
            && !ports.contains(&port)
        {
            ports.push(port);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn container(fields: &Value) -> Container {
        serde_json::from_value(fields.clone()).unwrap()
    }

    #[test]
    fn policies_decide_by_role_and_code() {
        use {RestartPolicy::*, Role::*};
        for (policy, role, code, expected) in [
            (Always, Main, 0, true),
            (OnFailure, Main, 0, false),
            (OnFailure, Main, 1, true),
            (Never, Main, 1, false),
            (Always, Init, 0, false),
            (Always, Init, 1, true),
            (Never, Init, 1, false),
            (Never, Sidecar, 0, true),
        ] {
            assert_eq!(
                policy.restarts(role, code),
                expected,
                "{policy:?} {role:?} {code}"
            );
        }
    }

    #[test]
    fn a_containers_own_rules_come_before_its_policy_and_that_before_the_pods() {
        let rule = |operator: &str, codes: &[i32]| json!({"action": "Restart", "exitCodes": {"operator": operator, "values": codes}});
        let after = |pod, fields: Value, role, code| {
            let mut whole = json!({"name": "c"});
            whole
                .as_object_mut()
                .unwrap()
                .extend(fields.as_object().unwrap().clone());
            Restarting::of(pod, &container(&whole)).after(role, code)
        };
        let never =
            json!({"restartPolicy": "Never", "restartPolicyRules": [rule("In", &[42, 43])]});
        for (code, expected) in [(0, false), (1, false), (42, true), (43, true)] {
            assert_eq!(
                after(RestartPolicy::Always, never.clone(), Role::Main, code),
                expected,
                "{code}"
            );
        }
        let others = json!({"restartPolicy": "Never", "restartPolicyRules": [rule("NotIn", &[3])]});
        assert!(after(RestartPolicy::Never, others.clone(), Role::Main, 1));
        assert!(!after(RestartPolicy::Always, others, Role::Main, 3));
        let own = json!({"restartPolicy": "OnFailure"});
        assert!(after(RestartPolicy::Never, own.clone(), Role::Init, 1));
        assert!(!after(RestartPolicy::Always, own, Role::Main, 0));
        assert!(after(RestartPolicy::Always, json!({}), Role::Main, 0));
        // An action that nobody knows yet.
        let unknown = json!({"restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Other", "exitCodes": {"operator": "In", "values": [1]}},
        ]});
        assert!(!after(RestartPolicy::Always, unknown, Role::Main, 1));
    }

    #[test]
    fn limits_and_ports_are_read_as_far_as_they_make_sense() {
        for (limit, expected) in [
            ("64Mi", Some(64 << 20)),
            ("1k", Some(1000)),
            ("0", None),
            ("-1", None),
            ("x", None),
        ] {
            let container =
                container(&json!({"name": "c", "resources": {"limits": {"memory": limit}}}));
            assert_eq!(memory_limit(&container), expected, "{limit}");
        }
        let sized = container(&json!({"name": "c", "resources": {
            "limits": {"cpu": "1500m"}, "requests": {"cpu": "0.0001"},
        }}));
        assert_eq!(millicores(&sized, Amount::Limit), Some(1500));
        assert_eq!(millicores(&sized, Amount::Request), Some(1));
        let container = container(&json!({"name": "c", "ports": [
            {"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 80, "protocol": "TCP"},
            {"containerPort": 0}, {"containerPort": 70000}, {"containerPort": 81},
        ]}));
        assert_eq!(tcp_ports(&container), [80, 81]);
    }
}
