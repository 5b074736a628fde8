//! Pods that wait for a node.
//!
//! A pod is *active* (to be looked at next), *backing off* (looked at in vain; not again before a time that grows with
//! each attempt) or *stuck* (nothing has changed since that could help it). What changes is noted, and once in a while
//! those that are stuck are asked whether it may help them; those whom it may are moved along. So does time, lest an
//! event was missed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    pod::{PodInfo, PodKey},
    profile::PluginSet,
};

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
    info: Arc<PodInfo>,
    arrival: u64,
    attempts: u32,
    /// Who kept it off the nodes the last time.
    refused_by: PluginSet,
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
        (std::cmp::Reverse(self.info.needs.priority), self.arrival)
    }

    fn alarm(&self) -> Option<Alarm> {
        match self.place {
            Place::BackingOff => Some((self.not_before, self.arrival)),
            Place::Stuck => Some((self.not_before + STUCK, self.arrival)),
            Place::Active | Place::InHand => None,
        }
    }

    fn back_off(&mut self, (first, longest): (Duration, Duration), now: Instant) {
        let factor = 1_u32 << self.attempts.min(16);
        self.attempts = self.attempts.saturating_add(1);
        self.not_before = now + first.saturating_mul(factor).min(longest);
    }
}

/// The pods that wait. Every step costs the logarithm of their number, but for the moves of all that are stuck.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The first back-off, which doubles with each attempt, and the longest.
    backoff: (Duration, Duration),
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
    pub(crate) fn new(first_backoff: Duration, longest_backoff: Duration) -> Self {
        Self {
            backoff: (first_backoff, longest_backoff),
            pods: HashMap::new(),
            active: BTreeMap::new(),
            alarms: BTreeMap::new(),
            stuck: BTreeMap::new(),
            arrivals: 0,
            last_move: None,
            next_move: None,
        }
    }

    /// The pod waits. One whose needs have changed is looked at again.
    pub(crate) fn add(&mut self, info: Arc<PodInfo>, now: Instant) {
        if let Some(waiting) = self.pods.get_mut(&info.key)
            && (waiting.info.needs == info.needs || waiting.place == Place::InHand)
        {
            waiting.info = info;
            return;
        }
        let key = info.key.clone();
        self.remove(&key);
        self.arrivals += 1;
        let waiting = Waiting {
            info,
            arrival: self.arrivals,
            attempts: 0,
            refused_by: PluginSet::default(),
            not_before: now,
            place: Place::InHand,
            said: String::new(),
        };
        self.pods.insert(key.clone(), waiting);
        self.put(&key, Place::Active);
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
    pub(crate) fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let (_, key) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&key)?;
        waiting.place = Place::InHand;
        Some(Arc::clone(&waiting.info))
    }

    /// Whether the pod is known to wait.
    pub(crate) fn knows(&self, key: &PodKey) -> bool {
        self.pods.contains_key(key)
    }

    /// Whether anybody is stuck.
    pub(crate) fn has_stuck(&self) -> bool {
        !self.stuck.is_empty()
    }

    /// Whether a pod is to be looked at now.
    pub(crate) fn is_ready(&self) -> bool {
        !self.active.is_empty()
    }

    /// The pod fits nowhere, for reasons of these plugins: it is stuck until something changes.
    pub(crate) fn give_up(&mut self, key: &PodKey, refused_by: PluginSet, now: Instant) {
        if let Some(waiting) = self.pods.get_mut(key) {
            waiting.refused_by = refused_by;
        }
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

    /// Something has changed: whoever is stuck is to be asked soon whether it may help.
    pub(crate) fn something_changed(&mut self, now: Instant) {
        if !self.stuck.is_empty() {
            let earliest = self.last_move.map_or(now, |last| last + BETWEEN_MOVES);
            self.next_move.get_or_insert(earliest.max(now));
        }
    }

    /// Whether the stuck are to be asked now.
    pub(crate) fn is_move_due(&self, now: Instant) -> bool {
        self.next_move.is_some_and(|at| at <= now)
    }

    /// Moves along those of the stuck whom what has changed may help, each after its back-off.
    pub(crate) fn move_along(
        &mut self,
        now: Instant,
        mut may_help: impl FnMut(&PodInfo, PluginSet) -> bool,
    ) {
        self.next_move = None;
        self.last_move = Some(now);
        let pods = &self.pods;
        let helped = self.stuck.values().filter_map(|key| {
            let waiting = pods.get(key)?;
            may_help(&waiting.info, waiting.refused_by).then(|| (key.clone(), waiting.not_before))
        });
        for (key, not_before) in helped.collect::<Vec<_>>() {
            let place = if not_before > now {
                Place::BackingOff
            } else {
                Place::Active
            };
            self.put(&key, place);
        }
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
    }

    /// When [`Queue::tick`] or [`Queue::move_along`] has something to do next.
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
            waiting.back_off(self.backoff, now);
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
    use crate::{
        cluster::tests::{info, key, needs},
        pod::Needs,
    };

    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(10);

    fn queue() -> Queue {
        Queue::new(FIRST, LONGEST)
    }

    fn pod(name: &str, cpu: u32) -> Arc<PodInfo> {
        info(name, needs(cpu))
    }

    fn important(name: &str, priority: i32) -> Arc<PodInfo> {
        let needs = Needs {
            priority,
            ..Needs::default()
        };
        info(name, needs)
    }

    impl Queue {
        fn stick(&mut self, key: &PodKey, now: Instant) {
            self.give_up(key, PluginSet::all(), now);
        }

        fn help_all(&mut self, now: Instant) {
            if self.is_move_due(now) {
                self.move_along(now, |_, _| true);
            }
            self.tick(now);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn priority_first_then_arrival() {
        let mut queue = queue();
        let now = Instant::now();
        for (name, priority) in [("late", 0), ("low", -5), ("high", 10), ("later", 0)] {
            queue.add(important(name, priority), now);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|pod| pod.key.name.clone())
            .collect();
        assert_eq!(order, ["high", "late", "later", "low"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_pod_comes_back_with_an_event_but_not_before_its_backoff() {
        let mut queue = queue();
        queue.add(pod("a", 1), Instant::now());
        let a = queue.pop().unwrap().key.clone();
        queue.stick(&a, Instant::now());
        queue.something_changed(Instant::now());
        queue.help_all(Instant::now());
        assert!(queue.pop().is_none(), "too early");
        tokio::time::advance(FIRST).await;
        queue.tick(Instant::now());
        assert_eq!(queue.pop().unwrap().key, a);
        queue.stick(&a, Instant::now());
        tokio::time::advance(FIRST).await;
        queue.something_changed(Instant::now());
        queue.help_all(Instant::now());
        assert!(queue.pop().is_none(), "the second back-off is longer");
        assert_eq!(queue.next_tick(), Some(Instant::now() + FIRST));
    }

    #[tokio::test(start_paused = true)]
    async fn many_changes_move_the_stuck_once_in_a_while() {
        let mut queue = queue();
        queue.add(pod("a", 1), Instant::now());
        let a = queue.pop().unwrap().key.clone();
        queue.stick(&a, Instant::now());
        tokio::time::advance(FIRST).await;
        queue.something_changed(Instant::now());
        queue.help_all(Instant::now());
        assert!(queue.pop().is_some(), "the first change counts at once");
        queue.stick(&a, Instant::now());
        for _ in 0..1000 {
            queue.something_changed(Instant::now());
        }
        assert_eq!(queue.next_tick(), Some(Instant::now() + BETWEEN_MOVES));
    }

    #[tokio::test(start_paused = true)]
    async fn time_alone_helps_in_the_end() {
        let mut queue = queue();
        queue.add(pod("a", 1), Instant::now());
        let a = queue.pop().unwrap().key.clone();
        queue.stick(&a, Instant::now());
        tokio::time::advance(STUCK / 2).await;
        queue.tick(Instant::now());
        assert!(queue.pop().is_none());
        tokio::time::advance(STUCK).await;
        queue.tick(Instant::now());
        assert_eq!(queue.pop().unwrap().key, a);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_in_hand_is_not_handed_out_twice() {
        let mut queue = queue();
        queue.add(pod("a", 1), Instant::now());
        queue.pop().unwrap();
        queue.add(pod("a", 2), Instant::now());
        assert!(queue.pop().is_none());
        queue.remove(&key("a"));
        queue.add(pod("a", 2), Instant::now());
        assert!(queue.pop().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_is_not_said_twice() {
        let mut queue = queue();
        queue.add(pod("a", 1), Instant::now());
        assert!(queue.is_news(&key("a"), "no room"));
        assert!(!queue.is_news(&key("a"), "no room"));
        assert!(queue.is_news(&key("a"), "no luck"));
        assert!(!queue.is_news(&key("gone"), "no room"));
    }

    #[tokio::test(start_paused = true)]
    async fn only_those_move_along_whom_it_may_help() {
        let mut queue = queue();
        for name in ["a", "b"] {
            queue.add(pod(name, 1), Instant::now());
            let key = queue.pop().unwrap().key.clone();
            queue.stick(&key, Instant::now());
        }
        tokio::time::advance(FIRST).await;
        queue.something_changed(Instant::now());
        assert!(queue.is_move_due(Instant::now()));
        queue.move_along(Instant::now(), |pod, _| pod.key.name == "b");
        assert_eq!(queue.pop().unwrap().key.name, "b");
        assert!(queue.pop().is_none());
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
            let mut queue = queue();
            let mut now = Instant::now();
            for step in steps {
                match step {
                    Step::Add(name, cpu) => queue.add(pod(&name.to_string(), cpu), now),
                    Step::Remove(pod) => queue.remove(&key(&pod.to_string())),
                    Step::Pop => drop(queue.pop()),
                    Step::GiveUp(pod) => queue.stick(&key(&pod.to_string()), now),
                    Step::TryAgain(pod) => queue.try_again(&key(&pod.to_string()), now),
                    Step::Change => { queue.something_changed(now); queue.help_all(now); }
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
            queue.tick(now + STUCK + LONGEST);
            prop_assert_eq!(queue.active.len() + in_hand, queue.pods.len());
        }
    }
}
