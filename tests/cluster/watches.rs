//! Watches on a running server, under concurrent writes, restarts and compactions: what watchers see is what was written.
//!
//! Writers change objects of their own and note what the server acknowledged. Watchers follow, through SIGKILLs of the server
//! and compactions of its history, resuming after the last revision that they saw, and note every event. In the end the notes
//! must agree: each watcher's events are in order and unique, none that was acknowledged is missing, none is invented.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::sync::watch;

use crate::harness::{PATIENCE, Vaquita};

const WRITERS: usize = 4;
const WATCHERS: usize = 3;
const KEYS: u64 = 5;
/// How often the server is killed.
const DEATHS: usize = 3;
/// How long it lives between two deaths.
const LIFE: Duration = Duration::from_secs(3);
/// Short, so that the history is compacted many times while the test runs.
const HISTORY: [&str; 2] = ["--watch-history", "1s"];

/// What a watcher can see of a write: which object, and the number that the write put in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    name: String,
    number: u64,
    deleted: bool,
}

/// What the writers know.
#[derive(Default)]
struct Written {
    /// By the revision that the server gave it.
    acknowledged: BTreeMap<u64, Change>,
    /// Writes whose answer never came: they may have happened.
    unknown: BTreeSet<Change>,
}

/// What a watcher saw between two lists: first and last revision that it is about, and the events.
#[derive(Debug)]
struct Stretch {
    from: u64,
    to: u64,
    events: Vec<(u64, Change)>,
}

async fn client(cluster: &Vaquita) -> Client {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .expect("a configuration");
    config.connect_timeout = Some(Duration::from_secs(2));
    config.read_timeout = Some(PATIENCE);
    Client::try_from(config).expect("a client")
}

fn revision(object: &ConfigMap) -> u64 {
    let version = object.resource_version().expect("a version");
    version.parse().expect("a number")
}

fn number(object: &ConfigMap) -> u64 {
    let data = object.data.as_ref().and_then(|data| data.get("number"));
    data.map_or(0, |number| number.parse().expect("a number"))
}

/// Creates, changes and deletes objects of its own, as fast as it can.
async fn write(
    writer: usize,
    clients: watch::Receiver<Client>,
    written: Arc<Mutex<Written>>,
    numbers: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) {
    // Whether each object is there, as far as this writer knows.
    let mut there: BTreeMap<String, Option<bool>> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let maps: Api<ConfigMap> = Api::default_namespaced(clients.borrow().clone());
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let name = format!("w{writer}-{}", number % KEYS);
        let known = *there.get(&name).unwrap_or(&Some(false));
        let Some(is_there) = known else {
            if let Ok(found) = maps.get_opt(&name).await {
                there.insert(name, Some(found.is_some()));
            } else {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            continue;
        };
        let deletes = is_there && number.is_multiple_of(3);
        let change = Change {
            name: name.clone(),
            number,
            deleted: deletes,
        };
        let body = json!({"metadata": {"name": name}, "data": {"number": number.to_string()}});
        let body: ConfigMap = serde_json::from_value(body).expect("a map");
        let outcome = if deletes {
            let gone = maps.delete(&name, &DeleteParams::default()).await;
            // The answer does not say at which revision; the watchers will tell.
            gone.map(|_| None)
        } else if is_there {
            maps.replace(&name, &PostParams::default(), &body)
                .await
                .map(Some)
        } else {
            maps.create(&PostParams::default(), &body).await.map(Some)
        };
        let mut notes = written.lock().expect("lock");
        match outcome {
            Ok(Some(object)) => {
                let before = notes.acknowledged.insert(revision(&object), change);
                assert_eq!(before, None, "two writes with one revision");
                there.insert(name, Some(true));
            }
            Ok(None) => {
                notes.unknown.insert(change);
                there.insert(name, Some(false));
            }
            Err(error) => {
                assert!(
                    !matches!(error, kube::Error::Api(_)),
                    "a refused write: {error}"
                );
                notes.unknown.insert(change);
                there.insert(name, None);
            }
        }
    }
}

/// Lists, then watches from there, until told to stop and everything up to `end` has been seen.
async fn follow(
    clients: watch::Receiver<Client>,
    end: watch::Receiver<Option<u64>>,
) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    loop {
        let maps: Api<ConfigMap> = Api::default_namespaced(clients.borrow().clone());
        let Ok(list) = maps.list(&ListParams::default()).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let from: u64 = list
            .metadata
            .resource_version
            .expect("a version")
            .parse()
            .expect("a number");
        let mut stretch = Stretch {
            from,
            to: from,
            events: Vec::new(),
        };
        let finished = watch_on(&clients, &end, &mut stretch).await;
        stretches.push(stretch);
        if finished {
            return stretches;
        }
    }
}

/// Watches after `stretch.to` for as long as that is possible. Whether the end has been reached.
async fn watch_on(
    clients: &watch::Receiver<Client>,
    end: &watch::Receiver<Option<u64>>,
    stretch: &mut Stretch,
) -> bool {
    loop {
        if end.borrow().is_some_and(|end| stretch.to >= end) {
            return true;
        }
        let maps: Api<ConfigMap> = Api::default_namespaced(clients.borrow().clone());
        let options = WatchParams::default().timeout(2);
        let Ok(stream) = maps.watch(&options, &stretch.to.to_string()).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut stream = std::pin::pin!(stream);
        while let Ok(Some(event)) = stream.try_next().await {
            let (object, deleted) = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
                WatchEvent::Deleted(object) => (object, true),
                WatchEvent::Bookmark(bookmark) => {
                    let at = bookmark
                        .metadata
                        .resource_version
                        .parse()
                        .expect("a number");
                    assert!(at >= stretch.to, "a bookmark in the past");
                    stretch.to = at;
                    continue;
                }
                // The history after this revision is gone.
                WatchEvent::Error(status) if status.code == 410 => return false,
                WatchEvent::Error(status) => panic!("a watch failed: {status:?}"),
            };
            let at = revision(&object);
            stretch.to = stretch.to.max(at);
            let change = Change {
                name: object.name_any(),
                number: number(&object),
                deleted,
            };
            stretch.events.push((at, change));
            if end.borrow().is_some_and(|end| stretch.to >= end) {
                return true;
            }
        }
    }
}

fn check(stretches: &[Stretch], written: &Written) {
    for stretch in stretches {
        let revisions: Vec<u64> = stretch.events.iter().map(|(at, _)| *at).collect();
        assert!(
            revisions.is_sorted_by(|a, b| a < b),
            "out of order, or twice: {revisions:?}"
        );
        assert!(
            revisions.first().is_none_or(|first| *first > stretch.from),
            "from before the list"
        );
        let seen: BTreeMap<u64, &Change> = stretch
            .events
            .iter()
            .map(|(at, change)| (*at, change))
            .collect();
        for (at, change) in written.acknowledged.range(stretch.from + 1..=stretch.to) {
            assert_eq!(
                seen.get(at).copied(),
                Some(change),
                "acknowledged at {at}, but not seen so"
            );
        }
        for (at, change) in &seen {
            // A deletion shows the object as it was, with an earlier write's number.
            let known = written.acknowledged.get(at) == Some(*change)
                || written.unknown.contains(*change)
                || change.deleted
                    && written
                        .unknown
                        .iter()
                        .any(|own| own.deleted && own.name == change.name);
            assert!(known, "nobody wrote {change:?}, seen at {at}");
        }
    }
}

/// Every revision from which a watch can still begin gives the same events; every earlier one is refused.
async fn check_resuming(client: Client, reference: &[(u64, Change)], end: u64) {
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let mut resumed = 0;
    for (index, (from, _)) in reference.iter().enumerate() {
        let options = WatchParams::default().timeout(1);
        let Ok(stream) = maps.watch(&options, &from.to_string()).await else {
            continue;
        };
        let mut stream = std::pin::pin!(stream);
        let mut rest = reference[index + 1..].iter();
        if *from == end {
            break;
        }
        while let Some(event) = stream.try_next().await.expect("a watch") {
            let object = match event {
                WatchEvent::Added(object)
                | WatchEvent::Modified(object)
                | WatchEvent::Deleted(object) => object,
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(status) => {
                    assert_eq!(status.code, 410, "{status:?}");
                    break;
                }
            };
            let (at, change) = rest.next().expect("no more than there was");
            assert_eq!(
                (revision(&object), object.name_any()),
                (*at, change.name.clone())
            );
            resumed += 1;
            if *at >= end {
                break;
            }
        }
    }
    assert!(resumed > 0, "no revision could be resumed at all");
}

/// The history has been compacted meanwhile: what was at the start is gone, and a watch from there is told so.
async fn check_compacted(client: Client, revision: u64) {
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let code = match maps
        .watch(&WatchParams::default().timeout(1), &revision.to_string())
        .await
    {
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("{error}"),
        Ok(stream) => match std::pin::pin!(stream).try_next().await {
            Ok(Some(WatchEvent::Error(status))) => status.code,
            other => panic!("{other:?} from a revision that must be gone"),
        },
    };
    assert_eq!(code, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_see_what_was_written_through_restarts_and_compactions() {
    let mut cluster = tokio::task::spawn_blocking(|| Vaquita::up_with(&HISTORY))
        .await
        .expect("it starts");
    let (new_client, clients) = watch::channel(client(&cluster).await);
    let (tell_end, end) = watch::channel(None);
    let written = Arc::new(Mutex::new(Written::default()));
    let (numbers, stop) = (
        Arc::new(AtomicU64::new(1)),
        Arc::new(AtomicBool::new(false)),
    );
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            tokio::spawn(write(
                writer,
                clients.clone(),
                written.clone(),
                numbers.clone(),
                stop.clone(),
            ))
        })
        .collect();
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|_| tokio::spawn(follow(clients.clone(), end.clone())))
        .collect();

    for _ in 0..DEATHS {
        tokio::time::sleep(LIFE).await;
        let again = move || Vaquita::up_again_with(cluster.kill(), &HISTORY);
        cluster = tokio::task::spawn_blocking(again)
            .await
            .expect("it starts again");
        new_client.send_replace(client(&cluster).await);
    }
    tokio::time::sleep(LIFE).await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("a writer");
    }
    // A last write, which every watcher will see.
    let maps: Api<ConfigMap> = Api::default_namespaced(clients.borrow().clone());
    let last = json!({"metadata": {"name": "last"}, "data": {"number": "0"}});
    let last: ConfigMap = serde_json::from_value(last).expect("a map");
    let last = maps
        .create(&PostParams::default(), &last)
        .await
        .expect("it is created");
    let last_revision = revision(&last);
    let change = Change {
        name: "last".to_owned(),
        number: 0,
        deleted: false,
    };
    written
        .lock()
        .expect("lock")
        .acknowledged
        .insert(last_revision, change);
    tell_end.send_replace(Some(last_revision));

    let mut notes = Vec::new();
    for watcher in watchers {
        let stretches = tokio::time::timeout(PATIENCE, watcher)
            .await
            .expect("in time");
        notes.push(stretches.expect("a watcher"));
    }
    let first = {
        let written = written.lock().expect("lock");
        let total = written.acknowledged.len();
        assert!(total > 100, "only {total} writes were acknowledged");
        for stretches in &notes {
            check(stretches, &written);
        }
        *written.acknowledged.keys().next().expect("a write")
    };
    check_compacted(clients.borrow().clone(), first).await;
    let reference = notes
        .iter()
        .flatten()
        .max_by_key(|stretch| stretch.to)
        .expect("a stretch");
    let tail = reference.events.len().saturating_sub(20);
    check_resuming(
        clients.borrow().clone(),
        &reference.events[tail..],
        last_revision,
    )
    .await;
}
