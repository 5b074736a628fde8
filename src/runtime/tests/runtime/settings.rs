//! Settings and stores, by the interfaces of WASI and of Spin; and what a component may connect with.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use vaquita_runtime::{Destination, MemoryStore, Pod, Process, ProcessConfig};

use crate::support::{Host, start};

/// The guest in a pod of its own.
struct Shop {
    process: Process,
    _pod: Pod,
}

async fn shop(host: &Host, change: impl FnOnce(&mut ProcessConfig)) -> Shop {
    let module = host.example("wasm32-wasip2", "shop").await;
    let pod = host.pod("shop");
    let (process, _) = start(&pod, module, change).await;
    Shop { process, _pod: pod }
}

/// What it answers when it is asked for something.
async fn ask(shop: &Shop, path: &str, word: &str) -> String {
    let body = Full::new(Bytes::copy_from_slice(word.as_bytes()));
    let request = Request::post(format!("http://shop/{path}")).body(body);
    let answer = shop.process.request(request.expect("a request")).await;
    let body = answer.expect("an answer").into_body().collect().await;
    let bytes = body.expect("a whole body").to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn settings_are_told_by_either_interface() {
    let host = Host::new();
    let shop = shop(&host, |config| {
        let values = &mut config.settings.values;
        values.insert("greeting".to_owned(), "hello".to_owned());
    })
    .await;
    assert_eq!(ask(&shop, "variable", "greeting").await, "hello");
    assert_eq!(ask(&shop, "setting", "greeting").await, "hello");
    let absent = ask(&shop, "variable", "other").await;
    assert!(absent.contains("Undefined"), "{absent}");
    assert_eq!(ask(&shop, "setting", "other").await, "no such setting");
}

#[tokio::test]
async fn a_store_is_kept_between_instances_and_shared() {
    let host = Host::new();
    let store = Arc::new(MemoryStore::new(1 << 20));
    let given = |config: &mut ProcessConfig| {
        let stores = &mut config.settings.stores;
        stores.insert("default".to_owned(), store.clone());
    };
    let one = shop(&host, given).await;
    let two = shop(&host, given).await;
    assert_eq!(ask(&one, "visits", "").await, "1");
    assert_eq!(ask(&one, "visits", "").await, "2");
    assert_eq!(ask(&two, "visits", "").await, "3");
    assert_eq!(ask(&two, "bucket", "apples").await, "apples visits");
    assert_eq!(ask(&two, "stores", "default").await, "open");
    let other = ask(&two, "stores", "other").await;
    assert!(other.contains("AccessDenied"), "{other}");
    let nobody = shop(&host, |_| {}).await;
    let refused = ask(&nobody, "visits", "").await;
    assert!(refused.contains("AccessDenied"), "{refused}");
}

#[tokio::test]
async fn connections_go_only_where_they_may() {
    let host = Host::new();
    let module = host.example("wasm32-wasip2", "shop").await;
    let pod = host.pod("server");
    let (_server, _) = start(&pod, module, |_| {}).await;
    let here = format!("{}:8080", pod.ip());
    let may = |ports| Destination {
        tcp: Some(true),
        network: None,
        ports,
    };
    for (destinations, answer) in [
        (None, "connected"),
        (Some(vec![]), "permission denied"),
        (Some(vec![may(1..=79)]), "permission denied"),
        (Some(vec![may(1..=79), may(8080..=8080)]), "connected"),
    ] {
        let shop = shop(&host, |config| {
            config.capabilities.destinations = destinations;
        })
        .await;
        assert_eq!(ask(&shop, "connect", &here).await, answer);
    }
}
