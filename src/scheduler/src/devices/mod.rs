//! Devices that pods claim: which nodes have them, and which claim gets which.
//!
//! Drivers tell of devices in `ResourceSlice`s ([`inventory`]); a `ResourceClaim` says what kind of them it wants
//! ([`wanted`]), in expressions about their attributes ([`selectors`]). For each node that is looked at, [`search`] tries
//! whether all open claims of a pod can be met; for the one that is chosen, [`grant`] writes which devices they are.
//!
//! Devices are given as a whole: those that are parts of others, or are shared by several claims, are passed over.

mod grant;
mod inventory;
mod search;
mod selectors;
mod wanted;

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::NodeSelector,
    resource::v1::{
        DeviceClaim, DeviceClass, OpaqueDeviceConfiguration, ResourceClaim, ResourceSlice,
    },
};

pub(crate) use self::{
    grant::{Grant, GrantError, give, take_back},
    wanted::Wanted,
};
use self::{
    inventory::{DeviceId, Inventory},
    search::{Fault, Found},
    selectors::Selectors,
    wanted::expression,
};
use crate::{
    cluster::Facts,
    filter::Refusal,
    pod::{Needs, PodKey},
    selector::node_matches,
    volumes::ClaimKey,
};

/// A claim.
#[derive(Debug)]
struct Claim {
    key: ClaimKey,
    uid: String,
    /// The uid of the pod that it was made for.
    owner: Option<String>,
    deleted: bool,
    spec: Option<DeviceClaim>,
    allocation: Option<Allocation>,
    /// The uids of those that use it.
    consumers: Vec<String>,
}

/// What a claim has.
#[derive(Debug)]
struct Allocation {
    /// From where it can be reached; `None` for everywhere.
    nodes: Option<NodeSelector>,
    devices: Vec<DeviceId>,
}

/// What the devices of a class have in common.
#[derive(Debug)]
struct Class {
    selectors: Vec<String>,
    config: Vec<OpaqueDeviceConfiguration>,
}

/// Everything about devices.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    inventory: Inventory,
    claims: HashMap<ClaimKey, Arc<Claim>>,
    classes: HashMap<String, Arc<Class>>,
    /// How many claims have a device, those included that are just getting it.
    taken: HashMap<DeviceId, usize>,
    /// The devices that claims (by their uids) are just getting, until the API server says so too.
    assumed: HashMap<String, Vec<DeviceId>>,
    selectors: RefCell<Selectors>,
}

impl Devices {
    /// Forgets all slices: their list comes anew.
    pub(crate) fn clear_slices(&mut self) {
        self.inventory.clear();
    }

    pub(crate) fn set_slice(&mut self, slice: &ResourceSlice) {
        self.inventory.set(slice);
    }

    pub(crate) fn remove_slice(&mut self, slice: &ResourceSlice) {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        self.inventory.remove(name);
    }

    /// Forgets all classes: their list comes anew.
    pub(crate) fn clear_classes(&mut self) {
        self.classes.clear();
    }

    pub(crate) fn set_class(&mut self, class: &DeviceClass) {
        let (spec, name) = (&class.spec, class.metadata.name.clone());
        let selectors = spec.selectors.iter().flatten().filter_map(expression);
        let config = spec.config.iter().flatten();
        let new = Class {
            selectors: selectors.collect(),
            config: config.filter_map(|it| it.opaque.clone()).collect(),
        };
        self.classes.insert(name.unwrap_or_default(), Arc::new(new));
    }

    pub(crate) fn remove_class(&mut self, class: &DeviceClass) {
        let name = class.metadata.name.as_deref().unwrap_or_default();
        self.classes.remove(name);
    }

    /// Forgets all claims: their list comes anew.
    pub(crate) fn clear_claims(&mut self) {
        let keys: Vec<_> = self.claims.keys().cloned().collect();
        for key in keys {
            self.forget_claim(&key);
        }
    }

    pub(crate) fn set_claim(&mut self, claim: &ResourceClaim) {
        let new = Claim::of(claim);
        self.forget_claim(&new.key);
        if let Some(allocation) = &new.allocation {
            self.let_go_of(&new.uid);
            self.take(&allocation.devices);
        }
        self.claims.insert(new.key.clone(), Arc::new(new));
    }

    pub(crate) fn remove_claim(&mut self, claim: &ResourceClaim) {
        let gone = Claim::of(claim);
        self.forget_claim(&gone.key);
        self.let_go_of(&gone.uid);
    }

    fn forget_claim(&mut self, key: &ClaimKey) {
        let known = self.claims.remove(key);
        if let Some(allocation) = known.as_ref().and_then(|known| known.allocation.as_ref()) {
            self.give_back(&allocation.devices);
        }
    }

    fn take(&mut self, devices: &[DeviceId]) {
        for device in devices {
            *self.taken.entry(device.clone()).or_default() += 1;
        }
    }

    fn give_back(&mut self, devices: &[DeviceId]) {
        for device in devices {
            if let Some(count) = self.taken.get_mut(device) {
                *count -= 1;
                if *count == 0 {
                    self.taken.remove(device);
                }
            }
        }
    }

    /// Forgets what the claim was getting.
    fn let_go_of(&mut self, claim: &str) {
        if let Some(devices) = self.assumed.remove(claim) {
            self.give_back(&devices);
        }
    }

    /// What the pod's claims ask of nodes; an error is why no node can be asked yet.
    pub(crate) fn wanted(&self, pod: &PodKey, needs: &Needs) -> Result<Wanted, String> {
        wanted::wanted(self, pod, needs)
    }

    /// Why a node cannot take a pod whose claims ask this.
    pub(crate) fn refusal<'w>(&self, wanted: &'w Wanted, node: &Facts) -> Option<Refusal<'w>> {
        let is_elsewhere = |claim: &Arc<Claim>| {
            let nodes = claim.allocation.as_ref().and_then(|it| it.nodes.as_ref());
            nodes.is_some_and(|nodes| !node_matches(nodes, &node.name, &node.labels))
        };
        if wanted.given.iter().any(is_elsewhere) {
            return Some(Refusal::DevicesElsewhere);
        }
        match self.find(wanted, node) {
            Ok(Some(_)) => None,
            Ok(None) => Some(Refusal::NoDevices),
            Err(fault) => {
                let text = || match fault {
                    Fault::Selector(why) => why,
                    Fault::TooLong => "looking for devices takes too long".to_owned(),
                };
                Some(Refusal::DeviceFault(wanted.fault.get_or_init(text)))
            }
        }
    }

    /// What the pod's claims get with this node; `None` if there is not enough.
    pub(crate) fn grants(&self, wanted: &Wanted, node: &Facts) -> Option<Vec<Grant>> {
        let found = self.find(wanted, node).ok()??;
        let given = wanted.given.iter().map(|claim| Grant {
            claim: claim.key.clone(),
            uid: claim.uid.clone(),
            allocation: None,
        });
        let open = wanted.open.iter().enumerate().map(|(number, open)| {
            let of_claim = found.iter().filter(|found| found.claim == number);
            let own: Vec<Found<'_>> = of_claim.copied().collect();
            Grant {
                claim: open.claim.key.clone(),
                uid: open.claim.uid.clone(),
                allocation: Some(grant::allocation(self, open, &own)),
            }
        });
        Some(given.chain(open).collect())
    }

    fn find(&self, wanted: &Wanted, node: &Facts) -> Result<Option<Vec<Found<'_>>>, Fault> {
        if wanted.open.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let pools = self.inventory.of(node);
        let mut selectors = self.selectors.borrow_mut();
        let mut selects = |request: &wanted::Request, device: &inventory::Device| {
            for source in &request.selectors {
                let answer = selectors.select(source, device, &wanted.steps);
                let selected = answer.map_err(|why| {
                    let name = request.full_name();
                    Fault::Selector(format!("request {name}: device {}: {why}", device.id.name))
                })?;
                if !selected {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let is_taken = |device: &DeviceId| self.taken.contains_key(device);
        search::find(&wanted.open, &pools, &is_taken, &mut selects, &wanted.tries)
    }

    /// Claims are getting this: nobody else gets those devices.
    pub(crate) fn assume(&mut self, grants: &[Grant]) {
        for grant in grants {
            if let Some(allocation) = &grant.allocation {
                let devices = devices_of(allocation);
                self.take(&devices);
                self.assumed.insert(grant.uid.clone(), devices);
            }
        }
    }

    /// Claims did not get it.
    pub(crate) fn forget(&mut self, grants: &[Grant]) {
        for grant in grants.iter().filter(|grant| grant.allocation.is_some()) {
            self.let_go_of(&grant.uid);
        }
    }
}

impl Claim {
    fn of(claim: &ResourceClaim) -> Self {
        let metadata = &claim.metadata;
        let status = claim.status.clone().unwrap_or_default();
        let owners = metadata.owner_references.iter().flatten();
        let mut pods = owners.filter(|owner| owner.controller == Some(true) && owner.kind == "Pod");
        let consumers = status.reserved_for.iter().flatten();
        Self {
            key: (
                metadata.namespace.clone().unwrap_or_default(),
                metadata.name.clone().unwrap_or_default(),
            ),
            uid: metadata.uid.clone().unwrap_or_default(),
            owner: pods.next().map(|owner| owner.uid.clone()),
            deleted: metadata.deletion_timestamp.is_some(),
            spec: claim.spec.devices.clone(),
            consumers: consumers.map(|consumer| consumer.uid.clone()).collect(),
            allocation: status.allocation.as_ref().map(|allocation| Allocation {
                devices: devices_of(allocation),
                nodes: allocation.node_selector.clone(),
            }),
        }
    }
}

/// The devices that nobody else can have. One that is looked at for administration only is not taken.
fn devices_of(allocation: &k8s_openapi::api::resource::v1::AllocationResult) -> Vec<DeviceId> {
    let devices = allocation.devices.iter();
    let results = devices.flat_map(|devices| devices.results.iter().flatten());
    let taken = results.filter(|result| result.admin_access != Some(true));
    taken
        .map(|result| DeviceId::new(&result.driver, &result.pool, &result.device))
        .collect()
}

#[cfg(test)]
mod tests;
