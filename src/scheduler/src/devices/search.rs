//! Which devices of a node go to which request, so that every request has what it asks for.

use std::{cell::Cell, collections::HashSet};

use k8s_openapi::api::resource::v1::{DeviceTaint, DeviceToleration};

use super::{
    inventory::{Device, DeviceId, Reachable},
    wanted::{Amount, Open, Request},
};

/// How many devices may be tried for one decision, to bound a search that could take for ever.
pub(super) const TRIES: u64 = 500_000;
/// The most devices of one pod.
const POD_DEVICES: usize = 256;
/// The most devices of one claim, as the API allows.
const CLAIM_DEVICES: usize = 32;

/// Why there is no answer for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// A selector has none, for this reason.
    Selector(String),
    /// It would take too long to find out.
    TooLong,
}

/// A device for a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'d> {
    pub(super) claim: usize,
    pub(super) request: usize,
    pub(super) device: &'d Device,
}

/// Finds devices for all claims, each taken once; `None` if there are none.
pub(super) fn find<'d>(
    open: &[Open],
    pools: &[Reachable<'d>],
    is_taken: &dyn Fn(&DeviceId) -> bool,
    selects: &mut dyn FnMut(&Request, &Device) -> Result<bool, Fault>,
    tries: &Cell<u64>,
) -> Result<Option<Vec<Found<'d>>>, Fault> {
    let mut candidates: Vec<Vec<&'d Device>> = Vec::new();
    let mut places = Vec::new();
    for (claim, one) in open.iter().enumerate() {
        let before = places.len();
        for (request, wanted) in one.requests.iter().enumerate() {
            let mut suiting = suiting(wanted, pools, selects)?;
            let count = match wanted.amount {
                Amount::Exactly(count) => {
                    suiting.retain(|device| !is_taken(&device.id));
                    count
                }
                Amount::All => {
                    let whole = pools.iter().all(|pool| pool.complete);
                    if !whole || suiting.is_empty() || suiting.iter().any(|it| is_taken(&it.id)) {
                        return Ok(None);
                    }
                    suiting.len()
                }
            };
            if count > suiting.len() || places.len() - before + count > CLAIM_DEVICES {
                return Ok(None);
            }
            let of = candidates.len();
            candidates.push(suiting);
            places.extend((0..count).map(|number| Place {
                claim,
                request,
                of,
                first: number == 0,
            }));
        }
    }
    if places.len() > POD_DEVICES {
        return Ok(None);
    }
    let mut search = Search {
        open,
        candidates,
        places,
        taken: HashSet::new(),
        found: Vec::new(),
        tries,
    };
    Ok(search.go(0)?.then_some(search.found))
}

/// The devices that a request would take, if they are free.
fn suiting<'d>(
    request: &Request,
    pools: &[Reachable<'d>],
    selects: &mut dyn FnMut(&Request, &Device) -> Result<bool, Fault>,
) -> Result<Vec<&'d Device>, Fault> {
    let mut suiting = Vec::new();
    for pool in pools {
        // Of a pool that is being changed, nobody knows what is still there.
        if !pool.complete && request.amount != Amount::All {
            continue;
        }
        for device in &pool.devices {
            if is_tolerated(&device.taints, &request.tolerations) && selects(request, device)? {
                suiting.push(&***device);
            }
        }
    }
    Ok(suiting)
}

fn is_tolerated(taints: &[DeviceTaint], tolerations: &[DeviceToleration]) -> bool {
    let keeps_off = |taint: &&DeviceTaint| matches!(&*taint.effect, "NoSchedule" | "NoExecute");
    taints
        .iter()
        .filter(keeps_off)
        .all(|taint| tolerations.iter().any(|it| tolerates(it, taint)))
}

fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let exists = toleration.operator.as_deref() == Some("Exists");
    given(&toleration.effect).is_none_or(|effect| effect == taint.effect)
        && given(&toleration.key).map_or(exists, |key| key == taint.key)
        && (exists
            || toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default())
}

/// One device that is to be found.
#[derive(Debug, Clone, Copy)]
struct Place {
    claim: usize,
    request: usize,
    /// Which of the lists of candidates it is from.
    of: usize,
    /// Whether it is the first of its request.
    first: bool,
}

struct Search<'s, 'd> {
    open: &'s [Open],
    candidates: Vec<Vec<&'d Device>>,
    places: Vec<Place>,
    taken: HashSet<&'d DeviceId>,
    found: Vec<Found<'d>>,
    /// How many are left.
    tries: &'s Cell<u64>,
}

impl<'d> Search<'_, 'd> {
    /// Fills this place and all after it. `from` is the first candidate that is tried: the devices of one request are
    /// taken in order, as any other order of them is the same.
    fn go(&mut self, from: usize) -> Result<bool, Fault> {
        let Some(place) = self.places.get(self.found.len()).copied() else {
            return Ok(true);
        };
        let count = self.candidates.get(place.of).map_or(0, Vec::len);
        for at in from..count {
            let Some(device) = self.candidates.get(place.of).and_then(|all| all.get(at)) else {
                break;
            };
            let device: &'d Device = device;
            let left = self.tries.get().checked_sub(1).ok_or(Fault::TooLong)?;
            self.tries.set(left);
            if self.taken.contains(&device.id) || !self.is_alike(place, device) {
                continue;
            }
            self.taken.insert(&device.id);
            self.found.push(Found {
                claim: place.claim,
                request: place.request,
                device,
            });
            let next = self.places.get(self.found.len());
            let next_from = if next.is_some_and(|next| !next.first) {
                at + 1
            } else {
                0
            };
            if self.go(next_from)? {
                return Ok(true);
            }
            self.found.pop();
            self.taken.remove(&device.id);
        }
        Ok(false)
    }

    /// Whether the device has the attributes that those of its claim have in common.
    fn is_alike(&self, place: Place, device: &Device) -> bool {
        let Some(claim) = self.open.get(place.claim) else {
            return false;
        };
        let concerned = |request: usize, names: &[String]| {
            let request = claim.requests.get(request);
            names.is_empty() || request.is_some_and(|request| names.contains(&request.name))
        };
        claim.alike.iter().all(|(attribute, names)| {
            if !concerned(place.request, names) {
                return true;
            }
            let Some(own) = device.attribute(attribute) else {
                return false;
            };
            let of_claim = |found: &&Found<'_>| found.claim == place.claim;
            let mut others = self.found.iter().filter(of_claim);
            let other = others.find(|found| concerned(found.request, names));
            other.is_none_or(|other| other.device.attribute(attribute) == Some(own))
        })
    }
}
