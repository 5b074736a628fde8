//! What WASI must do with files, and WASI 0.1 besides, tried function by function by guests: `wasm-examples/file-cases` by 0.2 and 0.3, and
//! `core-cases` of `wasm-examples/core` by 0.1. Each does so in memory and on a disk.

use vaquita_runtime::{Exit, Volume};

use crate::support::{Host, start};

async fn tries(target: &str, guest: &str, cases: usize) {
    let host = Host::new();
    let module = host.example(target, guest).await;
    let dir = tempfile::tempdir().expect("a directory");
    let on_disk = Volume::directory(dir.path()).expect("a volume");
    for root in [Volume::memory(16 << 20), on_disk] {
        let pod = host.pod("pod");
        let (process, log) = start(&pod, module.clone(), |config| {
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
        let all = (Exit::Exited(0), cases);
        assert_eq!((exit, text.lines().count()), all, "{text}");
        assert_eq!(process.usage().memory, 0);
    }
}

#[tokio::test]
async fn of_0_1() {
    tries("wasm32-wasip1", "core-cases", 27).await;
}

#[tokio::test]
async fn files_of_0_2() {
    tries("wasm32-wasip2", "file-cases", 15).await;
}

#[tokio::test]
async fn files_of_0_3() {
    tries("wasm32-wasip2", "async_file_cases", 15).await;
}
