//! Work queues: which objects need a look, each at most once at a time.
//!
//! A key may be added any number of times by any number of events; it is handed out once, never to two workers at the
//! same time, and once more if it was added while a worker had it. Failures bring a key back after a growing delay.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::backoff::Backoff;

/// How a [`WorkQueue`] spaces the work on one key.
#[derive(Debug, Clone, Copy)]
pub struct Pacing {
    /// After failures. Default: 10 ms doubling up to 30 s.
    pub backoff: Backoff,
    /// The least time between two starts of the same key; the first is always immediate. It turns a burst of
    /// events into a few rounds of work at the price of that much delay. Default: none.
    pub interval: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            backoff: Backoff {
                base: Duration::from_millis(10),
                cap: Duration::from_secs(30),
            },
            interval: Duration::ZERO,
        }
    }
}

/// A queue of keys. Cheap to clone; all clones are the same queue.
#[derive(Debug)]
pub struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

#[derive(Debug)]
struct Shared<T> {
    pacing: Pacing,
    state: Mutex<State<T>>,
    /// Rung when something became ready or an earlier alarm was set.
    bell: Notify,
}

#[derive(Debug)]
struct State<T> {
    entries: HashMap<T, Entry>,
    ready: VecDeque<T>,
    /// When to look at a key again. The number keeps keys with the same time apart.
    alarms: BTreeMap<Alarm, T>,
    alarms_set: u64,
    /// The keys that were started of late, by when their rest ends. In order, as all rest equally long.
    resting: VecDeque<(Instant, T)>,
}

type Alarm = (Instant, u64);

/// All that is known of one key. Keys with nothing to remember have no entry.
#[derive(Debug, Default)]
struct Entry {
    phase: Phase,
    /// The alarm that will add this key, if one is set.
    alarm: Option<Alarm>,
    failures: u32,
    /// Not to be started before this, for the sake of the pacing interval.
    rests_until: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    /// In `ready`.
    Ready,
    /// With a worker.
    Running,
    /// With a worker, and added again since it started.
    RunningStale,
}

impl<T: Clone + Eq + Hash> WorkQueue<T> {
    /// An empty queue.
    pub fn new(pacing: Pacing) -> Self {
        let state = State {
            entries: HashMap::new(),
            ready: VecDeque::new(),
            alarms: BTreeMap::new(),
            alarms_set: 0,
            resting: VecDeque::new(),
        };
        Self {
            shared: Arc::new(Shared {
                pacing,
                state: Mutex::new(state),
                bell: Notify::new(),
            }),
        }
    }

    /// Asks for a look at `key`, now.
    pub fn add(&self, key: T) {
        self.lock().add(key, Instant::now());
        self.shared.bell.notify_one();
    }

    /// Asks for a look at `key` after `delay`. Of several such wishes only the earliest is kept, so whoever looks
    /// must ask again for what is still ahead.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.lock().set_alarm(key, Instant::now() + delay);
        self.shared.bell.notify_one();
    }

    /// Waits for a key that is ready and gives it to the caller, who must give it back by [`done`](Self::done) or
    /// [`failed`](Self::failed). For one caller at a time. Dropping the future loses nothing.
    pub async fn next(&self) -> T {
        loop {
            let next_alarm = {
                let mut state = self.lock();
                let now = Instant::now();
                state.advance(now);
                if let Some(key) = state.start(now, self.shared.pacing.interval) {
                    return key;
                }
                state.alarms.first_key_value().map(|((at, _), _)| *at)
            };
            match next_alarm {
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = self.shared.bell.notified() => {}
                    }
                }
                None => self.shared.bell.notified().await,
            }
        }
    }

    /// Gives back a key whose work went well. Its failures are forgotten.
    pub fn done(&self, key: &T) {
        self.finish(key, |entry| entry.failures = 0);
    }

    /// Gives back a key whose work failed, to be handed out again after the back-off. Returns how often it has
    /// failed in a row, and the delay.
    pub fn failed(&self, key: &T) -> (u32, Duration) {
        let mut failures = 0;
        self.finish(key, |entry| {
            entry.failures = entry.failures.saturating_add(1);
            failures = entry.failures;
        });
        let delay = self.shared.pacing.backoff.delay(failures);
        self.add_after(key.clone(), delay);
        (failures, delay)
    }

    fn finish(&self, key: &T, settle: impl FnOnce(&mut Entry)) {
        self.lock().finish(key, Instant::now(), settle);
        self.shared.bell.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    fn add(&mut self, key: T, now: Instant) {
        let entry = self.entries.entry(key.clone()).or_default();
        match entry.phase {
            Phase::Ready | Phase::RunningStale => {}
            Phase::Running => entry.phase = Phase::RunningStale,
            Phase::Idle => match entry.rests_until {
                Some(rested) if rested > now => self.set_alarm(key, rested),
                _ => {
                    entry.phase = Phase::Ready;
                    self.ready.push_back(key);
                }
            },
        }
    }

    fn set_alarm(&mut self, key: T, at: Instant) {
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.alarm.is_some_and(|(earlier, _)| earlier <= at) {
            return;
        }
        self.alarms_set += 1;
        let alarm = (at, self.alarms_set);
        if let Some(later) = entry.alarm.replace(alarm) {
            self.alarms.remove(&later);
        }
        self.alarms.insert(alarm, key);
    }

    /// Adds every key whose alarm is due, and lets go of those that have rested.
    fn advance(&mut self, now: Instant) {
        while let Some((_, key)) = self.resting.pop_front_if(|(rested, _)| *rested <= now) {
            self.forget_if_blank(&key, now);
        }
        while let Some(first) = self
            .alarms
            .first_entry()
            .filter(|first| first.key().0 <= now)
        {
            let key = first.remove();
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.alarm = None;
            }
            self.add(key, now);
        }
    }

    fn start(&mut self, now: Instant, interval: Duration) -> Option<T> {
        let key = self.ready.pop_front()?;
        let entry = self.entries.entry(key.clone()).or_default();
        entry.phase = Phase::Running;
        if !interval.is_zero() {
            entry.rests_until = Some(now + interval);
            self.resting.push_back((now + interval, key.clone()));
        }
        Some(key)
    }

    fn finish(&mut self, key: &T, now: Instant, settle: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        settle(entry);
        let stale = entry.phase == Phase::RunningStale;
        entry.phase = Phase::Idle;
        if stale {
            self.add(key.clone(), now);
        }
        self.forget_if_blank(key, now);
    }

    /// Drops the entry of a key when there is nothing left to remember, so that the map does not grow with every
    /// key there ever was.
    fn forget_if_blank(&mut self, key: &T, now: Instant) {
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        let resting = entry.rests_until.is_some_and(|rested| rested > now);
        if entry.phase == Phase::Idle && entry.alarm.is_none() && entry.failures == 0 && !resting {
            self.entries.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(interval: Duration) -> WorkQueue<&'static str> {
        WorkQueue::new(Pacing {
            interval,
            ..Pacing::default()
        })
    }

    /// The next key if one is ready now.
    fn ready(queue: &WorkQueue<&'static str>) -> Option<&'static str> {
        futures::FutureExt::now_or_never(queue.next())
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_is_handed_out_once() {
        let queue = queue(Duration::ZERO);
        queue.add("a");
        queue.add("b");
        queue.add("a");
        assert_eq!(ready(&queue), Some("a"));
        assert_eq!(ready(&queue), Some("b"));
        assert_eq!(ready(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_a_worker_has_it_waits_for_that_worker() {
        let queue = queue(Duration::ZERO);
        queue.add("a");
        assert_eq!(ready(&queue), Some("a"));
        queue.add("a");
        queue.add("a");
        assert_eq!(ready(&queue), None, "never with two workers at once");
        queue.done(&"a");
        assert_eq!(ready(&queue), Some("a"));
        queue.done(&"a");
        assert_eq!(ready(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_back_later_each_time_until_one_success() {
        let queue = queue(Duration::ZERO);
        queue.add("a");
        for expected in [10, 20, 40] {
            assert_eq!(queue.next().await, "a");
            let (_, delay) = queue.failed(&"a");
            assert_eq!(delay, Duration::from_millis(expected));
            assert_eq!(ready(&queue), None);
        }
        let before = Instant::now();
        assert_eq!(queue.next().await, "a");
        assert_eq!(before.elapsed(), Duration::from_millis(40));
        queue.done(&"a");
        queue.add("a");
        assert_eq!(ready(&queue), Some("a"));
        assert_eq!(queue.failed(&"a"), (1, Duration::from_millis(10)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_of_several_alarms_counts() {
        let queue = queue(Duration::ZERO);
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(9));
        queue.add_after("a", Duration::from_secs(3));
        queue.add_after("a", Duration::from_secs(6));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        queue.done(&"a");
        assert!(
            queue.lock().alarms.is_empty(),
            "replaced alarms must not ring"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_survives_work_that_started_before_it_rang() {
        let queue = queue(Duration::ZERO);
        queue.add("a");
        queue.add_after("a", Duration::from_secs(5));
        assert_eq!(ready(&queue), Some("a"));
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_costs_one_start_at_once_and_one_for_each_interval() {
        let queue = queue(Duration::from_millis(20));
        let start = Instant::now();
        queue.add("a");
        assert_eq!(ready(&queue), Some("a"), "the first is not delayed");
        queue.done(&"a");
        for _ in 0..100 {
            queue.add("a");
        }
        assert_eq!(ready(&queue), None);
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed(), Duration::from_millis(20));
        queue.done(&"a");
        assert_eq!(ready(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_remembered_of_keys_that_are_done_with() {
        let queue = queue(Duration::from_millis(20));
        for key in ["a", "b", "c"] {
            queue.add(key);
            assert_eq!(queue.next().await, key);
            queue.done(&key);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(ready(&queue), None);
        let state = queue.lock();
        assert!(state.entries.is_empty() && state.alarms.is_empty() && state.resting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_addition_wakes_one_who_waits() {
        let queue = queue(Duration::ZERO);
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await }
        });
        tokio::task::yield_now().await;
        queue.add("a");
        assert_eq!(waiting.await.unwrap(), "a");
    }
}
