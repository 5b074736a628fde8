//! Joins occurrences that say the same into one event with a count, and stops objects that talk too much. Pure.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;

use super::{Occurrence, Severity};

/// Series and objects that are remembered; the oldest is forgotten, and begins anew if it comes again.
const MAX_SERIES: usize = 4096;
/// New occurrences that an object may have at once, then one for each refill: upstream's spam filter.
const BURST: i64 = 25;
const REFILL_SECONDS: i64 = 300;

/// What is to be written.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// Name of the Event object.
    pub(crate) name: String,
    /// Whether that object has been created.
    pub(crate) is_known: bool,
    pub(crate) count: u32,
    pub(crate) first: Timestamp,
    pub(crate) last: Occurrence,
}

/// What makes two occurrences the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: Option<String>,
    name: Option<String>,
    field_path: Option<String>,
    severity: Severity,
    reason: &'static str,
    message: String,
}

impl Key {
    fn of(occurrence: &Occurrence) -> Self {
        let about = &occurrence.about;
        Self {
            uid: about.uid.clone(),
            name: about.name.clone(),
            field_path: about.field_path.clone(),
            severity: occurrence.severity,
            reason: occurrence.reason,
            message: occurrence.message.clone(),
        }
    }
}

#[derive(Debug)]
struct Known {
    name: String,
    count: u32,
    first: Timestamp,
}

/// Tokens of one object.
#[derive(Debug)]
struct Bucket {
    tokens: i64,
    refilled: Timestamp,
}

/// A map of at most [`MAX_SERIES`] entries that forgets those which came first.
#[derive(Debug)]
struct Bounded<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self {
            map: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<K: Clone + Eq + std::hash::Hash, V> Bounded<K, V> {
    fn get_or_insert(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if self.map.len() >= MAX_SERIES
            && !self.map.contains_key(&key)
            && let Some(oldest) = self.order.pop_front()
        {
            self.map.remove(&oldest);
        }
        match self.map.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                self.order.push_back(new.key().clone());
                new.insert(make())
            }
        }
    }
}

/// Remembers what was written.
#[derive(Debug, Default)]
pub(crate) struct Correlator {
    known: Bounded<Key, Known>,
    buckets: Bounded<Option<String>, Bucket>,
    /// Makes names unique within one nanosecond.
    serial: u64,
}

impl Correlator {
    /// What to write for these occurrences: each Event object at most once.
    pub(crate) fn correlate(
        &mut self,
        occurrences: impl Iterator<Item = Occurrence>,
    ) -> Vec<Series> {
        let mut writes: Vec<Series> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for occurrence in occurrences {
            if !self.may_speak(&occurrence) {
                tracing::debug!(
                    reason = occurrence.reason,
                    "an event is lost: its object has too many"
                );
                continue;
            }
            let serial = &mut self.serial;
            let known = self.known.get_or_insert(Key::of(&occurrence), || {
                *serial += 1;
                Known {
                    name: name(&occurrence.about, occurrence.at, *serial),
                    count: 0,
                    first: occurrence.at,
                }
            });
            known.count = known.count.saturating_add(1);
            if let Some(place) = places.get(&known.name) {
                writes[*place].count = known.count;
                writes[*place].last = occurrence;
                continue;
            }
            places.insert(known.name.clone(), writes.len());
            writes.push(Series {
                name: known.name.clone(),
                is_known: known.count > 1,
                count: known.count,
                first: known.first,
                last: occurrence,
            });
        }
        writes
    }

    fn may_speak(&mut self, occurrence: &Occurrence) -> bool {
        let now = occurrence.at;
        let key = occurrence
            .about
            .uid
            .clone()
            .or_else(|| occurrence.about.name.clone());
        let bucket = self.buckets.get_or_insert(key, || Bucket {
            tokens: BURST,
            refilled: now,
        });
        let refills = (now.as_second() - bucket.refilled.as_second()) / REFILL_SECONDS;
        if refills > 0 {
            bucket.tokens = (bucket.tokens + refills).min(BURST);
            bucket.refilled = now;
        }
        if bucket.tokens == 0 {
            return false;
        }
        bucket.tokens -= 1;
        true
    }
}

/// `OBJECT.HEX`, as upstream names events; the object's name is cut so that the whole is a valid name.
fn name(about: &Arc<ObjectReference>, at: Timestamp, serial: u64) -> String {
    let object = about.name.as_deref().unwrap_or("unknown");
    let object = &object[..object.floor_char_boundary(200)];
    // The hexadecimal digits of the time, as a number without a sign; an event has no other meaning for it.
    let nanoseconds = at.as_nanosecond().unsigned_abs();
    format!("{object}.{nanoseconds:x}{:02x}", serial & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(uid: &str) -> Arc<ObjectReference> {
        Arc::new(ObjectReference {
            uid: Some(uid.to_owned()),
            name: Some("pod".to_owned()),
            ..ObjectReference::default()
        })
    }

    fn occurrence(uid: &str, message: &str, second: i64) -> Occurrence {
        Occurrence {
            about: about(uid),
            severity: Severity::Normal,
            reason: "Pulled",
            message: message.to_owned(),
            at: Timestamp::from_second(second).unwrap(),
        }
    }

    #[test]
    fn repetitions_become_a_count() {
        let mut correlator = Correlator::default();
        let first = correlator.correlate(
            [
                occurrence("1", "a", 1),
                occurrence("1", "a", 2),
                occurrence("1", "b", 3),
            ]
            .into_iter(),
        );
        assert_eq!(
            first
                .iter()
                .map(|one| (one.count, one.is_known))
                .collect::<Vec<_>>(),
            [(2, false), (1, false)]
        );
        let again = correlator.correlate([occurrence("1", "a", 9)].into_iter());
        assert_eq!(
            (again[0].count, again[0].is_known, &again[0].name),
            (3, true, &first[0].name)
        );
        assert_eq!(
            (again[0].first.as_second(), again[0].last.at.as_second()),
            (1, 9)
        );
        let other = correlator.correlate([occurrence("2", "a", 9)].into_iter());
        assert!(!other[0].is_known);
        assert_ne!(other[0].name, first[0].name);
    }

    #[test]
    fn an_object_that_talks_too_much_is_not_heard_until_it_has_rested() {
        let mut correlator = Correlator::default();
        let chatter = (0..100).map(|index| occurrence("1", &index.to_string(), 1));
        assert_eq!(correlator.correlate(chatter).len(), 25);
        assert!(
            correlator
                .correlate([occurrence("1", "x", 300)].into_iter())
                .is_empty()
        );
        assert_eq!(
            correlator
                .correlate([occurrence("2", "x", 300)].into_iter())
                .len(),
            1
        );
        let rested =
            (0..9).map(|index| occurrence("1", &format!("later {index}"), 1 + 2 * REFILL_SECONDS));
        assert_eq!(correlator.correlate(rested).len(), 2);
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for index in 0..2 * MAX_SERIES {
            correlator.correlate([occurrence(&index.to_string(), "a", 1)].into_iter());
        }
        assert_eq!(
            (correlator.known.map.len(), correlator.known.order.len()),
            (MAX_SERIES, MAX_SERIES)
        );
        assert_eq!(correlator.buckets.map.len(), MAX_SERIES);
    }
}
