//! The tables against an evaluator that knows nothing but the rules, whatever happens in whatever order.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::{Passage, PassagePorts, PeerAddresses};

const NAMES: [&str; 3] = ["a", "b", "c"];
const PORTS: [u16; 3] = [53, 80, 8080];

fn ip(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 244, 0, last))
}

#[derive(Clone, Debug)]
enum Step {
    Policy(usize, usize, Option<PolicySpec>),
    Namespace(usize, Option<Labels>),
    Pod(usize, usize, Option<(u8, Labels, bool)>),
}

fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map("[xy]", "[12]", 0..3)
}

fn selector() -> impl Strategy<Value = Selector> {
    let values = || prop::collection::vec("[12]", 1..3);
    let one = prop_oneof![
        ("[xy]", values()).prop_map(|(key, values)| Requirement::In(key, values)),
        ("[xy]", values()).prop_map(|(key, values)| Requirement::NotIn(key, values)),
        "[xy]".prop_map(Requirement::Exists),
        "[xy]".prop_map(Requirement::DoesNotExist),
    ];
    prop::collection::vec(one, 0..3).prop_map(Selector)
}

fn net() -> impl Strategy<Value = IpNet> {
    (0..8u8, 24..=32u8).prop_map(|(last, length)| IpNet::new(ip(last), length).unwrap())
}

fn rule() -> impl Strategy<Value = Rule> {
    let peer = prop_oneof![
        (prop::option::of(selector()), selector())
            .prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
        (net(), prop::collection::vec(net(), 0..2))
            .prop_map(|(net, except)| Peer::Block { net, except }),
    ];
    let range = prop_oneof![
        Just(PortRange::All),
        Just(PortRange::Numbers(80..=80)),
        Just(PortRange::Numbers(80..=9000)),
        Just(PortRange::Named("web".to_owned())),
    ];
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let port = (protocol, range).prop_map(|(protocol, ports)| PortMatch { protocol, ports });
    let peers = prop::option::of(prop::collection::vec(peer, 0..3));
    let ports = prop::option::of(prop::collection::vec(port, 0..3));
    (peers, ports).prop_map(|(peers, ports)| Rule { peers, ports })
}

fn policy() -> impl Strategy<Value = PolicySpec> {
    let rules = || prop::option::of(prop::collection::vec(rule(), 0..3));
    (selector(), rules(), rules()).prop_map(|(pods, ingress, egress)| PolicySpec {
        pods,
        ingress,
        egress,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let pod = prop::option::weighted(0.8, (1..8u8, labels(), any::<bool>()));
    prop_oneof![
        (0..3usize, 0..3usize, prop::option::weighted(0.8, policy()))
            .prop_map(|(namespace, name, spec)| Step::Policy(namespace, name, spec)),
        (0..3usize, prop::option::weighted(0.8, labels()))
            .prop_map(|(name, labels)| Step::Namespace(name, labels)),
        (0..3usize, 0..3usize, pod)
            .prop_map(|(namespace, name, pod)| Step::Pod(namespace, name, pod)),
    ]
}

/// All that was said, as it was said.
#[derive(Default)]
struct Naive {
    policies: BTreeMap<(usize, usize), PolicySpec>,
    namespaces: BTreeMap<usize, Labels>,
    pods: BTreeMap<(usize, usize), (u8, Labels, bool)>,
}

impl Naive {
    fn owner(&self, ip: IpAddr) -> Option<(usize, &(u8, Labels, bool))> {
        self.pods
            .iter()
            .find(|(_, pod)| self::ip(pod.0) == ip)
            .map(|(key, pod)| (key.0, pod))
    }

    fn allows(&self, attempt: &Attempt) -> bool {
        let side = |own: IpAddr, peer: IpAddr, rules: fn(&PolicySpec) -> &Option<Vec<Rule>>| {
            let Some((namespace, pod)) = self.owner(own) else {
                return true;
            };
            let selecting: Vec<_> = self
                .policies
                .iter()
                .filter(|(key, spec)| key.0 == namespace && spec.pods.matches(&pod.1))
                .filter_map(|(_, spec)| rules(spec).as_ref())
                .collect();
            selecting.is_empty()
                || selecting.iter().any(|rules| {
                    rules
                        .iter()
                        .any(|rule| self.rule(namespace, rule, peer, attempt))
                })
        };
        let to = attempt.to.ip();
        let egress = match attempt.from {
            Origin::Pod(from) => side(from, to, |spec| &spec.egress),
            _ => true,
        };
        let ingress = match attempt.from {
            Origin::Node => true,
            Origin::Pod(from) | Origin::Outside(from) => side(to, from, |spec| &spec.ingress),
        };
        egress && ingress
    }

    fn rule(&self, namespace: usize, rule: &Rule, peer: IpAddr, attempt: &Attempt) -> bool {
        let is_web = self.owner(attempt.to.ip()).is_some_and(|(_, pod)| pod.2);
        let port = |port: &PortMatch| {
            port.protocol == attempt.protocol
                && match &port.ports {
                    PortRange::All => true,
                    PortRange::Numbers(range) => range.contains(&attempt.to.port()),
                    PortRange::Named(_) => {
                        is_web && attempt.to.port() == 80 && attempt.protocol == Protocol::Tcp
                    }
                }
        };
        let matches = |one: &Peer| match one {
            Peer::Block { net, except } => {
                net.contains(&peer) && !except.iter().any(|except| except.contains(&peer))
            }
            Peer::Pods { namespaces, pods } => self.owner(peer).is_some_and(|(its, pod)| {
                let in_namespace = match namespaces {
                    None => its == namespace,
                    Some(selector) => self
                        .namespaces
                        .get(&its)
                        .is_some_and(|labels| selector.matches(labels)),
                };
                in_namespace && pods.matches(&pod.1)
            }),
        };
        rule.ports
            .as_ref()
            .is_none_or(|ports| ports.iter().any(port))
            && rule
                .peers
                .as_ref()
                .is_none_or(|peers| peers.iter().any(matches))
    }

    /// Notes a step, and does it. An address is one pod's at a time, as in a cluster.
    fn step(&mut self, policies: &Policies, step: Step) {
        match step {
            Step::Policy(namespace, name, Some(spec)) => {
                policies.set_policy(NAMES[namespace], NAMES[name], spec.clone());
                self.policies.insert((namespace, name), spec);
            }
            Step::Policy(namespace, name, None) => {
                policies.remove_policy(NAMES[namespace], NAMES[name]);
                self.policies.remove(&(namespace, name));
            }
            Step::Namespace(name, Some(labels)) => {
                policies.set_namespace(NAMES[name], labels.clone());
                self.namespaces.insert(name, labels);
            }
            Step::Namespace(name, None) => {
                policies.remove_namespace(NAMES[name]);
                self.namespaces.remove(&name);
            }
            Step::Pod(namespace, name, Some(pod)) => {
                let key = (namespace, name);
                if self
                    .pods
                    .iter()
                    .any(|(other, one)| *other != key && one.0 == pod.0)
                {
                    return;
                }
                let ports = if pod.2 {
                    vec![("web".to_owned(), Protocol::Tcp, 80)]
                } else {
                    Vec::new()
                };
                let told = PolicyPod {
                    ips: vec![ip(pod.0)],
                    labels: pod.1.clone(),
                    ports,
                };
                policies.set_pod(NAMES[namespace], NAMES[name], told);
                self.pods.insert(key, pod);
            }
            Step::Pod(namespace, name, None) => {
                policies.remove_pod(NAMES[namespace], NAMES[name]);
                self.pods.remove(&(namespace, name));
            }
        }
    }
}

fn attempts() -> impl Iterator<Item = Attempt> {
    let froms = (0..9u8).flat_map(|last| {
        let origin = [
            Origin::Pod(ip(last)),
            Origin::Outside(ip(last)),
            Origin::Node,
        ];
        origin.into_iter().take(if last == 0 { 3 } else { 2 })
    });
    froms.flat_map(|from| {
        (0..9u8).flat_map(move |to| {
            PORTS.into_iter().flat_map(move |port| {
                [Protocol::Tcp, Protocol::Udp].map(|protocol| Attempt {
                    from,
                    to: SocketAddr::new(ip(to), port),
                    protocol,
                })
            })
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_tables_say_what_the_rules_say(steps in prop::collection::vec(step(), 1..40)) {
        let policies = Policies::new();
        let mut naive = Naive::default();
        for step in steps {
            naive.step(&policies, step);
        }
        for attempt in attempts() {
            prop_assert_eq!(policies.allows(&attempt), naive.allows(&attempt), "{:?}", attempt);
        }
        let guards = policies.guards(&|_| true);
        for attempt in attempts() {
            prop_assert_eq!(passes(&guards, &attempt), naive.allows(&attempt), "{:?}", attempt);
        }
    }
}

/// Whether guards, who know addresses and numbers alone, let this pass.
fn passes(guards: &[Guard], attempt: &Attempt) -> bool {
    let to = attempt.to.ip();
    let side = |own: IpAddr, peer: IpAddr, allowed: fn(&Guard) -> &Option<Vec<Passage>>| {
        let guard = guards.iter().find(|guard| guard.ip == own);
        let allowed = guard.and_then(|guard| allowed(guard).as_ref());
        allowed.is_none_or(|allowed| {
            allowed
                .iter()
                .any(|passage| lets_pass(passage, peer, attempt))
        })
    };
    let egress = match attempt.from {
        Origin::Pod(from) => side(from, to, |guard| &guard.egress),
        Origin::Node | Origin::Outside(_) => true,
    };
    egress
        && attempt
            .from
            .ip()
            .is_none_or(|from| side(to, from, |guard| &guard.ingress))
}

fn lets_pass(passage: &Passage, peer: IpAddr, attempt: &Attempt) -> bool {
    let is_peer = |peers: &PeerAddresses| match peers {
        PeerAddresses::Pods(pods) => pods.contains(&peer),
        PeerAddresses::Block { net, except } => {
            net.contains(&peer) && !except.iter().any(|except| except.contains(&peer))
        }
    };
    let is_port = |ports: &PassagePorts| {
        ports.protocol == attempt.protocol
            && ports.ports.contains(&attempt.to.port())
            && ports.of.is_none_or(|of| of == attempt.to.ip())
    };
    passage
        .peers
        .as_ref()
        .is_none_or(|peers| peers.iter().any(is_peer))
        && passage
            .ports
            .as_ref()
            .is_none_or(|ports| ports.iter().any(is_port))
}

#[test]
fn who_follows_is_told_of_changes() {
    let fabric = crate::Fabric::new(crate::FabricConfig::default()).unwrap();
    let mut changes = fabric.changes();
    let policies = Policies::new();
    fabric.set_policy(Some(Box::new(policies.clone())));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    policies.set_policy(
        "a",
        "p",
        PolicySpec {
            ingress: Some(Vec::new()),
            ..PolicySpec::default()
        },
    );
    assert!(changes.has_changed().unwrap());
    assert_eq!(fabric.guards(&|_| true), []);
    changes.mark_unchanged();
    let pod = PolicyPod {
        ips: vec![ip(1)],
        ..PolicyPod::default()
    };
    policies.set_pod("a", "one", pod);
    assert!(changes.has_changed().unwrap());
    let guard = Guard {
        ip: ip(1),
        ingress: Some(Vec::new()),
        egress: None,
    };
    assert_eq!(fabric.guards(&|_| true), [guard]);
    assert_eq!(fabric.guards(&|_| false), []);
}

fn identity(namespace: &str, name: &str) -> PodIdentity {
    PodIdentity {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..PodIdentity::default()
    }
}

fn label(key: &str, value: &str) -> Labels {
    Labels::from([(key.to_owned(), value.to_owned())])
}

fn to(last: u8) -> Attempt {
    Attempt {
        from: Origin::Pod(ip(9)),
        to: SocketAddr::new(ip(last), 80),
        protocol: Protocol::Tcp,
    }
}

#[test]
fn a_pod_is_guarded_before_its_labels_are_known() {
    let policies = Policies::new();
    policies.attached(ip(1), &identity("a", "early"));
    assert!(policies.allows(&to(1)), "there is no policy");
    let open = Rule::default();
    let spec = |rules: Vec<Rule>| PolicySpec {
        pods: Selector(vec![Requirement::Exists("guarded".to_owned())]),
        ingress: Some(rules),
        egress: None,
    };
    policies.set_policy("a", "p", spec(vec![open]));
    assert!(!policies.allows(&to(1)), "nobody knows what it is");
    policies.attached(ip(2), &identity("b", "elsewhere"));
    assert!(policies.allows(&to(2)));
    let pod = |labels| PolicyPod {
        labels,
        ..PolicyPod::default()
    };
    policies.set_pod("a", "early", pod(Labels::new()));
    assert!(policies.allows(&to(1)), "it is not selected");
    policies.set_pod("a", "early", pod(label("guarded", "yes")));
    assert!(policies.allows(&to(1)), "it is, and everybody may");
    policies.set_policy("a", "p", spec(Vec::new()));
    assert!(!policies.allows(&to(1)), "nobody may");
    policies.remove_policy("a", "p");
    assert!(policies.allows(&to(1)));
    policies.detached(ip(1), &identity("a", "early"));
    policies.remove_pod("a", "early");
    policies.detached(ip(2), &identity("b", "elsewhere"));
    assert_eq!(
        format!("{policies:?}"),
        "Policies { policies: 0, pods: 0, groups: 0, .. }"
    );
}

#[test]
fn an_address_belongs_to_who_is_attached() {
    let policies = Policies::new();
    let pod = |labels| PolicyPod {
        ips: vec![ip(1)],
        labels,
        ..PolicyPod::default()
    };
    let spec = PolicySpec {
        pods: Selector(vec![Requirement::Exists("guarded".to_owned())]),
        ingress: Some(Vec::new()),
        egress: None,
    };
    policies.set_policy("a", "p", spec);
    policies.set_pod("a", "old", pod(label("guarded", "yes")));
    assert!(!policies.allows(&to(1)));
    policies.set_pod("a", "new", PolicyPod::default());
    policies.attached(ip(1), &identity("a", "new"));
    assert!(policies.allows(&to(1)));
    // A late word about who had the address before changes nothing.
    let late = PolicyPod {
        ports: vec![("x".to_owned(), Protocol::Tcp, 1)],
        ..pod(label("guarded", "yes"))
    };
    policies.set_pod("a", "old", late);
    assert!(policies.allows(&to(1)));
    policies.remove_pod("a", "old");
    assert!(policies.allows(&to(1)));
}
