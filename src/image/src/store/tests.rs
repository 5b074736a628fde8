use std::{fs, thread, time::Duration};

use serde_json::{Value, json};

use super::*;
use crate::NotWasm;

fn module(seed: usize) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module (func (export "_start")) (func (export "f{seed}")))"#
    ))
    .unwrap()
}

fn store() -> (tempfile::TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("images")).unwrap();
    (dir, store)
}

fn blobs(store: &ImageStore) -> usize {
    fs::read_dir(store.dir().join("blobs/sha256"))
        .unwrap()
        .count()
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn what_is_loaded_is_found_by_any_form_of_its_name() {
    let (_dir, store) = store();
    let loaded = store.load("hello", &module(0)).unwrap();
    assert_eq!(loaded.reference, "docker.io/library/hello:latest");
    for name in [
        "hello",
        "hello:latest",
        "docker.io/library/hello",
        &format!("hello@{}", loaded.digest),
    ] {
        let found = store.get(name).unwrap().unwrap();
        assert_eq!(
            (found.kind, &found.digest),
            (ImageKind::WasmModule, &loaded.digest),
            "{name}"
        );
        assert_eq!(store.read(&found).unwrap(), module(0));
    }
    for name in [
        "hello:v2",
        "localhost/hello",
        &format!("other@{}", loaded.digest),
    ] {
        assert!(store.get(name).unwrap().is_none(), "{name}");
    }
    assert!(matches!(
        store.get("Not A Name"),
        Err(ImageError::Reference(_))
    ));
}

#[test]
fn the_directory_is_the_layout_that_other_tools_know() {
    let (_dir, store) = store();
    let image = store.load("localhost/a:v1", &module(0)).unwrap();
    assert_eq!(
        json_file(&store.dir().join("oci-layout")),
        json!({"imageLayoutVersion": "1.0.0"})
    );
    let index = json_file(&store.dir().join("index.json"));
    assert_eq!(
        index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"],
        "localhost/a:v1"
    );
    let blob = |digest: &Value| {
        store
            .dir()
            .join("blobs")
            .join(digest.as_str().unwrap().replace(':', "/"))
    };
    let manifest = json_file(&blob(&index["manifests"][0]["digest"]));
    assert_eq!(
        manifest["config"]["mediaType"],
        "application/vnd.wasm.config.v0+json"
    );
    assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
    let config = json_file(&blob(&manifest["config"]["digest"]));
    assert_eq!(
        (&config["os"], &config["layerDigests"][0]),
        (&json!("wasip1"), &manifest["layers"][0]["digest"])
    );
    assert_eq!(fs::read(image.path).unwrap(), module(0));
}

#[test]
fn loading_twice_changes_nothing_and_another_module_takes_the_name_over() {
    let (_dir, store) = store();
    let first = store.load("a:v1", &module(0)).unwrap();
    assert_eq!(store.load("a:v1", &module(0)).unwrap().digest, first.digest);
    assert_eq!((store.list().unwrap().len(), blobs(&store)), (1, 3));
    let second = store.load("a:v1", &module(1)).unwrap();
    assert_ne!(second.digest, first.digest);
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(blobs(&store), 3, "what nobody uses any more is gone");
}

#[test]
fn removing_keeps_what_another_name_needs() {
    let (_dir, store) = store();
    store.load("a:v1", &module(0)).unwrap();
    store.load("b:v1", &module(0)).unwrap();
    assert!(store.remove("a:v1").unwrap());
    assert!(!store.remove("a:v1").unwrap());
    let left = store.get("b:v1").unwrap().unwrap();
    assert_eq!(store.read(&left).unwrap(), module(0));
    assert!(store.remove("b:v1").unwrap());
    assert_eq!(blobs(&store), 0);
}

#[test]
fn what_is_no_module_leaves_no_trace() {
    let (dir, store) = store();
    let mut cut = module(0);
    cut.pop();
    assert!(matches!(
        store.load("a", &cut),
        Err(LoadError::NotWasm(NotWasm::Truncated { .. }))
    ));
    assert!(matches!(
        store.load("a", b"text"),
        Err(LoadError::NotWasm(NotWasm::Other("text")))
    ));
    assert!(matches!(
        store.load_file("a", &dir.path().join("absent")),
        Err(LoadError::Read { .. })
    ));
    let named = format!("a@{}", Digest::of(b""));
    assert!(matches!(
        store.load(&named, &module(0)),
        Err(LoadError::NamedByDigest(_))
    ));
    assert!(store.list().unwrap().is_empty());
    assert_eq!(blobs(&store), 0);
}

#[test]
fn damage_is_noticed_and_mended_by_loading_again() {
    let (_dir, store) = store();
    let image = store.load("a", &module(0)).unwrap();
    let mut bytes = module(0);
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&image.path, &bytes).unwrap();
    assert!(matches!(
        store.read(&image),
        Err(ImageError::Damaged { .. })
    ));
    bytes.push(0);
    fs::write(&image.path, &bytes).unwrap();
    assert!(matches!(
        store.read(&image),
        Err(ImageError::Damaged { .. })
    ));
    fs::remove_file(&image.path).unwrap();
    assert!(matches!(store.get("a"), Err(ImageError::Damaged { .. })));
    let again = store.load("a", &module(0)).unwrap();
    assert_eq!(store.read(&again).unwrap(), module(0));
}

#[test]
fn entries_of_other_tools_are_kept() {
    let (_dir, store) = store();
    let path = store.dir().join("index.json");
    let foreign = json!({"mediaType": "application/vnd.oci.image.index.v1+json", "digest": "sha512:ab", "size": 1, "x": 1});
    let mut index = json_file(&path);
    index["manifests"] = json!([foreign]);
    fs::write(&path, index.to_string()).unwrap();
    store.load("a", &module(0)).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(store.remove("a").unwrap());
    assert_eq!(json_file(&path)["manifests"], json!([foreign]));
}

#[test]
fn a_damaged_index_and_an_unknown_version_are_errors_with_the_file() {
    let (_dir, store) = store();
    fs::write(store.dir().join("index.json"), "{").unwrap();
    let error = store.get("a").unwrap_err();
    assert!(error.to_string().contains("index.json"), "{error}");
    fs::write(
        store.dir().join("oci-layout"),
        r#"{"imageLayoutVersion":"2.0.0"}"#,
    )
    .unwrap();
    assert!(matches!(
        ImageStore::open(store.dir()),
        Err(ImageError::Version { .. })
    ));
}

#[test]
fn nothing_is_lost_when_many_write_at_once() {
    let (_dir, store) = store();
    thread::scope(|scope| {
        for writer in 0..8 {
            // Each opens the directory for itself, as processes do.
            let dir = store.dir();
            scope.spawn(move || {
                let store = ImageStore::open(dir).unwrap();
                for image in 0..4 {
                    store
                        .load(&format!("image-{writer}-{image}"), &module(image))
                        .unwrap();
                    store.load("shared", &module(writer)).unwrap();
                }
                store.remove(&format!("image-{writer}-0")).unwrap();
            });
        }
    });
    let images = store.list().unwrap();
    assert_eq!(images.len(), 8 * 3 + 1);
    for image in images {
        assert!(store.read(&image).is_ok(), "{}", image.reference);
    }
}

#[test]
fn what_was_left_behind_is_swept_when_it_is_old() {
    let (_dir, store) = store();
    let image = store.load("a:v1", &module(0)).unwrap();
    let ingest = store.dir().join("ingest");
    fs::create_dir_all(&ingest).unwrap();
    let left = [
        ingest.join(Digest::of(b"partly").hex()),
        store.blob_path(&Digest::of(b"orphan")),
    ];
    for path in &left {
        fs::write(path, "left").unwrap();
    }
    let now = SystemTime::now();
    store.sweep(now - Duration::from_mins(1)).unwrap();
    assert!(left.iter().all(|path| path.exists()), "they are new");
    store.sweep(now + Duration::from_mins(1)).unwrap();
    assert!(!left.iter().any(|path| path.exists()));
    assert_eq!(store.read(&image).unwrap(), module(0));
    assert_eq!(blobs(&store), 3);
}
