//! Random operations, compared with a model that keeps every state whole.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt as _;
use proptest::{collection::vec, prelude::*};

use super::disk::FakeDisk;
use crate::{
    CommitError, Event, EventKind, Expect, KeyValue, Options, Page, Range, ReadError, Redb,
    Revision, Store, WatchError, Write,
};

#[derive(Debug, Clone)]
enum Op {
    Put(Key, u8, Precondition),
    Delete(Key, Precondition),
    Get(Key, When),
    Range {
        from: Key,
        to: Option<Key>,
        limit: Option<usize>,
        when: When,
    },
    Watch {
        prefix: Key,
        when: When,
    },
    Compact(When),
    /// Closes the store and opens it again, if it can.
    Reopen,
}

/// One of a few keys, some of which begin with others.
#[derive(Debug, Clone, Copy)]
struct Key(usize);

impl Key {
    const ALL: [&[u8]; 6] = [b"a", b"a\0", b"a/1", b"a/2", b"b", b"b\xff"];

    fn bytes(self) -> Bytes {
        Bytes::from_static(Self::ALL[self.0 % Self::ALL.len()])
    }
}

/// What a write expects, in terms that mean something whatever happened before.
#[derive(Debug, Clone, Copy)]
enum Precondition {
    Anything,
    Absent,
    Current,
    /// The revision so many before the key's own.
    Stale(u64),
}

/// A revision so many before the newest, or after it if negative.
#[derive(Debug, Clone, Copy)]
struct When(Option<i64>);

fn key() -> impl Strategy<Value = Key> {
    (0..Key::ALL.len()).prop_map(Key)
}

fn precondition() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        4 => Just(Precondition::Anything),
        2 => Just(Precondition::Absent),
        3 => Just(Precondition::Current),
        1 => (1..5_u64).prop_map(Precondition::Stale),
    ]
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        Just(When(None)),
        (-1..12_i64).prop_map(|back| When(Some(back)))
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (key(), any::<u8>(), precondition()).prop_map(|(key, value, expect)| Op::Put(key, value, expect)),
        4 => (key(), precondition()).prop_map(|(key, expect)| Op::Delete(key, expect)),
        3 => (key(), when()).prop_map(|(key, when)| Op::Get(key, when)),
        3 => (key(), proptest::option::of(key()), proptest::option::of(0..4_usize), when())
            .prop_map(|(from, to, limit, when)| Op::Range { from, to, limit, when }),
        2 => (key(), when()).prop_map(|(prefix, when)| Op::Watch { prefix, when }),
        1 => when().prop_map(Op::Compact),
        1 => Just(Op::Reopen),
    ]
}

/// Every state there ever was. The index is the revision.
struct Model {
    states: Vec<BTreeMap<Bytes, KeyValue>>,
    /// The event that made each state; the first is of revision 2.
    events: Vec<Event>,
    compacted: Revision,
}

impl Model {
    fn new() -> Self {
        Self {
            states: vec![BTreeMap::new(); 2],
            events: Vec::new(),
            compacted: 0,
        }
    }

    fn revision(&self) -> Revision {
        self.states.len() as Revision - 1
    }

    fn now(&self) -> &BTreeMap<Bytes, KeyValue> {
        self.states.last().expect("there is a first state")
    }

    fn expect(&self, key: &Bytes, precondition: Precondition) -> Expect {
        let current = self.now().get(key).map_or(0, |kv| kv.mod_revision);
        match precondition {
            Precondition::Anything => Expect::Anything,
            Precondition::Absent => Expect::Absent,
            Precondition::Current => Expect::Revision(current),
            Precondition::Stale(back) => Expect::Revision(current.saturating_sub(back)),
        }
    }

    /// What the write does; `None` if it conflicts.
    fn write(&mut self, write: &Write) -> Option<Event> {
        let mut state = self.now().clone();
        let revision = self.revision() + 1;
        let prev = state.get(write.key()).cloned();
        let fits = |expect: Expect| match expect {
            Expect::Anything => true,
            Expect::Absent => prev.is_none(),
            Expect::Revision(revision) => prev
                .as_ref()
                .is_some_and(|prev| prev.mod_revision == revision),
        };
        let create_revision = prev.as_ref().map_or(revision, |prev| prev.create_revision);
        let event = match write {
            Write::Put { key, value, expect } if fits(*expect) => {
                let (key, value) = (key.clone(), value.clone());
                let kv = KeyValue {
                    key,
                    value,
                    create_revision,
                    mod_revision: revision,
                };
                state.insert(kv.key.clone(), kv.clone());
                Event {
                    kind: EventKind::Put,
                    kv,
                    prev,
                }
            }
            Write::Delete { key, expect } if fits(*expect) && prev.is_some() => {
                state.remove(key);
                let kv = KeyValue {
                    key: key.clone(),
                    value: Bytes::new(),
                    create_revision,
                    mod_revision: revision,
                };
                Event {
                    kind: EventKind::Delete,
                    kv,
                    prev,
                }
            }
            Write::Put { .. } | Write::Delete { .. } => return None,
        };
        self.states.push(state);
        self.events.push(event.clone());
        Some(event)
    }

    /// The revision meant by `when`.
    fn at(&self, when: When) -> Option<Revision> {
        when.0
            .map(|back| self.revision().saturating_add_signed(-back))
    }

    /// The state to read, or why it cannot be read.
    fn read(
        &self,
        at: Option<Revision>,
    ) -> Result<(Revision, &BTreeMap<Bytes, KeyValue>), &'static str> {
        let at = at.unwrap_or(self.revision());
        if at < self.compacted {
            return Err("compacted");
        }
        let state = usize::try_from(at).ok().and_then(|at| self.states.get(at));
        state.map(|state| (at, state)).ok_or("future")
    }

    fn range(&self, range: &Range) -> Result<Page, &'static str> {
        let (revision, state) = self.read(range.at)?;
        let inside =
            |key: &Bytes| *key >= range.start && range.end.as_ref().is_none_or(|end| key < end);
        let all: Vec<_> = state
            .values()
            .filter(|kv| inside(&kv.key))
            .cloned()
            .collect();
        let limit = range.limit.unwrap_or(usize::MAX).min(all.len());
        Ok(Page {
            items: all[..limit].to_vec(),
            more: limit < all.len(),
            revision,
        })
    }
}

fn why(error: &ReadError) -> &'static str {
    match error {
        ReadError::Compacted { .. } => "compacted",
        ReadError::Future { .. } => "future",
        ReadError::Closed | ReadError::Backend(_) => panic!("{error}"),
    }
}

/// A store to compare with the model.
struct Subject {
    store: Box<dyn Store>,
    /// Where it can be opened again.
    disk: Option<FakeDisk>,
}

fn open(disk: &FakeDisk) -> Redb {
    let options = Options {
        recent_bytes: 1024,
        ..Options::default()
    };
    disk.open(options).expect("the database opens")
}

impl Subject {
    async fn check(&mut self, model: &mut Model, op: Op) {
        match op {
            Op::Put(key, value, precondition) => {
                let expect = model.expect(&key.bytes(), precondition);
                self.check_write(
                    model,
                    Write::put(key.bytes(), vec![value; usize::from(value)], expect),
                )
                .await;
            }
            Op::Delete(key, precondition) => {
                let expect = model.expect(&key.bytes(), precondition);
                self.check_write(model, Write::delete(key.bytes(), expect))
                    .await;
            }
            Op::Get(key, when) => {
                let at = model.at(when);
                let got = self.store.get(&key.bytes(), at).await;
                let expected = model
                    .read(at)
                    .map(|(at, state)| (state.get(&key.bytes()).cloned(), at));
                assert_eq!(got.map_err(|error| why(&error)), expected);
            }
            Op::Range {
                from,
                to,
                limit,
                when,
            } => {
                let range = Range {
                    start: from.bytes(),
                    end: to.map(Key::bytes),
                    limit,
                    at: model.at(when),
                };
                let got = self
                    .store
                    .range(range.clone())
                    .await
                    .map_err(|error| why(&error));
                assert_eq!(got, model.range(&range));
            }
            Op::Watch { prefix, when } => self.check_watch(model, &prefix.bytes(), when).await,
            Op::Compact(when) => {
                let to = model.at(when).unwrap_or(model.revision());
                let done = self.store.compact(to).await.is_ok();
                assert_eq!(done, to <= model.revision());
                if done {
                    model.compacted = model.compacted.max(to);
                }
            }
            Op::Reopen => {
                if let Some(disk) = &self.disk {
                    self.store.close().await;
                    self.store = Box::new(open(disk));
                }
            }
        }
        assert_eq!(self.store.revision(), model.revision());
        assert_eq!(self.store.compacted(), model.compacted);
    }

    async fn check_write(&self, model: &mut Model, write: Write) {
        let before = model.now().get(write.key()).cloned();
        let got = self.store.commit(write.clone()).await;
        match (model.write(&write), got) {
            (Some(event), Ok(committed)) => {
                assert_eq!(
                    (committed.revision, committed.prev),
                    (event.kv.mod_revision, event.prev)
                );
            }
            (None, Err(CommitError::Conflict { current })) => assert_eq!(current, before),
            (expected, got) => panic!("{write:?}: {got:?} instead of {expected:?}"),
        }
    }

    async fn check_watch(&self, model: &Model, prefix: &Bytes, when: When) {
        let after = model.at(when).unwrap_or(0);
        let mut watch = match self.store.watch(prefix.clone(), after) {
            Ok(watch) => watch,
            Err(WatchError::Compacted { .. }) => {
                assert!(after < model.compacted);
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let expected: Vec<_> = model
            .events
            .iter()
            .filter(|event| event.kv.mod_revision > after && event.kv.key.starts_with(prefix))
            .cloned()
            .collect();
        let mut got = Vec::new();
        while got.len() < expected.len() {
            got.extend(
                watch
                    .next()
                    .await
                    .expect("there are more events")
                    .expect("events"),
            );
        }
        assert_eq!(got, expected);
    }
}

fn run(mut subject: Subject, ops: Vec<Op>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut model = Model::new();
        for op in ops {
            subject.check(&mut model, op).await;
        }
        // Whatever was left out above: all states and all events that are left.
        for at in model.compacted..=model.revision() {
            let got = subject
                .store
                .range(Range::prefix("").at(at))
                .await
                .map_err(|error| why(&error));
            assert_eq!(got, model.range(&Range::prefix("").at(at)));
        }
        subject
            .check_watch(
                &model,
                &Bytes::new(),
                When(Some(
                    i64::try_from(model.revision() - model.compacted).unwrap(),
                )),
            )
            .await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn memory_keeps_to_the_model(ops in vec(op(), 1..60)) {
        run(Subject { store: Box::new(crate::memory()), disk: None }, ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn redb_keeps_to_the_model(ops in vec(op(), 1..60)) {
        let disk = FakeDisk::new();
        run(Subject { store: Box::new(open(&disk)), disk: Some(disk) }, ops);
    }
}
