//! Other resources for containers while they run: `kubectl patch pod NAME --subresource resize`.
//!
//! It goes in two steps, as in upstream's kubelet. First the node decides whether it has room for what the manifest
//! wants now ([`decide`]): if so, that is *allocated*; if not, the pod keeps what it has, and its condition
//! `PodResizePending` says why. Then each container's runner gives its instance what is allocated, or makes place for another
//! instance if the manifest's `resizePolicy` says so; as long as the two differ, there is a condition
//! `PodResizeInProgress`.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use kube::ResourceExt as _;
use serde_json::json;
use tokio::sync::watch;
use vaquita_api::quantity::Quantity;
use vaquita_manifest::{Capacity, Role, init_containers};

use super::board::{Facts, Record};

/// What the pods of the node were given, by their uids. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    given: Arc<Mutex<HashMap<String, Amounts>>>,
    /// Changes when a pod needs less than before.
    freed: watch::Sender<()>,
}

/// What the containers of a pod request together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    /// In thousandths of a core.
    cpu: u64,
    /// Bytes.
    memory: u64,
}

/// Why a pod does not get what it wants, in the words of its condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Pending {
    /// It may have it later, when others need less.
    const DEFERRED: &str = "Deferred";
    /// The node will never have so much.
    const INFEASIBLE: &str = "Infeasible";

    pub(crate) fn may_pass(&self) -> bool {
        self.reason == Self::DEFERRED
    }
}

/// What became of a look at what a pod wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// It has what it wants.
    Unchanged,
    /// It has been allocated what it wants. What that is, for an event.
    Allocated(String),
    /// It cannot have it now.
    Pending(Pending),
}

impl Ledger {
    /// Tells of each pod that needs less than before, from now on.
    pub(super) fn freed(&self) -> watch::Receiver<()> {
        self.freed.subscribe()
    }

    /// Enters what a pod has, if the node has that much. What it had before counts no more.
    fn give(&self, uid: &str, wanted: Amounts, capacity: &Capacity) -> Result<(), Pending> {
        let all = Amounts {
            cpu: u64::from(capacity.cpus) * 1000,
            memory: capacity.memory,
        };
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let others = given.iter().filter(|(other, _)| *other != uid);
        let used = others.fold(Amounts::default(), |sum, (_, amounts)| sum.plus(*amounts));
        wanted.check(used, all)?;
        let before = given.insert(uid.to_owned(), wanted);
        drop(given);
        if before.is_some_and(|before| before.cpu > wanted.cpu || before.memory > wanted.memory) {
            self.freed.send_replace(());
        }
        Ok(())
    }

    /// Enters what a pod has, whether or not there is that much: the scheduler has decided.
    fn enter(&self, uid: &str, amounts: Amounts) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.insert(uid.to_owned(), amounts);
    }

    /// Forgets a pod of which nothing runs any more.
    pub(super) fn release(&self, uid: &str) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let before = given.remove(uid);
        drop(given);
        if before.is_some() {
            self.freed.send_replace(());
        }
    }
}

impl Amounts {
    fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
        }
    }

    fn of(resources: &ResourceRequirements) -> Self {
        let request = |name| resources.requests.as_ref()?.get(name)?.0.parse().ok();
        let cpu = request("cpu").map(|quantity: Quantity| quantity.milli_value());
        let memory = request("memory").map(|quantity: Quantity| quantity.value());
        Self {
            cpu: cpu.map_or(0, |cpu| u64::try_from(cpu).unwrap_or(0)),
            memory: memory.map_or(0, |memory| u64::try_from(memory).unwrap_or(0)),
        }
    }

    /// Whether that much is left beside what others use. Messages are upstream's.
    fn check(self, used: Self, all: Self) -> Result<(), Pending> {
        let kinds = [
            ("cpu", self.cpu, used.cpu, all.cpu),
            ("memory", self.memory, used.memory, all.memory),
        ];
        for (name, wanted, _, all) in kinds {
            if wanted > all {
                return Err(Pending {
                    reason: Pending::INFEASIBLE,
                    message: format!(
                        "Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {all}"
                    ),
                });
            }
        }
        for (name, wanted, used, all) in kinds {
            if wanted > all.saturating_sub(used) {
                return Err(Pending {
                    reason: Pending::DEFERRED,
                    message: format!(
                        "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {all}"
                    ),
                });
            }
        }
        Ok(())
    }
}

/// Enters a pod that starts.
pub(super) fn enter(ledger: &Ledger, pod: &Pod, facts: &Facts) {
    ledger.enter(&pod.uid().unwrap_or_default(), given(facts));
}

/// What the containers have together, those that run side by side.
fn given(facts: &Facts) -> Amounts {
    let lasting = |record: &&Record| matches!(record.role, Role::Main | Role::Sidecar);
    let all = facts.containers.iter().filter(lasting);
    all.map(|record| Amounts::of(&record.allocated))
        .fold(Amounts::default(), Amounts::plus)
}

/// Looks at what the manifest wants now, and allocates it if the node has it.
pub(super) fn decide(
    ledger: &Ledger,
    capacity: &Capacity,
    pod: &Pod,
    facts: &mut Facts,
) -> Decision {
    let before: Vec<_> = facts
        .containers
        .iter()
        .map(|record| record.allocated.clone())
        .collect();
    for record in &mut facts.containers {
        if let Some(container) = wanted(pod, record) {
            record.allocated = container.resources.clone().unwrap_or_default();
        }
    }
    let changed = facts.containers.iter().zip(&before);
    if changed
        .clone()
        .all(|(now, before)| now.allocated == *before)
    {
        facts.pending = None;
        return Decision::Unchanged;
    }
    let uid = pod.uid().unwrap_or_default();
    let refused = ledger.give(&uid, given(facts), capacity).err();
    facts.pending.clone_from(&refused);
    if let Some(pending) = refused {
        for (record, before) in facts.containers.iter_mut().zip(before) {
            record.allocated = before;
        }
        return Decision::Pending(pending);
    }
    let containers: Vec<_> = changed
        .filter(|(now, before)| now.allocated != **before)
        .map(|(now, _)| json!({"name": now.name, "resources": now.allocated}))
        .collect();
    Decision::Allocated(json!({"containers": containers}).to_string())
}

/// The container as the manifest has it now, if its resources can change.
fn wanted<'a>(pod: &'a Pod, record: &Record) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    let all = match record.role {
        Role::Main => spec.containers.as_slice(),
        Role::Sidecar => init_containers(spec),
        Role::Init | Role::Ephemeral => return None,
    };
    all.iter().find(|container| container.name == record.name)
}

/// What a container's instance has and what it is to have.
#[derive(Clone, PartialEq)]
pub(super) struct Change {
    pub(super) from: ResourceRequirements,
    pub(super) to: ResourceRequirements,
}

impl Change {
    /// Whether the manifest wants another instance for that.
    pub(super) fn needs_restart(&self, container: &Container) -> bool {
        let policies = container.resize_policy.iter().flatten();
        let mut restarting = policies.filter(|policy| policy.restart_policy == "RestartContainer");
        restarting.any(|policy| {
            let name = policy.resource_name.as_str();
            let of = |resources: &ResourceRequirements| {
                let amount = |amounts: &Option<std::collections::BTreeMap<_, _>>| {
                    amounts.as_ref().and_then(|all| all.get(name)).cloned()
                };
                (amount(&resources.requests), amount(&resources.limits))
            };
            of(&self.from) != of(&self.to)
        })
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", json!({"from": self.from, "to": self.to}))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn pod(uid: &str, cpu: &str, memory: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": uid},
            "spec": {"containers": [{
                "name": "c",
                "resources": {"requests": {"cpu": cpu, "memory": memory}},
                "resizePolicy": [
                    {"resourceName": "cpu", "restartPolicy": "NotRequired"},
                    {"resourceName": "memory", "restartPolicy": "RestartContainer"},
                ],
            }]},
        }))
        .unwrap()
    }

    fn capacity() -> Capacity {
        Capacity {
            cpus: 2,
            memory: 1 << 30,
            pods: 10,
        }
    }

    #[test]
    fn a_pod_gets_what_is_left_and_waits_for_what_others_have() {
        let ledger = Ledger::default();
        let (first, second) = (pod("1", "1", "1Mi"), pod("2", "500m", "1Mi"));
        let (mut facts, others) = (Facts::new(&first), Facts::new(&second));
        enter(&ledger, &first, &facts);
        enter(&ledger, &second, &others);
        let mut decide = |pod: &Pod| decide(&ledger, &capacity(), pod, &mut facts);
        assert_eq!(decide(&first), Decision::Unchanged);
        let Decision::Allocated(what) = decide(&pod("1", "1500m", "2Mi")) else {
            panic!("there is room")
        };
        assert!(what.contains("1500m"), "{what}");
        let Decision::Pending(pending) = decide(&pod("1", "1600m", "2Mi")) else {
            panic!("there is no room")
        };
        assert_eq!(
            pending.message,
            "Node didn't have enough resource: cpu, requested: 1600, used: 500, capacity: 2000"
        );
        assert!(pending.may_pass());
        let Decision::Pending(pending) = decide(&pod("1", "1", "2Gi")) else {
            panic!("there will never be room")
        };
        assert!(!pending.may_pass(), "{pending:?}");
        let mut freed = ledger.freed();
        assert!(!freed.has_changed().unwrap());
        ledger.release("2");
        assert!(freed.has_changed().unwrap());
        freed.mark_unchanged();
        assert!(matches!(
            decide(&pod("1", "2", "2Mi")),
            Decision::Allocated(_)
        ));
        assert_eq!(facts.pending, None);
    }

    #[test]
    fn the_policy_of_a_resource_counts_when_that_resource_changes() {
        let container = |pod: Pod| pod.spec.unwrap().containers.remove(0);
        let small = container(pod("1", "1", "1Mi"));
        let change = |to: Pod| Change {
            from: small.resources.clone().unwrap(),
            to: container(to).resources.unwrap(),
        };
        assert!(!change(pod("1", "2", "1Mi")).needs_restart(&small));
        assert!(change(pod("1", "1", "2Mi")).needs_restart(&small));
        let text: Value =
            serde_json::from_str(&format!("{:?}", change(pod("1", "2", "1Mi")))).unwrap();
        assert_eq!(text["to"]["requests"]["cpu"], "2");
    }
}
