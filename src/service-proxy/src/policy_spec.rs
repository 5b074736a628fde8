//! From `NetworkPolicies` and pods to what the network is told about them. Pure.

use k8s_openapi::{
    api::{
        core::v1::Pod,
        networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::ResourceExt as _;
use vaquita_net::{
    IpNet, Peer, PolicyPod, PolicySpec, PortMatch, PortRange, Protocol, Requirement, Rule, Selector,
};

/// What a policy says to the network.
pub(crate) fn of(policy: &NetworkPolicy) -> Option<PolicySpec> {
    let spec = policy.spec.as_ref()?;
    let types = spec.policy_types.as_deref().unwrap_or_default();
    // Not said: ingress always, egress if there are rules for it.
    let is_of = |name: &str, if_not_said| {
        if types.is_empty() {
            if_not_said
        } else {
            types.iter().any(|one| one == name)
        }
    };
    let ingress = spec.ingress.iter().flatten();
    let egress = spec.egress.iter().flatten();
    let is_egress = is_of(
        "Egress",
        spec.egress.as_ref().is_some_and(|all| !all.is_empty()),
    );
    Some(PolicySpec {
        pods: spec.pod_selector.as_ref().map(selector).unwrap_or_default(),
        ingress: is_of("Ingress", true).then(|| {
            ingress
                .map(|one| rule(one.from.as_deref(), one.ports.as_deref()))
                .collect()
        }),
        egress: is_egress.then(|| {
            egress
                .map(|one| rule(one.to.as_deref(), one.ports.as_deref()))
                .collect()
        }),
    })
}

fn rule(peers: Option<&[NetworkPolicyPeer]>, ports: Option<&[NetworkPolicyPort]>) -> Rule {
    let peers = peers.filter(|peers| !peers.is_empty());
    let ports = ports.filter(|ports| !ports.is_empty());
    Rule {
        // What can't be understood matches nothing; it must not come to mean everything.
        peers: peers.map(|peers| peers.iter().filter_map(peer).collect()),
        ports: ports.map(|ports| ports.iter().filter_map(port).collect()),
    }
}

fn peer(peer: &NetworkPolicyPeer) -> Option<Peer> {
    if let Some(block) = &peer.ip_block {
        let except = block.except.iter().flatten();
        return Some(Peer::Block {
            net: network(&block.cidr)?,
            except: except.map(|one| network(one)).collect::<Option<_>>()?,
        });
    }
    if peer.pod_selector.is_none() && peer.namespace_selector.is_none() {
        return None;
    }
    Some(Peer::Pods {
        namespaces: peer.namespace_selector.as_ref().map(selector),
        pods: peer.pod_selector.as_ref().map(selector).unwrap_or_default(),
    })
}

fn network(text: &str) -> Option<IpNet> {
    Some(text.parse::<IpNet>().ok()?.trunc())
}

fn port(port: &NetworkPolicyPort) -> Option<PortMatch> {
    let protocol = protocol(port.protocol.as_deref())?;
    let number = |port: i32| u16::try_from(port).ok();
    let ports = match (&port.port, port.end_port) {
        (None, _) => PortRange::All,
        (Some(IntOrString::String(name)), _) => PortRange::Named(name.clone()),
        (Some(IntOrString::Int(first)), None) => {
            PortRange::Numbers(number(*first)?..=number(*first)?)
        }
        (Some(IntOrString::Int(first)), Some(last)) => {
            PortRange::Numbers(number(*first)?..=number(last)?)
        }
    };
    Some(PortMatch { protocol, ports })
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        // SCTP, which nobody speaks here.
        Some(_) => None,
    }
}

fn selector(selector: &LabelSelector) -> Selector {
    let labels = selector.match_labels.iter().flatten();
    let labels = labels.map(|(key, value)| Requirement::In(key.clone(), vec![value.clone()]));
    let expressions = selector.match_expressions.iter().flatten();
    let expressions = expressions.map(|one| {
        let (key, values) = (one.key.clone(), one.values.clone().unwrap_or_default());
        match one.operator.as_str() {
            "NotIn" => Requirement::NotIn(key, values),
            "Exists" => Requirement::Exists(key),
            "DoesNotExist" => Requirement::DoesNotExist(key),
            // An operator that does not exist selects nothing.
            "In" => Requirement::In(key, values),
            _ => Requirement::In(key, Vec::new()),
        }
    });
    Selector(labels.chain(expressions).collect())
}

/// What a pod is to policies; `None` if it has no network of its own, or does not need it any more.
pub(crate) fn pod(pod: &Pod) -> Option<PolicyPod> {
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    if spec.host_network == Some(true) || matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let ips = status.and_then(|status| status.pod_ips.as_ref());
    let ips = ips
        .into_iter()
        .flatten()
        .filter_map(|ip| ip.ip.parse().ok());
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let ports = ports.filter_map(|port| {
        let number = u16::try_from(port.container_port).ok()?;
        Some((
            port.name.clone()?,
            protocol(port.protocol.as_deref())?,
            number,
        ))
    });
    Some(PolicyPod {
        ips: ips.collect(),
        ports: ports.collect(),
        labels: pod.labels().clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(spec: &Value) -> PolicySpec {
        let policy = json!({"metadata": {"name": "p"}, "spec": spec});
        of(&serde_json::from_value(policy).unwrap()).unwrap()
    }

    #[test]
    fn directions_have_defaults() {
        let none = policy(&json!({"podSelector": {}}));
        assert_eq!((none.ingress, none.egress), (Some(Vec::new()), None));
        let both = policy(&json!({"podSelector": {}, "egress": [{}]}));
        assert_eq!(both.egress, Some(vec![Rule::default()]));
        assert!(both.ingress.is_some());
        let said = policy(&json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{}]}));
        assert_eq!((said.ingress, said.egress), (None, Some(Vec::new())));
    }

    #[test]
    fn what_is_not_understood_allows_nothing() {
        let odd = policy(&json!({"podSelector": {}, "ingress": [
            {"from": [{"ipBlock": {"cidr": "x"}}, {}], "ports": [{"protocol": "SCTP"}, {"port": 70000}]},
        ]}));
        let rule = &odd.ingress.unwrap()[0];
        assert_eq!(
            (&rule.peers, &rule.ports),
            (&Some(Vec::new()), &Some(Vec::new()))
        );
    }

    #[test]
    fn peers_and_ports_of_all_kinds() {
        let all = policy(
            &json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{
                "from": [
                    {"podSelector": {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x"]}]}},
                    {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}},
                    {"ipBlock": {"cidr": "10.0.0.1/8", "except": ["10.1.0.0/16"]}},
                ],
                "ports": [{"port": "web"}, {"port": 80, "endPort": 90}, {"protocol": "UDP"}],
            }]}),
        );
        let has = |key: &str, value: &str| {
            Selector(vec![Requirement::In(
                key.to_owned(),
                vec![value.to_owned()],
            )])
        };
        assert_eq!(all.pods, has("app", "db"));
        let rule = &all.ingress.unwrap()[0];
        let not_x = Requirement::NotIn("tier".to_owned(), vec!["x".to_owned()]);
        let block = Peer::Block {
            net: "10.0.0.0/8".parse().unwrap(),
            except: vec!["10.1.0.0/16".parse().unwrap()],
        };
        let expected = [
            Peer::Pods {
                namespaces: None,
                pods: Selector(vec![not_x]),
            },
            Peer::Pods {
                namespaces: Some(Selector::default()),
                pods: has("a", "b"),
            },
            block,
        ];
        assert_eq!(rule.peers.as_deref(), Some(&expected[..]));
        let port = |protocol, ports| PortMatch { protocol, ports };
        let expected = [
            port(Protocol::Tcp, PortRange::Named("web".to_owned())),
            port(Protocol::Tcp, PortRange::Numbers(80..=90)),
            port(Protocol::Udp, PortRange::All),
        ];
        assert_eq!(rule.ports.as_deref(), Some(&expected[..]));
    }

    #[test]
    fn pods_of_the_host_and_finished_ones_are_nothing_to_policies() {
        let of = |spec: Value, phase: &str| {
            pod(&serde_json::from_value(json!({
                "metadata": {"name": "p", "labels": {"a": "b"}}, "spec": spec,
                "status": {"phase": phase, "podIPs": [{"ip": "10.244.0.9"}]},
            }))
            .unwrap())
        };
        let spec = json!({"containers": [{"name": "c", "ports": [
            {"name": "web", "containerPort": 80}, {"containerPort": 81}, {"name": "dns", "containerPort": 53, "protocol": "UDP"},
        ]}]});
        let known = of(spec.clone(), "Running").unwrap();
        assert_eq!(
            known.ips,
            ["10.244.0.9".parse::<std::net::IpAddr>().unwrap()]
        );
        let ports = [
            ("web".to_owned(), Protocol::Tcp, 80),
            ("dns".to_owned(), Protocol::Udp, 53),
        ];
        assert_eq!(known.ports, ports);
        assert_eq!(of(spec, "Succeeded"), None);
        assert_eq!(
            of(json!({"hostNetwork": true, "containers": []}), "Running"),
            None
        );
    }
}
