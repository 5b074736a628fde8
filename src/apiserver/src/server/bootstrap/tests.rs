use serde_json::{Value, json};
use vaquita_api::Object;

use super::{
    manifests::{all, read},
    rbac,
};
use crate::server::tests::Api;

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        _ => unreachable!(),
    }
}

#[tokio::test]
async fn everything_in_the_policies_is_made() {
    let api = Api::start().await;
    let all = all().unwrap();
    assert!(all.len() > 100, "{}", all.len());
    for manifest in all.iter().filter(|one| one.is_served(api.inner())) {
        let name = manifest.name();
        let present = manifest.present(api.inner());
        let present =
            present.unwrap_or_else(|| panic!("{} {name} is missing", manifest.resource()));
        if let Some(rules) = manifest.object().get("rules") {
            assert_eq!(present.get("rules"), Some(rules), "{name}");
        }
    }
    let flows = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/exempt";
    let condition = &api.get(flows).await.ok()["status"]["conditions"][0];
    assert_eq!(condition["status"], "False");
    let admin = api.get(&format!("{ROLES}/cluster-admin")).await.ok();
    assert_eq!(
        admin["metadata"]["labels"]["kubernetes.io/bootstrapping"],
        "rbac-defaults"
    );
}

#[tokio::test]
async fn a_restart_gives_back_what_was_taken_and_keeps_what_was_added() {
    let first = Api::start().await;
    let rules = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]);
    let path = format!("{ROLES}/system:basic-user");
    let less = json!({"rules": rules});
    first.patch(&path, "merge-patch", less).await.ok();
    let kept = format!("{ROLES}/system:heapster");
    let annotation =
        json!({"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}});
    first
        .patch(
            &kept,
            "merge-patch",
            json!({"metadata": annotation, "rules": rules}),
        )
        .await
        .ok();
    let binding = format!("{BINDINGS}/system:discovery");
    first
        .patch(&binding, "merge-patch", json!({"subjects": []}))
        .await
        .ok();
    let store = first.store.clone();
    first.server.shutdown().await;

    let second = Api::over(store, crate::Config::default()).await;
    let role = second.get(&path).await.ok();
    assert_eq!(role["rules"][0], rules[0]);
    assert_eq!(role["rules"].as_array().unwrap().len(), 4);
    assert_eq!(second.get(&kept).await.ok()["rules"], rules);
    let binding = second.get(&binding).await.ok();
    assert_eq!(binding["subjects"][0]["name"], "system:authenticated");
}

#[test]
fn what_is_as_it_should_be_is_not_written() {
    for manifest in all().unwrap() {
        let object = manifest.object();
        assert_eq!(rbac::role(object, object), None, "{}", manifest.name());
        assert_eq!(rbac::binding(object, object), None, "{}", manifest.name());
    }
}

#[test]
fn subjects_are_added_and_none_is_taken() {
    let with = |subjects: Value| object(json!({"metadata": {"name": "b"}, "subjects": subjects}));
    let (ann, bob) = (json!({"name": "ann"}), json!({"name": "bob"}));
    let better = rbac::binding(&with(json!([ann])), &with(json!([bob]))).unwrap();
    assert_eq!(better["subjects"], json!([bob, ann]));
    let of = |role: &str| object(json!({"metadata": {"name": "b"}, "roleRef": {"name": role}}));
    assert!(rbac::is_of_another_role(&of("a"), &of("b")));
}

#[test]
fn damaged_policies_are_reported() {
    for text in [
        "kind: X",
        "kind: XList\napiVersion: v1",
        "kind: X\napiVersion: v1",
        "[",
    ] {
        assert!(read(text).is_err(), "{text}");
    }
}
