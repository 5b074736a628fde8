//! Images that go from a Docker engine into the store and back, in the archives that `docker save` and `docker load` know.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::{
    docker::{BUSYBOX, Engine},
    harness::run,
    images::{image, succeeded},
};

/// Joins two commands by a pipe, both of which must succeed. `$VAQUITA`, `$DIR` and `$SOCKET` are what they say.
fn piped(engine: &Engine, dir: &Path, script: &str) -> String {
    let mut shell = Command::new("bash");
    shell
        .args(["-o", "pipefail", "-c", script])
        .env("VAQUITA", env!("CARGO_BIN_EXE_vaquita"))
        .env("DIR", dir)
        .env("SOCKET", engine.socket());
    succeeded(run(&mut shell))
}

/// The layers of an image of the engine, by the digests of what is in them.
fn layers(engine: &Engine, name: &str) -> Value {
    let printed = engine.request(&[&format!("/images/{name}/json")]);
    assert!(printed.status.success(), "{name}: {}", printed.stderr);
    let image: Value = serde_json::from_str(&printed.stdout).expect("JSON");
    image["RootFS"]["Layers"].clone()
}

#[test]
fn what_the_engine_saves_is_loaded_and_what_is_saved_it_loads() {
    let engine = Engine::start();
    let (store, home) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    // What `docker save` and `docker load` ask of the engine.
    let loaded = piped(
        &engine,
        store.path(),
        &format!(
            "curl --silent --fail --unix-socket $SOCKET 'http://docker/images/get?names={BUSYBOX}' \
             | $VAQUITA image load --data-dir $DIR"
        ),
    );
    assert!(
        loaded.starts_with(&format!("{BUSYBOX} sha256:")),
        "{loaded}"
    );
    let image = |args: &[&str]| succeeded(image(store.path(), home.path(), args));
    let described = image(&["inspect", BUSYBOX]);
    assert!(described.contains("\"linux\""), "{described}");

    image(&["tag", BUSYBOX, "localhost/back:v1"]);
    piped(
        &engine,
        store.path(),
        "$VAQUITA image save localhost/back:v1 --data-dir $DIR \
         | curl --silent --fail --unix-socket $SOCKET --header 'Content-Type: application/x-tar' \
           --data-binary @- http://docker/images/load",
    );
    assert_eq!(
        layers(&engine, "localhost/back:v1"),
        layers(&engine, BUSYBOX)
    );

    // It is an image layout as well, for whoever prefers that.
    let files = piped(
        &engine,
        store.path(),
        "$VAQUITA image save localhost/back:v1 --data-dir $DIR | tar --list",
    );
    for file in ["oci-layout", "index.json", "manifest.json"] {
        assert!(files.lines().any(|line| line == file), "{files}");
    }
}
