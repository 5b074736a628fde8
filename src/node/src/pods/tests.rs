use futures::{channel::mpsc, stream};
use serde_json::json;

use super::*;
use crate::testing::{Bench, container, pod};

fn named(name: &str, uid: &str) -> Pod {
    let mut manifest = pod("Always", json!([container(name)]));
    manifest["metadata"]["name"] = json!(name);
    manifest["metadata"]["uid"] = json!(uid);
    serde_json::from_value(manifest).unwrap()
}

struct Following {
    events: mpsc::UnboundedSender<watcher::Result<Event<Pod>>>,
    registry: Registry,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn follow(bench: &Bench) -> Following {
    let registry = Registry::default();
    let shutdown = CancellationToken::new();
    let (events, stream) = mpsc::unbounded();
    let manager = Manager::new(bench.context.clone(), "n".to_owned(), registry.clone());
    let task = tokio::spawn(manager.follow(stream, shutdown.clone()));
    Following {
        events,
        registry,
        shutdown,
        task,
    }
}

impl Following {
    fn tell(&self, event: Event<Pod>) {
        self.events.unbounded_send(Ok(event)).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn pods_come_and_go_with_the_list_and_the_watch() {
    let mut bench = Bench::new(pod("Always", json!([container("unused")])));
    let following = follow(&bench);
    following.tell(Event::Init);
    following.tell(Event::InitApply(named("a", "1")));
    following.tell(Event::InitDone);
    let a = bench.started("a").await;
    following.tell(Event::Apply(named("b", "2")));
    let mut b = bench.started("b").await;
    assert_eq!(following.registry.pods().len(), 2);
    assert_eq!(
        following
            .registry
            .find("ns", "b")
            .unwrap()
            .pod
            .metadata
            .uid
            .as_deref(),
        Some("2")
    );
    assert!(following.registry.find("other", "b").is_none());

    // A list without it: it was deleted while nobody looked.
    following.tell(Event::Init);
    following.tell(Event::InitApply(named("a", "1")));
    following.tell(Event::InitDone);
    b.order().await;
    b.exit(137);
    while following.registry.pods().len() > 1 {
        tokio::task::yield_now().await;
    }
    drop(a);
    following.shutdown.cancel();
    following.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pod_beyond_the_nodes_capacity_is_refused() {
    let mut bench = Bench::new(pod("Always", json!([container("unused")])));
    let following = follow(&bench);
    let _running = (
        {
            following.tell(Event::Apply(named("a", "1")));
            bench.started("a").await
        },
        {
            following.tell(Event::Apply(named("b", "2")));
            bench.started("b").await
        },
    );
    following.tell(Event::Apply(named("c", "3")));
    while !bench
        .events()
        .iter()
        .any(|(reason, message)| *reason == "OutOfpods" && message.contains("capacity: 2"))
    {
        tokio::task::yield_now().await;
    }
    let refused = following.registry.find("ns", "c").unwrap();
    assert_eq!(
        refused
            .board
            .read(|facts| facts.verdict.as_ref().map(|verdict| verdict.reason)),
        Some("OutOfpods")
    );
    assert!(bench.started.try_recv().is_err(), "it never starts");
    following.shutdown.cancel();
    following.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pods_of_other_nodes_are_none_of_ours() {
    let bench = Bench::new(pod("Always", json!([container("unused")])));
    let registry = Registry::default();
    let manager = Manager::new(bench.context.clone(), "other".to_owned(), registry.clone());
    let events = stream::iter([Ok(Event::Apply(named("a", "1")))]).chain(stream::pending());
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(manager.follow(events.boxed(), shutdown.clone()));
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(registry.pods().is_empty());
    shutdown.cancel();
    task.await.unwrap();
}
