//! What the claims of a pod ask for, as far as this scheduler gives it.

use std::{
    cell::{Cell, OnceCell},
    sync::Arc,
};

use k8s_openapi::api::resource::v1::{
    DeviceClaim, DeviceRequest, DeviceSelector, DeviceSubRequest, DeviceToleration,
    ExactDeviceRequest,
};

use super::{Claim, Devices, Grant, search, selectors};
use crate::pod::{DeviceClaimName, Needs, PodKey};

/// How many pods may use a claim together, as the API allows.
const CONSUMERS: usize = 256;

/// How many devices a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Amount {
    Exactly(usize),
    /// Every device of the node that suits.
    All,
}

/// Devices of one kind.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) name: String,
    /// Which of the request's alternatives it is, if it has any.
    pub(super) alternative: Option<String>,
    pub(super) class: String,
    /// Those of the class, and its own.
    pub(super) selectors: Vec<String>,
    pub(super) amount: Amount,
    pub(super) tolerations: Vec<DeviceToleration>,
}

impl Request {
    /// The name by which results tell what a device was given for.
    pub(super) fn full_name(&self) -> String {
        match &self.alternative {
            None => self.name.clone(),
            Some(alternative) => format!("{}/{alternative}", self.name),
        }
    }

    /// Whether this is one of the requests that are named: by their own names, or by those of their alternatives.
    pub(super) fn is_among(&self, names: &[String]) -> bool {
        names.is_empty() || names.contains(&self.name) || names.contains(&self.full_name())
    }
}

/// A claim that has no devices yet.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) claim: Arc<Claim>,
    /// Each with its alternatives, the best first: one if it has none.
    pub(super) requests: Vec<Vec<Request>>,
    /// Attributes that the devices of these requests (of all, if none is named) have in common.
    pub(super) alike: Vec<(String, Vec<String>)>,
}

impl Open {
    /// One of the alternatives of a request.
    pub(super) fn request(&self, request: usize, alternative: usize) -> Option<&Request> {
        self.requests.get(request)?.get(alternative)
    }
}

/// What the claims of a pod ask of a node.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Claims that have their devices.
    pub(super) given: Vec<Arc<Claim>>,
    pub(super) open: Vec<Open>,
    /// What this decision may still spend on selectors.
    pub(super) steps: Cell<u64>,
    /// What this decision may still spend on searching.
    pub(super) tries: Cell<u64>,
    /// Why devices could not be looked for on some node.
    pub(super) fault: OnceCell<String>,
}

impl Wanted {
    /// A claim with devices that are not everywhere, which nobody but this pod may use.
    pub(crate) fn own(&self, pod: &PodKey) -> Option<Grant> {
        let is_own = |claim: &&Arc<Claim>| {
            let nodes = claim.allocation.as_ref().and_then(|it| it.nodes.as_ref());
            nodes.is_some() && claim.consumers.iter().all(|uid| *uid == pod.uid)
        };
        let claim = self.given.iter().find(is_own)?;
        Some(Grant {
            claim: claim.key.clone(),
            uid: claim.uid.clone(),
            allocation: None,
        })
    }
}

/// What the pod's claims ask for; an error is why no node can be asked yet.
pub(super) fn wanted(devices: &Devices, pod: &PodKey, needs: &Needs) -> Result<Wanted, String> {
    let mut wanted = Wanted {
        given: Vec::new(),
        open: Vec::new(),
        steps: Cell::new(selectors::BUDGET),
        tries: Cell::new(search::TRIES),
        fault: OnceCell::new(),
    };
    for name in &needs.device_claims {
        let (name, is_made) = match name {
            DeviceClaimName::Given(name) => (name, false),
            DeviceClaimName::Made(name) => (name, true),
            DeviceClaimName::NotMade => {
                let (namespace, name) = (&pod.namespace, &pod.name);
                return Err(format!(
                    "pod \"{namespace}/{name}\": ResourceClaim not created yet"
                ));
            }
        };
        let key = (pod.namespace.clone(), name.clone());
        let claim = devices
            .claims
            .get(&key)
            .ok_or_else(|| format!("resourceclaim.resource.k8s.io {name:?} not found"))?;
        is_usable(devices, claim, pod, is_made)?;
        if claim.allocation.is_some() {
            wanted.given.push(Arc::clone(claim));
        } else {
            wanted.open.push(open(devices, claim)?);
        }
    }
    Ok(wanted)
}

fn is_usable(devices: &Devices, claim: &Claim, pod: &PodKey, is_made: bool) -> Result<(), String> {
    let (namespace, name) = &claim.key;
    if is_made && claim.owner.as_ref() != Some(&pod.uid) {
        return Err(format!(
            "ResourceClaim {namespace}/{name} was not created for pod {}/{} (pod is not owner)",
            pod.namespace, pod.name
        ));
    }
    if claim.deleted {
        return Err(format!("resourceclaim {name:?} is being deleted"));
    }
    if devices.assumed.contains_key(&claim.uid) && claim.allocation.is_none() {
        return Err(format!(
            "resource claim {namespace}/{name} is in the process of being allocated"
        ));
    }
    if claim.consumers.len() >= CONSUMERS && !claim.consumers.contains(&pod.uid) {
        return Err("resourceclaim in use".to_owned());
    }
    Ok(())
}

fn open(devices: &Devices, claim: &Arc<Claim>) -> Result<Open, String> {
    let nothing = DeviceClaim::default();
    let spec = claim.spec.as_ref().unwrap_or(&nothing);
    let requests = spec.requests.iter().flatten();
    let requests = requests.map(|request| resolve(devices, claim, request));
    let mut alike = Vec::new();
    for constraint in spec.constraints.iter().flatten() {
        let Some(attribute) = &constraint.match_attribute else {
            let (namespace, name) = &claim.key;
            return Err(format!(
                "claim {namespace}/{name}: constraints other than matchAttribute are not supported"
            ));
        };
        let names = constraint.requests.clone().unwrap_or_default();
        alike.push((attribute.clone(), names));
    }
    Ok(Open {
        claim: Arc::clone(claim),
        requests: requests.collect::<Result<_, _>>()?,
        alike,
    })
}

fn resolve(
    devices: &Devices,
    claim: &Claim,
    request: &DeviceRequest,
) -> Result<Vec<Request>, String> {
    if let Some(exact) = &request.exactly {
        return Ok(vec![resolve_one(
            devices,
            claim,
            &request.name,
            None,
            exact,
        )?]);
    }
    let alternatives = request.first_available.iter().flatten();
    alternatives
        .map(|sub| {
            let exact = exactly(sub);
            resolve_one(devices, claim, &request.name, Some(&sub.name), &exact)
        })
        .collect()
}

/// An alternative is a request that does without administration.
fn exactly(sub: &DeviceSubRequest) -> ExactDeviceRequest {
    ExactDeviceRequest {
        admin_access: None,
        allocation_mode: sub.allocation_mode.clone(),
        capacity: sub.capacity.clone(),
        count: sub.count,
        device_class_name: sub.device_class_name.clone(),
        selectors: sub.selectors.clone(),
        tolerations: sub.tolerations.clone(),
    }
}

fn resolve_one(
    devices: &Devices,
    claim: &Claim,
    name: &str,
    alternative: Option<&String>,
    exact: &ExactDeviceRequest,
) -> Result<Request, String> {
    let class_name = &exact.device_class_name;
    let mut request = Request {
        name: name.to_owned(),
        alternative: alternative.cloned(),
        class: class_name.clone(),
        selectors: Vec::new(),
        amount: Amount::All,
        tolerations: exact.tolerations.clone().unwrap_or_default(),
    };
    let full_name = request.full_name();
    let (namespace, claim_name) = &claim.key;
    let lacks = |what: &str| format!("claim {namespace}/{claim_name}, request {full_name}: {what}");
    request.amount = amount(exact).map_err(lacks)?;
    let class = devices
        .classes
        .get(class_name)
        .ok_or_else(|| format!("request {full_name}: device class {class_name} does not exist"))?;
    let own = exact.selectors.iter().flatten().filter_map(expression);
    request.selectors = class.selectors.iter().cloned().chain(own).collect();
    for (number, selector) in request.selectors.iter().enumerate() {
        let checked = devices.selectors.borrow_mut().check(selector);
        checked.map_err(|why| match number.checked_sub(class.selectors.len()) {
            Some(number) => lacks(&format!("selector #{number}: {why}")),
            None => format!("class {class_name}: selector #{number}: {why}"),
        })?;
    }
    Ok(request)
}

fn amount(exact: &ExactDeviceRequest) -> Result<Amount, &'static str> {
    if exact.admin_access == Some(true) {
        return Err("admin access is not supported");
    }
    if exact.capacity.is_some() {
        return Err("requests of a part of a device's capacity are not supported");
    }
    match exact.allocation_mode.as_deref() {
        Some("All") => Ok(Amount::All),
        None | Some("" | "ExactCount") => {
            let count = usize::try_from(exact.count.unwrap_or(1)).unwrap_or(usize::MAX);
            Ok(Amount::Exactly(count.max(1)))
        }
        Some(_) => Err("this allocation mode is not supported"),
    }
}

pub(super) fn expression(selector: &DeviceSelector) -> Option<String> {
    selector.cel.as_ref().map(|cel| cel.expression.clone())
}
