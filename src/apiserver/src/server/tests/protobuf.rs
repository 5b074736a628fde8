//! Answers in protobuf, read back.

use bytes::Bytes;
use vaquita_api::protobuf::{self, MEDIA_TYPE};

use super::*;

const PREFERRED: [(&str, &str); 1] = [(
    "accept",
    "application/vnd.kubernetes.protobuf,application/json",
)];

/// The answer's body, which is in protobuf.
async fn get(api: &Api, path: &str) -> Bytes {
    let mut request = Request::get(path);
    for (name, value) in PREFERRED {
        request = request.header(name, value);
    }
    let response = api.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.headers()["content-type"], MEDIA_TYPE);
    axum::body::to_bytes(response.into_body(), usize::MAX)
        .await
        .unwrap()
}

/// An object in protobuf as JSON, by its kind's own rules.
fn read(api: &Api, plural: &str, bytes: &[u8]) -> Value {
    let registry = api.inner().registry();
    let resource = registry.get("", "v1", plural).unwrap();
    protobuf::decode(bytes, resource.schema(), "v1").unwrap()
}

#[tokio::test]
async fn an_object_is_the_same_in_both_forms() {
    let api = Api::start().await;
    api.post(PODS, pod("p")).await.ok();
    for _ in 0..2 {
        let bytes = get(&api, &format!("{PODS}/p")).await;
        let resource = api.inner().registry();
        let pods = resource.get("", "v1", "pods").unwrap();
        let decoded = pods.decode(read(&api, "pods", &bytes)).unwrap();
        let json = pods
            .decode(api.get(&format!("{PODS}/p")).await.ok())
            .unwrap();
        assert_eq!(Value::Object(decoded.object), Value::Object(json.object));
    }
}

#[tokio::test]
async fn what_is_written_in_protobuf_is_answered_in_it() {
    let api = Api::start().await;
    api.map("a").await;
    let stored = get(&api, &format!("{MAPS}/a")).await;
    api.delete(&format!("{MAPS}/a"), json!({})).await.ok();
    // As a client does that restores what it had: without what only the server may say.
    let mut object = read(&api, "configmaps", &stored);
    object["metadata"] = json!({"name": "b"});
    let registry = api.inner().registry();
    let schema = registry.get("", "v1", "configmaps").unwrap().schema();
    let body = protobuf::encode(object.as_object().unwrap(), schema);
    let headers = [("content-type", MEDIA_TYPE), PREFERRED[0]];
    let reply = api
        .call(Method::POST, MAPS, &headers, Body::from(body))
        .await;
    assert_eq!(
        (reply.code, &reply.headers["content-type"]),
        (201, &http::HeaderValue::from_static(MEDIA_TYPE))
    );
    assert_eq!(api.get(&format!("{MAPS}/b")).await.ok()["data"]["k"], "v");
}

#[tokio::test]
async fn lists_and_errors_come_in_their_envelope() {
    let api = Api::start().await;
    api.map("a").await;
    let list = get(&api, &format!("{MAPS}?limit=1")).await;
    let contains = |text: &str| list.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(list.starts_with(b"k8s\0") && contains("ConfigMapList") && contains("default"));
    let missing = get(&api, &format!("{MAPS}/nope")).await;
    let text = String::from_utf8_lossy(&missing);
    assert!(text.contains("configmaps \"nope\" not found"), "{text}");
    let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json";
    assert_eq!(api.accept(MAPS, table).await.ok()["kind"], "ConfigMapList");
}

#[tokio::test]
async fn a_watch_is_a_row_of_frames() {
    let api = Api::start().await;
    api.map("a").await;
    let request = Request::get(format!("{MAPS}?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"))
        .header(PREFERRED[0].0, PREFERRED[0].1)
        .body(Body::empty())
        .unwrap();
    let response = api.send(request).await;
    assert_eq!(
        response.headers()["content-type"],
        "application/vnd.kubernetes.protobuf;stream=watch"
    );
    let mut body = response.into_body().into_data_stream();
    let mut buffer = Vec::new();
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        buffer.extend_from_slice(&body.next().await.unwrap().unwrap());
        while let Some((length, rest)) = buffer.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
            let Some((frame, _)) = rest.split_at_checked(length) else {
                break;
            };
            let text = String::from_utf8_lossy(frame).into_owned();
            let kind = ["ADDED", "BOOKMARK"]
                .into_iter()
                .find(|kind| text.contains(kind));
            assert_eq!(
                text.contains("k8s.io/initial-events-end"),
                kind == Some("BOOKMARK")
            );
            kinds.push(kind.unwrap());
            buffer.drain(..4 + length);
        }
    }
    assert_eq!(kinds, ["ADDED", "BOOKMARK"]);
}

#[tokio::test]
async fn scales_and_ends_are_told_in_it_too() {
    let api = Api::start().await;
    let rcs = "/api/v1/namespaces/default/replicationcontrollers";
    api.post(rcs, controller("web")).await.ok();
    let scale = vaquita_api::body::SCALE.schema();
    let bytes = get(&api, &format!("{rcs}/web/scale")).await;
    let read = protobuf::decode(&bytes, scale, "autoscaling/v1").unwrap();
    assert_eq!(read["metadata"]["name"], "web");

    let mut request = Request::delete(format!("{rcs}/web"));
    for (name, value) in PREFERRED {
        request = request.header(name, value);
    }
    let gone = api.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(gone.status(), 200);
    assert_eq!(gone.headers()["content-type"], MEDIA_TYPE);
}
