use std::io::Read as _;

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::*;
use crate::{ArchiveLimits, ImageKind, ImageStore};

fn store() -> (tempfile::TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    (dir, store)
}

fn module() -> Vec<u8> {
    wat::parse_str(r#"(module (func (export "_start")))"#).unwrap()
}

/// An archive of files; `-> target` is a link.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        if let Some(target) = content.strip_prefix(b"-> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            let target = std::str::from_utf8(target).unwrap();
            archive.append_link(&mut header, path, target).unwrap();
        } else {
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, *content).unwrap();
        }
    }
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::fast())
        .read_to_end(&mut packed)
        .unwrap();
    packed
}

fn config(os: &str, program: &str) -> Vec<u8> {
    let architecture = if os == "linux" { "amd64" } else { "wasm" };
    let config = json!({"os": os, "architecture": architecture, "config": {"Cmd": [program]},
        "rootfs": {"type": "layers", "diff_ids": []}});
    config.to_string().into_bytes()
}

/// As older Docker's `docker save` wrote it: a directory for each layer, and links where one is in it twice.
fn of_docker(os: &str) -> Vec<u8> {
    let layer = archive(&[("app.wasm", &module()), ("bin/sh", b"\x7fELF")]);
    let program = if os == "linux" {
        "/bin/sh"
    } else {
        "/app.wasm"
    };
    let list = json!([{
        "Config": "abc.json",
        "RepoTags": ["team/mixed:v1", "team/mixed:latest"],
        "Layers": ["one/layer.tar", "two/layer.tar"],
    }]);
    archive(&[
        ("one/layer.tar", &layer),
        ("two/layer.tar", b"-> ../one/layer.tar"),
        ("abc.json", &config(os, program)),
        ("manifest.json", list.to_string().as_bytes()),
        ("repositories", b"{}"),
    ])
}

fn load(
    store: &ImageStore,
    bytes: &[u8],
    name: Option<&str>,
) -> Result<Vec<crate::Image>, ArchiveError> {
    store.load_archive(bytes, name, ArchiveLimits::default())
}

fn files_of(bytes: &[u8]) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (path, content)
    });
    entries.collect()
}

#[test]
fn what_docker_saves_is_taken_by_the_names_in_it() {
    let (_dir, store) = store();
    let loaded = load(&store, &gzip(&of_docker("linux")), None).unwrap();
    let names: Vec<_> = loaded
        .iter()
        .map(|image| image.reference.as_str())
        .collect();
    assert_eq!(
        names,
        ["docker.io/team/mixed:v1", "docker.io/team/mixed:latest"]
    );
    assert_eq!(loaded[0].kind, ImageKind::Linux);
    assert_eq!(loaded[0].start.as_ref().unwrap().program(), Some("/bin/sh"));
    assert!(matches!(
        store.read(&loaded[0]),
        Err(ImageError::Linux { .. })
    ));

    let wasm = load(&store, &of_docker("wasi"), None).unwrap();
    assert_eq!(wasm[0].kind, ImageKind::WasmModule);
    assert_eq!(store.read(&wasm[0]).unwrap(), module());
    let left = std::fs::read_dir(store.dir().join("ingest")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn what_is_saved_can_be_loaded_elsewhere_and_has_what_docker_looks_for() {
    let (_here, here) = store();
    let (_there, there) = store();
    here.load("localhost/hello:v1", &module()).unwrap();
    load(&here, &of_docker("linux"), None).unwrap();
    let mut saved = Vec::new();
    here.save(&["localhost/hello:v1", "team/mixed:v1"], &mut saved)
        .unwrap();
    let files = files_of(&saved);
    assert!(files.contains_key("oci-layout"));
    let list: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1, "Docker takes no modules");
    assert_eq!(list[0]["RepoTags"], json!(["docker.io/team/mixed:v1"]));
    for layer in list[0]["Layers"].as_array().unwrap() {
        assert!(files.contains_key(layer.as_str().unwrap()));
    }

    let loaded = load(&there, &saved, None).unwrap();
    for image in &loaded {
        let original = here.get(&image.reference).unwrap().unwrap();
        assert_eq!(
            (&image.digest, image.kind),
            (&original.digest, original.kind)
        );
    }
    assert_eq!(loaded.len(), 2);
    // What the list for Docker alone says makes the same image.
    let (_third, third) = store();
    let without: Vec<(&str, &[u8])> = files
        .iter()
        .filter(|(name, _)| *name != "index.json")
        .map(|(name, content)| (name.as_str(), content.as_slice()))
        .collect();
    let image = load(&third, &archive(&without), Some("other:v1")).unwrap();
    assert_eq!(image[0].config, loaded[1].config);
}

#[tokio::test]
async fn docker_gets_a_stream_under_the_names_that_it_is_to_have() {
    let (_dir, store) = store();
    let image = load(&store, &of_docker("linux"), None).unwrap().remove(0);
    let pieces: Vec<_> = store
        .docker_archive(&image, vec!["vaquita.local/x:1".to_owned()])
        .collect()
        .await;
    let bytes = pieces
        .into_iter()
        .flat_map(Result::unwrap)
        .collect::<Vec<u8>>();
    let list: Value = serde_json::from_slice(&files_of(&bytes)["manifest.json"]).unwrap();
    assert_eq!(list[0]["RepoTags"], json!(["vaquita.local/x:1"]));
    assert!(
        list[0]["Config"]
            .as_str()
            .unwrap()
            .ends_with(image.config.hex())
    );

    // Damage is told, not handed on.
    std::fs::write(store.blob_path(&image.config), b"other").unwrap();
    let pieces: Vec<_> = store.docker_archive(&image, Vec::new()).collect().await;
    assert!(pieces.last().unwrap().is_err());
}

#[test]
fn what_is_hostile_or_incomplete_is_refused_and_leaves_nothing() {
    let (_dir, store) = store();
    let large = ArchiveLimits {
        max_bytes: 100,
        ..ArchiveLimits::default()
    };
    let many = ArchiveLimits {
        max_entries: 2,
        ..ArchiveLimits::default()
    };
    for limits in [large, many] {
        let refused = store.load_archive(of_docker("linux").as_slice(), None, limits);
        assert!(matches!(refused, Err(ArchiveError::TooMuch { .. })));
    }
    let list = |layer: &str| {
        let list = json!([{"Config": "c", "RepoTags": ["a:b"], "Layers": [layer]}]);
        archive(&[
            ("c", &config("linux", "x")),
            ("l", b"-> l"),
            ("manifest.json", list.to_string().as_bytes()),
        ])
    };
    for layer in ["absent", "../../../etc/passwd", "l"] {
        let refused = load(&store, &list(layer), None);
        assert!(matches!(refused, Err(ArchiveError::Missing(_))), "{layer}");
    }
    // Content that is not what its name says.
    let digest = Digest::of(b"right");
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": crate::layout::MANIFEST_TYPE, "digest": &*digest, "size": 5}]});
    let wrong = archive(&[
        ("index.json", index.to_string().as_bytes()),
        (&format!("blobs/sha256/{}", digest.hex()), b"wrong"),
    ]);
    assert!(matches!(
        load(&store, &wrong, Some("a:b")),
        Err(ArchiveError::Missing(_))
    ));
    assert!(matches!(
        load(&store, &archive(&[("x", b"y")]), None),
        Err(ArchiveError::NoImages)
    ));
    assert!(load(&store, b"no archive", None).is_err());
    assert!(matches!(
        load(&store, &of_docker("linux"), Some("a:b")),
        Err(ArchiveError::Several(2))
    ));
    assert!(store.list().unwrap().is_empty());
    for dir in ["ingest", "blobs/sha256"] {
        assert_eq!(std::fs::read_dir(store.dir().join(dir)).unwrap().count(), 0);
    }
}
