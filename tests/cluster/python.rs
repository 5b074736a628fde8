//! The official Python client against a running cluster: see `tests/python/suite.py`.

use std::{path::Path, process::Command};

use crate::harness::{Vaquita, run};

#[test]
fn the_python_client_finds_what_it_expects() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/python/bin/python");
    assert!(
        python.exists(),
        "the Python client is not installed: run `cargo task test`, which does that"
    );
    let cluster = Vaquita::up();
    let printed = run(Command::new(python)
        .arg(root.join("tests/python/suite.py"))
        .env("KUBECONFIG", cluster.kubeconfig()));
    assert!(
        printed.status.success(),
        "{}{}",
        printed.stdout,
        printed.stderr
    );
}
