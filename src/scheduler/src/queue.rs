//! Pods that wait for a node.
//!
//! A pod is *active* (to be looked at next), *backing off* (looked at in vain; not again before a time that grows with
//! each attempt) or *stuck* (nothing has changed since that could help it). An event that may help moves all that are
//! stuck along; so does time, lest an event was missed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
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
/// The least time between two moves of all that are stuck: nodes and pods may change by the thousand at once.
const BETWEEN_MOVES: Duration = Duration::from_millis(20);

/// Greatest priority first, then first come, first served.
type Rank = (std::cmp::Reverse<i32>, u64);

/// When a pod is moved along by time alone, and its arrival, which keeps apart those with the same time.
type Alarm = (Instant, u64);

#[derive(Debug)]
struct Waiting {
    needs: Arc<Needs>,
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

impl Waiting {
    fn rank(&self) -> Rank {
        (std::cmp::Reverse(self.needs.priority), self.arrival)
    }

    fn alarm(&self) -> Option<Alarm> {
        match self.place {
            Place::BackingOff => Some((self.not_before, self.arrival)),
            Place::Stuck => Some((self.not_before + STUCK, self.arrival)),
            Place::Active | Place::InHand => None,
        }
    }

    fn back_off(&mut self, now: Instant) {
        let factor = 1_u32 << self.attempts.min(8);
        self.attempts = self.attempts.saturating_add(1);
        self.not_before = now + (FIRST_BACKOFF * factor).min(LONGEST_BACKOFF);
    }
}

/// The pods that wait. Every step costs the logarithm of their number, but for the moves of all that are stuck.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pods: HashMap<PodKey, Waiting>,
    active: BTreeMap<Rank, PodKey>,
    alarms: BTreeMap<Alarm, PodKey>,
    /// By arrival.
    stuck: BTreeMap<u64, PodKey>,
    arrivals: u64,
    last_move: Option<Instant>,
    /// Something has changed that may help those who are stuck; they are moved at this time.
    next_move: Option<Instant>,
}

impl Queue {
    /// The pod waits, with these needs. A pod whose needs have changed is looked at again.
    pub(crate) fn add(&mut self, key: &PodKey, needs: Arc<Needs>, now: Instant) {
        let known = self.pods.get(key);
        if known.is_some_and(|waiting| waiting.needs == needs || waiting.place == Place::InHand) {
            return;
        }
        self.remove(key);
        self.arrivals += 1;
        let waiting = Waiting {
            needs,
            arrival: self.arrivals,
            attempts: 0,
            not_before: now,
            place: Place::InHand,
            said: String::new(),
        };
        self.pods.insert(key.clone(), waiting);
        self.put(key, Place::Active);
    }

    /// The pod waits no more.
    pub(crate) fn remove(&mut self, key: &PodKey) {
        self.put(key, Place::InHand);
        self.pods.remove(key);
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
    pub(crate) fn pop(&mut self) -> Option<(PodKey, Arc<Needs>)> {
        let (_, key) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&key)?;
        waiting.place = Place::InHand;
        Some((key, Arc::clone(&waiting.needs)))
    }

    /// Whether a pod is to be looked at now.
    pub(crate) fn is_ready(&self) -> bool {
        !self.active.is_empty()
    }

    /// The pod fits nowhere: it is stuck until something changes.
    pub(crate) fn give_up(&mut self, key: &PodKey, now: Instant) {
        self.give_back(key, Place::Stuck, now);
    }

    /// Binding failed for a reason that may pass: the pod is looked at again after its back-off.
    pub(crate) fn try_again(&mut self, key: &PodKey, now: Instant) {
        self.give_back(key, Place::BackingOff, now);
    }

    /// Notes what is said about a pod. Says whether it is news.
    pub(crate) fn is_news(&mut self, key: &PodKey, message: &str) -> bool {
        let Some(waiting) = self
            .pods
            .get_mut(key)
            .filter(|waiting| waiting.said != message)
        else {
            return false;
        };
        message.clone_into(&mut waiting.said);
        true
    }

    /// Something changed that may help: whoever is stuck is looked at again, after its back-off.
    pub(crate) fn something_changed(&mut self, now: Instant) {
        if self.stuck.is_empty() {
            return;
        }
        let earliest = self.last_move.map_or(now, |last| last + BETWEEN_MOVES);
        let at = self.next_move.unwrap_or(earliest);
        self.next_move = Some(at);
        self.tick(now);
    }

    /// Moves along those whose time has come.
    pub(crate) fn tick(&mut self, now: Instant) {
        while let Some(due) = self
            .alarms
            .first_entry()
            .filter(|first| first.key().0 <= now)
        {
            let key = due.remove();
            self.put(&key, Place::Active);
        }
        if self.next_move.is_some_and(|at| at <= now) {
            self.next_move = None;
            self.last_move = Some(now);
            for key in std::mem::take(&mut self.stuck).into_values() {
                let rests = self
                    .pods
                    .get(&key)
                    .is_some_and(|waiting| waiting.not_before > now);
                self.put(
                    &key,
                    if rests {
                        Place::BackingOff
                    } else {
                        Place::Active
                    },
                );
            }
        }
    }

    /// When [`Queue::tick`] has something to do next.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        let alarm = self.alarms.first_key_value().map(|((at, _), _)| *at);
        alarm.into_iter().chain(self.next_move).min()
    }

    fn give_back(&mut self, key: &PodKey, place: Place, now: Instant) {
        if let Some(waiting) = self
            .pods
            .get_mut(key)
            .filter(|waiting| waiting.place == Place::InHand)
        {
            waiting.back_off(now);
            self.put(key, place);
        }
    }

    /// Puts a pod into its place, out of wherever it was.
    fn put(&mut self, key: &PodKey, place: Place) {
        let Some(waiting) = self.pods.get_mut(key) else {
            return;
        };
        if let Some(alarm) = waiting.alarm() {
            self.alarms.remove(&alarm);
        }
        match waiting.place {
            Place::Active => drop(self.active.remove(&waiting.rank())),
            Place::Stuck => drop(self.stuck.remove(&waiting.arrival)),
            Place::BackingOff | Place::InHand => {}
        }
        waiting.place = place;
        if let Some(alarm) = waiting.alarm() {
            self.alarms.insert(alarm, key.clone());
        }
        match place {
            Place::Active => drop(self.active.insert(waiting.rank(), key.clone())),
            Place::Stuck => drop(self.stuck.insert(waiting.arrival, key.clone())),
            Place::BackingOff | Place::InHand => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::tests::key;

    fn needs(cpu: u32) -> Arc<Needs> {
        Arc::new(crate::cluster::tests::needs(cpu))
    }

    fn important(priority: i32) -> Arc<Needs> {
        Arc::new(Needs {
            priority,
            ..Needs::default()
        })
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
        queue.give_up(&a, Instant::now());
        queue.something_changed(Instant::now());
        assert!(queue.pop().is_none(), "too early");
        tokio::time::advance(FIRST_BACKOFF).await;
        queue.tick(Instant::now());
        assert_eq!(queue.pop().unwrap().0, a);
        queue.give_up(&a, Instant::now());
        tokio::time::advance(FIRST_BACKOFF).await;
        queue.something_changed(Instant::now());
        queue.tick(Instant::now());
        assert!(queue.pop().is_none(), "the second back-off is longer");
        assert_eq!(queue.next_tick(), Some(Instant::now() + FIRST_BACKOFF));
    }

    #[tokio::test(start_paused = true)]
    async fn many_changes_move_the_stuck_once_in_a_while() {
        let mut queue = Queue::default();
        queue.add(&key("a"), needs(1), Instant::now());
        let (a, _) = queue.pop().unwrap();
        queue.give_up(&a, Instant::now());
        tokio::time::advance(FIRST_BACKOFF).await;
        queue.something_changed(Instant::now());
        assert!(queue.pop().is_some(), "the first change counts at once");
        queue.give_up(&a, Instant::now());
        for _ in 0..1000 {
            queue.something_changed(Instant::now());
        }
        assert_eq!(queue.next_tick(), Some(Instant::now() + BETWEEN_MOVES));
    }

    #[tokio::test(start_paused = true)]
    async fn time_alone_helps_in_the_end() {
        let mut queue = Queue::default();
        queue.add(&key("a"), needs(1), Instant::now());
        let (a, _) = queue.pop().unwrap();
        queue.give_up(&a, Instant::now());
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

    #[tokio::test(start_paused = true)]
    async fn the_same_is_not_said_twice() {
        let mut queue = Queue::default();
        queue.add(&key("a"), needs(1), Instant::now());
        assert!(queue.is_news(&key("a"), "no room"));
        assert!(!queue.is_news(&key("a"), "no room"));
        assert!(queue.is_news(&key("a"), "no luck"));
        assert!(!queue.is_news(&key("gone"), "no room"));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add(u8, u32),
        Remove(u8),
        Pop,
        GiveUp(u8),
        TryAgain(u8),
        Change,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..5u8, 0..3u32).prop_map(|(pod, cpu)| Step::Add(pod, cpu)),
            (0..5u8).prop_map(Step::Remove),
            Just(Step::Pop),
            (0..5u8).prop_map(Step::GiveUp),
            (0..5u8).prop_map(Step::TryAgain),
            Just(Step::Change),
            (0..3000u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Whatever happens: each pod is in exactly the places that it should be in, and time frees all of them.
        #[test]
        fn no_pod_is_lost_or_doubled(steps in prop::collection::vec(step(), 0..60)) {
            let mut queue = Queue::default();
            let mut now = Instant::now();
            for step in steps {
                match step {
                    Step::Add(pod, cpu) => queue.add(&key(&pod.to_string()), needs(cpu), now),
                    Step::Remove(pod) => queue.remove(&key(&pod.to_string())),
                    Step::Pop => drop(queue.pop()),
                    Step::GiveUp(pod) => queue.give_up(&key(&pod.to_string()), now),
                    Step::TryAgain(pod) => queue.try_again(&key(&pod.to_string()), now),
                    Step::Change => queue.something_changed(now),
                    Step::Wait(millis) => {
                        now += Duration::from_millis(millis);
                        queue.tick(now);
                    }
                }
                let count = |place: Place| queue.pods.values().filter(|waiting| waiting.place == place).count();
                prop_assert_eq!(queue.active.len(), count(Place::Active));
                prop_assert_eq!(queue.stuck.len(), count(Place::Stuck));
                prop_assert_eq!(queue.alarms.len(), count(Place::Stuck) + count(Place::BackingOff));
                prop_assert!(queue.active.values().all(|key| queue.pods[key].place == Place::Active));
            }
            let in_hand = queue.pods.values().filter(|waiting| waiting.place == Place::InHand).count();
            queue.tick(now + STUCK + LONGEST_BACKOFF);
            prop_assert_eq!(queue.active.len() + in_hand, queue.pods.len());
        }
    }
}
