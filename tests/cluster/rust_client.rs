//! What the `kube` crate does against a running server over TLS, as operators written with it do.

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        authorization::v1::SelfSubjectAccessReview,
        core::v1::{ConfigMap, Namespace, Secret},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
        PostParams, WatchParams,
    },
    config::{KubeConfigOptions, Kubeconfig},
    core::PartialObjectMetaExt as _,
    discovery::Discovery,
    runtime::{WatchStreamExt as _, conditions, reflector, wait::await_condition, watcher},
};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Vaquita};

async fn cluster() -> (Vaquita, Client) {
    let cluster = tokio::task::spawn_blocking(Vaquita::up)
        .await
        .expect("it starts");
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .expect("a configuration");
    (cluster, Client::try_from(config).expect("a client"))
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of the kind")
}

fn code(error: kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_applied_owned_and_patched() {
    let (_cluster, client) = cluster().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let body = |colour: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"colour": colour}});
    let one = PatchParams::apply("one");
    let applied = maps
        .patch("a", &one, &Patch::Apply(body("grey")))
        .await
        .expect("it is applied");
    assert_eq!(applied.managed_fields()[0].manager.as_deref(), Some("one"));
    let two = PatchParams::apply("two");
    let conflict = maps
        .patch("a", &two, &Patch::Apply(body("black")))
        .await
        .expect_err("a conflict");
    assert_eq!(code(conflict), 409);
    let forced = maps
        .patch("a", &two.clone().force(), &Patch::Apply(body("black")))
        .await
        .expect("it is forced");
    assert_eq!(forced.data.as_ref().expect("data")["colour"], "black");
    // What nobody asks for any more is removed.
    let nothing = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let left = maps
        .patch("a", &two, &Patch::Apply(nothing))
        .await
        .expect("it is applied");
    assert_eq!(left.data, None);

    let merge = Patch::Merge(json!({"data": {"x": "1"}}));
    maps.patch("a", &PatchParams::default(), &merge)
        .await
        .expect("it is patched");
    let strategic = Patch::Strategic(json!({"metadata": {"finalizers": ["example.com/guard"]}}));
    let patched = maps
        .patch("a", &PatchParams::default(), &strategic)
        .await
        .expect("it is patched");
    assert_eq!(patched.finalizers(), ["example.com/guard"]);
    let json = object(json!([{"op": "remove", "path": "/metadata/finalizers"}]));
    let patched = maps
        .patch("a", &PatchParams::default(), &Patch::Json::<()>(json))
        .await
        .expect("it is patched");
    assert!(patched.finalizers().is_empty());
    let metadata = maps.get_metadata("a").await.expect("its metadata");
    assert_eq!(metadata.uid(), patched.uid());
    let labels = kube::core::ObjectMeta {
        labels: Some([("on".to_owned(), "yes".to_owned())].into()),
        ..Default::default()
    };
    let labels = labels.into_request_partial::<ConfigMap>();
    let labelled = maps
        .patch_metadata("a", &PatchParams::apply("three"), &Patch::Apply(&labels))
        .await
        .expect("its metadata is applied");
    assert_eq!(labelled.labels()["on"], "yes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_follows_the_cluster() {
    let (_cluster, client) = cluster().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    for streaming in [false, true] {
        let config = watcher::Config::default().labels("mine=yes");
        let config = if streaming {
            config.streaming_lists()
        } else {
            config
        };
        let (store, writer) = reflector::store();
        let stream = watcher(maps.clone(), config)
            .default_backoff()
            .reflect(writer)
            .applied_objects();
        let following = tokio::spawn(
            stream
                .map(|event| event.expect("an event").name_any())
                .collect::<Vec<_>>(),
        );
        tokio::time::timeout(PATIENCE, store.wait_until_ready())
            .await
            .expect("in time")
            .expect("ready");
        for name in ["a", "b"] {
            let body = object(json!({"metadata": {"name": name, "labels": {"mine": "yes"}}}));
            maps.create(&PostParams::default(), &body)
                .await
                .expect("it is created");
        }
        maps.delete("a", &DeleteParams::default())
            .await
            .expect("it is deleted");
        tokio::time::timeout(PATIENCE, async {
            while store.state().iter().map(|map| map.name_any()).ne(["b"]) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the store shows what is there");
        following.abort();
        maps.delete("b", &DeleteParams::default())
            .await
            .expect("it is deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_are_found_and_used() {
    let (_cluster, client) = cluster().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = object(json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 1}}},
                    "status": {"type": "object", "properties": {"size": {"type": "integer"}}},
                }}},
            }],
        },
    }));
    definitions
        .create(&PostParams::default(), &definition)
        .await
        .expect("it is created");
    let established = await_condition(
        definitions,
        "widgets.example.com",
        conditions::is_crd_established(),
    );
    tokio::time::timeout(PATIENCE, established)
        .await
        .expect("in time")
        .expect("a watch");

    let gvk = GroupVersionKind::gvk("example.com", "v1", "Widget");
    let discovery = Discovery::new(client.clone())
        .run_aggregated()
        .await
        .expect("discovery");
    let (resource, _) = discovery.resolve_gvk(&gvk).expect("the new kind");
    assert_eq!(resource, ApiResource::from_gvk_with_plural(&gvk, "widgets"));
    let widgets: Api<DynamicObject> = Api::default_namespaced_with(client, &resource);
    let widget = DynamicObject::new("w", &resource).data(json!({"spec": {}}));
    let made = widgets
        .create(&PostParams::default(), &widget)
        .await
        .expect("it is created");
    assert_eq!(made.data["spec"]["size"], 1);
    let status = Patch::Merge(json!({"status": {"size": 1}}));
    let patched = widgets
        .patch_status("w", &PatchParams::default(), &status)
        .await
        .expect("its status is patched");
    assert_eq!(patched.data["status"]["size"], 1);
    let wrong = Patch::Merge(json!({"spec": {"size": "large"}}));
    let refused = widgets
        .patch("w", &PatchParams::default(), &wrong)
        .await
        .expect_err("a wrong type");
    assert_eq!(code(refused), 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_scales_and_reviews() {
    let (_cluster, client) = cluster().await;
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    for index in 0..5 {
        let body =
            object(json!({"metadata": {"name": format!("s{index}")}, "stringData": {"a": "b"}}));
        let made = secrets
            .create(&PostParams::default(), &body)
            .await
            .expect("it is created");
        assert_eq!(made.data.expect("data")["a"].0, b"b");
    }
    let mut options = ListParams::default().limit(2);
    let mut names = Vec::new();
    loop {
        let page = secrets.list(&options).await.expect("a page");
        names.extend(page.items.iter().map(kube::ResourceExt::name_any));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => options = options.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(names, ["s0", "s1", "s2", "s3", "s4"]);
    let gone = secrets
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .expect("they are deleted");
    assert_eq!(gone.left().map_or(5, |list| list.items.len()), 5);

    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let deployment = object(json!({"metadata": {"name": "web"}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "c:1"}]}},
    }}));
    deployments
        .create(&PostParams::default(), &deployment)
        .await
        .expect("it is created");
    let scale = deployments.get_scale("web").await.expect("its scale");
    // Zero goes without saying.
    assert_eq!(scale.spec.expect("a spec").replicas, None);
    let scaled = Patch::Merge(json!({"spec": {"replicas": 2}}));
    deployments
        .patch_scale("web", &PatchParams::default(), &scaled)
        .await
        .expect("it is scaled");
    assert_eq!(
        deployments
            .get("web")
            .await
            .expect("it")
            .spec
            .expect("a spec")
            .replicas,
        Some(2)
    );

    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let review =
        object(json!({"spec": {"resourceAttributes": {"verb": "delete", "resource": "nodes"}}}));
    let answer = reviews
        .create(&PostParams::default(), &review)
        .await
        .expect("an answer");
    assert!(answer.status.expect("a status").allowed);
    let namespaces: Api<Namespace> = Api::all(client);
    let default = namespaces.get("default").await.expect("it");
    assert_eq!(Namespace::kind(&()), "Namespace");
    let refused = namespaces
        .delete(&default.name_any(), &DeleteParams::default())
        .await
        .expect_err("it stays");
    assert_eq!(code(refused), 403);
    let mut watch = namespaces
        .watch(&WatchParams::default(), "0")
        .await
        .expect("a watch")
        .boxed();
    assert!(watch.try_next().await.expect("an event").is_some());
}
