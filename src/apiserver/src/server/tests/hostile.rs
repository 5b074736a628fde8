//! Input that means no good: each is answered with a `Status`, and the server is as it was.

use super::*;

async fn send(api: &Api, body: impl Into<Body>) -> Reply {
    api.call(Method::POST, MAPS, &[], body.into()).await
}

/// The server still does what it does.
async fn works(api: &Api) {
    assert_eq!(api.get("/readyz").await.code, 200);
    let name = format!("m{}", api.store.revision());
    api.map(&name).await;
    api.delete(&format!("{MAPS}/{name}"), json!({})).await.ok();
}

#[tokio::test]
async fn bodies_that_are_no_objects() {
    let api = Api::start().await;
    let deep =
        |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let huge = format!(
        "{{\"metadata\":{{\"name\":\"a\",\"generation\":1{}}}}}",
        "0".repeat(500)
    );
    for body in [
        deep("[", "]").into_bytes(),
        deep("{\"a\":", "}").into_bytes(),
        huge.into_bytes(),
        b"{\"metadata\":{\"name\":\"\xff\xfe\"}}".to_vec(),
        b"{\"metadata\":{\"name\":\"a\"},\"data\":{\"k\":1e999}}".to_vec(),
        b"{\"metadata\":{\"name\":\"a\"}} {\"metadata\":{}}".to_vec(),
        b"{\"metadata\":{\"name\":\"a\",\"labels\":7}}".to_vec(),
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let reply = send(&api, body).await;
        assert_eq!(
            (reply.refused().0, reply.refused().1),
            (400, "BadRequest"),
            "{shown}"
        );
        assert!(reply.refused().2.len() < 4096, "{shown}");
    }
    let headers = [("content-type", "application/yaml")];
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
    for body in [bomb.to_owned(), deep("[", "]"), "a: b: c".to_owned()] {
        let reply = api
            .call(Method::POST, MAPS, &headers, Body::from(body))
            .await;
        assert_eq!((reply.refused().0, reply.refused().1), (400, "BadRequest"));
    }
    works(&api).await;
}

#[tokio::test]
async fn ten_thousand_labels_are_labels() {
    let api = Api::start().await;
    let labels: serde_json::Map<String, Value> =
        (0..10_000).map(|n| (format!("l{n}"), "v".into())).collect();
    let mut object = config_map("a", "v");
    object["metadata"]["labels"] = labels.into();
    api.post(MAPS, object).await.ok();
    let found = api
        .get(&format!("{MAPS}?labelSelector=l9999%3Dv"))
        .await
        .ok();
    assert_eq!(names(&found), ["a"]);
    works(&api).await;
}

#[tokio::test]
async fn a_patch_that_makes_something_of_the_wrong_type() {
    let api = Api::start().await;
    api.post(RCS, controller("web")).await.ok();
    let path = format!("{RCS}/web");
    let wrong = json!({"spec": {"replicas": "many"}});
    for (kind, patch) in [
        ("merge-patch", wrong.clone()),
        ("strategic-merge-patch", wrong),
        (
            "json-patch",
            json!([{"op": "replace", "path": "/spec/replicas", "value": "many"}]),
        ),
        (
            "json-patch",
            json!([{"op": "replace", "path": "/spec", "value": []}]),
        ),
    ] {
        let reply = api.patch(&path, kind, patch).await;
        let (code, reason, message) = reply.refused();
        assert_eq!((code, reason), (422, "Invalid"), "{message}");
        assert!(
            message.starts_with(" \"\" is invalid: patch: Invalid value: "),
            "{message}"
        );
    }
    let shown = api
        .patch(
            &path,
            "strategic-merge-patch",
            json!({"spec": {"replicas": "many"}}),
        )
        .await;
    assert!(
        shown
            .refused()
            .2
            .contains("\"map[spec:map[replicas:many]]\""),
        "{}",
        shown.body
    );
    for (kind, patch, code) in [
        ("json-patch", json!({"spec": 1}), 400),
        ("json-patch", json!([{"op": "fly", "path": "/spec"}]), 422),
        (
            "json-patch",
            json!([{"op": "remove", "path": "/spec/nothing"}]),
            422,
        ),
        ("merge-patch", json!([]), 400),
        ("merge-patch", json!({"metadata": {"name": "other"}}), 422),
    ] {
        let reply = api.patch(&path, kind, patch.clone()).await;
        assert_eq!(reply.code, code, "{patch} {}", reply.body);
    }
    let unread = [("content-type", "application/merge-patch+json")];
    let reply = api
        .call(Method::PATCH, &path, &unread, Body::from("{"))
        .await;
    assert_eq!(reply.refused().0, 400);
    works(&api).await;
}

#[tokio::test]
async fn paths_and_queries_without_end() {
    let api = Api::start().await;
    let long = api.get(&format!("{MAPS}/{}", "a".repeat(10_000))).await;
    assert_eq!(long.refused_code(), 414);
    let selector = vec!["a%3Db"; 10_000].join(",");
    assert_eq!(
        names(
            &api.get(&format!("{MAPS}?labelSelector={selector}"))
                .await
                .ok()
        ),
        [""; 0]
    );
    let nonsense = "(".repeat(50_000);
    let reply = api.get(&format!("{MAPS}?labelSelector={nonsense}")).await;
    assert_eq!(reply.refused().0, 400);
    let pairs = "limit=1&".repeat(7000);
    api.get(&format!("{MAPS}?{pairs}")).await.ok();
    for name in ["..", "%2e%2e", "a%2Fb", "%00", "%ff"] {
        assert_eq!(
            api.get(&format!("{MAPS}/{name}")).await.refused().0,
            404,
            "{name}"
        );
    }
    works(&api).await;
}

#[tokio::test]
async fn methods_that_nothing_has() {
    let api = Api::start().await;
    for (method, path) in [
        (Method::HEAD, MAPS.to_owned()),
        (Method::OPTIONS, MAPS.to_owned()),
        (Method::TRACE, MAPS.to_owned()),
        (Method::PUT, MAPS.to_owned()),
        (Method::PATCH, MAPS.to_owned()),
        (Method::POST, format!("{MAPS}/a")),
        (Method::POST, "/api/v1/configmaps".to_owned()),
        (Method::DELETE, "/api/v1/configmaps".to_owned()),
        (Method::DELETE, format!("{RCS}/a/scale")),
    ] {
        let reply = api.call(method.clone(), &path, &[], Body::from("{}")).await;
        assert_eq!(reply.code, 405, "{method} {path}");
    }
}

/// A reader that never reads costs a cursor: writers and other watchers go on, and what it would have got is not kept for it.
#[tokio::test]
async fn a_watch_client_that_never_reads() {
    let api = Api::with(Config {
        window_events: 16,
        ..Config::default()
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(api.watch(&format!("{MAPS}?watch=1")).await);
    }
    let mut reader = api.watch(&format!("{MAPS}?watch=1")).await;
    for n in 0..200 {
        let object = config_map(&format!("m{n:03}"), &"x".repeat(1000));
        api.post(MAPS, object).await.ok();
        assert_eq!(reader.brief().await.1, format!("m{n:03}"));
    }
    // Late, but complete.
    let mut late = idle.pop().unwrap();
    for n in 0..200 {
        assert_eq!(late.brief().await.1, format!("m{n:03}"));
    }
}
