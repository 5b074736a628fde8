//! What those may do who are not masters, by their roles and by their tokens.

use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};

use super::{Api, MAPS, PODS, Reply, config_map, names, pod, string};
use crate::User;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

impl Api {
    /// A request of `user`.
    pub(super) async fn call_as(
        &self,
        user: &User,
        method: Method,
        path: &str,
        body: Value,
    ) -> Reply {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        request.extensions_mut().insert(user.clone());
        Reply::of(self.send_as_is(request).await).await
    }

    pub(super) async fn get_as(&self, user: &User, path: &str) -> Reply {
        self.call_as(user, Method::GET, path, Value::Null).await
    }

    pub(super) async fn post_as(&self, user: &User, path: &str, body: Value) -> Reply {
        self.call_as(user, Method::POST, path, body).await
    }

    /// A request with these headers and no user.
    pub(super) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Reply::of(self.send_as_is(request.body(Body::empty()).unwrap()).await).await
    }

    /// A role of `namespace` ("" for a cluster role) with one rule, bound to the user `jane`.
    pub(super) async fn jane_may(&self, namespace: &str, name: &str, rule: Value) -> User {
        let (base, kind) = match namespace {
            "" => (RBAC.to_owned(), "ClusterRole"),
            namespace => (format!("{RBAC}/namespaces/{namespace}"), "Role"),
        };
        let plural = kind.to_lowercase();
        let object = json!({"metadata": {"name": name}, "rules": [rule]});
        self.post(&format!("{base}/{plural}s"), object).await.ok();
        let binding = json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
        });
        let bindings = format!("{base}/{plural}bindings");
        self.post(&bindings, binding).await.ok();
        User::new("jane", ["dev"])
    }

    /// A service account and its uid.
    pub(super) async fn account(&self, name: &str) -> String {
        let account = json!({"metadata": {"name": name}});
        let made = self.post(ACCOUNTS, account).await.ok();
        string(&made["metadata"]["uid"])
    }

    pub(super) async fn token(&self, account: &str, spec: Value) -> Reply {
        let path = format!("{ACCOUNTS}/{account}/token");
        self.post(&path, json!({ "spec": spec })).await
    }
}

pub(super) fn rule(resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [""], "resources": resources, "verbs": verbs})
}

pub(super) fn bearer(reply: &Value) -> String {
    format!("Bearer {}", reply["status"]["token"].as_str().unwrap())
}

#[tokio::test]
async fn a_role_gives_what_it_says_from_the_moment_it_is_there() {
    let api = Api::start().await;
    let jane = User::new("jane", ["dev"]);
    let refused = api.get_as(&jane, MAPS).await;
    assert_eq!(
        refused.refused(),
        (
            403,
            "Forbidden",
            "configmaps is forbidden: User \"jane\" cannot list resource \"configmaps\" in API group \"\" in the \
             namespace \"default\""
        )
    );
    api.jane_may(
        "default",
        "maps",
        rule(&["configmaps"], &["list", "create"]),
    )
    .await;
    api.get_as(&jane, MAPS).await.ok();
    api.post_as(&jane, MAPS, config_map("a", "v")).await.ok();
    let one = api.get_as(&jane, &format!("{MAPS}/a")).await;
    assert_eq!(
        one.refused().2,
        "configmaps \"a\" is forbidden: User \"jane\" cannot get resource \"configmaps\" in API group \"\" in the \
         namespace \"default\""
    );
    assert_eq!(
        api.get_as(&jane, "/api/v1/configmaps").await.refused().0,
        403
    );
    let binding = format!("{RBAC}/namespaces/default/rolebindings/maps");
    api.delete(&binding, json!({})).await.ok();
    assert_eq!(api.get_as(&jane, MAPS).await.refused().0, 403);
}

#[tokio::test]
async fn names_in_rules_are_for_those_names() {
    let api = Api::start().await;
    api.map("a").await;
    let mut named = rule(&["configmaps"], &["get", "list", "update"]);
    named["resourceNames"] = json!(["a", "new"]);
    let jane = api.jane_may("default", "named", named).await;
    api.get_as(&jane, &format!("{MAPS}/a")).await.ok();
    assert_eq!(api.get_as(&jane, MAPS).await.refused().0, 403);
    let selected = format!("{MAPS}?fieldSelector=metadata.name%3Da");
    assert_eq!(names(&api.get_as(&jane, &selected).await.ok()), ["a"]);
    // Who may update may not therefore create.
    let roles = format!("{RBAC}/namespaces/default/roles/new");
    let body = json!({"metadata": {"name": "new"}, "rules": []});
    let mut updates = rule(&["roles"], &["update"]);
    updates["apiGroups"] = json!(["rbac.authorization.k8s.io"]);
    api.jane_may("default", "updates", updates).await;
    let put = api.call_as(&jane, Method::PUT, &roles, body).await;
    assert_eq!(
        put.refused().2,
        "roles.rbac.authorization.k8s.io \"new\" is forbidden: User \"jane\" cannot create resource \"roles\" in API \
         group \"rbac.authorization.k8s.io\" in the namespace \"default\""
    );
}

#[tokio::test]
async fn whoever_reads_a_namespace_reads_its_object() {
    let api = Api::start().await;
    let jane = api
        .jane_may("default", "ns", rule(&["namespaces"], &["get"]))
        .await;
    api.get_as(&jane, "/api/v1/namespaces/default").await.ok();
    let other = api.get_as(&jane, "/api/v1/namespaces/kube-system").await;
    assert_eq!(
        other.refused().2,
        "namespaces \"kube-system\" is forbidden: User \"jane\" cannot get resource \"namespaces\" in API group \"\" \
         in the namespace \"kube-system\""
    );
}

#[tokio::test]
async fn paths_are_open_to_whom_they_should_be() {
    let api = Api::start().await;
    let (jane, nobody) = (User::new("jane", ["dev"]), User::anonymous());
    for open in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(api.get_as(&nobody, open).await.code, 200, "{open}");
    }
    for known in ["/api", "/apis/apps/v1", "/openapi/v3"] {
        assert_eq!(api.get_as(&jane, known).await.code, 200, "{known}");
        assert_eq!(api.get_as(&nobody, known).await.code, 403, "{known}");
    }
    let metrics = api.get_as(&jane, "/metrics").await;
    assert_eq!(
        metrics.refused().2,
        "forbidden: User \"jane\" cannot get path \"/metrics\""
    );
    let watcher = User::new("prometheus", ["system:monitoring"]);
    assert_eq!(api.get_as(&watcher, "/metrics").await.code, 200);
}

#[tokio::test]
async fn readers_do_not_get_into_pods() {
    let api = Api::start().await;
    api.post(PODS, pod("p")).await.ok();
    let jane = api
        .jane_may("default", "readers", rule(&["pods/exec"], &["get"]))
        .await;
    let mut request = Request::get(format!("{PODS}/p/exec?command=sh"))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .body(Body::empty())
        .unwrap();
    request.extensions_mut().insert(jane);
    let refused = Reply::of(api.send_as_is(request).await).await;
    assert_eq!(
        refused.refused().2,
        "pods \"p\" is forbidden: User \"jane\" cannot create resource \"pods/exec\" in API group \"\" in the \
         namespace \"default\""
    );
}

#[tokio::test]
async fn nobody_gives_away_more_than_they_have() {
    let api = Api::start().await;
    let mut writes = rule(&["roles", "rolebindings"], &["create", "update", "patch"]);
    writes["apiGroups"] = json!(["rbac.authorization.k8s.io"]);
    let jane = api.jane_may("default", "roles", writes).await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let role = json!({"metadata": {"name": "more"}, "rules": [rule(&["secrets"], &["get"])]});
    assert_eq!(
        api.post_as(&jane, &roles, role.clone()).await.refused().2,
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"jane\" (groups=[\"dev\" \
         \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"
    );
    let path = format!("{roles}/roles");
    let added = json!([{"op": "add", "path": "/rules/-", "value": rule(&["secrets"], &["get"])}]);
    let mut request = Request::patch(&path)
        .header("content-type", "application/json-patch+json")
        .body(Body::from(added.to_string()))
        .unwrap();
    request.extensions_mut().insert(jane.clone());
    let patched = Reply::of(api.send_as_is(request).await).await;
    assert_eq!(patched.refused().0, 403);

    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let bind = |name: &str| {
        json!({
            "metadata": {"name": "mine"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
        })
    };
    let all = api.post_as(&jane, &bindings, bind("cluster-admin")).await;
    assert!(all.refused().2.contains("not currently held"));
    let none = api.post_as(&jane, &bindings, bind("none")).await;
    assert_eq!(
        none.refused(),
        (
            404,
            "NotFound",
            "clusterroles.rbac.authorization.k8s.io \"none\" not found"
        )
    );
    let mut binds = rule(&["clusterroles"], &["bind"]);
    binds["apiGroups"] = json!(["rbac.authorization.k8s.io"]);
    api.jane_may("default", "binds", binds).await;
    api.post_as(&jane, &bindings, bind("cluster-admin"))
        .await
        .ok();
}

#[tokio::test]
async fn users_act_as_others_if_they_may() {
    let api = Api::start().await;
    let bob = User::new("bob", ["dev"]);
    let as_jane = |user: &User| {
        let mut request = Request::get("/api/v1/nodes")
            .header("Impersonate-User", "jane")
            .body(Body::empty())
            .unwrap();
        request.extensions_mut().insert(user.clone());
        request
    };
    let refused = Reply::of(api.send_as_is(as_jane(&bob)).await).await;
    assert_eq!(
        refused.refused(),
        (
            403,
            "Forbidden",
            "users \"jane\" is forbidden: User \"bob\" cannot impersonate resource \"users\" in API group \"\" at the \
             cluster scope"
        )
    );
    // A master may, and is then no more than jane.
    let master = User::in_process("root");
    let refused = Reply::of(api.send_as_is(as_jane(&master)).await).await;
    assert!(refused.refused().2.contains("User \"jane\" cannot list"));
    let mut request = Request::get("/api/v1/nodes")
        .header("Impersonate-Group", "system:masters")
        .body(Body::empty())
        .unwrap();
    request.extensions_mut().insert(bob);
    let nobody = Reply::of(api.send_as_is(request).await).await;
    assert_eq!(nobody.refused().0, 400);
}

#[tokio::test]
async fn a_service_account_logs_in_by_its_token_until_it_is_gone() {
    let api = Api::start().await;
    let uid = api.account("web").await;
    let reply = api.token("web", json!({})).await.ok();
    assert_eq!(reply["spec"]["expirationSeconds"], 3600);
    let token = bearer(&reply);
    let headers = [("authorization", token.as_str())];
    assert_eq!(
        api.get_with(MAPS, &headers).await.refused().2,
        "configmaps is forbidden: User \"system:serviceaccount:default:web\" cannot list resource \"configmaps\" in \
         API group \"\" in the namespace \"default\""
    );
    assert_eq!(api.get_with("/api", &headers).await.code, 200);
    // The same name, but another account.
    api.delete(&format!("{ACCOUNTS}/web"), json!({})).await.ok();
    assert_eq!(api.get_with("/api", &headers).await.code, 401);
    assert_ne!(api.account("web").await, uid);
    assert_eq!(api.get_with("/api", &headers).await.code, 401);
}

#[tokio::test]
async fn what_tokens_can_be_asked_for_is_checked() {
    let api = Api::start().await;
    api.account("web").await;
    api.post(PODS, pod("p")).await.ok();
    let short = api.token("web", json!({"expirationSeconds": 60})).await;
    assert_eq!(
        short.refused(),
        (
            422,
            "Invalid",
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 60: may not \
             specify a duration less than 10 minutes"
        )
    );
    let bound = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}});
    let other = api.token("web", bound("ConfigMap", "c", "")).await;
    assert_eq!(
        other.refused().2,
        "cannot bind token to object of type /v1, Kind=ConfigMap"
    );
    let gone = api.token("web", bound("Pod", "gone", "")).await;
    assert_eq!(gone.refused().2, "pods \"gone\" not found");
    let foreign = api.token("web", bound("Pod", "p", "")).await;
    assert_eq!(
        foreign.refused().2,
        "cannot bind token for serviceaccount \"web\" to pod running with different serviceaccount name."
    );
    assert_eq!(api.token("none", json!({})).await.refused().0, 404);
    // For somebody else, it does not open this API.
    let vault = api.token("web", json!({"audiences": ["vault"]})).await.ok();
    let headers = [("authorization", &*bearer(&vault))];
    assert_eq!(api.get_with("/api", &headers).await.code, 401);
}

#[tokio::test]
async fn machines_join_by_bootstrap_tokens() {
    let api = Api::start().await;
    let secret = json!({
        "metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
        },
    });
    api.post("/api/v1/namespaces/kube-system/secrets", secret)
        .await
        .ok();
    let get = async |token: &str| {
        let token = format!("Bearer {token}");
        api.get_with("/api/v1/nodes", &[("authorization", &token)])
            .await
    };
    let known = get("abcdef.0123456789abcdef").await;
    assert!(
        known
            .refused()
            .2
            .contains("User \"system:bootstrap:abcdef\"")
    );
    assert_eq!(get("abcdef.0123456789abcdee").await.refused().0, 401);
}

#[tokio::test]
async fn the_keys_of_tokens_are_published() {
    let api = Api::start().await;
    let account = User::service_account("default", "web", "");
    let document = api
        .get_as(&account, "/.well-known/openid-configuration")
        .await
        .ok();
    assert_eq!(
        document["issuer"],
        "https://kubernetes.default.svc.cluster.local"
    );
    let keys = api.get_as(&account, "/openid/v1/jwks").await;
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");
    assert_eq!(keys.ok()["keys"][0]["crv"], "P-256");
    let jane = User::new("jane", ["dev"]);
    assert_eq!(api.get_as(&jane, "/openid/v1/jwks").await.code, 403);
}
