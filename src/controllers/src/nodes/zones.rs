//! How fast pods are driven off lost nodes, zone by zone.
//!
//! One lost node is a broken machine, and its pods should move. Half of a zone lost within a minute is more likely a
//! broken network, and moving everything would make it worse. So each zone has a pace, which follows from how many of its
//! nodes are not ready; and when no node of any zone is, it is this process that is cut off, and nothing is moved.
//!
//! States are upstream's, and so are the numbers ([`NodeLoss`]) unless somebody says otherwise.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use tokio::time::Instant;

use vaquita_reconcile::NodeLoss;

use super::is_ready;

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Where a node is: its region and its zone. Nodes that say neither are together in one.
type Place = (String, String);

fn place(node: &Node) -> Place {
    let label = |name| node.labels().get(name).cloned().unwrap_or_default();
    (label(REGION), label(ZONE))
}

/// How a zone fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Normal,
    /// Much is lost.
    Partial,
    /// All is lost.
    Full,
}

#[derive(Debug, Default)]
struct Zone {
    ready: usize,
    not_ready: usize,
    /// When the last node was given up.
    last: Option<Instant>,
}

impl Zone {
    fn health(&self, rules: &NodeLoss) -> Health {
        match (self.ready, self.not_ready) {
            (0, 1..) => Health::Full,
            (ready, lost) if lost > 2 && share(lost, ready + lost) >= rules.unhealthy_zone => {
                Health::Partial
            }
            _ => Health::Normal,
        }
    }

    /// How long there must be between two nodes; none are given up without one.
    fn pace(&self, rules: &NodeLoss) -> Option<Duration> {
        match self.health(rules) {
            Health::Normal | Health::Full => pace(rules.rate),
            Health::Partial if self.ready + self.not_ready > rules.large_zone => {
                pace(rules.secondary_rate)
            }
            Health::Partial => None,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "of nodes there are far fewer")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// The time between two nodes, of which there are so many in a second; `None` if there are none.
fn pace(rate: f64) -> Option<Duration> {
    if rate > 0.0 {
        Duration::try_from_secs_f64(rate.recip()).ok()
    } else {
        None
    }
}

/// Whether a node may be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is its turn, which is counted.
    Now,
    /// Not before this has passed.
    In(Duration),
    /// Not as long as its zone is as it is.
    NotNow,
}

/// What a change of a node means for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    Nothing,
    /// A zone fares otherwise than before, or all of them together: all nodes are to be looked at.
    Other,
    /// A node is ready again after none was: what is known of their silence is this process's own.
    BackAgain,
}

/// All zones.
#[derive(Debug)]
pub(super) struct Zones {
    rules: NodeLoss,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    zones: HashMap<Place, Zone>,
    /// Where each node is counted, and as what.
    nodes: HashMap<String, (Place, bool)>,
}

impl Known {
    fn all_lost(&self) -> bool {
        !self.zones.is_empty() && self.zones.values().all(|zone| zone.ready == 0)
    }

    fn health(&self, place: &Place, rules: &NodeLoss) -> Option<Health> {
        Some(self.zones.get(place)?.health(rules))
    }

    fn uncount(&mut self, name: &str) -> Option<Place> {
        let (place, ready) = self.nodes.remove(name)?;
        if let Some(zone) = self.zones.get_mut(&place) {
            let count = if ready {
                &mut zone.ready
            } else {
                &mut zone.not_ready
            };
            *count = count.saturating_sub(1);
            if zone.ready + zone.not_ready == 0 {
                self.zones.remove(&place);
            }
        }
        Some(place)
    }
}

impl Zones {
    /// No zone is known yet.
    pub(super) fn new(rules: NodeLoss) -> Self {
        Self {
            rules,
            known: Mutex::default(),
        }
    }

    /// The node is as it is now.
    pub(super) fn count(&self, node: &Node) -> News {
        let (name, here, ready) = (node.name_any(), place(node), is_ready(node));
        self.change(&name, Some((here, ready)))
    }

    /// The node is gone.
    pub(super) fn forget(&self, name: &str) -> News {
        self.change(name, None)
    }

    fn change(&self, name: &str, now: Option<(Place, bool)>) -> News {
        let mut known = self.lock();
        if known.nodes.get(name) == now.as_ref() {
            return News::Nothing;
        }
        let lost_before = known.all_lost();
        let places = [
            known.nodes.get(name).map(|(place, _)| place.clone()),
            now.as_ref().map(|(place, _)| place.clone()),
        ];
        let healths = |known: &Known| {
            places
                .each_ref()
                .map(|place| known.health(place.as_ref()?, &self.rules))
        };
        let before = healths(&known);
        known.uncount(name);
        if let Some((place, ready)) = now {
            let zone = known.zones.entry(place.clone()).or_default();
            if ready {
                zone.ready += 1;
            } else {
                zone.not_ready += 1;
            }
            known.nodes.insert(name.to_owned(), (place, ready));
        }
        match (lost_before, known.all_lost()) {
            (true, false) => News::BackAgain,
            (false, true) => News::Other,
            _ if before != healths(&known) => News::Other,
            _ => News::Nothing,
        }
    }

    /// Whether there are nodes, and none of them is ready: then none is given up, and what was is taken back.
    pub(super) fn all_lost(&self) -> bool {
        self.lock().all_lost()
    }

    /// Asks for the turn of a node whose pods are to be driven off.
    pub(super) fn turn(&self, node: &Node, now: Instant) -> Turn {
        let mut known = self.lock();
        let Some(zone) = known.zones.get_mut(&place(node)) else {
            return Turn::NotNow;
        };
        let Some(pace) = zone.pace(&self.rules) else {
            return Turn::NotNow;
        };
        let passed = zone.last.map(|last| now.duration_since(last));
        match passed.and_then(|passed| pace.checked_sub(passed)) {
            Some(left) if !left.is_zero() => Turn::In(left),
            _ => {
                zone.last = Some(now);
                Turn::Now
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PACE: Duration = Duration::from_secs(10);
    const SLOW_PACE: Duration = Duration::from_secs(100);

    fn node(name: usize, zone: &str, ready: bool) -> Node {
        let status = if ready { "True" } else { "Unknown" };
        let node = json!({
            "metadata": { "name": format!("n{name}"), "labels": { ZONE: zone } },
            "status": { "conditions": [{ "type": "Ready", "status": status }] },
        });
        serde_json::from_value(node).unwrap()
    }

    /// Zones with one node that is ready elsewhere, and `all` here of which `lost` are not.
    fn zones(all: usize, lost: usize) -> Zones {
        zones_by(NodeLoss::default(), all, lost)
    }

    fn zones_by(rules: NodeLoss, all: usize, lost: usize) -> Zones {
        let zones = Zones::new(rules);
        zones.count(&node(9999, "elsewhere", true));
        for index in 0..all {
            zones.count(&node(index, "here", index >= lost));
        }
        zones
    }

    fn pace(all: usize, lost: usize) -> Turn {
        pace_by(NodeLoss::default(), all, lost)
    }

    fn pace_by(rules: NodeLoss, all: usize, lost: usize) -> Turn {
        let (zones, now) = (zones_by(rules, all, lost), Instant::now());
        assert!(matches!(
            zones.turn(&node(0, "here", false), now),
            Turn::Now | Turn::NotNow
        ));
        zones.turn(&node(1, "here", false), now)
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_follows_from_what_is_lost() {
        assert_eq!(pace(10, 1), Turn::In(PACE));
        assert_eq!(pace(10, 5), Turn::In(PACE), "half is not yet much");
        assert_eq!(pace(10, 6), Turn::NotNow);
        assert_eq!(pace(3, 2), Turn::In(PACE), "two are never much");
        assert_eq!(pace(60, 33), Turn::In(SLOW_PACE));
        assert_eq!(pace(50, 40), Turn::NotNow);
        assert_eq!(pace(10, 10), Turn::In(PACE), "the zone itself is lost");
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_can_be_set() {
        let slow = NodeLoss {
            rate: 0.5,
            secondary_rate: 0.25,
            unhealthy_zone: 0.3,
            large_zone: 9,
            ..NodeLoss::default()
        };
        let pace = |all, lost| pace_by(slow.clone(), all, lost);
        assert_eq!(pace(10, 2), Turn::In(Duration::from_secs(2)));
        assert_eq!(pace(10, 3), Turn::In(Duration::from_secs(4)));
        assert_eq!(pace(9, 3), Turn::NotNow);
        let never = NodeLoss {
            rate: 0.0,
            ..NodeLoss::default()
        };
        assert_eq!(pace_by(never, 10, 1), Turn::NotNow);
    }

    #[tokio::test(start_paused = true)]
    async fn zones_have_a_pace_of_their_own() {
        let (zones, now) = (zones(10, 1), Instant::now());
        let elsewhere = node(9999, "elsewhere", false);
        assert_eq!(zones.turn(&node(0, "here", false), now), Turn::Now);
        assert_eq!(zones.turn(&elsewhere, now), Turn::Now);
        let later = now + Duration::from_secs(4);
        let left = PACE.saturating_sub(Duration::from_secs(4));
        assert_eq!(zones.turn(&elsewhere, later), Turn::In(left));
        assert_eq!(zones.turn(&elsewhere, now + PACE), Turn::Now);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_given_up_when_everything_is_lost() {
        let zones = zones(1, 1);
        assert!(!zones.all_lost());
        assert_eq!(
            zones.count(&node(9999, "elsewhere", false)),
            News::Other,
            "the last one"
        );
        assert!(zones.all_lost());
        assert_eq!(zones.count(&node(9999, "elsewhere", false)), News::Nothing);
        zones.forget("n9999");
        assert!(zones.all_lost());
        assert_eq!(zones.count(&node(0, "here", true)), News::BackAgain);
        assert_eq!(
            zones.count(&node(0, "there", true)),
            News::Other,
            "it moved"
        );
        assert_eq!(zones.forget("n0"), News::Other);
    }
}
