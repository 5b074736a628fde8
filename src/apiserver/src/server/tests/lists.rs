//! Lists: selectors, pages, versions, forms.

use super::*;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const METADATA: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

async fn maps(count: usize) -> Api {
    let api = Api::start().await;
    for n in 0..count {
        api.map(&format!("m{n:02}")).await;
    }
    api
}

#[tokio::test]
async fn a_list_is_of_one_kind_and_revision() {
    let api = maps(3).await;
    let list = api.get(MAPS).await.ok();
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("ConfigMapList"), &json!("v1"))
    );
    assert_eq!(names(&list), ["m00", "m01", "m02"]);
    assert_eq!(version(&list), api.store.revision());
    assert!(
        names(
            &api.get("/api/v1/namespaces/kube-system/configmaps")
                .await
                .ok()
        )
        .is_empty()
    );
    assert_eq!(names(&api.get("/api/v1/configmaps").await.ok()).len(), 3);
}

#[tokio::test]
async fn a_long_list_arrives_whole() {
    let api = Api::start().await;
    for n in 0..50 {
        api.post(MAPS, config_map(&format!("m{n:02}"), &"x".repeat(5000)))
            .await
            .ok();
    }
    let reply = api.get(MAPS).await;
    let length: usize = reply.headers["content-length"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(length > 250_000);
    assert_eq!(names(&reply.ok()).len(), 50);
}

#[tokio::test]
async fn a_long_list_is_packed_for_those_who_unpack() {
    use std::io::Read as _;
    let api = Api::start().await;
    for n in 0..40 {
        api.post(MAPS, config_map(&format!("m{n:02}"), &"x".repeat(5000)))
            .await
            .ok();
    }
    let get = async |path: &str| {
        let request = Request::get(path).header("accept-encoding", "deflate, gzip;q=0.5");
        let response = api.send(request.body(Body::empty()).unwrap()).await;
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (parts.headers, bytes)
    };
    let (headers, packed) = get(MAPS).await;
    assert_eq!(headers["content-encoding"], "gzip");
    assert!(packed.len() < 20_000 && !headers.contains_key("content-length"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_ref())
        .read_to_string(&mut text)
        .unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list, api.get(MAPS).await.ok());
    let (headers, _) = get(&format!("{MAPS}/m00")).await;
    assert!(!headers.contains_key("content-encoding"));
}

#[tokio::test]
async fn selectors_choose() {
    let api = Api::start().await;
    api.post(PODS, pod("a")).await.ok();
    api.post(PODS, pod("b")).await.ok();
    let select = async |query: &str| names(&api.get(&format!("{PODS}?{query}")).await.ok());
    assert_eq!(select("labelSelector=app%3Da").await, ["a"]);
    assert_eq!(select("labelSelector=app+in+(a,b),app!%3Da").await, ["b"]);
    api.post(PODS, pod("bb")).await.ok();
    assert_eq!(select("fieldSelector=metadata.name%3Db").await, ["b"]);
    assert_eq!(
        select("fieldSelector=metadata.name!%3Db").await,
        ["a", "bb"]
    );
    let everywhere = "/api/v1/pods?fieldSelector=metadata.name%3Dbb";
    assert_eq!(names(&api.get(everywhere).await.ok()), ["bb"]);
    assert_eq!(
        select("fieldSelector=status.phase%3DRunning").await,
        [""; 0]
    );
    for bad in [
        "labelSelector=!!",
        "fieldSelector=spec.nope%3D1",
        "limit=x",
        "continue=x",
    ] {
        assert_eq!(
            api.get(&format!("{PODS}?{bad}")).await.refused().0,
            400,
            "{bad}"
        );
    }
}

#[tokio::test]
async fn pages_are_of_the_first_ones_revision() {
    let api = maps(5).await;
    let first = api.get(&format!("{MAPS}?limit=2")).await.ok();
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["m00".into(), "m01".into()], &json!(3))
    );
    // What happens meanwhile is not in this list, whether it would come from memory or from history.
    api.map("m015").await;
    api.delete(&format!("{MAPS}/m03"), json!({})).await.ok();
    api.put(&format!("{MAPS}/m04"), config_map("m04", "changed"))
        .await
        .ok();
    let token = string(&first["metadata"]["continue"]);
    let second = api
        .get(&format!("{MAPS}?limit=2&continue={token}"))
        .await
        .ok();
    assert_eq!(names(&second), ["m02", "m03"]);
    assert_eq!(version(&second), version(&first));
    let token = string(&second["metadata"]["continue"]);
    let last = api
        .get(&format!("{MAPS}?limit=2&continue={token}"))
        .await
        .ok();
    assert_eq!(names(&last), ["m04"]);
    assert_eq!(last["items"][0]["data"]["k"], "v");
    assert!(last["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn a_page_of_a_compacted_revision_has_expired() {
    let api = maps(3).await;
    let token = string(&api.get(&format!("{MAPS}?limit=1")).await.ok()["metadata"]["continue"]);
    api.map("later").await;
    api.store.compact(api.store.revision()).await.unwrap();
    let expired = api.get(&format!("{MAPS}?limit=1&continue={token}")).await;
    assert_eq!((expired.refused().0, expired.refused().1), (410, "Expired"));
    // The rest can be had, though as it is now.
    let token = string(&expired.body["metadata"]["continue"]);
    let rest = api.get(&format!("{MAPS}?continue={token}")).await.ok();
    assert_eq!(names(&rest), ["m01", "m02"]);
}

#[tokio::test]
async fn a_token_is_good_after_a_restart() {
    let api = maps(3).await;
    let token = string(&api.get(&format!("{MAPS}?limit=1")).await.ok()["metadata"]["continue"]);
    api.map("later").await;
    api.server.shutdown().await;
    let again = Api::over(api.store.clone(), Config::default()).await;
    let rest = again.get(&format!("{MAPS}?continue={token}")).await.ok();
    assert_eq!(names(&rest), ["m01", "m02"]);
}

#[tokio::test]
async fn options_that_contradict_each_other_are_refused() {
    let api = maps(1).await;
    let token = string(&api.get(&format!("{MAPS}?limit=1")).await.ok()["metadata"]["continue"]);
    assert_eq!(token, "");
    let only = "ListOptions.meta.k8s.io \"\" is invalid: ";
    for (query, code, message) in [
        ("resourceVersion=x", 400, "invalid resource version: resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax".to_owned()),
        ("resourceVersionMatch=Exact", 422, format!("{only}resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided")),
        ("resourceVersionMatch=Exact&resourceVersion=0", 422, format!("{only}resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")),
        ("resourceVersionMatch=Odd&resourceVersion=1", 422, format!("{only}resourceVersionMatch: Unsupported value: \"Odd\": supported values: \"\", \"Exact\", \"NotOlderThan\"")),
        ("sendInitialEvents=true", 422, format!("{only}sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list")),
        ("watch=1&sendInitialEvents=true", 422, format!("{only}resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")),
        ("watch=1&resourceVersionMatch=NotOlderThan", 422, format!("{only}resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")),
    ] {
        let reply = api.get(&format!("{MAPS}?{query}")).await;
        assert_eq!((reply.refused().0, reply.refused().2), (code, message.as_str()), "{query}");
    }
}

#[tokio::test]
async fn a_token_is_good_for_its_own_list_only() {
    let api = maps(3).await;
    let token = string(&api.get(&format!("{MAPS}?limit=1")).await.ok()["metadata"]["continue"]);
    for path in [
        "/api/v1/namespaces/default/secrets",
        "/api/v1/namespaces/kube-system/configmaps",
    ] {
        assert_eq!(
            api.get(&format!("{path}?limit=1&continue={token}"))
                .await
                .refused()
                .0,
            400,
            "{path}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn versions_choose_the_moment() {
    let api = maps(2).await;
    let then = api.store.revision();
    api.map("m02").await;
    let list = async |query: String| api.get(&format!("{MAPS}?{query}")).await;
    let exact = list(format!("resourceVersion={then}&resourceVersionMatch=Exact"))
        .await
        .ok();
    assert_eq!((names(&exact).len(), version(&exact)), (2, then));
    let newer = list(format!(
        "resourceVersion={then}&resourceVersionMatch=NotOlderThan"
    ))
    .await
    .ok();
    assert_eq!(names(&newer).len(), 3);
    assert_eq!(
        names(&list("resourceVersion=0".to_owned()).await.ok()).len(),
        3
    );
    let future = list("resourceVersion=1000000".to_owned()).await;
    let (code, reason, message) = future.refused();
    assert_eq!((code, reason), (504, "Timeout"));
    assert!(
        message.contains("Too large resource version: 1000000"),
        "{message}"
    );
    assert_eq!(
        list("resourceVersionMatch=Exact".to_owned())
            .await
            .refused()
            .0,
        422
    );
}

#[tokio::test]
async fn tables_are_for_people() {
    let api = maps(2).await;
    let table = api.accept(MAPS, TABLE).await.ok();
    assert_eq!(
        (&table["kind"], &table["apiVersion"]),
        (&json!("Table"), &json!("meta.k8s.io/v1"))
    );
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][1]["cells"][0], "m01");
    assert_eq!(table["rows"][1]["object"]["kind"], "PartialObjectMetadata");
    let one = api
        .accept(&format!("{MAPS}/m00?includeObject=Object"), TABLE)
        .await
        .ok();
    assert_eq!(one["rows"][0]["object"]["kind"], "ConfigMap");
    assert_eq!(
        api.accept(&format!("{MAPS}?includeObject=All"), TABLE)
            .await
            .refused()
            .0,
        400
    );
}

#[tokio::test]
async fn metadata_alone() {
    let api = maps(2).await;
    let list = api.accept(MAPS, METADATA).await.ok();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
    assert_eq!(list["items"][0]["apiVersion"], "meta.k8s.io/v1");
    assert!(list["items"][0].get("data").is_none());
    let one = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    assert_eq!(
        api.accept(&format!("{MAPS}/m00"), one).await.ok()["kind"],
        "PartialObjectMetadata"
    );
}

#[tokio::test]
async fn what_cannot_be_produced_is_not_acceptable() {
    let api = maps(1).await;
    for media_type in [
        "text/html",
        "application/cbor",
        "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1",
    ] {
        let refused = api.accept(MAPS, media_type).await;
        let message = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
        assert_eq!(refused.refused(), (406, "NotAcceptable", message));
    }
}
