//! What WASI 0.1 must do, tried function by function by a guest: `wasm-examples/core`'s `core-cases`.

use vaquita_runtime::{Exit, Volume};

use crate::support::{Host, start};

async fn tries(root: Volume) {
    let host = Host::new();
    let module = host.example("wasm32-wasip1", "core-cases").await;
    let pod = host.pod("pod");
    let (process, log) = start(&pod, module, |config| {
        config.listen = Vec::new();
        config.root = Some(root);
    })
    .await;
    let exit = process.wait().await;
    let text = log.text();
    let failed: Vec<_> = text
        .lines()
        .filter(|line| !line.ends_with(": ok"))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(
        (exit, text.lines().count()),
        (Exit::Exited(0), 27),
        "{text}"
    );
}

#[tokio::test]
async fn in_memory() {
    tries(Volume::memory(16 << 20)).await;
}

#[tokio::test]
async fn on_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    tries(Volume::directory(dir.path()).expect("a volume")).await;
}
