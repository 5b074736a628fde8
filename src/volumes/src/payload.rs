//! What is in a volume that the cluster fills: files by path, with their modes. Pure.

use std::collections::BTreeMap;

/// The longest path of a file in a volume, in bytes.
const LONGEST_PATH: usize = 4096;
/// The longest name of a file or directory, in bytes.
const LONGEST_NAME: usize = 255;

/// A file that is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// All of it.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// All files of a volume, by their paths in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    files: BTreeMap<String, File>,
}

/// Why a path cannot be that of a file in a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is empty, or begins with a slash.
    #[error("invalid path: must be relative path: {0}")]
    NotRelative(String),
    /// It leads out of where it begins.
    #[error("invalid path: must not contain '..': {0}")]
    Upwards(String),
    /// It looks like a name that keeps the volume's versions apart.
    #[error("invalid path: must not start with '..': {0}")]
    Reserved(String),
    /// It is longer than 4096 bytes, or one of its names than 255.
    #[error(
        "invalid path: must be less than {LONGEST_PATH} characters, each name at most {LONGEST_NAME}"
    )]
    TooLong,
    /// A file is to be where a directory is to be.
    #[error("invalid path: {0} is a file and a directory")]
    Conflict(String),
}

impl Payload {
    /// Puts a file at a path; a file that is already there gives way.
    pub fn put(&mut self, path: &str, file: File) -> Result<(), PathError> {
        let path = clean(path)?;
        let mut parent = path.as_str();
        while let Some((above, _)) = parent.rsplit_once('/') {
            if self.files.contains_key(above) {
                return Err(PathError::Conflict(above.to_owned()));
            }
            parent = above;
        }
        let below = format!("{path}/");
        let next = self.files.range(below.clone()..).next();
        if next.is_some_and(|(other, _)| other.starts_with(&below)) {
            return Err(PathError::Conflict(path));
        }
        self.files.insert(path, file);
        Ok(())
    }

    /// The files, by path, in order. A path is relative, and leads nowhere but down.
    pub fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// The file at a path.
    pub fn get(&self, path: &str) -> Option<&File> {
        self.files.get(path)
    }

    /// The names in the volume's own directory, each once.
    pub fn tops(&self) -> Vec<&str> {
        let mut tops: Vec<&str> = self.files.keys().map(|path| top(path)).collect();
        tops.dedup();
        tops
    }
}

fn top(path: &str) -> &str {
    path.split_once('/').map_or(path, |(top, _)| top)
}

/// The path without what does not change where it leads.
fn clean(path: &str) -> Result<String, PathError> {
    if path.is_empty() || path.starts_with('/') {
        return Err(PathError::NotRelative(path.to_owned()));
    }
    if path.len() > LONGEST_PATH {
        return Err(PathError::TooLong);
    }
    let names: Vec<&str> = path
        .split('/')
        .filter(|name| !name.is_empty() && *name != ".")
        .collect();
    if names.contains(&"..") {
        return Err(PathError::Upwards(path.to_owned()));
    }
    if names
        .iter()
        .any(|name| name.len() > LONGEST_NAME || name.contains('\0'))
    {
        return Err(PathError::TooLong);
    }
    match names.first() {
        None => Err(PathError::NotRelative(path.to_owned())),
        Some(first) if first.starts_with("..") => Err(PathError::Reserved(path.to_owned())),
        Some(_) => Ok(names.join("/")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(content: &str) -> File {
        File {
            content: content.as_bytes().to_vec(),
            mode: 0o644,
        }
    }

    #[test]
    fn paths_lead_down_only() {
        let mut payload = Payload::default();
        for good in ["a", "b/c", "./d//e", ".hidden", "b/..x"] {
            payload.put(good, file("")).unwrap();
        }
        let paths: Vec<&str> = payload.files().map(|(path, _)| path).collect();
        assert_eq!(paths, [".hidden", "a", "b/..x", "b/c", "d/e"]);
        assert_eq!(payload.tops(), [".hidden", "a", "b", "d"]);
        for bad in ["", "/", "/a", "../a", "a/../b", "..", "..data", ".", "a\0"] {
            assert!(payload.put(bad, file("")).is_err(), "{bad:?}");
        }
        assert!(payload.put(&"a".repeat(256), file("")).is_err());
        assert!(payload.put(&"a/".repeat(2049), file("")).is_err());
    }

    #[test]
    fn no_file_is_a_directory() {
        let mut payload = Payload::default();
        payload.put("a/b", file("")).unwrap();
        assert_eq!(
            payload.put("a", file("")),
            Err(PathError::Conflict("a".to_owned()))
        );
        assert_eq!(
            payload.put("a/b/c", file("")),
            Err(PathError::Conflict("a/b".to_owned()))
        );
        payload.put("a-b", file("")).unwrap();
        payload.put("a/b", file("new")).unwrap();
        assert_eq!(payload.get("a/b"), Some(&file("new")));
    }

    proptest! {
        #[test]
        fn whatever_is_taken_stays_inside(path in "[a./]{0,12}") {
            let mut payload = Payload::default();
            if payload.put(&path, file("")).is_ok() {
                let (kept, _) = payload.files().next().unwrap();
                prop_assert!(!kept.starts_with(['/']) && !kept.starts_with(".."));
                prop_assert!(kept.split('/').all(|name| !["", ".", ".."].contains(&name)));
            }
        }
    }
}
