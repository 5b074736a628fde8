//! What each level forbids, in the words of those who wrote the standards.

use std::fmt;

use serde_json::Value;

/// A rule that a pod breaks, and how.
pub(super) struct Violation {
    rule: &'static str,
    detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            f.write_str(self.rule)
        } else {
            write!(f, "{} ({})", self.rule, self.detail)
        }
    }
}

type Check = fn(&Value) -> Option<Violation>;

/// By the names that the rules have, which is the order of their messages.
const BASELINE: [Check; 11] = [
    app_armor,
    default_capabilities,
    host_namespaces,
    host_path_volumes,
    host_ports,
    privileged,
    proc_mount,
    selinux,
    seccomp_not_off,
    sysctls,
    windows_host_process,
];

const RESTRICTED: [Check; 6] = [
    privilege_escalation,
    no_capabilities,
    volume_types,
    non_root,
    user_zero,
    seccomp_on,
];

pub(super) fn baseline(spec: &Value) -> Vec<Violation> {
    BASELINE.iter().filter_map(|check| check(spec)).collect()
}

/// The baseline, but for the rules that are stricter here, and what comes on top.
pub(super) fn restricted(spec: &Value) -> Vec<Violation> {
    let kept: [Check; 8] = [
        app_armor,
        host_namespaces,
        host_ports,
        privileged,
        proc_mount,
        selinux,
        sysctls,
        windows_host_process,
    ];
    kept.iter()
        .chain(&RESTRICTED)
        .filter_map(|check| check(spec))
        .collect()
}

fn items<'v>(of: &'v Value, field: &str) -> &'v [Value] {
    of.get(field)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn text<'v>(of: &'v Value, field: &str) -> &'v str {
    of.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Containers of all three sorts, in the order in which messages name them.
fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| items(spec, field))
}

fn is_windows(spec: &Value) -> bool {
    spec["os"]["name"] == "windows"
}

fn quoted<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|text| format!("{text:?}")).collect();
    texts.join(", ")
}

/// `container "a"` or `containers "a", "b"`.
fn named(noun: &str, items: &[&Value]) -> String {
    let plural = if items.len() == 1 { "" } else { "s" };
    format!(
        "{noun}{plural} {}",
        quoted(items.iter().map(|item| text(item, "name")))
    )
}

/// The violation that those containers make which are `bad`.
fn by_containers(
    spec: &Value,
    rule: &'static str,
    must: &str,
    bad: impl Fn(&Value) -> bool,
) -> Option<Violation> {
    let found: Vec<&Value> = containers(spec)
        .filter(|container| bad(container))
        .collect();
    (!found.is_empty()).then(|| Violation {
        rule,
        detail: format!("{} {must}", named("container", &found)),
    })
}

/// Sorted, each once.
fn sorted<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<&'t str> {
    let mut texts: Vec<&str> = texts.collect();
    texts.sort_unstable();
    texts.dedup();
    texts
}

fn added<'v>(container: &'v Value, allowed: &[&str]) -> Vec<&'v str> {
    items(&container["securityContext"]["capabilities"], "add")
        .iter()
        .filter_map(Value::as_str)
        .filter(|name| !allowed.contains(name))
        .collect()
}

fn adds(spec: &Value, allowed: &[&str]) -> Option<String> {
    let found: Vec<&Value> = containers(spec)
        .filter(|container| !added(container, allowed).is_empty())
        .collect();
    let all = sorted(found.iter().flat_map(|container| added(container, allowed)));
    (!found.is_empty()).then(|| {
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            named("container", &found),
            quoted(all)
        )
    })
}

fn app_armor(spec: &Value) -> Option<Violation> {
    let profile = |context: &Value| text(&context["appArmorProfile"], "type").to_owned();
    let is_bad =
        |context: &Value| !matches!(&*profile(context), "" | "RuntimeDefault" | "Localhost");
    let holders = holders(spec, is_bad)?;
    let contexts = std::iter::once(&spec["securityContext"])
        .chain(containers(spec).map(|container| &container["securityContext"]));
    let profiles: Vec<String> = contexts
        .filter(|context| is_bad(context))
        .map(profile)
        .collect();
    let profiles = sorted(profiles.iter().map(String::as_str));
    let rule = if profiles.len() == 1 {
        "forbidden AppArmor profile"
    } else {
        "forbidden AppArmor profiles"
    };
    let detail = format!(
        "{holders} must not set AppArmor profile type to {}",
        quoted(profiles)
    );
    Some(Violation { rule, detail })
}

fn default_capabilities(spec: &Value) -> Option<Violation> {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    adds(spec, &ALLOWED).map(|detail| Violation {
        rule: "non-default capabilities",
        detail,
    })
}

fn host_namespaces(spec: &Value) -> Option<Violation> {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| spec[*field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    (!shared.is_empty()).then(|| Violation {
        rule: "host namespaces",
        detail: shared.join(", "),
    })
}

fn host_path_volumes(spec: &Value) -> Option<Violation> {
    let volumes = items(spec, "volumes").iter();
    let found: Vec<&Value> = volumes
        .filter(|volume| volume.get("hostPath").is_some_and(Value::is_object))
        .collect();
    (!found.is_empty()).then(|| Violation {
        rule: "hostPath volumes",
        detail: named("volume", &found),
    })
}

fn host_ports(spec: &Value) -> Option<Violation> {
    let ports = |container: &Value| -> Vec<i64> {
        let ports = items(container, "ports").iter();
        ports
            .filter_map(|port| port["hostPort"].as_i64())
            .filter(|port| *port != 0)
            .collect()
    };
    let found: Vec<&Value> = containers(spec)
        .filter(|container| !ports(container).is_empty())
        .collect();
    let mut all: Vec<String> = found
        .iter()
        .flat_map(|container| ports(container))
        .map(|port| port.to_string())
        .collect();
    all.sort_unstable();
    all.dedup();
    let uses = if found.len() == 1 { "uses" } else { "use" };
    let noun = if all.len() == 1 {
        "hostPort"
    } else {
        "hostPorts"
    };
    (!found.is_empty()).then(|| Violation {
        rule: "hostPort",
        detail: format!(
            "{} {uses} {noun} {}",
            named("container", &found),
            all.join(", ")
        ),
    })
}

fn privileged(spec: &Value) -> Option<Violation> {
    by_containers(
        spec,
        "privileged",
        "must not set securityContext.privileged=true",
        |container| container["securityContext"]["privileged"] == true,
    )
}

fn proc_mount(spec: &Value) -> Option<Violation> {
    // In a user namespace of its own a pod may see all of /proc.
    if spec["hostUsers"] == false {
        return None;
    }
    let mount = |container: &Value| text(&container["securityContext"], "procMount").to_owned();
    let is_bad = |mount: &str| !matches!(mount, "" | "Default");
    let mounts: Vec<String> = containers(spec)
        .map(mount)
        .filter(|mount| is_bad(mount))
        .collect();
    let all = sorted(mounts.iter().map(String::as_str));
    by_containers(
        spec,
        "procMount",
        &format!("must not set securityContext.procMount to {}", quoted(all)),
        |container| is_bad(&mount(container)),
    )
}

/// The pod itself, if it is `bad`, and the containers that are.
fn holders(spec: &Value, bad: impl Fn(&Value) -> bool) -> Option<String> {
    let found: Vec<&Value> = containers(spec)
        .filter(|container| bad(&container["securityContext"]))
        .collect();
    match (bad(&spec["securityContext"]), found.is_empty()) {
        (false, true) => None,
        (true, true) => Some("pod".to_owned()),
        (false, false) => Some(named("container", &found)),
        (true, false) => Some(format!("pod and {}", named("container", &found))),
    }
}

fn selinux(spec: &Value) -> Option<Violation> {
    const TYPES: [&str; 5] = [
        "",
        "container_t",
        "container_init_t",
        "container_kvm_t",
        "container_engine_t",
    ];
    let option = |context: &Value, field: &str| text(&context["seLinuxOptions"], field).to_owned();
    let bad_type = |context: &Value| !TYPES.contains(&option(context, "type").as_str());
    let sets = |context: &Value, field: &str| !option(context, field).is_empty();
    let holders = holders(spec, |context| {
        bad_type(context) || sets(context, "user") || sets(context, "role")
    })?;
    let contexts: Vec<&Value> = std::iter::once(&spec["securityContext"])
        .chain(containers(spec).map(|container| &container["securityContext"]))
        .collect();
    let types: Vec<String> = contexts
        .iter()
        .filter(|context| bad_type(context))
        .map(|context| option(context, "type"))
        .collect();
    let types = sorted(types.iter().map(String::as_str));
    let mut details = Vec::new();
    if !types.is_empty() {
        let plural = if types.len() == 1 { "" } else { "s" };
        details.push(format!("type{plural} {}", quoted(types)));
    }
    for field in ["user", "role"] {
        if contexts.iter().any(|context| sets(context, field)) {
            details.push(format!("{field} may not be set"));
        }
    }
    Some(Violation {
        rule: "seLinuxOptions",
        detail: format!(
            "{holders} set forbidden securityContext.seLinuxOptions: {}",
            details.join("; ")
        ),
    })
}

fn seccomp(context: &Value) -> &str {
    text(&context["seccompProfile"], "type")
}

fn seccomp_not_off(spec: &Value) -> Option<Violation> {
    let holders = holders(spec, |context| seccomp(context) == "Unconfined")?;
    Some(Violation {
        rule: "seccompProfile",
        detail: format!(
            "{holders} must not set securityContext.seccompProfile.type to \"Unconfined\""
        ),
    })
}

fn sysctls(spec: &Value) -> Option<Violation> {
    const ALLOWED: [&str; 10] = [
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_syncookies",
    ];
    let set = items(&spec["securityContext"], "sysctls").iter();
    let names = set.map(|sysctl| text(sysctl, "name"));
    let found: Vec<&str> = names.filter(|name| !ALLOWED.contains(name)).collect();
    (!found.is_empty()).then(|| Violation {
        rule: "forbidden sysctls",
        detail: found.join(", "),
    })
}

fn windows_host_process(spec: &Value) -> Option<Violation> {
    let holders = holders(spec, |context| {
        context["windowsOptions"]["hostProcess"] == true
    })?;
    Some(Violation {
        rule: "hostProcess",
        detail: format!("{holders} must not set securityContext.windowsOptions.hostProcess=true"),
    })
}

fn privilege_escalation(spec: &Value) -> Option<Violation> {
    if is_windows(spec) {
        return None;
    }
    by_containers(
        spec,
        "allowPrivilegeEscalation != false",
        "must set securityContext.allowPrivilegeEscalation=false",
        |container| container["securityContext"]["allowPrivilegeEscalation"] != false,
    )
}

fn no_capabilities(spec: &Value) -> Option<Violation> {
    if is_windows(spec) {
        return None;
    }
    let keeps = |container: &&Value| {
        let dropped = items(&container["securityContext"]["capabilities"], "drop");
        !dropped.iter().any(|name| name == "ALL")
    };
    let found: Vec<&Value> = containers(spec).filter(keeps).collect();
    let dropping = (!found.is_empty()).then(|| {
        format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            named("container", &found)
        )
    });
    let details: Vec<String> = dropping
        .into_iter()
        .chain(adds(spec, &["NET_BIND_SERVICE"]))
        .collect();
    (!details.is_empty()).then(|| Violation {
        rule: "unrestricted capabilities",
        detail: details.join("; "),
    })
}

fn volume_types(spec: &Value) -> Option<Violation> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let forbidden = |volume: &Value| -> Vec<String> {
        let fields = volume.as_object().into_iter().flatten();
        fields
            .filter(|(field, value)| {
                *field != "name" && value.is_object() && !ALLOWED.contains(&field.as_str())
            })
            .map(|(field, _)| field.clone())
            .collect()
    };
    let volumes = items(spec, "volumes").iter();
    let found: Vec<&Value> = volumes
        .filter(|volume| !forbidden(volume).is_empty())
        .collect();
    let types: Vec<String> = found.iter().flat_map(|volume| forbidden(volume)).collect();
    let types = sorted(types.iter().map(String::as_str));
    let uses = if found.len() == 1 { "uses" } else { "use" };
    let plural = if types.len() == 1 { "" } else { "s" };
    (!found.is_empty()).then(|| Violation {
        rule: "restricted volume types",
        detail: format!(
            "{} {uses} restricted volume type{plural} {}",
            named("volume", &found),
            quoted(types)
        ),
    })
}

fn non_root(spec: &Value) -> Option<Violation> {
    const RULE: &str = "runAsNonRoot != true";
    if spec["hostUsers"] == false {
        return None;
    }
    let given = |context: &Value| context["runAsNonRoot"].as_bool();
    let pod = given(&spec["securityContext"]);
    let explicit: Vec<&Value> = containers(spec)
        .filter(|container| given(&container["securityContext"]) == Some(false))
        .collect();
    let implicit: Vec<&Value> = containers(spec)
        .filter(|container| given(&container["securityContext"]).is_none())
        .collect();
    let mut bad = Vec::new();
    // What the pod says does not matter if each container speaks for itself.
    if pod == Some(false) && !implicit.is_empty() {
        bad.push("pod".to_owned());
    }
    if !explicit.is_empty() {
        bad.push(named("container", &explicit));
    }
    if !bad.is_empty() {
        let detail = format!(
            "{} must not set securityContext.runAsNonRoot=false",
            bad.join(" and ")
        );
        return Some(Violation { rule: RULE, detail });
    }
    (pod.is_none() && !implicit.is_empty()).then(|| Violation {
        rule: RULE,
        detail: format!(
            "pod or {} must set securityContext.runAsNonRoot=true",
            named("container", &implicit)
        ),
    })
}

fn user_zero(spec: &Value) -> Option<Violation> {
    if spec["hostUsers"] == false {
        return None;
    }
    let holders = holders(spec, |context| context["runAsUser"] == 0)?;
    Some(Violation {
        rule: "runAsUser=0",
        detail: format!("{holders} must not set runAsUser=0"),
    })
}

fn seccomp_on(spec: &Value) -> Option<Violation> {
    const RULE: &str = "seccompProfile";
    const FIELD: &str = "securityContext.seccompProfile.type";
    const GOOD: [&str; 2] = ["RuntimeDefault", "Localhost"];
    if is_windows(spec) {
        return None;
    }
    let is_bad = |context: &Value| !matches!(seccomp(context), "" | "RuntimeDefault" | "Localhost");
    if let Some(holders) = holders(spec, is_bad) {
        let all: Vec<&str> = std::iter::once(&spec["securityContext"])
            .chain(containers(spec).map(|container| &container["securityContext"]))
            .filter(|context| is_bad(context))
            .map(seccomp)
            .collect();
        let detail = format!(
            "{holders} must not set {FIELD} to {}",
            quoted(sorted(all.into_iter()))
        );
        return Some(Violation { rule: RULE, detail });
    }
    if GOOD.contains(&seccomp(&spec["securityContext"])) {
        return None;
    }
    let silent: Vec<&Value> = containers(spec)
        .filter(|container| seccomp(&container["securityContext"]).is_empty())
        .collect();
    (!silent.is_empty()).then(|| Violation {
        rule: RULE,
        detail: format!(
            "pod or {} must set {FIELD} to \"RuntimeDefault\" or \"Localhost\"",
            named("container", &silent)
        ),
    })
}
