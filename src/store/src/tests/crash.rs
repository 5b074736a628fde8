//! What survives when the power goes, when the disk breaks, and when somebody damages the file.

use std::{collections::BTreeMap, fs};

use bytes::Bytes;
use futures::{
    StreamExt as _,
    stream::{self, FuturesUnordered},
};
use proptest::prelude::*;

use super::disk::FakeDisk;
use crate::{
    CommitError, Event, EventKind, Expect, OpenError, Options, Range, ReadError, Redb, Revision,
    Store, Write, disk::OpenFailure,
};

const WRITES: u64 = 40;

/// Writes of which several are under way at any time, with a compaction in between. Returns what was acknowledged.
async fn workload(store: &Redb) -> BTreeMap<Revision, Write> {
    let writes = (0..WRITES).map(|number| async move {
        let key = format!("key/{}", number % 7);
        let write = if number % 5 == 4 {
            Write::delete(key, Expect::Anything)
        } else {
            Write::put(
                key,
                vec![u8::try_from(number).unwrap(); 700],
                Expect::Anything,
            )
        };
        let committed = store.commit(write.clone()).await;
        if number == WRITES / 2 {
            let _ = store.compact(store.revision()).await;
        }
        committed.ok().map(|committed| (committed.revision, write))
    });
    stream::iter(writes)
        .buffer_unordered(3)
        .filter_map(|acknowledged| async { acknowledged })
        .collect()
        .await
}

/// All events that are left.
async fn events(store: &dyn Store) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut watch = store.watch(Bytes::new(), store.compacted()).unwrap();
    while events
        .last()
        .map_or(store.compacted().max(1), |event| event.kv.mod_revision)
        < store.revision()
    {
        events.extend(watch.next().await.unwrap().unwrap());
    }
    events
}

/// Whatever was acknowledged is there, nothing is there by half, and the store goes on.
async fn check(store: &Redb, acknowledged: &BTreeMap<Revision, Write>) {
    let last = acknowledged.keys().last().copied().unwrap_or(1);
    assert!(
        store.revision() >= last,
        "revision {last} was acknowledged and is gone"
    );
    let events = events(store).await;
    let revisions: Vec<_> = events.iter().map(|event| event.kv.mod_revision).collect();
    assert_eq!(
        revisions,
        (store.compacted().max(1) + 1..=store.revision()).collect::<Vec<_>>()
    );
    for event in &events {
        if let Some(write) = acknowledged.get(&event.kv.mod_revision) {
            let (kind, value) = match write {
                Write::Put { value, .. } => (EventKind::Put, value.clone()),
                Write::Delete { .. } => (EventKind::Delete, Bytes::new()),
            };
            assert_eq!(
                (event.kind, &event.kv.key, &event.kv.value),
                (kind, write.key(), &value)
            );
        }
    }
    // The state at the oldest revision and the events give the newest state.
    let page = store
        .range(Range::prefix("").at(store.compacted()))
        .await
        .unwrap();
    let mut state: BTreeMap<_, _> = page
        .items
        .into_iter()
        .map(|kv| (kv.key.clone(), kv))
        .collect();
    for event in events {
        assert_eq!(state.remove(&event.kv.key), event.prev);
        if event.kind == EventKind::Put {
            state.insert(event.kv.key.clone(), event.kv);
        }
    }
    let page = store.range(Range::prefix("")).await.unwrap();
    assert_eq!(page.items, state.into_values().collect::<Vec<_>>());

    let next = store
        .commit(Write::put("next", "", Expect::Anything))
        .await
        .unwrap();
    assert_eq!(next.revision, page.revision + 1);
}

/// Runs the workload until the disk fails at `step`, loses power, and looks at what is left.
fn crash_at(step: usize, survives: impl FnMut() -> bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let disk = FakeDisk::new();
        disk.fail_from(step);
        let acknowledged = match disk.open(Options::default()) {
            Ok(store) => workload(&store).await,
            Err(_) => BTreeMap::new(),
        };
        let store = disk.crash(survives).open(Options::default());
        check(
            &store.expect("the database opens after a crash"),
            &acknowledged,
        )
        .await;
    });
}

/// How many steps the disk makes when nothing fails.
fn all_steps() -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let disk = FakeDisk::new();
        let store = disk.open(Options::default()).unwrap();
        assert!(workload(&store).await.len() > 30);
        drop(store);
        disk.steps()
    })
}

#[test]
fn acknowledged_writes_survive_a_loss_of_power_at_every_step() {
    for step in 0..all_steps() {
        crash_at(step, || false);
        crash_at(step, || true);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_writes_survive_whatever_else_reached_the_disk(
        step in 0..150_usize,
        survivors in proptest::collection::vec(any::<bool>(), 64),
    ) {
        let mut survivors = survivors.into_iter().cycle();
        crash_at(step, || survivors.next().unwrap_or_default());
    }
}

#[tokio::test]
async fn a_failed_disk_is_used_again_once_it_works() {
    let disk = FakeDisk::new();
    let store = disk.open(Options::default()).unwrap();
    let mut watch = store.watch(Bytes::new(), 1).unwrap();
    let put = |value: &'static str| store.commit(Write::put("k", value, Expect::Anything));
    put("before").await.unwrap();

    disk.fail_from(0);
    let error = put("lost").await.unwrap_err();
    assert!(matches!(error, CommitError::Backend(_)), "{error}");
    assert!(matches!(
        put("lost too").await,
        Err(CommitError::Backend(_))
    ));
    assert!(matches!(
        store.get(b"k", None).await,
        Err(ReadError::Backend(_))
    ));

    disk.repair();
    let committed = put("after").await.unwrap();
    assert_eq!(committed.prev.unwrap().value, "before");
    assert_eq!(
        store.get(b"k", None).await.unwrap().0.unwrap().value,
        "after"
    );
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(watch.next().await.unwrap().unwrap());
    }
    assert_eq!(
        (seen[1].kv.mod_revision, &seen[1].kv.value[..]),
        (committed.revision, &b"after"[..])
    );
}

/// A write whose acknowledgement failed may have happened all the same. Nobody may miss it then.
#[tokio::test]
async fn a_write_that_survived_its_failure_is_published() {
    let disk = FakeDisk::new();
    let store = disk.open(Options::default()).unwrap();
    let mut surprised = 0;
    for number in 0..40 {
        let mut watch = store.watch(Bytes::new(), store.revision()).unwrap();
        let before = store.revision();
        disk.fail_from(disk.steps() + number % 20);
        let first = store
            .commit(Write::put("k", format!("{number}"), Expect::Anything))
            .await;
        disk.repair();
        let second = store
            .commit(Write::put("k", "next", Expect::Anything))
            .await
            .unwrap();
        if first.is_err() && second.revision == before + 2 {
            surprised += 1;
        }
        let mut seen = Vec::new();
        while seen.last() != Some(&second.revision) {
            seen.extend(
                watch
                    .next()
                    .await
                    .unwrap()
                    .unwrap()
                    .iter()
                    .map(|event| event.kv.mod_revision),
            );
        }
        assert_eq!(seen, (before + 1..=second.revision).collect::<Vec<_>>());
    }
    assert!(surprised > 0, "the test never came to its case");
}

#[tokio::test]
async fn a_full_queue_refuses_writes_and_loses_none() {
    let disk = FakeDisk::new();
    let store = disk
        .open(Options {
            queue_writes: 4,
            ..Options::default()
        })
        .unwrap();
    let writes: FuturesUnordered<_> = (0..200)
        .map(|number| store.commit(Write::put(format!("{number}"), "", Expect::Absent)))
        .collect();
    let results: Vec<_> = writes.collect().await;
    let done = results.iter().filter(|result| result.is_ok()).count();
    assert!(
        results
            .iter()
            .all(|result| matches!(result, Ok(_) | Err(CommitError::Full)))
    );
    assert!(done >= 4);
    assert_eq!(
        store.range(Range::prefix("")).await.unwrap().items.len(),
        done
    );
}

#[tokio::test]
async fn compaction_gives_space_back() {
    let disk = FakeDisk::new();
    let store = disk.open(Options::default()).unwrap();
    let mut longest = 0;
    for _ in 0..12 {
        for _ in 0..200 {
            store
                .commit(Write::put("k", vec![0; 2048], Expect::Anything))
                .await
                .unwrap();
        }
        store.compact(store.revision()).await.unwrap();
        // Whatever is left to remove goes with these.
        for _ in 0..20 {
            store
                .commit(Write::put("k", "", Expect::Anything))
                .await
                .unwrap();
        }
        longest = longest.max(disk.bytes().len());
    }
    // Half of what was written; some rounds' worth is always in use.
    assert!(
        longest < 12 * 200 * 2048 / 2,
        "the file grew to {longest} bytes"
    );
}

/// A closed database with some history in it.
async fn database() -> Vec<u8> {
    let disk = FakeDisk::new();
    let store = disk.open(Options::default()).unwrap();
    workload(&store).await;
    store.close().await;
    disk.bytes()
}

#[tokio::test]
async fn a_cut_off_database_is_damaged() {
    let bytes = database().await;
    for length in [
        1,
        100,
        511,
        512,
        4096,
        5000,
        bytes.len() / 2,
        bytes.len() - 1,
    ] {
        let opened = FakeDisk::with(bytes[..length].to_vec()).open(Options::default());
        assert!(
            matches!(opened, Err(OpenFailure::Damaged(_))),
            "{length}: {opened:?}"
        );
    }
}

#[tokio::test]
async fn damage_anywhere_is_found_or_does_no_harm() {
    let bytes = database().await;
    let intact = events(
        &FakeDisk::with(bytes.clone())
            .open(Options::default())
            .unwrap(),
    )
    .await;
    let mut found = 0;
    for place in (0..bytes.len()).step_by(bytes.len() / 400) {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x55;
        match FakeDisk::with(damaged).open(Options::default()) {
            Ok(store) => assert_eq!(events(&store).await, intact, "damage at {place}"),
            Err(OpenFailure::Damaged(_) | OpenFailure::NewerFormat(_)) => found += 1,
            Err(error) => panic!("damage at {place}: {error}"),
        }
    }
    assert!(found > 0);
}

#[tokio::test]
async fn a_file_can_be_used_once_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = Redb::open(&path, Options::default()).unwrap();
    let error = Redb::open(&path, Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    store
        .commit(Write::put("k", "", Expect::Absent))
        .await
        .unwrap();
    store.close().await;
    // Closed, though not dropped.
    let again = Redb::open(&path, Options::default()).unwrap();
    assert_eq!(again.revision(), 2);
    drop(again);
    Redb::open(&path, Options::default()).unwrap();
}

/// What a crash in the middle of making the database leaves behind does not stand in the way.
#[tokio::test]
async fn an_unfinished_database_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    for left in [&b""[..], &[0; 4096], b"half a header"] {
        fs::write(dir.path().join("store.redb.new"), left).unwrap();
        let store = Redb::open(&path, Options::default()).unwrap();
        assert_eq!(store.revision(), 1);
        drop(store);
        let files: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(files, ["store.redb"]);
        fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
async fn what_is_no_database_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    fs::write(&path, "nothing of the kind").unwrap();
    let error = Redb::open(&path, Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    let error = Redb::open(dir.path(), Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    let error = Redb::open(dir.path().join("no/such/dir"), Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
}

#[tokio::test]
async fn the_database_of_another_program_or_version_is_left_alone() {
    use redb::{Database, TableDefinition};
    let dir = tempfile::tempdir().unwrap();
    let set = |name: &str, table: TableDefinition<&str, u64>, key: &str, value: u64| {
        let path = dir.path().join(name);
        let db = Database::create(&path).unwrap();
        let transaction = db.begin_write().unwrap();
        transaction
            .open_table(table)
            .unwrap()
            .insert(key, value)
            .unwrap();
        transaction.commit().unwrap();
        path
    };
    let path = set("other", TableDefinition::new("something"), "a", 1);
    let error = Redb::open(&path, Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");

    let path = dir.path().join("newer");
    drop(Redb::open(&path, Options::default()).unwrap());
    let path = set("newer", TableDefinition::new("state"), "format", 2);
    let error = Redb::open(&path, Options::default()).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::NewerFormat {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let _store = Redb::open(&path, Options::default()).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}
