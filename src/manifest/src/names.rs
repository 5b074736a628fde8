//! By which names a pod knows itself and others: its hostname, and whom it asks for others.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr, path::PathBuf};

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig, PodSpec};
use kube::ResourceExt as _;
use vaquita_api::quantity::Quantity;
use vaquita_docker::{HostPort, MemoryVolume, Protocol};
use vaquita_net::Lookups;

use vaquita_backends::SandboxConfig;

/// The domain of the cluster's own names.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// The longest name that a kernel would take as a hostname.
const LONGEST_HOSTNAME: usize = 63;

/// What a pod's sandbox is made with. `wanted_ip` is the address that it had before, `host` the machine's.
pub fn sandbox_config(
    pod: &Pod,
    wanted_ip: Option<IpAddr>,
    host: Option<IpAddr>,
    dir: PathBuf,
) -> SandboxConfig {
    let spec = pod.spec.as_ref();
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    let set = |field: Option<&String>| field.filter(|text| !text.is_empty()).cloned();
    let mut hostname = set(spec.and_then(|spec| spec.hostname.as_ref())).unwrap_or_else(|| {
        let mut name = name.clone();
        name.truncate(name.floor_char_boundary(LONGEST_HOSTNAME));
        name.trim_end_matches(['-', '.']).to_owned()
    });
    let subdomain = set(spec.and_then(|spec| spec.subdomain.as_ref()));
    let domain = subdomain
        .as_ref()
        .map(|subdomain| format!("{subdomain}.{namespace}.svc.{CLUSTER_DOMAIN}"));
    if let Some(domain) = &domain
        && spec.is_some_and(|spec| spec.set_hostname_as_fqdn == Some(true))
    {
        hostname = format!("{hostname}.{domain}");
    }
    let config = spec.and_then(|spec| spec.dns_config.as_ref());
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref());
    let security = spec.and_then(|spec| spec.security_context.as_ref());
    let sysctls = security.and_then(|security| security.sysctls.as_ref());
    let sysctls = sysctls.into_iter().flatten();
    let is_on_host = spec.is_some_and(|spec| spec.host_network == Some(true));
    let lookups = lookups(policy, is_on_host, config);
    SandboxConfig {
        searches: searches(&namespace, &lookups, config),
        ndots: ndots(config),
        lookups,
        uid: pod.uid().unwrap_or_default(),
        dir,
        is_native: false,
        host_processes: spec.is_some_and(|spec| spec.host_pid == Some(true)),
        host_ipc: spec.is_some_and(|spec| spec.host_ipc == Some(true)),
        sysctls: sysctls
            .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
            .collect::<BTreeMap<_, _>>(),
        memory_volumes: spec.map(memory_volumes).unwrap_or_default(),
        resolv_conf: resolv_conf(&namespace, policy, config),
        namespace,
        name,
        hostname,
        domain,
        subdomain,
        hosts: aliases(pod),
        host_network: host.filter(|_| is_on_host),
        wanted_ip,
        host_ports: spec.map(host_ports).unwrap_or_default(),
        share_processes: spec.is_some_and(|spec| spec.share_process_namespace == Some(true)),
    }
}

/// The ports of the machine that the containers ask for.
fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let ports = ports.filter_map(|port| {
        let number = |port: i32| u16::try_from(port).ok().filter(|port| *port > 0);
        Some(HostPort {
            port: number(port.container_port)?,
            host_port: number(port.host_port?)?,
            host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            },
        })
    });
    ports.collect()
}

/// Who is asked for names. On the host's network, the cluster is only if the policy says so expressly.
fn lookups(policy: Option<&str>, is_on_host: bool, config: Option<&PodDNSConfig>) -> Lookups {
    match policy {
        Some("None") => {
            let servers = config.and_then(|config| config.nameservers.as_ref());
            let servers = servers.into_iter().flatten();
            Lookups::Servers(servers.filter_map(|server| server.parse().ok()).collect())
        }
        Some("ClusterFirstWithHostNet") => Lookups::Cluster,
        Some("Default") => Lookups::Host,
        _ if is_on_host => Lookups::Host,
        _ => Lookups::Cluster,
    }
}

/// The suffixes that are tried: the cluster's, if it is asked, and then the pod's own.
fn searches(
    namespace: &str,
    lookups: &Lookups,
    config: Option<&PodDNSConfig>,
) -> Option<Vec<String>> {
    let own = config?.searches.as_ref()?;
    let mut all = match lookups {
        Lookups::Cluster => cluster_searches(namespace).to_vec(),
        Lookups::Host | Lookups::Servers(_) => Vec::new(),
    };
    for search in own {
        if !all.contains(search) {
            all.push(search.clone());
        }
    }
    Some(all)
}

fn cluster_searches(namespace: &str) -> [String; 3] {
    [
        format!("{namespace}.svc.{CLUSTER_DOMAIN}"),
        format!("svc.{CLUSTER_DOMAIN}"),
        CLUSTER_DOMAIN.to_owned(),
    ]
}

/// The option of this name, of which a resolver takes 15 at most.
fn ndots(config: Option<&PodDNSConfig>) -> Option<usize> {
    let mut options = config?.options.iter().flatten();
    let option = options.find(|option| option.name.as_deref() == Some("ndots"))?;
    let dots: usize = option.value.as_ref()?.parse().ok()?;
    Some(dots.min(15))
}

/// The volumes that are memory.
fn memory_volumes(spec: &PodSpec) -> Vec<MemoryVolume> {
    let security = spec.security_context.as_ref();
    let group = security.and_then(|security| u32::try_from(security.fs_group?).ok());
    let volumes = spec.volumes.iter().flatten();
    let volumes = volumes.filter_map(|volume| {
        let empty = volume.empty_dir.as_ref()?;
        let size = || -> Option<u64> {
            let limit: Quantity = empty.size_limit.as_ref()?.0.parse().ok()?;
            u64::try_from(limit.value()).ok().filter(|size| *size > 0)
        };
        (empty.medium.as_deref() == Some("Memory")).then(|| MemoryVolume {
            name: volume.name.clone(),
            size: size(),
            group,
        })
    });
    volumes.collect()
}

fn aliases(pod: &Pod) -> Vec<(String, IpAddr)> {
    let aliases = pod
        .spec
        .iter()
        .flat_map(|spec| spec.host_aliases.iter().flatten());
    let names = aliases.flat_map(|alias| {
        let ip = alias.ip.parse().ok();
        let names = alias.hostnames.iter().flatten();
        names.filter_map(move |host| Some((host.clone(), ip?)))
    });
    names.collect()
}

/// `/etc/resolv.conf`. Lookups do not go by it: it is for programs that want to know. It names no server of the
/// cluster's, since the network itself answers.
fn resolv_conf(namespace: &str, policy: Option<&str>, config: Option<&PodDNSConfig>) -> String {
    let is_own = !matches!(policy, Some("None" | "Default"));
    let mut searches: Vec<String> = Vec::new();
    let mut options: Vec<String> = Vec::new();
    if is_own {
        searches.extend(cluster_searches(namespace));
        options.push("ndots:5".to_owned());
    }
    let mut text = String::new();
    if let Some(config) = config {
        for server in config.nameservers.iter().flatten() {
            let _ = writeln!(text, "nameserver {server}");
        }
        for search in config.searches.iter().flatten() {
            if !searches.contains(search) {
                searches.push(search.clone());
            }
        }
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            options.retain(|known| known.split(':').next() != Some(name));
            options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    if !searches.is_empty() {
        let _ = writeln!(text, "search {}", searches.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers pass what they have just made"
    )]
    fn config(spec: Value) -> SandboxConfig {
        let mut pod =
            json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": {"containers": []}});
        pod["spec"]
            .as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        sandbox_config(
            &serde_json::from_value(pod).unwrap(),
            None,
            None,
            PathBuf::new(),
        )
    }

    #[test]
    fn a_pod_is_called_by_its_name_or_as_it_says() {
        assert_eq!(config(json!({})).hostname, "web-0");
        let named = config(json!({"hostname": "me", "subdomain": "web"}));
        assert_eq!(
            (named.hostname.as_str(), named.domain.as_deref()),
            ("me", Some("web.ns.svc.cluster.local"))
        );
        let full = config(json!({"subdomain": "web", "setHostnameAsFQDN": true}));
        assert_eq!(full.hostname, "web-0.web.ns.svc.cluster.local");
    }

    #[test]
    fn ports_of_the_host_lead_to_those_of_the_pod() {
        let ports = json!([
            {"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"},
            {"containerPort": 81}, {"containerPort": 53, "hostPort": 53, "protocol": "UDP"},
        ]);
        let config = config(json!({"containers": [{"name": "c", "ports": ports}]}));
        let expected = HostPort {
            port: 80,
            host_port: 8080,
            host_ip: Some([127, 0, 0, 1].into()),
            protocol: Protocol::Tcp,
        };
        // Of other protocols they are the backend's to take or leave.
        assert_eq!(config.host_ports[0], expected);
        assert_eq!(config.host_ports[1].protocol, Protocol::Udp);
        assert_eq!(config.host_ports.len(), 2);
    }

    #[test]
    fn aliases_are_names_of_addresses() {
        let aliases = json!([{"ip": "192.0.2.1", "hostnames": ["a", "b"]}, {"ip": "192.0.2.2", "hostnames": ["c"]}]);
        let config = config(json!({"hostAliases": aliases, "shareProcessNamespace": true}));
        let hosts: Vec<_> = config
            .hosts
            .iter()
            .map(|(host, ip)| (host.as_str(), *ip))
            .collect();
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert_eq!(hosts, [("a", one), ("b", one), ("c", two)]);
        assert!(config.share_processes);
    }

    #[test]
    fn resolv_conf_says_what_the_policy_and_the_manifest_want() {
        assert_eq!(
            config(json!({})).resolv_conf,
            "search ns.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
        );
        let dns = json!({"nameservers": ["192.0.2.53"], "searches": ["example.com"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
        let none = config(json!({"dnsPolicy": "None", "dnsConfig": dns}));
        assert_eq!(
            none.resolv_conf,
            "nameserver 192.0.2.53\nsearch example.com\noptions ndots:2 edns0\n"
        );
        assert_eq!(none.searches, Some(vec!["example.com".to_owned()]));
        let server = IpAddr::from([192, 0, 2, 53]);
        assert_eq!(none.lookups, Lookups::Servers(vec![server]));
        assert_eq!(none.ndots, Some(2));
        let first = config(json!({"dnsConfig": dns}));
        assert!(
            first
                .resolv_conf
                .contains("cluster.local example.com\noptions ndots:2 edns0\n")
        );
        assert_eq!(first.lookups, Lookups::Cluster);
        let searches = first.searches.unwrap();
        assert_eq!((searches.len(), searches[3].as_str()), (4, "example.com"));
    }

    #[test]
    fn the_policy_says_who_is_asked_for_names() {
        let lookups = |spec| config(spec).lookups;
        assert_eq!(lookups(json!({})), Lookups::Cluster);
        assert_eq!(lookups(json!({"dnsPolicy": "Default"})), Lookups::Host);
        for (policy, wanted) in [
            ("ClusterFirst", Lookups::Host),
            ("ClusterFirstWithHostNet", Lookups::Cluster),
            ("Default", Lookups::Host),
        ] {
            let on_host = json!({"hostNetwork": true, "dnsPolicy": policy});
            assert_eq!(lookups(on_host), wanted, "{policy}");
        }
    }
}
