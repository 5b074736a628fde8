//! What is known of a pod on this node: one board for each pod, written by those who run its containers, read by those
//! who report it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use tokio::sync::watch;
use vaquita_backends::{Sandbox, Traffic};
use vaquita_manifest::{RestartPolicy, Restarting, Role, init_containers, init_role};

use super::resize::Pending;
use crate::{
    exec::Live,
    stats::{Meter, disk::Place},
};

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    Waiting {
        reason: &'static str,
        message: Option<String>,
    },
    Running {
        since: Timestamp,
        /// Whether the startup probe has succeeded, if there is one.
        started: bool,
        /// What the readiness probe says, if there is one.
        ready: bool,
    },
    Terminated {
        end: Termination,
        /// Whether the restart policy leaves it at that.
        for_good: bool,
    },
}

/// How an instance of a container ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Termination {
    pub(crate) code: i32,
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) container_id: Option<String>,
}

/// A container, as it is reported.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Whether it starts again when it has ended.
    pub(crate) restarting: Restarting,
    /// What the node has given it.
    pub(crate) allocated: ResourceRequirements,
    /// What its instance has, if one runs.
    pub(crate) actual: ResourceRequirements,
    /// Why its instance does not have yet what is allocated.
    pub(crate) resize_error: Option<String>,
    pub(crate) state: State,
    /// The end of the instance before the present one.
    pub(crate) last: Option<Termination>,
    pub(crate) restarts: u32,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) container_id: Option<String>,
    /// Whether its instance has been told to end because the pod ends.
    pub(crate) is_told: bool,
}

impl Record {
    /// A container that nothing has been done about.
    pub(crate) fn new(
        container: &Container,
        role: Role,
        policy: RestartPolicy,
        reason: &'static str,
    ) -> Self {
        Self {
            name: container.name.clone(),
            role,
            restarting: Restarting::of(policy, container),
            allocated: container.resources.clone().unwrap_or_default(),
            actual: ResourceRequirements::default(),
            resize_error: None,
            state: State::Waiting {
                reason,
                message: None,
            },
            last: None,
            restarts: 0,
            image: container.image.clone().unwrap_or_default(),
            image_id: String::new(),
            container_id: None,
            is_told: false,
        }
    }

    /// The end of the present instance if it has ended, of the one before otherwise.
    pub(crate) fn latest_end(&self) -> Option<&Termination> {
        match &self.state {
            State::Terminated { end, .. } => Some(end),
            State::Waiting { .. } | State::Running { .. } => self.last.as_ref(),
        }
    }

    /// Whether it is about to start, as far as is known.
    pub(crate) fn is_being_created(&self) -> bool {
        matches!(
            self.state,
            State::Waiting {
                reason: "ContainerCreating",
                ..
            }
        )
    }

    /// Whether it takes no more work: it was told to end with its pod, or does not run.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_told || !matches!(self.state, State::Running { .. })
    }

    /// Whether its instance is to get other resources.
    pub(crate) fn is_resizing(&self) -> bool {
        matches!(self.state, State::Running { .. }) && self.actual != self.allocated
    }

    /// Whether it is going to start again, or would if the pod went on.
    pub(crate) fn will_restart(&self) -> bool {
        match &self.state {
            State::Terminated { end, .. } => self.restarting.after(self.role, end.code),
            State::Waiting { .. } => self.last.is_some(),
            State::Running { .. } => false,
        }
    }

    pub(crate) fn is_started(&self) -> bool {
        matches!(self.state, State::Running { started: true, .. })
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Terminated { for_good: true, .. })
    }
}

/// Why the pod as a whole has failed, whatever its containers did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// How long its containers may take to end, if not as long as the manifest says.
    pub(crate) grace: Option<Duration>,
}

/// All that is known of a pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Facts {
    /// Init containers first, in the manifest's order.
    pub(crate) containers: Vec<Record>,
    pub(crate) ip: Option<IpAddr>,
    /// When the node first saw the pod.
    pub(crate) start_time: Option<Timestamp>,
    /// Whether the pod has its network.
    pub(crate) has_sandbox: bool,
    pub(crate) verdict: Option<Verdict>,
    /// Why it does not have the resources that it wants.
    pub(crate) pending: Option<Pending>,
    /// Whether the pod is being deleted and nothing of it runs any more.
    pub(crate) is_stopped: bool,
}

impl Facts {
    /// A pod that the node has not seen before.
    pub(crate) fn new(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let policy = RestartPolicy::of(pod);
        let init = spec.map(init_containers).unwrap_or_default();
        // Without init containers there is nothing to initialize: so upstream says it.
        let reason = if init.is_empty() {
            "ContainerCreating"
        } else {
            "PodInitializing"
        };
        let main = spec
            .map(|spec| spec.containers.as_slice())
            .unwrap_or_default();
        let containers = init.iter().map(|container| {
            Record::new(container, init_role(container), policy, "PodInitializing")
        });
        let containers = containers.chain(
            main.iter()
                .map(|container| Record::new(container, Role::Main, policy, reason)),
        );
        Self {
            containers: containers.collect(),
            ip: None,
            start_time: None,
            has_sandbox: false,
            verdict: None,
            pending: None,
            is_stopped: false,
        }
    }

    pub(crate) fn of_role(&self, role: Role) -> impl Iterator<Item = &Record> {
        self.containers
            .iter()
            .filter(move |record| record.role == role)
    }

    /// Whether no main container takes more work.
    pub(crate) fn is_leaving(&self) -> bool {
        self.of_role(Role::Main).all(Record::is_leaving)
    }

    /// Whether no main container will run any more.
    pub(crate) fn is_done(&self) -> bool {
        self.of_role(Role::Main).all(Record::is_done)
    }
}

/// The facts, shared.
#[derive(Debug)]
pub(crate) struct Board {
    facts: Mutex<Facts>,
    changed: watch::Sender<()>,
    /// Of the containers that run, by their place.
    meters: Mutex<BTreeMap<usize, Arc<Meter>>>,
    /// Of the containers that run, by their place.
    lives: Mutex<BTreeMap<usize, Arc<Live>>>,
}

impl Board {
    pub(crate) fn new(facts: Facts) -> Self {
        Self {
            facts: Mutex::new(facts),
            changed: watch::Sender::default(),
            meters: Mutex::default(),
            lives: Mutex::default(),
        }
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&Facts) -> T) -> T {
        look(&self.lock())
    }

    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Facts) -> T) -> T {
        let outcome = change(&mut self.lock());
        self.changed.send_replace(());
        outcome
    }

    /// As [`update`](Self::update), but tells of it only if the outcome is of interest.
    pub(crate) fn update_if<T>(
        &self,
        change: impl FnOnce(&mut Facts) -> T,
        is_of_interest: impl FnOnce(&T) -> bool,
    ) -> T {
        let outcome = change(&mut self.lock());
        if is_of_interest(&outcome) {
            self.changed.send_replace(());
        }
        outcome
    }

    /// Tells of each update after the call.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What reads the container's usage from now on, if anything does.
    pub(crate) fn set_meter(&self, index: usize, meter: Option<Arc<Meter>>) {
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        match meter {
            Some(meter) => drop(meters.insert(index, meter)),
            None => drop(meters.remove(&index)),
        }
    }

    /// What is at hand of the container from now on; `None` when it has ended, which whoever is attached is told.
    pub(crate) fn set_live(&self, index: usize, live: Option<Arc<Live>>) {
        let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match live {
            Some(live) => lives.insert(index, live),
            None => lives.remove(&index),
        };
        drop(lives);
        if let Some(before) = before {
            before.hub.finish();
        }
    }

    /// What is at hand of a container that runs.
    pub(crate) fn live(&self, container: &str) -> Option<Arc<Live>> {
        let index = self.read(|facts| {
            let mut records = facts.containers.iter();
            records.position(|record| record.name == container)
        })?;
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.get(&index).cloned()
    }

    /// Where the volumes of the pod are, if it runs.
    pub(crate) fn volumes(&self, pod: &Pod) -> Vec<Place> {
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        let storage = lives.values().next().map(|live| live.storage.clone());
        drop(lives);
        storage.map_or_else(Vec::new, |storage| storage.places(pod))
    }

    /// What went over the pod's network, while some container runs.
    pub(crate) fn traffic(&self) -> Option<Traffic> {
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        let sandbox = lives.values().next().map(|live| live.sandbox.clone());
        drop(lives);
        sandbox?.traffic()
    }

    /// The sandbox of a pod of which some container is no module and runs.
    pub(crate) fn native_sandbox(&self) -> Option<Arc<dyn Sandbox>> {
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        let native = lives.values().find(|live| live.image.is_native())?;
        Some(native.sandbox.clone())
    }

    pub(crate) fn meters(&self) -> Vec<Arc<Meter>> {
        let meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        meters.values().cloned().collect()
    }

    /// Waits until the facts are as wanted.
    pub(crate) async fn wait_until(&self, wanted: impl Fn(&Facts) -> bool) {
        let mut changes = self.changes();
        while !self.read(&wanted) {
            if changes.changed().await.is_err() {
                // The sender is in `self`: it cannot be gone.
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
