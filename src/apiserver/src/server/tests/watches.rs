//! Watches: where they begin, what they show, how they end.

use super::*;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";

fn brief(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn without_a_version_the_state_comes_first() {
    let api = Api::start().await;
    api.map("a").await;
    let mut events = api.watch(&format!("{MAPS}?watch=true")).await;
    assert_eq!(events.brief().await, brief("ADDED", "a"));
    let b = api.map("b").await;
    assert_eq!(
        events.next().await.unwrap(),
        json!({"type": "ADDED", "object": b})
    );
    let b = api
        .put(&format!("{MAPS}/b"), config_map("b", "w"))
        .await
        .ok();
    assert_eq!(
        events.next().await.unwrap(),
        json!({"type": "MODIFIED", "object": b})
    );
    api.delete(&format!("{MAPS}/b"), json!({})).await.ok();
    let gone = events.next().await.unwrap();
    assert_eq!(
        (&gone["type"], &gone["object"]["data"]["k"]),
        (&json!("DELETED"), &json!("w"))
    );
    assert_eq!(version(&gone["object"]), api.store.revision());
}

#[tokio::test]
async fn from_a_version_only_what_came_after_it() {
    let api = Api::start().await;
    let a = api.map("a").await;
    api.map("b").await;
    let mut events = api
        .watch(&format!("{MAPS}?watch=1&resourceVersion={}", version(&a)))
        .await;
    assert_eq!(events.brief().await, brief("ADDED", "b"));
    api.map("c").await;
    assert_eq!(events.brief().await, brief("ADDED", "c"));
}

#[tokio::test]
async fn a_watch_is_of_its_namespace_and_kind() {
    let api = Api::start().await;
    let mut events = api.watch(&format!("{MAPS}?watch=true")).await;
    api.post(
        "/api/v1/namespaces/kube-system/configmaps",
        config_map("elsewhere", "v"),
    )
    .await
    .ok();
    api.post(PODS, pod("p")).await.ok();
    api.map("here").await;
    assert_eq!(events.brief().await, brief("ADDED", "here"));
}

#[tokio::test]
async fn what_begins_or_ceases_to_match_is_added_or_deleted() {
    let api = Api::start().await;
    let mut events = api
        .watch(&format!("{MAPS}?watch=true&labelSelector=on%3Dyes"))
        .await;
    api.map("a").await;
    let path = format!("{MAPS}/a");
    let label = async |value: Value| {
        api.patch(
            &path,
            "merge-patch",
            json!({"metadata": {"labels": {"on": value}}}),
        )
        .await
        .ok()
    };
    label("yes".into()).await;
    assert_eq!(events.brief().await, brief("ADDED", "a"));
    api.patch(&path, "merge-patch", json!({"data": {"k": "w"}}))
        .await
        .ok();
    assert_eq!(events.brief().await, brief("MODIFIED", "a"));
    let off = label("no".into()).await;
    let event = events.next().await.unwrap();
    // The state that matched, at the version that ended it.
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["labels"]["on"]),
        (&json!("DELETED"), &json!("yes"))
    );
    assert_eq!(version(&event["object"]), version(&off));
    api.delete(&path, json!({})).await.ok();
    api.post(
        MAPS,
        json!({"metadata": {"name": "b", "labels": {"on": "yes"}}}),
    )
    .await
    .ok();
    assert_eq!(events.brief().await, brief("ADDED", "b"));
}

#[tokio::test]
async fn a_field_selector_follows_one_object() {
    let api = Api::start().await;
    let mut events = api
        .watch(&format!(
            "{MAPS}?watch=true&fieldSelector=metadata.name%3Db"
        ))
        .await;
    api.map("a").await;
    api.map("b").await;
    assert_eq!(events.brief().await, brief("ADDED", "b"));
}

#[tokio::test]
async fn a_compacted_version_has_expired() {
    let api = Api::start().await;
    let a = api.map("a").await;
    api.map("b").await;
    // The window of this one is empty, so it is the store that has to know.
    let fresh = Api::over(api.store.clone(), Config::default()).await;
    let from = format!("{MAPS}?watch=true&resourceVersion={}", version(&a));
    assert_eq!(fresh.watch(&from).await.brief().await, brief("ADDED", "b"));
    api.store.compact(api.store.revision()).await.unwrap();
    let mut events = fresh.watch(&from).await;
    let error = events.next().await.unwrap();
    assert_eq!(
        (&error["type"], &error["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert_eq!(error["object"]["reason"], "Expired");
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_reader_that_falls_behind_the_window_misses_nothing() {
    let api = Api::with(Config {
        window_events: 4,
        ..Config::default()
    })
    .await;
    let mut events = api
        .watch(&format!(
            "{MAPS}?watch=true&resourceVersion={}",
            api.store.revision()
        ))
        .await;
    for n in 0..50 {
        api.map(&format!("m{n:02}")).await;
    }
    api.delete(&format!("{MAPS}/m00"), json!({})).await.ok();
    for n in 0..50 {
        assert_eq!(events.brief().await, brief("ADDED", &format!("m{n:02}")));
    }
    assert_eq!(events.brief().await, brief("DELETED", "m00"));
    api.map("live").await;
    assert_eq!(events.brief().await, brief("ADDED", "live"));
}

#[tokio::test]
async fn initial_events_end_with_a_mark() {
    let api = Api::start().await;
    api.map("a").await;
    let query = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut events = api.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(events.brief().await, brief("ADDED", "a"));
    let mark = events.next().await.unwrap();
    assert_eq!(
        (&mark["type"], &mark["object"]["kind"]),
        (&json!("BOOKMARK"), &json!("ConfigMap"))
    );
    assert_eq!(
        mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert_eq!(version(&mark["object"]), api.store.revision());
    let incomplete = api
        .get(&format!("{MAPS}?watch=true&sendInitialEvents=true"))
        .await;
    assert_eq!(incomplete.refused().0, 422);
}

#[tokio::test(start_paused = true)]
async fn bookmarks_tell_of_progress_and_the_end_comes_in_time() {
    let api = Api::start().await;
    let mut events = api
        .watch(&format!(
            "{MAPS}?watch=true&allowWatchBookmarks=true&timeoutSeconds=90"
        ))
        .await;
    // Something happens, but not here.
    api.post(PODS, pod("p")).await.ok();
    let mut last = 0;
    let mut bookmarks = 0;
    while let Some(event) = tokio::time::timeout(Duration::from_secs(100), events.body.next())
        .await
        .unwrap()
    {
        let event: Value = serde_json::from_slice(&event.unwrap()).unwrap();
        assert_eq!(event["type"], "BOOKMARK");
        last = version(&event["object"]);
        bookmarks += 1;
    }
    // After a minute, and shortly before the end.
    assert_eq!((bookmarks, last), (2, api.store.revision()));
}

#[tokio::test]
async fn tables_and_metadata_can_be_watched() {
    let api = Api::start().await;
    let path = format!("{MAPS}?watch=true");
    let (mut tables, mut metadata) = (
        api.watch_as(&path, TABLE).await,
        api.watch_as(&path, METADATA).await,
    );
    api.map("a").await;
    api.map("b").await;
    let first = tables.next().await.unwrap();
    assert_eq!(
        (
            &first["object"]["kind"],
            &first["object"]["rows"][0]["cells"][0]
        ),
        (&json!("Table"), &json!("a"))
    );
    assert!(
        !first["object"]["columnDefinitions"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    let second = tables.next().await.unwrap();
    assert!(
        second["object"]["columnDefinitions"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    let event = metadata.next().await.unwrap();
    assert_eq!(event["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(event["object"]["metadata"]["name"], "a");
    assert!(event["object"].get("data").is_none());
}

#[tokio::test]
async fn watches_end_with_the_server() {
    let api = Api::start().await;
    let mut events = api
        .watch(&format!(
            "{MAPS}?watch=true&resourceVersion={}",
            api.store.revision()
        ))
        .await;
    api.server.shutdown().await;
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn every_watcher_sees_every_event_in_order() {
    let api = Arc::new(Api::start().await);
    let path = format!("{MAPS}?watch=true&resourceVersion={}", api.store.revision());
    let mut watchers = Vec::new();
    for _ in 0..10 {
        watchers.push(api.watch(&path).await);
    }
    let writers = (0..4).map(|writer| {
        let api = api.clone();
        tokio::spawn(async move {
            for n in 0..25 {
                api.map(&format!("w{writer}-{n:02}")).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    for mut watcher in watchers {
        let mut before = 0;
        for _ in 0..100 {
            let revision = version(&watcher.next().await.unwrap()["object"]);
            assert!(revision > before);
            before = revision;
        }
    }
}
