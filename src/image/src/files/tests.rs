use std::io::Write as _;

use serde_json::json;

use super::*;
use crate::ArchiveLimits;

/// What an entry of a layer is: a file's content, `dir`, `-> target` or `= target` (a hard link).
fn layer(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o4755);
        header.set_size(0);
        header.set_mtime(1_000_000_000);
        // The library refuses to write what is written here.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        let mut link = |kind, target: &str| {
            header.set_entry_type(kind);
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        };
        let mut bytes: &[u8] = b"";
        if *content == "dir" {
            header.set_entry_type(EntryType::Directory);
        } else if *content == "device" {
            header.set_entry_type(EntryType::Char);
        } else if let Some(target) = content.strip_prefix("-> ") {
            link(EntryType::Symlink, target);
        } else if let Some(target) = content.strip_prefix("= ") {
            link(EntryType::Link, target);
        } else {
            bytes = content.as_bytes();
            header.set_size(bytes.len() as u64);
        }
        header.set_cksum();
        archive.append(&header, bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

struct Bench {
    dir: tempfile::TempDir,
    store: ImageStore,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&dir.path().join("a/b/store")).unwrap();
        Self { dir, store }
    }

    fn image(&self, layers: &[&[(&str, &str)]]) -> Image {
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes).unwrap();
        };
        let config = json!({"os": "linux", "architecture": "amd64"});
        add("config", config.to_string().as_bytes());
        let names: Vec<String> = (0..layers.len()).map(|number| number.to_string()).collect();
        for (name, entries) in names.iter().zip(layers) {
            add(name, &layer(entries));
        }
        let list = json!([{"Config": "config", "RepoTags": ["a:b"], "Layers": names}]);
        add("manifest.json", list.to_string().as_bytes());
        let bytes = archive.into_inner().unwrap();
        let loaded = self
            .store
            .load_archive(bytes.as_slice(), None, ArchiveLimits::default());
        loaded.unwrap().remove(0)
    }

    fn files(&self, image: &Image) -> ImageFiles {
        let files = self.store.files(image);
        files.unwrap().unwrap()
    }
}

fn text(files: &ImageFiles, path: &str) -> Option<String> {
    fs::read_to_string(files.path().join(path)).ok()
}

#[test]
fn upper_layers_replace_and_hide_what_is_below() {
    let bench = Bench::new();
    let image = bench.image(&[
        &[
            ("etc", "dir"),
            ("etc/name", "one"),
            ("etc/old", "old"),
            ("var/cache/a", "a"),
            ("var/cache/b", "b"),
            ("was-file", "file"),
            ("was-dir/x", "x"),
            ("usr/lib/x", "x"),
            ("lib", "-> usr/lib"),
            ("abs", "-> /usr/lib"),
        ],
        &[
            ("etc/name", "two"),
            ("etc/.wh.old", ""),
            // In either order, only what is below is hidden.
            ("var/cache/c", "c"),
            ("var/cache/.wh..wh..opq", ""),
            ("was-file", "dir"),
            ("was-file/in", "in"),
            ("was-dir", "file"),
            ("lib/y", "y"),
            ("abs/z", "z"),
            ("same", "= etc/name"),
            ("dev/null", "device"),
        ],
    ]);
    let files = bench.files(&image);
    for (path, content) in [
        ("etc/name", Some("two")),
        ("etc/old", None),
        ("var/cache/a", None),
        ("var/cache/c", Some("c")),
        ("was-file/in", Some("in")),
        ("was-dir", Some("file")),
        ("usr/lib/x", Some("x")),
        ("usr/lib/y", Some("y")),
        ("usr/lib/z", Some("z")),
        ("same", Some("two")),
        ("dev/null", None),
    ] {
        assert_eq!(text(&files, path).as_deref(), content, "{path}");
    }
    let about = fs::metadata(files.path().join("etc/name")).unwrap();
    assert_eq!(
        about.modified().unwrap(),
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(&about.permissions());
    assert_eq!(mode & 0o7000, 0, "nobody becomes somebody else by it");
}

#[test]
fn nothing_leads_out_of_the_directory() {
    let bench = Bench::new();
    fs::write(bench.dir.path().join("secret"), "secret").unwrap();
    let image = bench.image(&[
        &[
            ("../../evil", "evil"),
            ("/../evil", "evil"),
            ("up", "-> ../../../../.."),
            ("up/evil", "caught"),
            ("out", "-> /tmp"),
            ("loop", "-> loop"),
            ("loop/in", "lost"),
            ("x/.wh...", ""),
            ("x/.wh.", ""),
            (".wh...", ""),
        ],
        &[
            ("stolen", "= ../../../../../secret"),
            ("stolen2", "= up/../secret"),
            ("up/.wh.secret", ""),
        ],
    ]);
    let files = bench.files(&image);
    assert_eq!(text(&files, "evil").as_deref(), Some("caught"));
    for path in ["stolen", "stolen2", "loop/in"] {
        assert_eq!(text(&files, path), None, "{path}");
    }
    assert_eq!(
        fs::read_to_string(bench.dir.path().join("secret")).unwrap(),
        "secret"
    );
    let outside: Vec<_> = fs::read_dir(bench.dir.path()).unwrap().collect();
    assert_eq!(outside.len(), 2, "the store and the secret: {outside:?}");
}

#[test]
fn what_is_too_much_or_damaged_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    let image = bench.image(&[&[("a", "0123456789")], &[("b", "0123456789")]]);
    for limits in [
        FilesLimits {
            max_bytes: 15,
            ..FilesLimits::default()
        },
        FilesLimits {
            max_entries: 1,
            ..FilesLimits::default()
        },
        FilesLimits {
            max_depth: 0,
            ..FilesLimits::default()
        },
    ] {
        let refused = bench.store.clone().with_files_limits(limits).files(&image);
        assert!(
            matches!(refused, Err(ImageError::Layers(LayerError::TooMuch { .. }))),
            "{refused:?}"
        );
    }
    assert_eq!(bench.store.refused_for_size(), 3);
    let layer = bench.store.blob_path(&image.layers[1].digest);
    let mut file = File::options().write(true).open(layer).unwrap();
    file.write_all(b"c").unwrap();
    assert!(matches!(
        bench.store.files(&image),
        Err(ImageError::Damaged { .. })
    ));
    let left = fs::read_dir(bench.store.files_dir()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        left.iter()
            .all(|name| name.to_string_lossy().ends_with(".lock")),
        "{left:?}"
    );
}

#[test]
fn files_are_shared_and_stay_while_they_are_used() {
    let bench = Bench::new();
    let image = bench.image(&[&[("a", "a")]]);
    let (one, two) = (bench.files(&image), bench.files(&image));
    assert_eq!(one.path(), two.path());
    assert!(bench.store.remove("a:b").unwrap());
    assert_eq!(text(&one, "a").as_deref(), Some("a"));
    drop(one);
    bench.store.remove_files(&image.digest).unwrap();
    assert_eq!(text(&two, "a").as_deref(), Some("a"));
    let path = two.path().to_owned();
    drop(two);
    bench.store.remove_files(&image.digest).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_spin_application_is_kept_whole_and_its_files_are_laid_out() {
    let bench = Bench::new();
    let archive = {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let entries = [("a/one", "1"), ("two", "2"), ("../evil", "evil")];
        packed.write_all(&layer(&entries)).unwrap();
        packed.finish().unwrap()
    };
    let module = wat::parse_str("(component)").unwrap();
    let mut blobs = Vec::new();
    let mut blob = |media_type: &str, bytes: Vec<u8>| {
        let digest = Digest::of(&bytes);
        let described = json!({"mediaType": media_type, "digest": &*digest, "size": bytes.len()});
        blobs.push((format!("blobs/sha256/{}", digest.hex()), bytes));
        described
    };
    let config = blob(media::SPIN, b"{\"spin_lock_version\": 1}".to_vec());
    let wasm = blob("application/vnd.wasm.content.layer.v1+wasm", module.clone());
    let file = blob(
        "application/vnd.wasm.content.layer.v1+data",
        b"page".to_vec(),
    );
    let files = blob(media::SPIN_FILES, archive);
    let manifest_type = crate::layout::MANIFEST_TYPE;
    let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config,
        "layers": [wasm, file, files]});
    let entry = blob(manifest_type, manifest.to_string().into_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    blobs.push(("index.json".to_owned(), index.into_bytes()));
    let mut made = tar::Builder::new(Vec::new());
    for (path, bytes) in &blobs {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        made.append_data(&mut header, path, bytes.as_slice())
            .unwrap();
    }
    let made = made.into_inner().unwrap();
    let limits = ArchiveLimits::default();
    let loaded = bench
        .store
        .load_archive(made.as_slice(), Some("spin:v1"), limits);
    let image = loaded.unwrap().remove(0);
    assert_eq!(image.kind, crate::ImageKind::SpinApplication);
    assert!(!image.has_files());
    let description = bench.store.description(&image).unwrap();
    assert_eq!(description, b"{\"spin_lock_version\": 1}");
    let digest = |part: &serde_json::Value| part["digest"].as_str().unwrap().to_owned();
    assert_eq!(bench.store.part(&image, &digest(&wasm)).unwrap(), module);
    // Only what is the image's own, whatever else the store has.
    let other = Digest::of(b"other").to_string();
    assert!(matches!(
        bench.store.part(&image, &other),
        Err(ImageError::NoPart { .. })
    ));
    let from = |source: &serde_json::Value, path: &str| PlacedFile {
        source: FileSource::Digest(digest(source)),
        path: path.to_owned(),
    };
    let packed = json!({"digest": &*Digest::of(b"1")});
    let mut wanted = vec![
        from(&file, "/static/index.html"),
        from(&packed, "assets/one"),
        from(&packed, "again"),
        from(&file, "../../out"),
    ];
    wanted.push(PlacedFile {
        source: FileSource::Bytes(b"short".to_vec()),
        path: "inline".to_owned(),
    });
    let place = |wanted: &[PlacedFile], limits| {
        let store = bench.store.clone().with_files_limits(limits);
        store.placed_files(&image, wanted)
    };
    for (max_bytes, max_entries, max_depth) in [(3, 9, 9), (99, 3, 9), (99, 9, 1)] {
        let small = FilesLimits {
            max_bytes,
            max_entries,
            max_depth,
        };
        assert!(place(&wanted, small).is_err(), "{small:?}");
    }
    let files = place(&wanted, FilesLimits::default()).unwrap();
    for (path, content) in [
        ("static/index.html", "page"),
        ("assets/one", "1"),
        ("again", "1"),
        ("inline", "short"),
    ] {
        assert_eq!(text(&files, path).as_deref(), Some(content), "{path}");
    }
    assert_eq!(fs::read_dir(files.path()).unwrap().count(), 4);
    let same = place(&wanted, FilesLimits::default()).unwrap();
    assert_eq!(same.path(), files.path());
    wanted.push(from(&json!({"digest": other}), "other"));
    let absent = place(&wanted, FilesLimits::default());
    assert!(matches!(absent, Err(ImageError::NoPart { .. })));
}
