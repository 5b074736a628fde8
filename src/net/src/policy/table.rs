//! The tables: which rules are a pod's, and which addresses a selector means.
//!
//! A connect looks up two addresses and walks the rules of the policies that select those pods; a selector in a rule is a
//! set of addresses then. A change is paid for when it happens: of a pod by one look at every distinct selector, of a
//! policy by one look at the pods of its namespace, and at all pods for a selector that nobody had before.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{
    Attempt, ConnectPolicy, Labels, Origin, Peer, PolicySpec, Rule, guards,
    rules::{Compiled, CompiledPeer, Group, GroupKey, NamedPort, Namespaces},
};
use crate::{Changed, Guard, PodIdentity, Protocol, sync::lock};

/// A pod to policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyPod {
    /// Its addresses, as far as they are known. A pod that is attached to the fabric need not be given any.
    pub ips: Vec<IpAddr>,
    /// Its labels.
    pub labels: Labels,
    /// Its ports that have names.
    pub ports: Vec<(String, Protocol, u16)>,
}

/// Policies about pods, in namespaces. Clones share them.
///
/// Without any policy, everything is allowed. A pod of the fabric whose labels are not known yet counts as selected by
/// all policies of its namespace, and is nobody's allowed peer, until they are.
#[derive(Clone, Default)]
pub struct Policies(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// What connects look at.
    rules: ArcSwap<imbl::HashMap<IpAddr, Arc<PodRules>>>,
    changed: ArcSwapOption<Changed>,
    state: Mutex<State>,
}

/// What one address is to policies.
#[derive(Debug, Default)]
pub(super) struct PodRules {
    /// None: no policy speaks of what comes in.
    pub(super) ingress: Option<Vec<Arc<Compiled>>>,
    pub(super) egress: Option<Vec<Arc<Compiled>>>,
    pub(super) ports: Vec<NamedPort>,
}

/// Namespace and name.
type Key = (String, String);

#[derive(Default)]
struct State {
    namespaces: HashMap<String, Labels>,
    pods: BTreeMap<Key, Known>,
    policies: BTreeMap<Key, Policy>,
    groups: HashMap<GroupKey, Arc<Group>>,
    /// Whose an address is: of several pods, the one that had it last.
    owners: HashMap<IpAddr, Key>,
}

/// A pod of which something is known: what it is like, its address in the fabric, or both.
#[derive(Default)]
struct Known {
    pod: Option<PolicyPod>,
    attached: Option<IpAddr>,
}

struct Policy {
    spec: PolicySpec,
    ingress: Option<Vec<Arc<Compiled>>>,
    egress: Option<Vec<Arc<Compiled>>>,
}

impl Known {
    fn ips(&self) -> impl Iterator<Item = IpAddr> {
        let given = self.pod.iter().flat_map(|pod| &pod.ips);
        given.map(IpAddr::to_canonical).chain(self.attached)
    }
}

impl Policies {
    /// No policies.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a policy what `spec` says.
    pub fn set_policy(&self, namespace: &str, name: &str, spec: PolicySpec) {
        let mut state = lock(&self.0.state);
        let key = (namespace.to_owned(), name.to_owned());
        if state
            .policies
            .get(&key)
            .is_some_and(|known| known.spec == spec)
        {
            return;
        }
        let policy = state.compile(namespace, spec);
        state.policies.insert(key, policy);
        state.drop_groups();
        self.refresh_namespace(&state, namespace);
        self.tell(state);
    }

    /// Removes a policy, if it is there.
    pub fn remove_policy(&self, namespace: &str, name: &str) {
        let mut state = lock(&self.0.state);
        let key = (namespace.to_owned(), name.to_owned());
        if state.policies.remove(&key).is_some() {
            state.drop_groups();
            self.refresh_namespace(&state, namespace);
            self.tell(state);
        }
    }

    /// Makes a namespace's labels these.
    pub fn set_namespace(&self, name: &str, labels: Labels) {
        let mut state = lock(&self.0.state);
        if state.namespaces.get(name) == Some(&labels) {
            return;
        }
        state.namespaces.insert(name.to_owned(), labels);
        state.regroup_namespace(name);
        self.tell(state);
    }

    /// Forgets a namespace's labels.
    pub fn remove_namespace(&self, name: &str) {
        let mut state = lock(&self.0.state);
        if state.namespaces.remove(name).is_some() {
            state.regroup_namespace(name);
            self.tell(state);
        }
    }

    /// Says what a pod is like.
    pub fn set_pod(&self, namespace: &str, name: &str, pod: PolicyPod) {
        self.change_pod(&(namespace.to_owned(), name.to_owned()), |known| {
            known.pod = Some(pod);
        });
    }

    /// Forgets a pod, if it is known.
    pub fn remove_pod(&self, namespace: &str, name: &str) {
        self.change_pod(&(namespace.to_owned(), name.to_owned()), |known| {
            known.pod = None;
        });
    }

    /// Whether there is any policy.
    pub fn is_empty(&self) -> bool {
        lock(&self.0.state).policies.is_empty()
    }

    fn change_pod(&self, key: &Key, change: impl FnOnce(&mut Known)) {
        let mut state = lock(&self.0.state);
        let known = state.pods.entry(key.clone()).or_default();
        let before: HashSet<IpAddr> = known.ips().collect();
        let old = known.pod.clone();
        change(known);
        let after: HashSet<IpAddr> = known.ips().collect();
        if known.pod == old && before == after {
            return;
        }
        if known.pod.is_none() && known.attached.is_none() {
            state.pods.remove(key);
        }
        for ip in before.difference(&after) {
            if state.owners.get(ip) == Some(key) {
                state.owners.remove(ip);
            }
        }
        let attached = state.pods.get(key).and_then(|known| known.attached);
        for &ip in &after {
            // Who is attached has it, whatever others still say.
            let is_held = state.owners.get(&ip).is_some_and(|owner| {
                owner != key
                    && state
                        .pods
                        .get(owner)
                        .is_some_and(|pod| pod.attached == Some(ip))
            });
            if !is_held || attached == Some(ip) {
                state.owners.insert(ip, key.clone());
            }
        }
        let touched: Vec<IpAddr> = before.union(&after).copied().collect();
        for &ip in &touched {
            state.regroup(ip);
        }
        self.refresh(&state, touched);
        self.tell(state);
    }

    /// Unlocks, and tells who follows of a change.
    fn tell(&self, state: MutexGuard<'_, State>) {
        drop(state);
        if let Some(changed) = &*self.0.changed.load() {
            changed.tell();
        }
    }

    fn refresh_namespace(&self, state: &State, namespace: &str) {
        let ips = state
            .in_namespace(namespace)
            .flat_map(|(_, known)| known.ips());
        self.refresh(state, ips);
    }

    /// Finds the rules of these addresses anew.
    fn refresh(&self, state: &State, ips: impl IntoIterator<Item = IpAddr>) {
        let mut next = imbl::HashMap::clone(&self.0.rules.load());
        for ip in ips {
            match state.rules_of(ip) {
                Some(rules) => drop(next.insert(ip, Arc::new(rules))),
                None => drop(next.remove(&ip)),
            }
        }
        self.0.rules.store(Arc::new(next));
    }
}

impl State {
    fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = (&Key, &Known)> {
        let from = (namespace.to_owned(), String::new());
        let is_in = move |(key, _): &(&Key, &Known)| key.0 == from.0;
        self.pods
            .range((namespace.to_owned(), String::new())..)
            .take_while(is_in)
    }

    fn compile(&mut self, namespace: &str, spec: PolicySpec) -> Policy {
        let mut all = |rules: &Option<Vec<Rule>>| {
            let rules = rules.as_ref()?;
            let compile = |rule| Arc::new(self.compile_rule(namespace, rule));
            Some(rules.iter().map(compile).collect())
        };
        Policy {
            ingress: all(&spec.ingress),
            egress: all(&spec.egress),
            spec,
        }
    }

    fn compile_rule(&mut self, namespace: &str, rule: &Rule) -> Compiled {
        let mut compile = |peer: &Peer| match peer {
            Peer::Block { net, except } => CompiledPeer::Block {
                net: *net,
                except: except.clone(),
            },
            Peer::Pods { namespaces, pods } => {
                let namespaces = match namespaces {
                    None => Namespaces::This(namespace.to_owned()),
                    Some(selector) => Namespaces::Selected(selector.clone()),
                };
                let pods = pods.clone();
                CompiledPeer::Group(self.group(GroupKey { namespaces, pods }))
            }
        };
        Compiled {
            peers: rule
                .peers
                .as_ref()
                .map(|peers| peers.iter().map(&mut compile).collect()),
            ports: rule.ports.clone(),
        }
    }

    fn group(&mut self, key: GroupKey) -> Arc<Group> {
        if let Some(known) = self.groups.get(&key) {
            return known.clone();
        }
        let members = self
            .owners
            .keys()
            .copied()
            .filter(|ip| self.is_member(&key, *ip))
            .collect();
        let group = Arc::new(Group::of(members));
        self.groups.insert(key, group.clone());
        group
    }

    /// Lets go of the groups that no policy has any more.
    fn drop_groups(&mut self) {
        self.groups.retain(|_, group| Arc::strong_count(group) > 1);
    }

    fn is_member(&self, group: &GroupKey, ip: IpAddr) -> bool {
        let Some(key) = self.owners.get(&ip) else {
            return false;
        };
        let Some(pod) = self.pods.get(key).and_then(|known| known.pod.as_ref()) else {
            return false;
        };
        let in_namespace = match &group.namespaces {
            Namespaces::This(name) => *name == key.0,
            Namespaces::Selected(selector) => self
                .namespaces
                .get(&key.0)
                .is_some_and(|labels| selector.matches(labels)),
        };
        in_namespace && group.pods.matches(&pod.labels)
    }

    fn regroup(&self, ip: IpAddr) {
        for (key, group) in &self.groups {
            group.set(ip, self.is_member(key, ip));
        }
    }

    fn regroup_namespace(&self, namespace: &str) {
        for (_, known) in self.in_namespace(namespace) {
            for ip in known.ips() {
                self.regroup(ip);
            }
        }
    }

    /// The rules that hold for an address; none if there is nothing to look at.
    fn rules_of(&self, ip: IpAddr) -> Option<PodRules> {
        let key = self.owners.get(&ip)?;
        let pod = self.pods.get(key)?.pod.as_ref();
        let mut rules = PodRules {
            ports: pod.map(|pod| pod.ports.clone()).unwrap_or_default(),
            ..PodRules::default()
        };
        let policies = self
            .policies
            .range((key.0.clone(), String::new())..)
            .take_while(|((namespace, _), _)| *namespace == key.0);
        for (_, policy) in policies {
            let allowed = match pod {
                Some(pod) if !policy.spec.pods.matches(&pod.labels) => continue,
                Some(_) => true,
                // Selected, for all that is known; but nothing is allowed to who knows whom.
                None => false,
            };
            let add = |to: &mut Option<Vec<Arc<Compiled>>>, from: &Option<Vec<Arc<Compiled>>>| {
                if let Some(from) = from {
                    let to = to.get_or_insert_default();
                    to.extend(from.iter().filter(|_| allowed).cloned());
                }
            };
            add(&mut rules.ingress, &policy.ingress);
            add(&mut rules.egress, &policy.egress);
        }
        let matters = rules.ingress.is_some() || rules.egress.is_some() || !rules.ports.is_empty();
        matters.then_some(rules)
    }
}

impl ConnectPolicy for Policies {
    fn allows(&self, attempt: &Attempt) -> bool {
        let rules = self.0.rules.load();
        if rules.is_empty() {
            return true;
        }
        let Attempt { from, to, protocol } = *attempt;
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let target = rules.get(&to.ip());
        let names = target.map_or(&[][..], |target| &target.ports);
        let passes = |rules: &[Arc<Compiled>], peer| {
            rules
                .iter()
                .any(|rule| rule.allows(peer, protocol, to, names))
        };
        if let Origin::Pod(ip) = from
            && let Some(egress) = rules.get(&ip).and_then(|own| own.egress.as_ref())
            && !passes(egress, to.ip())
        {
            return false;
        }
        // What the node itself does to its pods, it may: without probes none of them would live.
        match (target.and_then(|target| target.ingress.as_ref()), from.ip()) {
            (Some(ingress), Some(peer)) => passes(ingress, peer),
            (None, _) | (_, None) => true,
        }
    }

    fn guards(&self, wanted: &dyn Fn(IpAddr) -> bool) -> Vec<Guard> {
        let rules = self.0.rules.load();
        guards::of(&rules, wanted)
    }

    fn watch(&self, changed: Changed) {
        self.0.changed.store(Some(Arc::new(changed)));
    }

    fn attached(&self, ip: IpAddr, pod: &PodIdentity) {
        let key = (pod.namespace.clone(), pod.name.clone());
        self.change_pod(&key, |known| known.attached = Some(ip));
    }

    fn detached(&self, ip: IpAddr, pod: &PodIdentity) {
        let key = (pod.namespace.clone(), pod.name.clone());
        self.change_pod(&key, |known| {
            // A pod of that name may have come since.
            if known.attached == Some(ip) {
                known.attached = None;
            }
        });
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.0.state);
        f.debug_struct("Policies")
            .field("policies", &state.policies.len())
            .field("pods", &state.pods.len())
            .field("groups", &state.groups.len())
            .finish_non_exhaustive()
    }
}
