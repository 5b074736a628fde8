//! Helm as people use it: the chart that it makes itself, installed, upgraded, rolled back and uninstalled.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use crate::harness::{Vaquita, eventually, http_get, run};

/// A program that `cargo task test` has fetched.
fn fetched(name: &str) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/helm")
        .join(name);
    assert!(
        path.exists(),
        "{name} is not there: run `cargo task test`, which fetches it"
    );
    Command::new(path)
}

/// A cluster and a chart.
struct Release {
    cluster: Vaquita,
    dir: TempDir,
}

impl Release {
    /// The chart that `helm create` makes, and a kind of its own which it needs.
    fn new() -> Self {
        let cluster = Vaquita::up();
        cluster.load_guest("hello", "localhost/hello:1.16.0");
        let release = Self {
            cluster,
            dir: tempfile::tempdir().expect("a directory"),
        };
        release.helm(&["create", "web"]);
        let chart = release.dir.path().join("web");
        fs::create_dir(chart.join("crds")).expect("a directory");
        let definition = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
";
        fs::write(chart.join("crds/widgets.yaml"), definition).expect("a file");
        let widget = "apiVersion: example.com/v1
kind: Widget
metadata: {name: {{ .Release.Name }}}
spec: {size: {{ .Values.replicaCount }}}
";
        fs::write(chart.join("templates/widget.yaml"), widget).expect("a file");
        release
    }

    fn helm(&self, args: &[&str]) -> String {
        let printed = run(fetched("helm")
            .args(args)
            .current_dir(self.dir.path())
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("HOME", self.dir.path()));
        assert!(
            printed.status.success(),
            "helm {args:?} failed:\n{}{}",
            printed.stdout,
            printed.stderr
        );
        printed.stdout
    }

    /// `helm install` or `helm upgrade`, with the image and whatever else is to be set.
    fn deploy(&self, verb: &str, set: &[&str]) -> String {
        let mut args = vec![verb, "shop", "web", "--wait", "--timeout", "60s"];
        args.extend([
            "--set",
            "image.repository=localhost/hello,image.pullPolicy=IfNotPresent",
        ]);
        for value in set {
            args.extend(["--set", value]);
        }
        self.helm(&args)
    }

    fn replicas(&self) -> i64 {
        let deployment = self.cluster.get(&["deployment", "shop-web"]);
        deployment["status"]["readyReplicas"].as_i64().unwrap_or(0)
    }
}

#[test]
fn a_chart_is_installed_upgraded_rolled_back_and_uninstalled() {
    let release = Release::new();
    let installed = release.deploy(
        "install",
        &["service.type=NodePort", "ingress.enabled=true"],
    );
    assert!(installed.contains("STATUS: deployed"), "{installed}");
    assert_eq!(release.replicas(), 1, "`--wait` waits for readiness");
    let port = release.cluster.node_port("shop-web");
    eventually("an answer from the release", || {
        match http_get(port, "/")? {
            (200, _) => Ok(()),
            (code, body) => Err(format!("{code} {body}")),
        }
    });
    let widget = release.cluster.get(&["widgets", "shop"]);
    assert_eq!(widget["spec"]["size"], 1);

    release.deploy("upgrade", &["replicaCount=2", "service.type=ClusterIP"]);
    assert_eq!(release.replicas(), 2);
    let service = release.cluster.get(&["service", "shop-web"]);
    assert!(service["spec"]["ports"][0]["nodePort"].is_null());

    release.helm(&["rollback", "shop", "1", "--wait", "--timeout", "60s"]);
    assert_eq!(release.cluster.get(&["widgets", "shop"])["spec"]["size"], 1);
    let history = release.helm(&["history", "shop"]);
    assert!(history.contains("Rollback to 1"), "{history}");
    assert!(release.helm(&["list"]).contains("deployed"));

    release.helm(&["uninstall", "shop", "--wait", "--timeout", "60s"]);
    let left = release.cluster.kubectl(&[
        "get",
        "deployment,replicaset,pod,service,ingress,serviceaccount,widget",
        "-l",
        "app.kubernetes.io/instance=shop",
        "-o",
        "name",
    ]);
    assert_eq!(left, "");
}

#[test]
fn the_kubectl_of_the_apis_own_version_agrees() {
    let cluster = Vaquita::up();
    let kubectl = |args: &[&str]| {
        let printed = run(fetched("kubectl")
            .args(args)
            .env("KUBECONFIG", cluster.kubeconfig())
            .env("HOME", cluster.dir().path()));
        assert!(printed.status.success(), "{args:?}: {}", printed.stderr);
        printed.stdout
    };
    let version = kubectl(&["version"]);
    assert!(version.contains("Server Version: v1.36"), "{version}");
    kubectl(&[
        "create",
        "deployment",
        "web",
        "--image=localhost/none",
        "--replicas=0",
    ]);
    kubectl(&["set", "env", "deployment/web", "COLOUR=grey"]);
    let explained = kubectl(&["explain", "deployment.spec.strategy.rollingUpdate"]);
    assert!(explained.contains("maxSurge"), "{explained}");
    kubectl(&[
        "delete",
        "deployment",
        "web",
        "--cascade=foreground",
        "--wait",
    ]);
    assert_eq!(kubectl(&["get", "deployments", "-o", "name"]), "");
}
