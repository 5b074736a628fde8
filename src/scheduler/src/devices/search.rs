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
    /// Which of the request's alternatives.
    pub(super) alternative: usize,
    pub(super) device: &'d Device,
}

/// Finds devices for all claims, each taken once; `None` if there are none.
///
/// Of requests with alternatives, all combinations are tried, the best first: in the order of the requests, what an earlier
/// one prefers counts more.
pub(super) fn find<'d>(
    open: &[Open],
    pools: &[Reachable<'d>],
    is_taken: &dyn Fn(&DeviceId) -> bool,
    selects: &mut dyn FnMut(&Request, &Device) -> Result<bool, Fault>,
    tries: &Cell<u64>,
) -> Result<Option<Vec<Found<'d>>>, Fault> {
    let mut choices: Vec<Vec<Choice<'d>>> = Vec::new();
    for (claim, one) in open.iter().enumerate() {
        for (request, alternatives) in one.requests.iter().enumerate() {
            let mut possible = Vec::new();
            for (alternative, wanted) in alternatives.iter().enumerate() {
                if let Some((candidates, count)) = candidates(wanted, pools, is_taken, selects)? {
                    possible.push(Choice {
                        claim,
                        request,
                        alternative,
                        candidates,
                        count,
                    });
                }
            }
            if possible.is_empty() {
                return Ok(None);
            }
            choices.push(possible);
        }
    }
    let mut chosen = vec![0; choices.len()];
    loop {
        spend(tries)?;
        let combination = choices.iter().zip(&chosen);
        let combination: Vec<_> = combination.filter_map(|(all, at)| all.get(*at)).collect();
        if let Some(found) = fill(open, &combination, tries)? {
            return Ok(Some(found));
        }
        if !advance(&mut chosen, &choices) {
            return Ok(None);
        }
    }
}

/// Goes on to the next combination; the last request changes first. Says whether there is one.
fn advance(chosen: &mut [usize], choices: &[Vec<Choice<'_>>]) -> bool {
    for (at, all) in chosen.iter_mut().zip(choices).rev() {
        *at += 1;
        if *at < all.len() {
            return true;
        }
        *at = 0;
    }
    false
}

fn spend(tries: &Cell<u64>) -> Result<(), Fault> {
    tries.set(tries.get().checked_sub(1).ok_or(Fault::TooLong)?);
    Ok(())
}

/// One of the alternatives of a request, which the node could meet if nobody else were there.
struct Choice<'d> {
    claim: usize,
    request: usize,
    alternative: usize,
    candidates: Vec<&'d Device>,
    count: usize,
}

/// The free devices that a request could have, and how many of them it wants; `None` if there are not enough.
fn candidates<'d>(
    wanted: &Request,
    pools: &[Reachable<'d>],
    is_taken: &dyn Fn(&DeviceId) -> bool,
    selects: &mut dyn FnMut(&Request, &Device) -> Result<bool, Fault>,
) -> Result<Option<(Vec<&'d Device>, usize)>, Fault> {
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
    let enough = count <= suiting.len() && count <= CLAIM_DEVICES;
    Ok(enough.then_some((suiting, count)))
}

/// Gives each of these requests its devices.
fn fill<'d>(
    open: &[Open],
    combination: &[&Choice<'d>],
    tries: &Cell<u64>,
) -> Result<Option<Vec<Found<'d>>>, Fault> {
    let mut places = Vec::new();
    for (of, choice) in combination.iter().enumerate() {
        places.extend((0..choice.count).map(|number| Place {
            of,
            first: number == 0,
        }));
        let of_claim = combination.iter().filter(|it| it.claim == choice.claim);
        if of_claim.map(|it| it.count).sum::<usize>() > CLAIM_DEVICES {
            return Ok(None);
        }
    }
    if places.len() > POD_DEVICES {
        return Ok(None);
    }
    let mut search = Search {
        open,
        combination,
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
    /// For which of the combination's choices.
    of: usize,
    /// Whether it is the first of its request.
    first: bool,
}

struct Search<'s, 'd> {
    open: &'s [Open],
    combination: &'s [&'s Choice<'d>],
    places: Vec<Place>,
    taken: HashSet<&'d DeviceId>,
    found: Vec<Found<'d>>,
    /// How many are left.
    tries: &'s Cell<u64>,
}

impl Search<'_, '_> {
    /// Fills this place and all after it. `from` is the first candidate that is tried: the devices of one request are
    /// taken in order, as any other order of them is the same.
    fn go(&mut self, from: usize) -> Result<bool, Fault> {
        let place = self.places.get(self.found.len());
        let Some(choice) = place.and_then(|place| self.combination.get(place.of).copied()) else {
            return Ok(true);
        };
        for (at, device) in choice.candidates.iter().copied().enumerate().skip(from) {
            spend(self.tries)?;
            if self.taken.contains(&device.id) || !self.is_alike(choice, device) {
                continue;
            }
            self.taken.insert(&device.id);
            self.found.push(Found {
                claim: choice.claim,
                request: choice.request,
                alternative: choice.alternative,
                device,
            });
            let next = self.places.get(self.found.len());
            let is_same_request = next.is_some_and(|next| !next.first);
            if self.go(if is_same_request { at + 1 } else { 0 })? {
                return Ok(true);
            }
            self.found.pop();
            self.taken.remove(&device.id);
        }
        Ok(false)
    }

    /// Whether the device has the attributes that those of its claim have in common.
    fn is_alike(&self, choice: &Choice<'_>, device: &Device) -> bool {
        let Some(claim) = self.open.get(choice.claim) else {
            return false;
        };
        let concerned = |request: usize, alternative: usize, names: &[String]| {
            let request = claim.request(request, alternative);
            request.is_some_and(|request| request.is_among(names))
        };
        claim.alike.iter().all(|(attribute, names)| {
            if !concerned(choice.request, choice.alternative, names) {
                return true;
            }
            let Some(own) = device.attribute(attribute) else {
                return false;
            };
            let of_claim = |found: &&Found<'_>| found.claim == choice.claim;
            let mut others = self.found.iter().filter(of_claim);
            let other = others.find(|found| concerned(found.request, found.alternative, names));
            other.is_none_or(|other| other.device.attribute(attribute) == Some(own))
        })
    }
}
