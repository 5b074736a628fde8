//! Spin applications: from a registry into a pod, where they answer by their routes and have what their description gives them.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};
use vaquita_image::Digest;

use crate::{
    harness::{Vaquita, eventually, guest_file, http_get, http_post, run},
    images::{Registry, image, succeeded},
};

/// An image layout that grows.
struct Layout<'l>(&'l Path);

impl Layout<'_> {
    /// Adds content; returns its descriptor.
    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        let blobs = self.0.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("a directory");
        fs::write(blobs.join(digest.hex()), bytes).expect("a file");
        json!({"mediaType": media_type, "digest": &*digest, "size": bytes.len()})
    }

    fn module(&self, guest: &str) -> Value {
        let bytes = fs::read(guest_file(guest)).expect("a guest");
        self.blob("application/vnd.wasm.content.layer.v1+wasm", &bytes)
    }

    /// The archive of a layout with one image.
    fn archive(&self, name: &str, config: &Value, layers: &[Value]) -> String {
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers});
        let mut entry = self.blob(manifest_type, manifest.to_string().as_bytes());
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        let write = |file: &str, content: Value| {
            fs::write(self.0.join(file), content.to_string()).expect("a file");
        };
        write(
            "index.json",
            json!({"schemaVersion": 2, "manifests": [entry]}),
        );
        write("oci-layout", json!({"imageLayoutVersion": "1.0.0"}));
        let files = ["-cf", "image.tar", "oci-layout", "index.json", "blobs"];
        succeeded(run(Command::new("tar").current_dir(self.0).args(files)));
        self.0.join("image.tar").display().to_string()
    }
}

/// An application of two components: `shop` below `/shop/`, and `greet` for everything else.
fn application(dir: &Path, name: &str) -> String {
    let layout = Layout(dir);
    let (shop, hello) = (layout.module("shop"), layout.module("hello"));
    let page = layout.blob("application/vnd.wasm.content.layer.v1+data", b"a page");
    let trigger = |component: &str, route: &str| {
        json!({"id": component, "trigger_type": "http",
            "trigger_config": {"component": component, "route": route}})
    };
    let source =
        |module: &Value| json!({"content_type": "application/wasm", "digest": module["digest"]});
    let locked = json!({
        "spin_lock_version": 1,
        "metadata": {"name": "two"},
        "variables": {"who": {"default": "world"}, "open": {}},
        "triggers": [trigger("greet", "/..."), trigger("shop", "/shop/:what")],
        "components": [
            {"id": "greet", "source": source(&hello)},
            {"id": "shop", "source": source(&shop),
             "config": {"greeting": "hello {{ who }}"},
             "files": [
                 {"digest": page["digest"], "path": "static/page"},
                 {"inline": "c21hbGw=", "path": "small"}],
             "metadata": {"key_value_stores": ["default"],
                 "allowed_outbound_hosts": ["http://{{ open }}:8080"]}},
        ],
    });
    let config = layout.blob(
        "application/vnd.fermyon.spin.application.v1+config",
        locked.to_string().as_bytes(),
    );
    layout.archive(name, &config, &[shop, hello, page])
}

/// Makes the application, and brings it to the registry.
fn pushed(registry: &Registry) -> String {
    let name = format!("{}/team/two:v1", registry.address);
    let (made, store) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let image = |args: &[&str]| succeeded(image(store.path(), made.path(), args));
    image(&["load", &application(made.path(), &name)]);
    let listed = image(&["list"]);
    assert!(listed.contains("spin application"), "{listed}");
    image(&["push", &name]);
    name
}

fn pod(image: &str, env: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: two, labels: {{run: two}}}}
spec:
  containers: [{{name: two, image: '{image}', ports: [{{containerPort: 80}}], env: [{env}]}}]
"
    )
}

#[test]
fn an_application_from_a_registry_has_what_it_describes() {
    let registry = Registry::open();
    let name = pushed(&registry);
    let cluster = Vaquita::up();
    cluster.apply(&pod(&name, ""));
    // Without a value for a variable, it does not start, and says what is missing.
    eventually("the pod to be told of its variable", || {
        let pod = cluster.get(&["pod", "two"]);
        let waiting = pod["status"]["containerStatuses"][0]["state"]["waiting"].to_string();
        if waiting.contains("SPIN_VARIABLE_OPEN") {
            Ok(())
        } else {
            Err(pod["status"].to_string())
        }
    });
    cluster.kubectl(&["delete", "pod", "two", "--now"]);

    cluster.load_guest("hello", "localhost/hello:v1");
    for name in ["friend", "stranger"] {
        cluster.kubectl(&["run", name, "--image=localhost/hello:v1", "--port=8080"]);
        cluster.kubectl(&["expose", "pod", name]);
        cluster.wait_ready(&format!("run={name}"), 1);
    }
    let env = "{name: SPIN_VARIABLE_WHO, value: you}, {name: SPIN_VARIABLE_OPEN, value: friend}";
    cluster.apply(&pod(&name, env));
    cluster.wait_ready("run=two", 1);
    cluster.kubectl(&["expose", "pod", "two", "--type=NodePort"]);
    let port = cluster.node_port("two");

    let greeted = eventually("the application to answer", || {
        match http_get(port, "/anything")? {
            (200, body) => Ok(body),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(greeted, "hello from two\nGET /anything\n");
    let ask = |what: &str, word: &str| {
        let answer = http_post(port, &format!("/shop/{what}"), word);
        answer.unwrap_or_else(|error| panic!("{what}: {error}")).1
    };
    let told = ask("told", "");
    for line in [
        "spin-raw-component-route: /shop/:what",
        "spin-path-match-what: told",
        "spin-path-info: ",
    ] {
        assert!(told.contains(line), "{told}");
    }
    assert_eq!(ask("variable", "greeting"), "hello you");
    assert_eq!(ask("setting", "greeting"), "hello you");
    assert_eq!(ask("file", "/static/page"), "a page");
    assert_eq!(ask("file", "/small"), "small");
    assert_eq!(ask("visits", ""), "1");
    assert_eq!(ask("visits", ""), "2");
    assert!(ask("stores", "other").contains("AccessDenied"));
    eventually("the friend to be reached", || {
        let answer = ask("fetch", "http://friend:8080/");
        if answer == "200" { Ok(()) } else { Err(answer) }
    });
    let refused = ask("fetch", "http://stranger:8080/");
    assert!(refused.contains("HttpRequestDenied"), "{refused}");
    let stranger = cluster.get(&["pod", "stranger"]);
    let ip = stranger["status"]["podIP"].as_str().expect("an address");
    assert_eq!(ask("connect", &format!("{ip}:8080")), "permission denied");
}

/// Outside of an application, WASI's interface tells the environment, and there are no stores.
#[test]
fn a_component_by_itself_is_told_its_environment() {
    let cluster = Vaquita::up();
    cluster.load_guest("shop", "localhost/shop:v1");
    cluster.kubectl(&[
        "run",
        "shop",
        "--image=localhost/shop:v1",
        "--port=8080",
        "--env=COLOUR=grey",
    ]);
    cluster.kubectl(&["expose", "pod", "shop", "--type=NodePort"]);
    cluster.wait_ready("run=shop", 1);
    let port = cluster.node_port("shop");
    let colour = eventually("the component to answer", || {
        match http_post(port, "/setting", "COLOUR")? {
            (200, body) => Ok(body),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(colour, "grey");
    let refused = http_post(port, "/visits", "").expect("an answer").1;
    assert!(refused.contains("AccessDenied"), "{refused}");
}
