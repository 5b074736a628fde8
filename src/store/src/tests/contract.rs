//! The contract suite: one function for each law, run on every backend.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};

use super::Fixture;
use crate::{
    CommitError, Committed, CompactError, Event, EventKind, Expect, KeyValue, Limits, Range,
    ReadError, Revision, Store, Watch, WatchError, Write,
};

/// Makes a test of each law for each backend.
macro_rules! contract {
    ($($law:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $law() { super::$law(super::Fixture::memory()).await; })+
        }
        mod redb {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $law() { super::$law(super::Fixture::redb()).await; })+
        }
    };
}

contract! {
    an_empty_store,
    writes_make_consecutive_revisions,
    refused_writes_make_no_revision,
    preconditions_are_checked_against_the_newest_state,
    create_revision_starts_anew_after_a_deletion,
    a_read_sees_its_revision,
    a_range_is_half_open_and_ordered,
    a_range_has_a_limit,
    pages_at_one_revision_are_not_disturbed,
    keys_with_every_byte_are_kept_apart,
    the_future_cannot_be_read,
    compacted_revisions_cannot_be_read,
    compaction_keeps_what_is_visible,
    compaction_goes_forward_only,
    a_watch_replays_history_and_goes_on,
    a_watch_from_the_future_waits_for_it,
    a_watch_of_compacted_history_is_refused,
    a_slow_watch_is_told_that_its_history_is_gone,
    events_are_there_when_commit_returns,
    events_after_a_compaction_have_their_previous_value,
    concurrent_writers_and_watchers_agree,
    only_one_of_many_creators_wins,
    sizes_are_limited,
    a_closed_store_says_so,
    close_ends_watches_after_the_last_event,
}

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    store
        .commit(Write::put(
            key.to_owned(),
            value.to_owned(),
            Expect::Anything,
        ))
        .await
        .unwrap()
        .revision
}

async fn delete(store: &dyn Store, key: &str) -> Revision {
    store
        .commit(Write::delete(key.to_owned(), Expect::Anything))
        .await
        .unwrap()
        .revision
}

async fn value(store: &dyn Store, key: &str, at: Option<Revision>) -> Option<String> {
    let (kv, _) = store.get(key.as_bytes(), at).await.unwrap();
    kv.map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}

async fn keys(store: &dyn Store, range: Range) -> Vec<String> {
    let page = store.range(range).await.unwrap();
    page.items
        .into_iter()
        .map(|kv| String::from_utf8(kv.key.to_vec()).unwrap())
        .collect()
}

/// The next `count` events.
async fn take(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(watch.next().await.expect("the watch goes on").unwrap());
    }
    assert_eq!(events.len(), count);
    events
}

fn summary(events: &[Event]) -> Vec<(EventKind, &[u8], Revision)> {
    events
        .iter()
        .map(|event| (event.kind, event.kv.key.as_ref(), event.kv.mod_revision))
        .collect()
}

async fn an_empty_store(fixture: Fixture) {
    let store = fixture.store();
    assert_eq!((store.revision(), store.compacted()), (1, 0));
    assert_eq!(store.get(b"k", None).await.unwrap(), (None, 1));
    let page = store.range(Range::prefix("")).await.unwrap();
    assert_eq!((page.items, page.more, page.revision), (vec![], false, 1));
}

async fn writes_make_consecutive_revisions(fixture: Fixture) {
    let store = fixture.store();
    assert_eq!(put(store, "a", "1").await, 2);
    assert_eq!(put(store, "b", "1").await, 3);
    assert_eq!(put(store, "a", "2").await, 4);
    assert_eq!(delete(store, "b").await, 5);
    assert_eq!(store.revision(), 5);
}

async fn refused_writes_make_no_revision(fixture: Fixture) {
    let store = fixture.store();
    put(store, "a", "1").await;
    let absent = Write::put("a", "2", Expect::Absent);
    assert!(
        matches!(store.commit(absent).await, Err(CommitError::Conflict { current: Some(kv) }) if kv.value == "1")
    );
    let gone = Write::delete("b", Expect::Anything);
    assert!(matches!(
        store.commit(gone).await,
        Err(CommitError::Conflict { current: None })
    ));
    assert_eq!(store.revision(), 2);
    assert_eq!(put(store, "b", "1").await, 3);
}

async fn preconditions_are_checked_against_the_newest_state(fixture: Fixture) {
    let store = fixture.store();
    let first = put(store, "a", "1").await;
    let second = store
        .commit(Write::put("a", "2", Expect::Revision(first)))
        .await
        .unwrap();
    let expected = KeyValue {
        key: "a".into(),
        value: "1".into(),
        create_revision: first,
        mod_revision: first,
    };
    assert_eq!(
        second,
        Committed {
            revision: first + 1,
            prev: Some(expected)
        }
    );

    let stale = store
        .commit(Write::put("a", "3", Expect::Revision(first)))
        .await;
    let Err(CommitError::Conflict {
        current: Some(current),
    }) = stale
    else {
        panic!("{stale:?}")
    };
    assert_eq!(
        (current.value, current.mod_revision),
        (Bytes::from("2"), second.revision)
    );

    let deleted = store
        .commit(Write::delete("a", Expect::Revision(second.revision)))
        .await
        .unwrap();
    assert_eq!(deleted.prev.unwrap().value, "2");
    let onto_nothing = store
        .commit(Write::put("a", "3", Expect::Revision(deleted.revision)))
        .await;
    assert!(matches!(
        onto_nothing,
        Err(CommitError::Conflict { current: None })
    ));
}

async fn create_revision_starts_anew_after_a_deletion(fixture: Fixture) {
    let store = fixture.store();
    put(store, "a", "1").await;
    put(store, "a", "2").await;
    let (kv, _) = store.get(b"a", None).await.unwrap();
    let kv = kv.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision), (2, 3));
    delete(store, "a").await;
    put(store, "a", "3").await;
    let (kv, _) = store.get(b"a", None).await.unwrap();
    let kv = kv.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision), (5, 5));
}

async fn a_read_sees_its_revision(fixture: Fixture) {
    let store = fixture.store();
    put(store, "a", "1").await;
    put(store, "a", "2").await;
    delete(store, "a").await;
    put(store, "a", "3").await;
    let mut seen = Vec::new();
    for at in 0..=5 {
        seen.push(value(store, "a", Some(at)).await);
    }
    let expected = [None, None, Some("1"), Some("2"), None, Some("3")];
    assert_eq!(seen, expected.map(|value| value.map(str::to_owned)));
    assert_eq!(store.get(b"a", Some(3)).await.unwrap().1, 3);
    assert_eq!(store.get(b"a", None).await.unwrap().1, 5);
}

async fn a_range_is_half_open_and_ordered(fixture: Fixture) {
    let store = fixture.store();
    for key in ["c", "a", "b/2", "b/1", "b", "b0"] {
        put(store, key, "").await;
    }
    delete(store, "b/2").await;
    put(store, "b/3", "").await;
    assert_eq!(
        keys(store, Range::prefix("")).await,
        ["a", "b", "b/1", "b/3", "b0", "c"]
    );
    assert_eq!(keys(store, Range::prefix("b/")).await, ["b/1", "b/3"]);
    let range = |start: &'static str, end| Range {
        start: start.into(),
        end,
        limit: None,
        at: None,
    };
    assert_eq!(
        keys(store, range("b", Some("b0".into()))).await,
        ["b", "b/1", "b/3"]
    );
    assert_eq!(keys(store, range("b0", None)).await, ["b0", "c"]);
    assert!(keys(store, range("c", Some("b".into()))).await.is_empty());
    assert!(keys(store, range("b", Some("b".into()))).await.is_empty());
}

async fn a_range_has_a_limit(fixture: Fixture) {
    let store = fixture.store();
    for key in ["a", "b", "c", "d"] {
        put(store, key, "").await;
    }
    delete(store, "d").await;
    for (limit, length, more) in [
        (0, 0, true),
        (1, 1, true),
        (2, 2, true),
        (3, 3, false),
        (4, 3, false),
    ] {
        let page = store.range(Range::prefix("").limit(limit)).await.unwrap();
        assert_eq!(
            (page.items.len(), page.more),
            (length, more),
            "limit {limit}"
        );
    }
}

async fn pages_at_one_revision_are_not_disturbed(fixture: Fixture) {
    let store = fixture.store();
    for number in 0..10 {
        put(store, &format!("k{number}"), "old").await;
    }
    let mut page = store.range(Range::prefix("k").limit(3)).await.unwrap();
    let revision = page.revision;
    let mut seen = page.items.clone();
    while page.more {
        delete(store, &format!("k{}", 9 - seen.len() / 3)).await;
        put(store, "k0", "new").await;
        put(store, &format!("k{}x", seen.len()), "new").await;
        let last = page.items.last().unwrap().key.clone();
        page = store
            .range(Range::prefix("k").limit(3).at(revision).after(&last))
            .await
            .unwrap();
        assert_eq!(page.revision, revision);
        seen.extend(page.items.clone());
    }
    let expected: Vec<_> = (0..10)
        .map(|number| Bytes::from(format!("k{number}")))
        .collect();
    assert_eq!(
        seen.iter().map(|kv| kv.key.clone()).collect::<Vec<_>>(),
        expected
    );
    assert!(seen.iter().all(|kv| kv.value == "old"));
}

/// Keys that are prefixes of each other, and hold the bytes that an encoding could stumble over.
async fn keys_with_every_byte_are_kept_apart(fixture: Fixture) {
    let store = fixture.store();
    let mut keys: Vec<Bytes> = vec![
        "a".into(),
        Bytes::from_static(b"a\0"),
        Bytes::from_static(b"a\0\0\0\0\0\0\0\x02"),
    ];
    keys.extend((0..=u8::MAX).map(|byte| Bytes::from(vec![b'a', 0, byte, 255])));
    keys.extend((0..=u8::MAX).map(|byte| Bytes::from(vec![byte])));
    keys.sort();
    keys.dedup();
    for round in 0..2 {
        for key in &keys {
            store
                .commit(Write::put(
                    key.clone(),
                    format!("{round}"),
                    Expect::Anything,
                ))
                .await
                .unwrap();
        }
    }
    let page = store.range(Range::prefix("")).await.unwrap();
    assert_eq!(
        page.items
            .iter()
            .map(|kv| kv.key.clone())
            .collect::<Vec<_>>(),
        keys
    );
    assert!(page.items.iter().all(|kv| kv.value == "1"));
    for key in &keys {
        assert_eq!(store.get(key, None).await.unwrap().0.unwrap().key, key);
    }
}

async fn the_future_cannot_be_read(fixture: Fixture) {
    let store = fixture.store();
    put(store, "a", "").await;
    let error = store.get(b"a", Some(3)).await.unwrap_err();
    assert!(matches!(
        error,
        ReadError::Future {
            requested: 3,
            current: 2
        }
    ));
    let error = store.range(Range::prefix("").at(9)).await.unwrap_err();
    assert!(matches!(
        error,
        ReadError::Future {
            requested: 9,
            current: 2
        }
    ));
    let error = store.compact(3).await.unwrap_err();
    assert!(matches!(
        error,
        CompactError::Future {
            requested: 3,
            current: 2
        }
    ));
}

async fn compacted_revisions_cannot_be_read(fixture: Fixture) {
    let store = fixture.store();
    for round in 0..5 {
        put(store, "a", &round.to_string()).await;
    }
    store.compact(4).await.unwrap();
    assert_eq!(store.compacted(), 4);
    let error = store.get(b"a", Some(3)).await.unwrap_err();
    assert!(matches!(
        error,
        ReadError::Compacted {
            requested: 3,
            compacted: 4
        }
    ));
    let error = store.range(Range::prefix("").at(3)).await.unwrap_err();
    assert!(matches!(
        error,
        ReadError::Compacted {
            requested: 3,
            compacted: 4
        }
    ));
    assert_eq!(value(store, "a", Some(4)).await.unwrap(), "2");
}

async fn compaction_keeps_what_is_visible(fixture: Fixture) {
    let store = fixture.store();
    put(store, "kept", "1").await;
    put(store, "changed", "1").await;
    put(store, "deleted", "1").await;
    put(store, "changed", "2").await;
    delete(store, "deleted").await;
    put(store, "again", "1").await;
    delete(store, "again").await;
    let to = put(store, "changed", "3").await;
    put(store, "again", "2").await;
    put(store, "changed", "4").await;
    store.compact(to).await.unwrap();

    assert_eq!(
        keys(store, Range::prefix("").at(to)).await,
        ["changed", "kept"]
    );
    assert_eq!(value(store, "changed", Some(to)).await.unwrap(), "3");
    assert_eq!(
        keys(store, Range::prefix("")).await,
        ["again", "changed", "kept"]
    );
    assert_eq!(value(store, "changed", None).await.unwrap(), "4");
    assert_eq!(value(store, "kept", None).await.unwrap(), "1");

    // All of it, and then on as if nothing had been.
    store.compact(store.revision()).await.unwrap();
    assert_eq!(
        keys(store, Range::prefix("")).await,
        ["again", "changed", "kept"]
    );
    let prev = store
        .commit(Write::put("kept", "2", Expect::Revision(2)))
        .await
        .unwrap()
        .prev;
    assert_eq!(prev.unwrap().value, "1");
    assert_eq!(store.revision(), to + 3);
}

async fn compaction_goes_forward_only(fixture: Fixture) {
    let store = fixture.store();
    for _ in 0..5 {
        put(store, "a", "").await;
    }
    for to in [3, 3, 2, 0] {
        store.compact(to).await.unwrap();
        assert_eq!(store.compacted(), 3);
    }
}

async fn a_watch_replays_history_and_goes_on(fixture: Fixture) {
    let store = fixture.store();
    put(store, "/a/1", "x").await;
    put(store, "/b/1", "").await;
    put(store, "/a/1", "y").await;
    delete(store, "/a/1").await;

    let mut all = store.watch("/a/".into(), 0).unwrap();
    let mut later = store.watch("/a/".into(), 2).unwrap();
    let events = take(&mut all, 3).await;
    assert_eq!(
        summary(&events),
        [
            (EventKind::Put, &b"/a/1"[..], 2),
            (EventKind::Put, b"/a/1", 4),
            (EventKind::Delete, b"/a/1", 5)
        ]
    );
    let prevs: Vec<_> = events
        .iter()
        .map(|event| event.prev.as_ref().map(|prev| prev.value.as_ref()))
        .collect();
    assert_eq!(prevs, [None, Some(&b"x"[..]), Some(b"y")]);
    let deletion = &events[2].kv;
    assert_eq!(
        (deletion.value.as_ref(), deletion.create_revision),
        (&b""[..], 2)
    );
    assert_eq!(take(&mut later, 2).await, events[1..]);

    put(store, "/b/2", "").await;
    put(store, "/a/2", "z").await;
    let event = take(&mut all, 1).await.remove(0);
    assert_eq!(
        (event.kv.key.as_ref(), event.kv.mod_revision, event.prev),
        (&b"/a/2"[..], 7, None)
    );
    assert!(all.next().now_or_never().is_none());
}

async fn a_watch_from_the_future_waits_for_it(fixture: Fixture) {
    let store = fixture.store();
    let mut watch = store.watch(Bytes::new(), 3).unwrap();
    for key in ["a", "b", "c"] {
        put(store, key, "").await;
    }
    assert_eq!(
        summary(&take(&mut watch, 1).await),
        [(EventKind::Put, &b"c"[..], 4)]
    );
}

async fn a_watch_of_compacted_history_is_refused(fixture: Fixture) {
    let store = fixture.store();
    for _ in 0..5 {
        put(store, "a", "").await;
    }
    store.compact(4).await.unwrap();
    let error = store.watch(Bytes::new(), 3).unwrap_err();
    assert!(matches!(
        error,
        WatchError::Compacted {
            requested: 3,
            compacted: 4
        }
    ));
    let mut watch = store.watch(Bytes::new(), 4).unwrap();
    assert_eq!(take(&mut watch, 2).await.len(), 2);
}

async fn a_slow_watch_is_told_that_its_history_is_gone(fixture: Fixture) {
    let store = fixture.store();
    let mut watch = store.watch(Bytes::new(), 1).unwrap();
    put(store, "a", "first").await;
    take(&mut watch, 1).await;
    fixture.outrun_watchers().await;
    store.compact(store.revision()).await.unwrap();
    let error = watch.next().await.unwrap().unwrap_err();
    assert!(
        matches!(error, WatchError::Compacted { requested: 2, .. }),
        "{error}"
    );
    assert!(watch.next().await.is_none());
}

async fn events_are_there_when_commit_returns(fixture: Fixture) {
    let store = fixture.store();
    let mut watch = store.watch(Bytes::new(), 1).unwrap();
    for round in 0..50 {
        let revision = put(store, "a", &round.to_string()).await;
        let batch = watch
            .next()
            .now_or_never()
            .expect("the event is there")
            .unwrap()
            .unwrap();
        assert_eq!(batch.last().unwrap().kv.mod_revision, revision);
    }
}

async fn events_after_a_compaction_have_their_previous_value(fixture: Fixture) {
    let store = fixture.store();
    put(store, "a", "1").await;
    put(store, "a", "2").await;
    let to = store.revision();
    put(store, "a", "3").await;
    delete(store, "a").await;
    store.compact(to).await.unwrap();
    fixture.outrun_watchers().await;
    let mut watch = store.watch("a".into(), to).unwrap();
    let events = take(&mut watch, 2).await;
    let prevs: Vec<_> = events
        .iter()
        .map(|event| event.prev.as_ref().unwrap().value.as_ref())
        .collect();
    assert_eq!(prevs, [b"2", b"3"]);
}

async fn concurrent_writers_and_watchers_agree(fixture: Fixture) {
    const WRITERS: usize = 16;
    const WRITES: usize = 50;
    let last = 1 + (WRITERS * WRITES) as Revision;
    let store = fixture.shared();
    let watchers: Vec<_> = (0..8)
        .map(|_| {
            let mut watch = store.watch(Bytes::new(), 1).unwrap();
            tokio::spawn(async move { take(&mut watch, WRITERS * WRITES).await })
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut before = 0;
                for round in 0..WRITES {
                    let revision = put(
                        &*store,
                        &format!("{}", (writer + round) % 5),
                        &format!("{writer}"),
                    )
                    .await;
                    assert!(revision > before);
                    before = revision;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut seen = Vec::new();
    for watcher in watchers {
        seen.push(watcher.await.unwrap());
    }
    let revisions: Vec<_> = seen[0].iter().map(|event| event.kv.mod_revision).collect();
    assert_eq!(revisions, (2..=last).collect::<Vec<_>>());
    assert!(seen.iter().all(|events| *events == seen[0]));
    let mut replay = store.watch(Bytes::new(), 1).unwrap();
    assert_eq!(take(&mut replay, WRITERS * WRITES).await, seen[0]);
}

async fn only_one_of_many_creators_wins(fixture: Fixture) {
    let store = fixture.shared();
    let creators = (0..32).map(|creator| {
        let store = store.clone();
        async move {
            store
                .commit(Write::put("one", format!("{creator}"), Expect::Absent))
                .await
                .is_ok()
        }
    });
    let won = futures::future::join_all(creators).await;
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    assert_eq!(store.revision(), 2);
}

async fn sizes_are_limited(fixture: Fixture) {
    let store = fixture.store();
    let Limits {
        key_bytes,
        value_bytes,
    } = Limits::default();
    let put = |key: usize, value: usize| {
        store.commit(Write::put(
            vec![b'k'; key],
            vec![b'v'; value],
            Expect::Anything,
        ))
    };
    assert!(matches!(put(0, 1).await, Err(CommitError::EmptyKey)));
    put(key_bytes, value_bytes).await.unwrap();
    let error = put(key_bytes + 1, 1).await.unwrap_err();
    assert!(
        matches!(error, CommitError::KeyTooLarge { size, limit } if size == limit + 1),
        "{error}"
    );
    let error = put(1, value_bytes + 1).await.unwrap_err();
    assert!(
        matches!(error, CommitError::ValueTooLarge { size, limit } if size == limit + 1),
        "{error}"
    );
    let (kv, _) = store.get(&vec![b'k'; key_bytes], None).await.unwrap();
    assert_eq!(kv.unwrap().value.len(), value_bytes);
    put(1, 0).await.unwrap();
    assert_eq!(value(store, "k", None).await.unwrap(), "");
}

async fn a_closed_store_says_so(fixture: Fixture) {
    let store = fixture.store();
    put(store, "a", "").await;
    store.close().await;
    store.close().await;
    assert!(matches!(
        store.get(b"a", None).await,
        Err(ReadError::Closed)
    ));
    assert!(matches!(
        store.range(Range::prefix("")).await,
        Err(ReadError::Closed)
    ));
    assert!(matches!(
        store.commit(Write::put("a", "", Expect::Anything)).await,
        Err(CommitError::Closed)
    ));
    assert!(matches!(
        store.watch(Bytes::new(), 1),
        Err(WatchError::Closed)
    ));
    assert!(matches!(store.compact(1).await, Err(CompactError::Closed)));
}

async fn close_ends_watches_after_the_last_event(fixture: Fixture) {
    let store: Arc<dyn Store> = fixture.shared();
    let mut watch = store.watch(Bytes::new(), 1).unwrap();
    let waiting = {
        let mut watch = store.watch("other".into(), 1).unwrap();
        tokio::spawn(async move { watch.next().await.is_none() })
    };
    for _ in 0..3 {
        put(&*store, "a", "").await;
    }
    store.close().await;
    assert_eq!(take(&mut watch, 3).await.len(), 3);
    assert!(watch.next().await.is_none());
    assert!(waiting.await.unwrap());
}
