//! Events about objects, as `kubectl describe` shows them, written in the background.
//!
//! Recording never waits and never fails: when the API server can't keep up, events are dropped. Repetitions raise the
//! count of the event that is there, and an object that talks too much is cut short.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::meta;

/// How many events may wait to be written.
const BACKLOG: usize = 1024;
/// Of how many events the repetitions are recognised.
const REMEMBERED: usize = 4096;
/// How many events one component may write about one object at once; one more for every [`REFILL`] that passes.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_mins(5);
/// The longest message, as the API allows.
const MESSAGE_LIMIT: usize = 1024;

/// Whether an event is business as usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Severity {
    Normal,
    Warning,
}

/// Something that happened to an object.
#[derive(Debug, Clone)]
struct Note {
    component: &'static str,
    involved: ObjectReference,
    severity: Severity,
    reason: &'static str,
    message: String,
}

/// Records events in the name of one component. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    component: &'static str,
    notes: mpsc::Sender<Note>,
}

impl Recorder {
    /// Starts the writer. It ends when `shutdown` is cancelled. Must be called within a tokio runtime.
    pub fn start(client: Client, component: &'static str, shutdown: CancellationToken) -> Self {
        let (notes, arriving) = mpsc::channel(BACKLOG);
        tokio::spawn(async move {
            shutdown
                .run_until_cancelled(write_all(client, arriving))
                .await
        });
        Self { component, notes }
    }

    /// The same writer in the name of another component.
    #[must_use]
    pub fn named(&self, component: &'static str) -> Self {
        Self {
            component,
            notes: self.notes.clone(),
        }
    }

    /// Records that something ordinary happened to `object`.
    pub fn normal<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &'static str,
        message: String,
    ) {
        self.record(object, Severity::Normal, reason, message);
    }

    /// Records that something went wrong with `object`.
    pub fn warning<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &'static str,
        message: String,
    ) {
        self.record(object, Severity::Warning, reason, message);
    }

    fn record<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        severity: Severity,
        reason: &'static str,
        mut message: String,
    ) {
        message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
        let note = Note {
            component: self.component,
            involved: meta::reference(object),
            severity,
            reason,
            message,
        };
        if self.notes.try_send(note).is_err() {
            debug!(reason, "event dropped: too many are waiting");
        }
    }
}

async fn write_all(client: Client, mut notes: mpsc::Receiver<Note>) {
    let mut journal = Journal::default();
    while let Some(note) = notes.recv().await {
        let Some(entry) = journal.enter(&note, Instant::now()) else {
            continue;
        };
        if let Err(error) = write(&client, &note, &entry).await {
            journal.forget(&note);
            debug!(reason = note.reason, %error, "event not written");
        }
    }
}

async fn write(client: &Client, note: &Note, entry: &Entry) -> Result<(), kube::Error> {
    let now = Timestamp::now();
    let api = Api::<Event>::namespaced(client.clone(), &entry.namespace);
    if entry.count > 1 {
        let patch = Patch::Merge(json!({ "count": entry.count, "lastTimestamp": Time(now) }));
        match api
            .patch(&entry.name, &PatchParams::default(), &patch)
            .await
        {
            Ok(_) => return Ok(()),
            // Events expire; then this one begins anew.
            Err(error) if meta::is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
    }
    api.create(&PostParams::default(), &event(note, entry, now))
        .await
        .map(drop)
}

fn event(note: &Note, entry: &Entry, now: Timestamp) -> Event {
    Event {
        metadata: ObjectMeta {
            namespace: Some(entry.namespace.clone()),
            name: Some(entry.name.clone()),
            ..ObjectMeta::default()
        },
        involved_object: note.involved.clone(),
        type_: Some(format!("{:?}", note.severity)),
        reason: Some(note.reason.to_owned()),
        message: Some(note.message.clone()),
        count: Some(entry.count),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some(note.component.to_owned()),
            host: None,
        }),
        reporting_component: Some(note.component.to_owned()),
        ..Event::default()
    }
}

/// What makes two notes repetitions of each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sameness {
    component: &'static str,
    uid: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    severity: Severity,
    reason: &'static str,
    message: String,
}

impl Sameness {
    fn of(note: &Note) -> Self {
        Self {
            component: note.component,
            uid: note.involved.uid.clone(),
            namespace: note.involved.namespace.clone(),
            name: note.involved.name.clone(),
            severity: note.severity,
            reason: note.reason,
            message: note.message.clone(),
        }
    }
}

/// The event that stands for a note and all its repetitions so far.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    namespace: String,
    name: String,
    count: i32,
}

/// Decides what becomes of each note: a new event, a higher count, or nothing.
#[derive(Debug, Default)]
struct Journal {
    entries: HashMap<Sameness, Entry>,
    entered: VecDeque<Sameness>,
    budgets: HashMap<(&'static str, Option<String>), Budget>,
}

/// A token bucket.
#[derive(Debug)]
struct Budget {
    left: u32,
    counted_at: Instant,
}

impl Journal {
    fn enter(&mut self, note: &Note, now: Instant) -> Option<Entry> {
        if !self.afford(note, now) {
            return None;
        }
        let sameness = Sameness::of(note);
        if let Some(entry) = self.entries.get_mut(&sameness) {
            entry.count = entry.count.saturating_add(1);
            return Some(entry.clone());
        }
        if self.entered.len() >= REMEMBERED
            && let Some(oldest) = self.entered.pop_front()
        {
            self.entries.remove(&oldest);
        }
        let involved = note.involved.name.as_deref().unwrap_or_default();
        let entry = Entry {
            namespace: note
                .involved
                .namespace
                .clone()
                .unwrap_or_else(|| "default".to_owned()),
            // Upstream's way to name events: readable, and unique without asking.
            name: format!("{involved}.{:x}", unique_time()),
            count: 1,
        };
        self.entered.push_back(sameness.clone());
        self.entries.insert(sameness, entry.clone());
        Some(entry)
    }

    fn afford(&mut self, note: &Note, now: Instant) -> bool {
        if self.budgets.len() >= REMEMBERED {
            self.budgets
                .retain(|_, budget| now.duration_since(budget.counted_at) < REFILL);
        }
        let whose = (note.component, note.involved.uid.clone());
        let budget = self.budgets.entry(whose).or_insert(Budget {
            left: BURST,
            counted_at: now,
        });
        let earned = now.duration_since(budget.counted_at).as_secs() / REFILL.as_secs();
        if earned > 0 {
            budget.left = BURST.min(
                budget
                    .left
                    .saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)),
            );
            budget.counted_at = now;
        }
        if budget.left == 0 {
            return false;
        }
        budget.left -= 1;
        true
    }

    /// The event was not written: the next repetition starts anew.
    fn forget(&mut self, note: &Note) {
        let sameness = Sameness::of(note);
        self.entries.remove(&sameness);
        self.entered.retain(|other| *other != sameness);
    }
}

/// Nanoseconds since 1970, with a few random bits against events of the same instant.
fn unique_time() -> i128 {
    Timestamp::now().as_nanosecond() ^ i128::from(rand::random::<u16>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::objects::pod;

    fn note(name: &str, message: &str) -> Note {
        Note {
            component: "test",
            involved: meta::reference(&pod("shop", name)),
            severity: Severity::Normal,
            reason: "Happened",
            message: message.to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn repetitions_raise_the_count_of_one_event() {
        let mut journal = Journal::default();
        let now = Instant::now();
        let first = journal.enter(&note("a", "x"), now).unwrap();
        let second = journal.enter(&note("a", "x"), now).unwrap();
        assert_eq!((first.count, second.count), (1, 2));
        assert_eq!(first.name, second.name);
        let other = journal.enter(&note("a", "y"), now).unwrap();
        assert_eq!(other.count, 1);
        assert_ne!(other.name, first.name);
        journal.forget(&note("a", "x"));
        assert_eq!(journal.enter(&note("a", "x"), now).unwrap().count, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_talkative_object_is_cut_short_and_no_other() {
        let mut journal = Journal::default();
        let start = Instant::now();
        let written = (0..100)
            .filter_map(|n| journal.enter(&note("loud", &n.to_string()), start))
            .count();
        assert_eq!(written, 25);
        assert!(journal.enter(&note("quiet", "x"), start).is_some());
        let later = start + REFILL;
        assert!(journal.enter(&note("loud", "later"), later).is_some());
        assert!(journal.enter(&note("loud", "and again"), later).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let mut journal = Journal::default();
        let now = Instant::now();
        for n in 0..REMEMBERED + 10 {
            journal.enter(&note(&n.to_string(), "x"), now);
        }
        assert_eq!(journal.entries.len(), REMEMBERED);
        assert_eq!(journal.entered.len(), REMEMBERED);
    }

    #[test]
    fn an_event_names_its_object_and_its_component() {
        let entry = Entry {
            namespace: "shop".to_owned(),
            name: "a.1".to_owned(),
            count: 1,
        };
        let event = event(&note("a", "x"), &entry, Timestamp::UNIX_EPOCH);
        assert_eq!(event.type_.as_deref(), Some("Normal"));
        assert_eq!(event.involved_object.kind.as_deref(), Some("Pod"));
        assert_eq!(event.source.unwrap().component.as_deref(), Some("test"));
    }
}
