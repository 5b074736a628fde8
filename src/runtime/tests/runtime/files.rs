//! Files, as the standard library of a language sees them.

use std::sync::{Arc, Mutex};

use vaquita_runtime::{
    Exit, LogStream, Mount, MountError, OutputSink, PodConfig, StartError, Volume,
};

use crate::support::{Host, start};

/// Both kinds of programs, which are the same one.
const GUESTS: [(&str, &str); 2] = [("wasm32-wasip2", "files"), ("wasm32-wasip1", "core-files")];

fn mount(guest: &str, volume: &Volume, sub_path: &str, read_only: bool) -> Mount {
    Mount {
        guest: guest.into(),
        volume: volume.clone(),
        sub_path: sub_path.into(),
        read_only,
    }
}

fn expected(name: &str) -> String {
    // The C library of WASI 0.2 does not ask which error a stream had.
    let full = if name == "files" {
        "full: I/O error (os error 29)"
    } else {
        "full: No space left on device (os error 51)"
    };
    let lines = [
        r#"hosts: "10.0.0.1 pod""#,
        r#"root: ["data/", "etc/", "ro/"]"#,
        "write: ()",
        r#"seek: "three""#,
        "append: ()",
        "nested: ()",
        "rename: ()",
        r#"read: "one two three four""#,
        "length: 18",
        r#"list: ["c/", "file"]"#,
        "read only: Read-only file system (os error 69)",
        r#"one file: "value""#,
        "no way out: Operation not permitted (os error 63)",
        "remove: ()",
        "gone: No such file or directory (os error 44)",
        full,
        "room again: ()",
        // Beside the root.
        "hungry: 99",
        r#"input: "typed\n""#,
        "terminal: true",
    ];
    lines.map(|line| format!("stdout: {line}\n")).concat()
}

/// Keeps what a guest writes as it is.
#[derive(Default)]
struct Attached(Mutex<Vec<u8>>);

impl OutputSink for Attached {
    fn write(&self, _stream: LogStream, bytes: &[u8]) {
        self.0
            .lock()
            .expect("not poisoned")
            .extend_from_slice(bytes);
    }
}

#[tokio::test]
async fn programs_of_both_formats_find_the_same_files() {
    let host = Host::new();
    let (disk, other) = (
        tempfile::tempdir().expect("one"),
        tempfile::tempdir().expect("one"),
    );
    std::fs::write(other.path().join("key"), "value").expect("a file");
    let config = Volume::directory(other.path()).expect("a volume");
    let on_disk = Volume::directory_with_limit(disk.path(), 100_000).expect("a volume");
    for data in [on_disk, Volume::memory(100_000)] {
        for (target, name) in GUESTS {
            let mut pod = PodConfig::new("pod", host.fabric.attach(None).expect("an address"));
            pod.hosts = Some("10.0.0.1 pod\n".into());
            let pod = host.runtime.pod(pod);
            let attached = Arc::new(Attached::default());
            let (process, log) = start(&pod, host.example(target, name).await, |process| {
                process.mounts = vec![
                    mount("/ro/inner/key", &config, "key", true),
                    mount("/data", &data, "", false),
                    mount("/ro", &config, "", true),
                ];
                process.max_open_files = 100;
                process.stdin = Some(Box::new(&b"typed\n"[..]));
                process.tty = true;
                process.output = Some(attached.clone());
            })
            .await;
            assert_eq!(process.wait().await, Exit::Exited(0), "{}", log.text());
            assert_eq!(log.text(), expected(name), "{name} on {data:?}");
            let attached = attached.0.lock().expect("not poisoned").clone();
            let attached = String::from_utf8(attached).expect("text");
            assert_eq!(attached, log.text().replace("stdout: ", ""));
            assert!(data.used() <= 100_000);
        }
    }
}

#[tokio::test]
async fn who_is_given_no_file_finds_none() {
    let host = Host::new();
    for (target, name) in GUESTS {
        let pod = host.pod("pod");
        let (process, log) = start(&pod, host.example(target, name).await, |_| {}).await;
        process.wait().await;
        assert!(!log.text().contains(": ()"), "{}", log.text());
        assert!(log.text().contains("terminal: false"), "{}", log.text());
    }
}

#[tokio::test]
async fn what_can_t_be_mounted_keeps_a_process_from_starting() {
    let host = Host::new();
    let pod = host.pod("pod");
    let mut config =
        vaquita_runtime::ProcessConfig::new("guest", host.example("wasm32-wasip2", "files").await);
    config.mounts = vec![mount("/data", &Volume::memory(1), "missing", false)];
    match pod.start(config).await {
        Err(StartError::Mount {
            guest,
            source: MountError::SubPath { sub_path, .. },
        }) => {
            assert_eq!((&*guest, &*sub_path), ("/data", "missing"));
        }
        other => panic!("{other:?}"),
    }
}
