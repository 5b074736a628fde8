//! Writing all files of a volume at once, so that who reads sees the old ones or the new ones, never some of each.
//!
//! The layout is upstream's `AtomicWriter`, which programs that watch their configuration know:
//!
//! ```text
//! ..2026_01_31_12_00_00.123456789/   the files
//! ..data -> ..2026_01_31_12_00_00.123456789
//! key -> ..data/key                  for each name in the volume's own directory
//! ```
//!
//! A new version is written beside the old one, and `..data` then renamed over.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use jiff::{Timestamp, tz::TimeZone};

use crate::payload::{File, Payload};

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Makes the volume in `dir`, which must be there, hold these files and no others. Says whether anything changed.
///
/// Only one call at a time may be under way for a directory.
pub fn write(dir: &Path, payload: &Payload) -> io::Result<bool> {
    let current = current(dir)?;
    if let Some(current) = &current
        && is_as_wanted(&dir.join(current), payload)?
        && visible(dir)? == wanted(payload)
    {
        return Ok(false);
    }
    let version = fresh(dir)?;
    for (path, file) in payload.files() {
        write_file(&dir.join(&version), path, file)?;
    }
    let next = dir.join(NEXT);
    remove(&next)?;
    symlink(&version, &next)?;
    fs::rename(&next, dir.join(DATA))?;
    show(dir, payload)?;
    remove_versions(dir, &version)?;
    Ok(true)
}

/// The name of the directory that `..data` points to.
fn current(dir: &Path) -> io::Result<Option<PathBuf>> {
    match fs::read_link(dir.join(DATA)) {
        Ok(target) => Ok(Some(target)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A new, empty directory for a version.
fn fresh(dir: &Path) -> io::Result<String> {
    let now = Timestamp::now();
    let stamp = now
        .to_zoned(TimeZone::UTC)
        .strftime("..%Y_%m_%d_%H_%M_%S")
        .to_string();
    let mut fraction = now.subsec_nanosecond().unsigned_abs();
    loop {
        let name = format!("{stamp}.{fraction:09}");
        match fs::create_dir(dir.join(&name)) {
            Ok(()) => {
                fs::set_permissions(dir.join(&name), fs::Permissions::from_mode(0o755))?;
                return Ok(name);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fraction += 1,
            Err(error) => return Err(error),
        }
    }
}

fn write_file(version: &Path, path: &str, file: &File) -> io::Result<()> {
    let path = version.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, &file.content)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))
}

/// Whether a version has these files with these modes, and no others.
fn is_as_wanted(version: &Path, payload: &Payload) -> io::Result<bool> {
    let mut found = 0;
    let mut left = vec![version.to_owned()];
    while let Some(dir) = left.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
                continue;
            }
            let path = entry.path();
            let relative = path.strip_prefix(version).ok().and_then(Path::to_str);
            let Some(file) = relative.and_then(|path| payload.get(path)) else {
                return Ok(false);
            };
            let metadata = entry.metadata()?;
            let is_same = metadata.permissions().mode() & 0o7777 == file.mode
                && metadata.len() == file.content.len() as u64
                && fs::read(&path).is_ok_and(|content| content == file.content);
            if !is_same {
                return Ok(false);
            }
            found += 1;
        }
    }
    Ok(found == payload.files().count())
}

fn wanted(payload: &Payload) -> BTreeSet<String> {
    payload.tops().into_iter().map(str::to_owned).collect()
}

/// The names that who mounts the volume is to see.
fn visible(dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Links what is to be seen, and removes the links to what is no more.
fn show(dir: &Path, payload: &Payload) -> io::Result<()> {
    let (seen, wanted) = (visible(dir)?, wanted(payload));
    for name in wanted.difference(&seen) {
        symlink(Path::new(DATA).join(name), dir.join(name))?;
    }
    for name in seen.difference(&wanted) {
        remove(&dir.join(name))?;
    }
    Ok(())
}

/// Removes versions other than this one: the one before, and what a crash may have left.
fn remove_versions(dir: &Path, keep: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("..") && name != keep && name != DATA {
            remove(&dir.join(&name))?;
        }
    }
    Ok(())
}

/// Removes whatever is there, without following it anywhere.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str, u32)]) -> Payload {
        let mut payload = Payload::default();
        for (path, content, mode) in files {
            let content = content.as_bytes().to_vec();
            payload
                .put(
                    path,
                    File {
                        content,
                        mode: *mode,
                    },
                )
                .unwrap();
        }
        payload
    }

    /// All names in the directory itself.
    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_seen_through_links_to_the_version() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let first = payload(&[("key", "one", 0o644), ("deep/er", "two", 0o400)]);
        assert!(write(dir, &first).unwrap());
        assert_eq!(fs::read_to_string(dir.join("key")).unwrap(), "one");
        assert_eq!(fs::read_to_string(dir.join("deep/er")).unwrap(), "two");
        assert_eq!(
            fs::read_link(dir.join("key")).unwrap(),
            Path::new("..data/key")
        );
        let mode = fs::metadata(dir.join("deep/er")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o7777, 0o400);
        let version = fs::read_link(dir.join("..data")).unwrap();
        assert!(version.to_str().unwrap().starts_with("..20"), "{version:?}");
    }

    #[test]
    fn what_is_as_wanted_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let same = payload(&[("key", "one", 0o644)]);
        assert!(write(dir, &same).unwrap());
        let version = fs::read_link(dir.join("..data")).unwrap();
        assert!(!write(dir, &same).unwrap());
        assert_eq!(fs::read_link(dir.join("..data")).unwrap(), version);
        for different in [
            payload(&[("key", "two", 0o644)]),
            payload(&[("key", "two", 0o600)]),
            payload(&[("key", "two", 0o600), ("x/y", "", 0o600)]),
            payload(&[]),
        ] {
            assert!(write(dir, &different).unwrap());
            assert!(!write(dir, &different).unwrap());
        }
        assert_eq!(names(dir).len(), 2, "{:?}", names(dir));
    }

    #[test]
    fn an_update_replaces_all_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write(
            dir,
            &payload(&[("gone", "1", 0o644), ("stays", "1", 0o644)]),
        )
        .unwrap();
        // As a crash could leave it.
        fs::create_dir(dir.join("..2020_01_01_00_00_00.000000001")).unwrap();
        symlink("nowhere", dir.join("..data_tmp")).unwrap();
        write(
            dir,
            &payload(&[("stays", "2", 0o644), ("comes", "2", 0o644)]),
        )
        .unwrap();
        let version = fs::read_link(dir.join("..data")).unwrap();
        let version = version.to_str().unwrap();
        assert_eq!(names(dir), [version, "..data", "comes", "stays"]);
        assert_eq!(fs::read_to_string(dir.join("stays")).unwrap(), "2");
    }
}
