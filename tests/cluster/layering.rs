//! Which crate may depend on which. The table is the architecture; a new arrow is a decision, made here and in the
//! book's architecture chapter.

use std::{collections::BTreeMap, process::Command};

/// Each crate, and which of our crates it may use. The root package may use all.
const ALLOWED: &[(&str, &[&str])] = &[
    ("vaquita-api", &[]),
    ("vaquita-store", &[]),
    ("vaquita-net", &[]),
    ("vaquita-image", &[]),
    ("vaquita-docker", &[]),
    ("vaquita-spin", &[]),
    ("vaquita-kernel-net", &["vaquita-net"]),
    ("vaquita-guest-fs", &[]),
    ("vaquita-guest-cpu", &[]),
    ("vaquita-guest-sockets", &["vaquita-net"]),
    (
        "vaquita-runtime",
        &[
            "vaquita-guest-cpu",
            "vaquita-guest-fs",
            "vaquita-guest-sockets",
            "vaquita-net",
        ],
    ),
    ("vaquita-kinds", &["vaquita-api"]),
    ("vaquita-workloads", &["vaquita-api", "vaquita-kinds"]),
    ("vaquita-platform", &["vaquita-api", "vaquita-kinds"]),
    ("vaquita-crd", &["vaquita-api"]),
    ("vaquita-openapi", &["vaquita-api"]),
    ("vaquita-auth", &["vaquita-api"]),
    ("vaquita-admission", &["vaquita-api", "vaquita-kinds"]),
    ("vaquita-cache", &["vaquita-api", "vaquita-store"]),
    ("vaquita-streams", &[]),
    (
        "vaquita-apiserver",
        &[
            "vaquita-admission",
            "vaquita-api",
            "vaquita-auth",
            "vaquita-cache",
            "vaquita-crd",
            "vaquita-kinds",
            "vaquita-openapi",
            "vaquita-platform",
            "vaquita-store",
            "vaquita-streams",
            "vaquita-workloads",
        ],
    ),
    ("vaquita-pki", &["vaquita-auth"]),
    ("vaquita-reconcile", &[]),
    ("vaquita-controllers", &["vaquita-api", "vaquita-reconcile"]),
    (
        "vaquita-workload-controllers",
        &["vaquita-api", "vaquita-reconcile"],
    ),
    ("vaquita-scheduler", &["vaquita-api", "vaquita-crd"]),
    (
        "vaquita-backends",
        &[
            "vaquita-docker",
            "vaquita-image",
            "vaquita-net",
            "vaquita-runtime",
            "vaquita-spin",
        ],
    ),
    (
        "vaquita-manifest",
        &[
            "vaquita-api",
            "vaquita-backends",
            "vaquita-docker",
            "vaquita-image",
            "vaquita-net",
            "vaquita-volumes",
        ],
    ),
    ("vaquita-checks", &["vaquita-backends"]),
    ("vaquita-logs", &["vaquita-runtime"]),
    (
        "vaquita-node",
        &[
            "vaquita-api",
            "vaquita-backends",
            "vaquita-checks",
            "vaquita-docker",
            "vaquita-image",
            "vaquita-logs",
            "vaquita-manifest",
            "vaquita-net",
            "vaquita-runtime",
            "vaquita-service-proxy",
            "vaquita-streams",
            "vaquita-volumes",
        ],
    ),
    ("vaquita-ingress", &["vaquita-net", "vaquita-reconcile"]),
    (
        "vaquita-service-proxy",
        &["vaquita-net", "vaquita-reconcile"],
    ),
    ("vaquita-task", &[]),
    ("vaquita-volumes", &["vaquita-api"]),
];

/// Packages that would be a second way into the cluster, or a layer where it does not belong: (crate, package).
const FORBIDDEN: &[(&str, &str)] = &[
    ("vaquita-runtime", "k8s-openapi"),
    ("vaquita-runtime", "kube"),
    ("vaquita-runtime", "axum"),
    ("vaquita-runtime", "redb"),
    ("vaquita-docker", "k8s-openapi"),
    ("vaquita-docker", "kube"),
    ("vaquita-backends", "k8s-openapi"),
    ("vaquita-backends", "kube"),
    ("vaquita-kernel-net", "k8s-openapi"),
    ("vaquita-kernel-net", "kube"),
    ("vaquita-store", "serde_json"),
    ("vaquita-store", "k8s-openapi"),
    ("vaquita-api", "tokio"),
    ("vaquita-api", "axum"),
    ("vaquita-reconcile", "axum"),
    ("vaquita-controllers", "axum"),
    ("vaquita-workload-controllers", "axum"),
    ("vaquita-scheduler", "axum"),
    ("vaquita-ingress", "axum"),
    ("vaquita-service-proxy", "axum"),
];

#[test]
fn crates_depend_only_on_what_the_architecture_allows() {
    let dependencies = dependencies();
    for (package, used) in &dependencies {
        if package == "vaquita" {
            continue;
        }
        let (_, allowed) = ALLOWED
            .iter()
            .find(|(name, _)| name == package)
            .unwrap_or_else(|| panic!("{package} is not in the table of layers"));
        for dependency in used.iter().filter(|name| name.starts_with("vaquita")) {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{package} may not depend on {dependency}"
            );
        }
    }
    assert_eq!(
        dependencies.len(),
        ALLOWED.len() + 1,
        "a crate of the table is missing from the workspace"
    );
}

#[test]
fn crates_keep_away_from_packages_of_other_layers() {
    let dependencies = dependencies();
    for (package, forbidden) in FORBIDDEN {
        let used = &dependencies[*package];
        assert!(
            !used.iter().any(|name| name == forbidden),
            "{package} may not use {forbidden}"
        );
    }
}

/// The ordinary dependencies of each package of the workspace, as cargo reads the manifests.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
    let list = |value: &serde_json::Value| value.as_array().expect("a list").clone();
    list(&metadata["packages"])
        .iter()
        .map(|package| {
            let used = list(&package["dependencies"])
                .iter()
                .filter(|dependency| dependency["kind"].is_null())
                .map(|dependency| text(&dependency["name"]))
                .collect();
            (text(&package["name"]), used)
        })
        .collect()
}
