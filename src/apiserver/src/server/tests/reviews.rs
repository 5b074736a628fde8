//! Questions about users and what they may do.

use serde_json::{Value, json};

use super::{Api, access::rule};
use crate::User;

const AUTHORIZATION: &str = "/apis/authorization.k8s.io/v1";
const AUTHENTICATION: &str = "/apis/authentication.k8s.io/v1";

impl Api {
    /// The status of a review that `user` asks for.
    async fn review(&self, user: &User, path: &str, spec: Value) -> Value {
        let reply = self.post_as(user, path, json!({ "spec": spec })).await;
        assert_eq!(reply.code, 201, "{}", reply.body);
        reply.ok()["status"].take()
    }
}

fn about(verb: &str, resource: &str, namespace: &str) -> Value {
    json!({"resourceAttributes": {"verb": verb, "resource": resource, "namespace": namespace}})
}

#[tokio::test]
async fn everybody_may_ask_who_they_are() {
    let api = Api::start().await;
    let path = format!("{AUTHENTICATION}/selfsubjectreviews");
    let web = User::service_account("shop", "web", "u1").with_extra("scope", "all");
    let reply = api.post_as(&web, &path, json!({})).await.ok();
    assert_eq!(reply["kind"], "SelfSubjectReview");
    assert_eq!(
        reply["status"]["userInfo"],
        json!({
            "username": "system:serviceaccount:shop:web", "uid": "u1",
            "groups": ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"],
            "extra": {"scope": ["all"]},
        })
    );
    let nobody = User::anonymous();
    assert_eq!(api.post_as(&nobody, &path, json!({})).await.code, 403);
}

#[tokio::test]
async fn everybody_may_ask_what_they_may() {
    let api = Api::start().await;
    let jane = api
        .jane_may("default", "pods", rule(&["pods"], &["list"]))
        .await;
    let path = format!("{AUTHORIZATION}/selfsubjectaccessreviews");
    let yes = api
        .review(&jane, &path, about("list", "pods", "default"))
        .await;
    assert_eq!(
        yes,
        json!({
            "allowed": true,
            "reason": "RBAC: allowed by RoleBinding \"pods/default\" of Role \"pods\" to User \"jane\"",
        })
    );
    let no = api
        .review(&jane, &path, about("list", "pods", "other"))
        .await;
    assert_eq!(no, json!({"allowed": false}));
    let spec = json!({"nonResourceAttributes": {"verb": "get", "path": "/version"}});
    assert_eq!(api.review(&jane, &path, spec).await["allowed"], true);
    let neither = api.post_as(&jane, &path, json!({"spec": {}})).await;
    assert!(
        neither.refused().2.contains(
            "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        )
    );

    let path = format!("{AUTHORIZATION}/selfsubjectrulesreviews");
    let rules = api
        .review(&jane, &path, json!({"namespace": "default"}))
        .await;
    let resources = rules["resourceRules"].as_array().unwrap();
    assert!(
        resources.contains(&json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}))
    );
    assert!(!rules["nonResourceRules"].as_array().unwrap().is_empty());
    assert_eq!(rules["incomplete"], false);
    let nowhere = api.post_as(&jane, &path, json!({"spec": {}})).await;
    assert_eq!(nowhere.refused().2, "no namespace on request");
}

#[tokio::test]
async fn what_others_may_is_for_those_who_may_ask() {
    let api = Api::start().await;
    let jane = api
        .jane_may("default", "pods", rule(&["pods"], &["list"]))
        .await;
    let path = format!("{AUTHORIZATION}/subjectaccessreviews");
    let mut spec = about("list", "pods", "default");
    spec["user"] = "jane".into();
    let refused = api.post_as(&jane, &path, json!({ "spec": spec })).await;
    assert_eq!(refused.refused().0, 403);
    let root = User::in_process("root");
    assert_eq!(
        api.review(&root, &path, spec.clone()).await["allowed"],
        true
    );
    spec["user"] = "bob".into();
    assert_eq!(
        api.review(&root, &path, spec.clone()).await["allowed"],
        false
    );
    spec["groups"] = json!(["system:masters"]);
    assert_eq!(
        api.review(&root, &path, spec.clone()).await,
        json!({"allowed": true})
    );
    let local = |namespace: &str| {
        format!("{AUTHORIZATION}/namespaces/{namespace}/localsubjectaccessreviews")
    };
    spec["groups"] = json!([]);
    spec["user"] = "jane".into();
    assert_eq!(
        api.review(&root, &local("default"), spec.clone()).await["allowed"],
        true
    );
    let other = api
        .post_as(&root, &local("kube-system"), json!({ "spec": spec }))
        .await;
    assert!((400..500).contains(&other.code), "{}", other.body);
}

#[tokio::test]
async fn tokens_are_told_for_others() {
    let api = Api::start().await;
    let root = User::in_process("root");
    api.account("web").await;
    let path = format!("{AUTHENTICATION}/tokenreviews");
    let issued = api.token("web", json!({"audiences": ["vault"]})).await.ok();
    let token = &issued["status"]["token"];
    let known = api
        .review(
            &root,
            &path,
            json!({"token": token, "audiences": ["vault", "x"]}),
        )
        .await;
    assert_eq!(known["authenticated"], true);
    assert_eq!(known["audiences"], json!(["vault"]));
    assert_eq!(
        known["user"]["username"],
        "system:serviceaccount:default:web"
    );
    let here = api.review(&root, &path, json!({ "token": token })).await;
    assert_eq!(here["authenticated"], Value::Null);
    assert!(here["error"].as_str().unwrap().contains("token audiences"));
    let guessed = api.review(&root, &path, json!({"token": "guessed"})).await;
    assert_eq!(guessed["error"], "invalid bearer token");
    let none = api.post_as(&root, &path, json!({"spec": {}})).await;
    assert_eq!(
        none.refused().2,
        "token is required for TokenReview in authentication"
    );
}
