//! Pods that wait for a node.
//!
//! A pod is *active* (to be looked at next), *backing off* (looked at in vain; not again before a time that grows with
//! each attempt) or *stuck* (nothing has changed since that could help it). An event that may help moves all that are
//! stuck along; so does time, lest an event was missed.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use crate::pod::{Needs, PodKey};

/// After the first attempt in vain; doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest back-off.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// How long a pod stays stuck without an event.
const STUCK: Duration = Duration::from_mins(5);

/// Greatest priority first, then first come, first served.
type Rank = (std::cmp::Reverse<i32>, u64);

#[derive(Debug)]
struct Waiting {
    needs: Needs,
    arrival: u64,
    attempts: u32,
    /// Not to be looked at before this.
    not_before: Instant,
    place: Place,
    /// What was last said about it, lest it is said again and again.
    said: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active,
    BackingOff,
    Stuck,
    /// Handed out by [`Queue::pop`].
    InHand,
}

/// The pods that wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pods: HashMap<PodKey, Waiting>,
    active: BTreeMap<Rank, PodKey>,
    arrivals: u64,
}

impl Queue {
    /// The pod waits, with these needs. A pod whose needs have changed is looked at again.
    pub(crate) fn add(&mut self, key: &PodKey, needs: Needs, now: Instant) {
        if let Some(waiting) = self.pods.get(key)
            && (waiting.needs == needs || waiting.place == Place::InHand)
        {
            return;
        }
        self.remove(key);
        self.arrivals += 1;
        let waiting = Waiting {
            needs,
            arrival: self.arrivals,
            attempts: 0,
            not_before: now,
            place: Place::Stuck,
            said: String::new(),
        };
        self.pods.insert(key.clone(), waiting);
        self.activate(key);
    }

    /// The pod waits no more.
    pub(crate) fn remove(&mut self, key: &PodKey) {
        if let Some(waiting) = self.pods.remove(key) {
            self.active.remove(&rank(&waiting));
        }
    }

    /// Keeps only the pods that `waits` says yes to.
    pub(crate) fn retain(&mut self, waits: impl Fn(&PodKey) -> bool) {
        let gone: Vec<_> = self
            .pods
            .keys()
            .filter(|key| !waits(key))
            .cloned()
            .collect();
        for key in gone {
            self.remove(&key);
        }
    }

    /// The next pod to look at. It stays known until it is removed or given back.
    pub(crate) fn pop(&mut self) -> Option<(PodKey, Needs)> {
        let (_, key) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&key)?;
        waiting.place = Place::InHand;
        Some((key, waiting.needs.clone()))
    }

    /// The pod fits nowhere: it is stuck until something changes. Says whether `message` is news.
    pub(crate) fn give_up(&mut self, key: &PodKey, message: &str, now: Instant) -> bool {
        let Some(waiting) = self.pods.get_mut(key) else {
            return false;
        };
        waiting.back_off(now);
        waiting.place = Place::Stuck;
        let news = waiting.said != message;
        message.clone_into(&mut waiting.said);
        news
    }

    /// Binding failed for a reason that may pass: the pod is looked at again after its back-off.
    pub(crate) fn try_again(&mut self, key: &PodKey, now: Instant) {
        if let Some(waiting) = self.pods.get_mut(key) {
            waiting.back_off(now);
            waiting.place = Place::BackingOff;
        }
    }

    /// Something changed that may help: whoever is stuck is looked at again, after its back-off.
    pub(crate) fn something_changed(&mut self, now: Instant) {
        self.move_along(now, |waiting| waiting.place == Place::Stuck);
    }

    /// Moves along those whose time has come.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.move_along(now, |waiting| match waiting.place {
            Place::BackingOff => waiting.not_before <= now,
            Place::Stuck => waiting.not_before + STUCK <= now,
            Place::Active | Place::InHand => false,
        });
    }

    /// When [`Queue::tick`] has something to do next.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        self.pods
            .values()
            .filter_map(|waiting| match waiting.place {
                Place::BackingOff => Some(waiting.not_before),
                Place::Stuck => Some(waiting.not_before + STUCK),
                Place::Active | Place::InHand => None,
            })
            .min()
    }

    fn move_along(&mut self, now: Instant, which: impl Fn(&Waiting) -> bool) {
        let moving: Vec<_> = self
            .pods
            .iter()
            .filter(|(_, waiting)| which(waiting))
            .map(|(key, _)| key.clone())
            .collect();
        for key in moving {
            match self.pods.get_mut(&key) {
                Some(waiting) if waiting.not_before > now => waiting.place = Place::BackingOff,
                _ => self.activate(&key),
            }
        }
    }

    fn activate(&mut self, key: &PodKey) {
        if let Some(waiting) = self.pods.get_mut(key) {
            waiting.place = Place::Active;
            self.active.insert(rank(waiting), key.clone());
        }
    }
}

impl Waiting {
    fn back_off(&mut self, now: Instant) {
        let factor = 1_u32 << self.attempts.min(8);
        self.attempts = self.attempts.saturating_add(1);
        self.not_before = now + (FIRST_BACKOFF * factor).min(LONGEST_BACKOFF);
    }
}

fn rank(waiting: &Waiting) -> Rank {
    (std::cmp::Reverse(waiting.needs.priority), waiting.arrival)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::{key, needs};

    fn important(priority: i32) -> Needs {
        Needs {
            priority,
            ..needs(1)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn priority_first_then_arrival() {
        let mut queue = Queue::default();
        let now = Instant::now();
        for (name, priority) in [("late", 0), ("low", -5), ("high", 10), ("later", 0)] {
            queue.add(&key(name), important(priority), now);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|(key, _)| key.name)
            .collect();
        assert_eq!(order, ["high", "late", "later", "low"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_pod_comes_back_with_an_event_but_not_before_its_backoff() {
        let mut queue = Queue::default();
        queue.add(&key("a"), needs(1), Instant::now());
        let (a, _) = queue.pop().unwrap();
        assert!(queue.give_up(&a, "no room", Instant::now()));
        queue.something_changed(Instant::now());
        assert!(queue.pop().is_none(), "too early");
        tokio::time::advance(FIRST_BACKOFF).await;
        queue.tick(Instant::now());
        assert_eq!(queue.pop().unwrap().0, a);
        assert!(!queue.give_up(&a, "no room", Instant::now()), "no news");
        tokio::time::advance(FIRST_BACKOFF).await;
        queue.something_changed(Instant::now());
        queue.tick(Instant::now());
        assert!(queue.pop().is_none(), "the second back-off is longer");
        assert_eq!(queue.next_tick(), Some(Instant::now() + FIRST_BACKOFF));
    }

    #[tokio::test(start_paused = true)]
    async fn time_alone_helps_in_the_end() {
        let mut queue = Queue::default();
        queue.add(&key("a"), needs(1), Instant::now());
        let (a, _) = queue.pop().unwrap();
        queue.give_up(&a, "no room", Instant::now());
        tokio::time::advance(STUCK / 2).await;
        queue.tick(Instant::now());
        assert!(queue.pop().is_none());
        tokio::time::advance(STUCK).await;
        queue.tick(Instant::now());
        assert_eq!(queue.pop().unwrap().0, a);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_in_hand_is_not_handed_out_twice() {
        let mut queue = Queue::default();
        queue.add(&key("a"), needs(1), Instant::now());
        queue.pop().unwrap();
        queue.add(&key("a"), needs(2), Instant::now());
        assert!(queue.pop().is_none());
        queue.remove(&key("a"));
        queue.add(&key("a"), needs(2), Instant::now());
        assert!(queue.pop().is_some());
    }
}
