//! Keeps the network's policies as the cluster's `NetworkPolicies` are.
//!
//! What pods and namespaces are labelled is of interest only while there is a policy: they are watched from the first one
//! on. Until they are known, the policy's namespace is closed rather than open.

use std::{collections::HashSet, fmt::Debug};

use futures::{StreamExt as _, stream::BoxStream};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use vaquita_net::{Fabric, Labels, PodIdentity, Policies, PolicyPod, Protocol};

use crate::policy_spec;

/// Follows the cluster until told to stop.
pub(crate) async fn follow(client: Client, fabric: Fabric, shutdown: CancellationToken) {
    let policies = Policies::new();
    tell_of_dns(&policies, &fabric);
    fabric.set_policy(Some(Box::new(policies.clone())));
    let mut watched: Changes<NetworkPolicy> = changes(&client);
    let mut seen = Seen::default();
    let mut labelled = None;
    loop {
        let change = tokio::select! {
            () = shutdown.cancelled() => return,
            Some(change) = watched.next() => change,
            () = follow_labels(labelled.as_mut()) => continue,
        };
        match change {
            Ok(event) => apply(&policies, &mut seen, event),
            Err(error) => tracing::warn!(%error, "cannot follow NetworkPolicies"),
        }
        if policies.is_empty() {
            labelled = None;
        } else if labelled.is_none() {
            labelled = Some(Labelled::new(&client, policies.clone()));
        }
    }
}

/// The cluster's DNS is served by the node, at its own address; to policies it is what it is elsewhere: pods that are
/// labelled so.
fn tell_of_dns(policies: &Policies, fabric: &Fabric) {
    let pod = PolicyPod {
        ips: vec![fabric.node_ip()],
        labels: Labels::from([("k8s-app".to_owned(), "kube-dns".to_owned())]),
        ports: vec![
            ("dns".to_owned(), Protocol::Udp, 53),
            ("dns-tcp".to_owned(), Protocol::Tcp, 53),
        ],
    };
    let PodIdentity {
        namespace, name, ..
    } = crate::dns::identity();
    policies.set_pod(&namespace, &name, pod);
}

type Changes<K> = BoxStream<'static, Result<Event<K>, watcher::Error>>;

/// Namespace and name.
type Key = (String, String);

fn changes<K>(client: &Client) -> Changes<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let api: Api<K> = Api::all(client.clone());
    watcher(api, watcher::Config::default())
        .default_backoff()
        .boxed()
}

fn key_of(object: &impl kube::ResourceExt) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// What there is, so that a list tells what there is no more.
#[derive(Default)]
struct Seen {
    present: HashSet<Key>,
    listed: HashSet<Key>,
}

impl Seen {
    /// Takes note of an event. What comes back is there with this content, or is gone.
    fn note<K: kube::ResourceExt>(&mut self, event: Event<K>) -> Vec<(Key, Option<K>)> {
        match event {
            Event::Init => {
                self.listed.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let key = key_of(&object);
                self.listed.insert(key.clone());
                self.present.insert(key.clone());
                vec![(key, Some(object))]
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                let before = std::mem::replace(&mut self.present, listed);
                let gone = before.difference(&self.present);
                gone.map(|key| (key.clone(), None)).collect()
            }
            Event::Apply(object) => {
                let key = key_of(&object);
                self.present.insert(key.clone());
                vec![(key, Some(object))]
            }
            Event::Delete(object) => {
                let key = key_of(&object);
                self.present.remove(&key);
                vec![(key, None)]
            }
        }
    }
}

fn apply(policies: &Policies, seen: &mut Seen, event: Event<NetworkPolicy>) {
    for ((namespace, name), policy) in seen.note(event) {
        match policy.as_ref().and_then(policy_spec::of) {
            Some(spec) => policies.set_policy(&namespace, &name, spec),
            None => policies.remove_policy(&namespace, &name),
        }
    }
}

/// The labels of pods and namespaces, while they matter.
struct Labelled {
    policies: Policies,
    pods: Changes<Pod>,
    seen_pods: Seen,
    namespaces: Changes<Namespace>,
    seen_namespaces: Seen,
}

impl Labelled {
    fn new(client: &Client, policies: Policies) -> Self {
        Self {
            policies,
            pods: changes(client),
            seen_pods: Seen::default(),
            namespaces: changes(client),
            seen_namespaces: Seen::default(),
        }
    }

    async fn next(&mut self) {
        tokio::select! {
            Some(event) = self.pods.next() => match event {
                Ok(event) => self.pod(event),
                Err(error) => tracing::warn!(%error, "cannot follow pods for NetworkPolicies"),
            },
            Some(event) = self.namespaces.next() => match event {
                Ok(event) => self.namespace(event),
                Err(error) => tracing::warn!(%error, "cannot follow namespaces for NetworkPolicies"),
            },
        }
    }

    fn pod(&mut self, event: Event<Pod>) {
        for ((namespace, name), pod) in self.seen_pods.note(event) {
            match pod.as_ref().and_then(policy_spec::pod) {
                Some(pod) => self.policies.set_pod(&namespace, &name, pod),
                None => self.policies.remove_pod(&namespace, &name),
            }
        }
    }

    fn namespace(&mut self, event: Event<Namespace>) {
        for ((_, name), namespace) in self.seen_namespaces.note(event) {
            match namespace {
                Some(namespace) => {
                    let labels = namespace.labels().clone();
                    self.policies.set_namespace(&name, labels);
                }
                None => self.policies.remove_namespace(&name),
            }
        }
    }
}

impl Drop for Labelled {
    /// What was known would be out of date when it matters again.
    fn drop(&mut self) {
        for (namespace, name) in &self.seen_pods.present {
            self.policies.remove_pod(namespace, name);
        }
        for (_, name) in &self.seen_namespaces.present {
            self.policies.remove_namespace(name);
        }
    }
}

async fn follow_labels(labelled: Option<&mut Labelled>) {
    match labelled {
        Some(labelled) => labelled.next().await,
        None => std::future::pending().await,
    }
}
