use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::User;

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Rule {
    let list = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    Rule {
        api_groups: list(groups),
        resources: list(resources),
        verbs: list(verbs),
        ..Rule::default()
    }
}

fn paths(paths: &[&str]) -> Rule {
    Rule {
        non_resource_urls: paths.iter().map(ToString::to_string).collect(),
        verbs: vec!["get".to_owned()],
        ..Rule::default()
    }
}

fn role(namespace: &str, name: &str, rules: &[Rule]) -> Arc<Role> {
    Arc::new(Role {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        rules: rules.to_vec(),
    })
}

fn binding(namespace: &str, name: &str, role: (&str, &str), subjects: &[Subject]) -> Arc<Binding> {
    Arc::new(Binding {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        role: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: role.0.to_owned(),
            name: role.1.to_owned(),
        },
        subjects: subjects.to_vec(),
    })
}

fn subject(kind: SubjectKind, namespace: &str, name: &str) -> Subject {
    Subject {
        kind,
        name: name.to_owned(),
        namespace: namespace.to_owned(),
    }
}

fn pods<'a>(verb: &'a str, namespace: &'a str, name: &'a str) -> Attributes<'a> {
    Attributes::resource(
        verb,
        Resource {
            resource: "pods",
            namespace,
            name,
            ..Resource::default()
        },
    )
}

fn sample() -> Policy {
    let mut named = rule(&[""], &["configmaps"], &["get", "update"]);
    named.resource_names = vec!["settings".to_owned()];
    Policy::new(
        [
            role("", "reader", &[rule(&[""], &["pods"], &["get", "list"])]),
            role("", "prober", &[paths(&["/healthz", "/logs/*"])]),
            role("shop", "settings", &[named]),
        ],
        [
            binding(
                "",
                "probe",
                ("ClusterRole", "prober"),
                &[subject(SubjectKind::Group, "", "system:authenticated")],
            ),
            binding(
                "shop",
                "read",
                ("ClusterRole", "reader"),
                &[
                    subject(SubjectKind::User, "", "jane"),
                    subject(SubjectKind::ServiceAccount, "", "web"),
                ],
            ),
            binding(
                "shop",
                "lost",
                ("Role", "gone"),
                &[subject(SubjectKind::User, "", "jane")],
            ),
            binding(
                "shop",
                "set",
                ("Role", "settings"),
                &[subject(SubjectKind::Group, "", "ops")],
            ),
        ],
    )
}

#[test]
fn what_a_binding_gives_it_gives_in_its_namespace() {
    let (policy, jane) = (sample(), User::new("jane", ["dev"]));
    let allowed = policy.authorize(&jane, &pods("list", "shop", ""));
    assert_eq!(
        allowed.reason(),
        r#"RBAC: allowed by RoleBinding "read/shop" of ClusterRole "reader" to User "jane""#
    );
    for refused in [
        pods("list", "", ""),
        pods("list", "other", ""),
        pods("delete", "other", "x"),
    ] {
        assert_eq!(
            policy.authorize(&jane, &refused),
            Decision::Refused(Vec::new())
        );
    }
    let refused = policy.authorize(&jane, &pods("delete", "shop", "x"));
    assert_eq!(
        refused.reason(),
        r#"RBAC: role.rbac.authorization.k8s.io "gone" not found"#
    );
    assert_eq!(
        pods("list", "shop", "").refusal("jane"),
        r#"User "jane" cannot list resource "pods" in API group "" in the namespace "shop""#
    );
}

#[test]
fn a_service_account_without_a_namespace_is_that_of_the_binding() {
    let policy = sample();
    let web = User::service_account("shop", "web", "u");
    assert_eq!(
        policy.authorize(&web, &pods("get", "shop", "a")).reason(),
        r#"RBAC: allowed by RoleBinding "read/shop" of ClusterRole "reader" to ServiceAccount "web/shop""#
    );
    let other = User::service_account("other", "web", "u");
    assert!(
        !policy
            .authorize(&other, &pods("get", "shop", "a"))
            .is_allowed()
    );
}

#[test]
fn paths_are_matched_to_their_star() {
    let (policy, jane) = (sample(), User::new("jane", ["dev"]));
    for (path, expected) in [
        ("/healthz", true),
        ("/healthz/etcd", false),
        ("/logs/x/y", true),
        ("/logs", false),
        ("/metrics", false),
    ] {
        let decision = policy.authorize(&jane, &Attributes::path("get", path));
        assert_eq!(decision.is_allowed(), expected, "{path}");
    }
    assert!(
        !policy
            .authorize(&jane, &Attributes::path("post", "/healthz"))
            .is_allowed()
    );
}

#[test]
fn named_rules_are_about_those_names_alone() {
    let (policy, ops) = (sample(), User::new("olga", ["ops"]));
    let on = |name| {
        let resource = Resource {
            resource: "configmaps",
            namespace: "shop",
            name,
            ..Resource::default()
        };
        policy
            .authorize(&ops, &Attributes::resource("get", resource))
            .is_allowed()
    };
    assert!(on("settings") && !on("others") && !on(""));
}

#[test]
fn subresources_are_named_whole_or_by_a_star() {
    let allows = |own: &str, subresource| {
        let resource = Resource {
            resource: "pods",
            subresource,
            ..Resource::default()
        };
        rule(&[""], &[own], &["*"]).allows(&Attributes::resource("get", resource))
    };
    for (own, subresource, expected) in [
        ("pods", "", true),
        ("pods", "log", false),
        ("pods/log", "log", true),
        ("pods/log", "", false),
        ("*/log", "log", true),
        ("*/log", "exec", false),
        ("pods/*", "log", false),
        ("*", "log", true),
    ] {
        assert_eq!(allows(own, subresource), expected, "{own} {subresource}");
    }
}

#[test]
fn masters_need_no_rule() {
    let policy = Policy::default();
    let decision = policy.authorize(&User::in_process("root"), &pods("delete", "", ""));
    assert_eq!(decision, Decision::Allowed(None));
    assert_eq!(decision.reason(), "");
}

#[test]
fn pieces_that_are_missing_are_shown_together() {
    let held = [rule(&["apps"], &["deployments"], &["get"])];
    let wanted = [
        rule(
            &["apps"],
            &["deployments", "deployments/scale"],
            &["get", "update"],
        ),
        paths(&["/metrics"]),
    ];
    let shown: Vec<String> = compact(missing(&held, &wanted))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        shown,
        [
            r#"{APIGroups:["apps"], Resources:["deployments"], Verbs:["update"]}"#,
            r#"{APIGroups:["apps"], Resources:["deployments/scale"], Verbs:["get" "update"]}"#,
            r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#,
        ]
    );
    assert!(missing(&Rule::everything(), &wanted).is_empty());
    // A name does not cover all names.
    let mut named = held[0].clone();
    named.resource_names = vec!["web".to_owned()];
    assert_eq!(missing(&[named.clone()], &held).len(), 1);
    assert!(missing(&held, &[named]).is_empty());
}

fn some_rule() -> impl Strategy<Value = Rule> {
    let pick = |of: &'static [&'static str]| {
        proptest::collection::vec(proptest::sample::select(of).prop_map(str::to_owned), 1..3)
    };
    (
        pick(&["", "apps", "*"]),
        pick(&["pods", "pods/log", "*/log", "*", "deployments"]),
        pick(&["get", "list", "*"]),
        proptest::collection::vec("[ab]", 0..2),
    )
        .prop_map(|(api_groups, resources, verbs, resource_names)| Rule {
            api_groups,
            resources,
            resource_names,
            verbs,
            ..Rule::default()
        })
}

proptest! {
    /// What covers gives everything that is covered: nobody can grant by a rule what another's rules refuse.
    #[test]
    fn covering_rules_allow_all_that_the_covered_allow(
        held in proptest::collection::vec(some_rule(), 0..4),
        wanted in proptest::collection::vec(some_rule(), 0..3),
        group in proptest::sample::select(vec!["", "apps", "batch"]),
        resource in proptest::sample::select(vec!["pods", "deployments", "jobs"]),
        subresource in proptest::sample::select(vec!["", "log", "exec"]),
        verb in proptest::sample::select(vec!["get", "list", "delete"]),
        name in proptest::sample::select(vec!["", "a", "b", "c"]),
    ) {
        prop_assert!(missing(&wanted, &wanted).is_empty());
        let asked = Attributes::resource(verb, Resource { group, resource, subresource, namespace: "", name });
        let allowed = |rules: &[Rule]| rules.iter().any(|rule| rule.allows(&asked));
        if missing(&held, &wanted).is_empty() && allowed(&wanted) {
            prop_assert!(allowed(&held));
        }
    }

    /// Putting pieces together neither adds nor loses anything.
    #[test]
    fn compact_rules_say_the_same(wanted in proptest::collection::vec(some_rule(), 0..4)) {
        let compacted = compact(missing(&[], &wanted));
        prop_assert!(missing(&compacted, &wanted).is_empty());
        prop_assert!(missing(&wanted, &compacted).is_empty());
    }
}
