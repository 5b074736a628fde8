//! Laws of files: both kinds of volumes behave alike, no way leads out, and limits hold.

use std::path::Path;

use proptest::prelude::*;
use rustix::io::Errno;

use super::*;
use crate::node::{Entry, Found, Kind, Result};
use crate::tree::{Opened, Place};

fn tree(root: &Volume) -> Tree {
    mount(Some(root), &[], &[]).expect("no mounts")
}

fn write(tree: &Tree, path: &str, bytes: &[u8]) -> Result<usize> {
    let how = Open {
        write: true,
        create: true,
        ..Open::default()
    };
    match tree.open(&tree.root(), path, true, how)? {
        Opened::File(file) => file.append(bytes),
        Opened::Dir(_) => Err(Errno::ISDIR),
    }
}

fn read(tree: &Tree, path: &str) -> Result<Vec<u8>> {
    match tree.open(&tree.root(), path, true, Open::default())? {
        Opened::File(file) => {
            let mut bytes = vec![0; 64 << 10];
            let length = file.read(0, &mut bytes)?;
            bytes.truncate(length);
            Ok(bytes)
        }
        Opened::Dir(_) => Err(Errno::ISDIR),
    }
}

fn list(tree: &Tree, path: &str) -> Result<Vec<String>> {
    match tree.open(&tree.root(), path, true, Open::default())? {
        Opened::Dir(place) => {
            let names = tree
                .list(&place)?
                .into_iter()
                .map(|Entry { name, .. }| name);
            Ok(names.collect())
        }
        Opened::File(_) => Err(Errno::NOTDIR),
    }
}

#[derive(Clone, Debug)]
enum Act {
    Write(String, Vec<u8>),
    Read(String),
    Truncate(String, u64),
    List(String),
    MakeDir(String),
    MakeLink(String, String),
    RemoveDir(String),
    RemoveFile(String),
    Rename(String, String),
    Link(String, String),
    Stat(String, bool),
}

/// What can be compared of an answer: not every system has the same numbers for every mistake.
fn act(tree: &Tree, act: &Act) -> std::result::Result<String, ()> {
    let root: Place = tree.root();
    let answer = match act {
        Act::Write(path, bytes) => write(tree, path, bytes).map(|length| length.to_string()),
        Act::Read(path) => read(tree, path).map(|bytes| format!("{bytes:?}")),
        Act::Truncate(path, size) => {
            let how = Open {
                write: true,
                ..Open::default()
            };
            match tree.open(&root, path, true, how) {
                Ok(Opened::File(file)) => file.set_size(*size).map(|()| String::new()),
                Ok(Opened::Dir(_)) => Err(Errno::ISDIR),
                Err(error) => Err(error),
            }
        }
        Act::List(path) => list(tree, path).map(|mut names| {
            names.sort();
            names.join(" ")
        }),
        Act::MakeDir(path) => tree.make_dir(&root, path).map(|()| String::new()),
        Act::MakeLink(target, path) => tree.make_link(target, &root, path).map(|()| String::new()),
        Act::RemoveDir(path) => tree.remove_dir(&root, path).map(|()| String::new()),
        Act::RemoveFile(path) => tree.remove_file(&root, path).map(|()| String::new()),
        Act::Rename(path, to) => tree.rename(&root, path, &root, to).map(|()| String::new()),
        Act::Link(path, to) => tree.link(&root, path, &root, to).map(|()| String::new()),
        Act::Stat(path, follow) => tree.stat(&root, path, *follow).map(|stat| match stat.kind {
            Kind::Directory => "directory".to_owned(),
            kind => format!("{kind:?} {} {}", stat.size, stat.links),
        }),
    };
    answer.map_err(drop)
}

fn a_path() -> impl Strategy<Value = String> {
    let name = prop_oneof![4 => "[ab]", 1 => Just("..".to_owned()), 1 => Just(".".to_owned())];
    let names = prop::collection::vec(name, 1..5);
    (names, any::<bool>()).prop_map(|(names, slash)| {
        let path = names.join("/");
        if slash && path.len() > 3 {
            path + "/"
        } else {
            path
        }
    })
}

fn an_act() -> impl Strategy<Value = Act> {
    let bytes = prop::collection::vec(any::<u8>(), 0..9);
    prop_oneof![
        (a_path(), bytes).prop_map(|(path, bytes)| Act::Write(path, bytes)),
        a_path().prop_map(Act::Read),
        (a_path(), 0..20_u64).prop_map(|(path, size)| Act::Truncate(path, size)),
        a_path().prop_map(Act::List),
        a_path().prop_map(Act::MakeDir),
        (a_path(), a_path()).prop_map(|(target, path)| Act::MakeLink(target, path)),
        a_path().prop_map(Act::RemoveDir),
        a_path().prop_map(Act::RemoveFile),
        (a_path(), a_path()).prop_map(|(path, to)| Act::Rename(path, to)),
        (a_path(), a_path()).prop_map(|(path, to)| Act::Link(path, to)),
        (a_path(), any::<bool>()).prop_map(|(path, follow)| Act::Stat(path, follow)),
    ]
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    prop::collection::vec(an_act(), 1..40)
}

/// All that is below a directory of the host, seen from outside.
fn content(dir: &Path) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let entry = entry.expect("an entry");
        let meta = entry.metadata().expect("it is there");
        let name = entry.path().display().to_string();
        if meta.is_dir() {
            all.extend(content(&entry.path()));
        }
        all.push((name, if meta.is_file() { meta.len() } else { 0 }));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn memory_behaves_as_a_directory_does(acts in acts()) {
        let dir = tempfile::tempdir().expect("a directory");
        let host = tree(&Volume::directory(dir.path()).expect("a volume"));
        let limited = Volume::directory_with_limit(dir.path(), 1 << 20).expect("a volume");
        let memory = tree(&Volume::memory(1 << 20));
        drop(limited);
        for (at, one) in acts.iter().enumerate() {
            prop_assert_eq!(act(&memory, one), act(&host, one), "act {}: {:?}", at, one);
        }
    }

    #[test]
    fn a_copy_behaves_as_what_it_is_a_copy_of(before in acts(), after in acts()) {
        let (dir, untouched) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("one"));
        let host = tree(&Volume::directory(dir.path()).expect("a volume"));
        let lower = tree(&Volume::directory(untouched.path()).expect("a volume"));
        for one in &before {
            // A copy knows each name for a file of its own.
            if !matches!(one, Act::Link(..)) {
                let _ = (act(&host, one), act(&lower, one));
            }
        }
        let content_before = content(untouched.path());
        let copy = tree(&Volume::copy_of(untouched.path(), 1 << 20).expect("a volume"));
        for (at, one) in after.iter().enumerate() {
            prop_assert_eq!(act(&copy, one), act(&host, one), "act {}: {:?}", at, one);
        }
        prop_assert_eq!(content(untouched.path()), content_before);
    }

    #[test]
    fn what_is_counted_is_what_is_there(acts in acts()) {
        let dir = tempfile::tempdir().expect("a directory");
        let limit = 3 << 10;
        let volume = Volume::directory_with_limit(dir.path(), limit).expect("a volume");
        let guest = tree(&volume);
        for one in &acts {
            let _ = act(&guest, one);
            prop_assert!(volume.used() <= limit);
        }
        // Names of one file count with it each when they are counted anew.
        if !acts.iter().any(|act| matches!(act, Act::Link(..))) {
            let again = Volume::directory_with_limit(dir.path(), limit).expect("a volume");
            prop_assert_eq!(volume.used(), again.used());
        }
    }

    #[test]
    fn all_memory_is_given_back(acts in acts()) {
        let volume = Volume::memory(1 << 20);
        let guest = tree(&volume);
        for one in &acts {
            let _ = act(&guest, one);
        }
        remove_all(&guest.root().dir);
        prop_assert_eq!(volume.used(), 0);
    }

    #[test]
    fn no_path_leads_out(paths in prop::collection::vec("[a./]{1,12}", 1..20)) {
        let outer = tempfile::tempdir().expect("a directory");
        std::fs::write(outer.path().join("secret"), "secret").expect("a file");
        let inner = outer.path().join("inner");
        std::fs::create_dir(&inner).expect("a directory");
        for (name, target) in [("a", "../.."), ("aa", "/"), ("aaa", "../secret"), (".a", "a/inner")] {
            std::os::unix::fs::symlink(target, inner.join(name)).expect("a link");
        }
        let guest = tree(&Volume::directory(&inner).expect("a volume"));
        let _ = write(&guest, "here", b"here");
        for path in &paths {
            for path in [path.clone(), format!("{path}/secret"), format!("{path}/../secret")] {
                prop_assert!(read(&guest, &path).is_err(), "{}", path);
                let _ = write(&guest, &path, b"x");
                let _ = guest.remove_file(&guest.root(), &path);
            }
        }
        let secret = std::fs::read(outer.path().join("secret")).expect("it is there");
        prop_assert_eq!(secret, b"secret");
    }
}

fn remove_all(dir: &Dir) {
    for entry in dir.list().expect("a list") {
        match dir.find(&entry.name).expect("it is there") {
            Found::Dir(inner) => {
                remove_all(&inner);
                drop(inner);
                dir.remove_dir(&entry.name).expect("it is empty");
            }
            Found::Link(..) | Found::Other(_) => dir.remove_file(&entry.name).expect("it is there"),
        }
    }
}

/// Writes until that is refused.
fn fill(tree: &Tree, path: &str) -> Errno {
    loop {
        if let Err(error) = write(tree, path, &[1; 1000]) {
            return error;
        }
    }
}

#[test]
fn a_write_beyond_the_limit_is_refused_when_it_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let on_disk = Volume::directory_with_limit(dir.path(), 10_000).expect("a volume");
    for volume in [on_disk, Volume::memory(10_000)] {
        let (one, other) = (tree(&volume), tree(&volume));
        assert_eq!(write(&one, "a", &[1; 4096]), Ok(4096));
        assert!(write(&other, "b", &[2; 4096]).expect("a part") <= 4096);
        assert_eq!(fill(&one, "c"), Errno::NOSPC);
        assert!(volume.used() > 8_000);
        other.remove_file(&other.root(), "a").expect("it is there");
        assert!(
            write(&other, "d", &[4; 1000]).is_ok(),
            "there is room again"
        );
        assert!(volume.used() <= 10_000);
    }
}

#[test]
fn a_file_without_a_name_counts_until_it_is_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let on_disk = Volume::directory_with_limit(dir.path(), 10_000).expect("a volume");
    for volume in [on_disk, Volume::memory(10_000)] {
        let guest = tree(&volume);
        write(&guest, "a", &[1; 8000]).expect("room");
        let held = guest
            .open(&guest.root(), "a", true, Open::default())
            .expect("it is there");
        guest.remove_file(&guest.root(), "a").expect("it is there");
        assert!(volume.used() >= 8000);
        assert_eq!(fill(&guest, "b"), Errno::NOSPC);
        drop(held);
        let _ = guest.remove_file(&guest.root(), "b");
        assert_eq!(volume.used(), 0);
    }
}

fn a_mount(guest: &str, volume: &Volume, sub_path: &str, read_only: bool) -> Mount {
    Mount {
        guest: guest.into(),
        volume: volume.clone(),
        sub_path: sub_path.into(),
        read_only,
    }
}

#[test]
fn mounts_lie_in_each_other_and_in_the_root() {
    let image = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(image.path().join("run/x")).expect("a directory");
    std::fs::create_dir_all(image.path().join("var")).expect("a directory");
    std::fs::write(image.path().join("var/there"), "there").expect("a file");
    std::os::unix::fs::symlink("../run", image.path().join("var/run")).expect("a link");
    let root = Volume::copy_of(image.path(), 1 << 20).expect("a volume");
    let (data, secret) = (Volume::memory(1 << 20), Volume::memory(1 << 20));
    let inside = tree(&data);
    inside.make_dir(&inside.root(), "sub").expect("room");
    write(&inside, "sub/file", b"in data").expect("room");
    write(&tree(&secret), "token", b"secret").expect("room");
    let mounts = [
        a_mount("/var/run/secrets/token", &secret, "", true),
        a_mount("/data/deep/secret", &secret, "token", true),
        a_mount("/data", &data, "", false),
        a_mount("/data/sub/again", &data, "sub/file", false),
    ];
    let own = [
        ("/etc/hosts", "127.0.0.1 localhost\n"),
        ("/data/sub/again", "hidden"),
    ];
    let tree = mount(Some(&root), &mounts, &own).expect("places");
    assert_eq!(
        read(&tree, "run/secrets/token/token").expect("a file"),
        b"secret"
    );
    assert_eq!(
        read(&tree, "var/run/secrets/token/token").expect("a file"),
        b"secret"
    );
    assert_eq!(read(&tree, "var/there").expect("a file"), b"there");
    assert_eq!(read(&tree, "data/deep/secret").expect("a file"), b"secret");
    assert_eq!(read(&tree, "data/sub/again").expect("a file"), b"in data");
    assert_eq!(
        read(&tree, "data/deep/../sub/../../etc/hosts").expect("a file"),
        own[0].1.as_bytes()
    );
    assert_eq!(
        list(&tree, ".").expect("a list"),
        ["data", "etc", "run", "var"]
    );
    assert_eq!(list(&tree, "data").expect("a list"), ["deep", "sub"]);
    assert_eq!(list(&tree, "data/sub").expect("a list"), ["again", "file"]);
    assert_eq!(write(&tree, "data/deep/secret", b"x"), Err(Errno::ROFS));
    assert_eq!(
        write(&tree, "run/secrets/token/new", b"x"),
        Err(Errno::ROFS)
    );
    assert_eq!(write(&tree, "data/deep/new", b"x"), Err(Errno::ROFS));
    write(&tree, "data/new", b"x").expect("it may be written");
    write(&tree, "var/there", b" and here").expect("it may be written");
    let rename = tree.rename(&tree.root(), "data", &tree.root(), "other");
    assert_eq!(rename, Err(Errno::BUSY));
    let away = tree.rename(&tree.root(), "var/there", &tree.root(), "data/there");
    assert_eq!(away, Err(Errno::XDEV));
    let removed = tree.remove_file(&tree.root(), "data/sub/again");
    assert_eq!(removed, Err(Errno::BUSY));
}

#[test]
fn own_files_are_as_given_until_they_are_changed() {
    let own = [("/etc/hosts", "127.0.0.1 localhost\n"), ("/etc/empty", "")];
    let tree = mount(None, &[], &own).expect("places");
    assert_eq!(read(&tree, "etc/empty").expect("a file"), b"");
    write(&tree, "etc/empty", b"more").expect("room");
    assert_eq!(read(&tree, "etc/empty").expect("a file"), b"more");
    write(&tree, "etc/hosts", b"10.0.0.1 another\n").expect("room");
    let both = b"127.0.0.1 localhost\n10.0.0.1 another\n";
    assert_eq!(read(&tree, "etc/hosts").expect("a file"), both);
    let again = mount(None, &[], &own).expect("places");
    let hosts = read(&again, "etc/hosts").expect("a file");
    assert_eq!(hosts, own[0].1.as_bytes(), "they are each process's own");
}

#[test]
fn what_can_t_be_mounted_is_refused() {
    let volume = Volume::memory(1 << 20);
    let refused = |mounts: &[Mount]| mount(None, mounts, &[]).expect_err("refused").1;
    let one = |guest: &str, sub_path: &str| refused(&[a_mount(guest, &volume, sub_path, false)]);
    assert!(matches!(one("data", ""), MountError::Path));
    assert!(matches!(one("/data/../x", ""), MountError::Path));
    assert!(matches!(
        one("/data", "missing"),
        MountError::SubPath { .. }
    ));
    assert!(matches!(one("/data", "../up"), MountError::SubPath { .. }));
    let twice = [
        a_mount("/data", &volume, "", false),
        a_mount("/data/", &volume, "", false),
    ];
    assert!(matches!(refused(&twice), MountError::Taken));
}

#[test]
fn only_so_much_is_open_at_once() {
    let volume = Volume::memory(1 << 20);
    write(&tree(&volume), "a", b"a").expect("room");
    let files = Arc::new(Files::new(tree(&volume), 3));
    let root = files.root();
    let open = || {
        let open = root.open("a".into(), true, Open::default(), true);
        futures::executor::block_on(open)
    };
    let held = [open(), open()];
    assert!(held.iter().all(std::result::Result::is_ok));
    assert!(matches!(open(), Err(Errno::MFILE)));
    drop(held);
    assert!(open().is_ok());
}

#[test]
fn no_rename_at_the_wrong_moment_leads_out() {
    let outer = tempfile::tempdir().expect("a directory");
    std::fs::write(outer.path().join("secret"), "secret").expect("a file");
    let inner = outer.path().join("inner");
    std::fs::create_dir_all(inner.join("plain/deep")).expect("a directory");
    std::os::unix::fs::symlink("../..", inner.join("out")).expect("a link");
    let guest = tree(&Volume::directory(&inner).expect("a volume"));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Directories and links change places, and directories their depth, while somebody walks through them.
        scope.spawn(|| {
            let swap = || {
                for (from, to) in [
                    ("plain", "a"),
                    ("a", "out/../plain"),
                    ("out", "a"),
                    ("a", "out"),
                ] {
                    let _ = std::fs::rename(inner.join(from), inner.join(to));
                }
                let _ = std::fs::rename(inner.join("plain/deep"), inner.join("deep"));
                let _ = std::fs::rename(inner.join("deep"), inner.join("plain/deep"));
            };
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                swap();
            }
        });
        for _ in 0..2000 {
            for path in [
                "a/secret",
                "a/../secret",
                "plain/deep/../../secret",
                "a/deep/../../../secret",
            ] {
                assert!(read(&guest, path).is_err(), "{path}");
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
