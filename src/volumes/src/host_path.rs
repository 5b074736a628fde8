//! `hostPath`: a file or directory of the machine, checked to be what the manifest takes it for.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::Place;

/// Why a path of the machine cannot be used. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub enum HostPathError {
    /// It is something else, or nothing.
    #[error("hostPath type check failed: {} is not a {wanted}", path.display())]
    Type {
        /// The path.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
    },
    /// It does not begin at the root, or leads upwards.
    #[error("hostPath {path:?} must be absolute and must not contain '..'")]
    Path {
        /// The path.
        path: String,
    },
    /// There is no such type.
    #[error("{0:?} is an invalid volume type")]
    UnknownType(String),
    /// It is no file and no directory.
    #[error("hostPath {} is neither a file nor a directory: modules can use nothing else", .0.display())]
    Special(PathBuf),
    /// It could not be made, or looked at.
    #[error("hostPath {}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Finds what is at the path, or makes it if the type says so. Blocks.
pub fn resolve(path: &str, kind: &str) -> Result<Place, HostPathError> {
    if !path.starts_with('/') || path.split('/').any(|name| name == "..") {
        return Err(HostPathError::Path {
            path: path.to_owned(),
        });
    }
    let path = Path::new(path);
    let failed = |source| HostPathError::Io {
        path: path.to_owned(),
        source,
    };
    match kind {
        "DirectoryOrCreate" => make_directory(path).map_err(failed)?,
        "FileOrCreate" => make_file(path).map_err(failed)?,
        _ => {}
    }
    let found = match fs::metadata(path) {
        Ok(metadata) => Some(metadata.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let (wanted, is_it) = match kind {
        "" => ("file or directory", found.is_some()),
        "Directory" | "DirectoryOrCreate" => ("directory", found.is_some_and(|kind| kind.is_dir())),
        "File" | "FileOrCreate" => ("file", found.is_some_and(|kind| kind.is_file())),
        "Socket" => ("socket file", found.is_some_and(|kind| kind.is_socket())),
        "CharDevice" => (
            "character device",
            found.is_some_and(|kind| kind.is_char_device()),
        ),
        "BlockDevice" => (
            "block device",
            found.is_some_and(|kind| kind.is_block_device()),
        ),
        other => return Err(HostPathError::UnknownType(other.to_owned())),
    };
    match found {
        Some(kind) if is_it && kind.is_dir() => Ok(Place::Directory(path.to_owned())),
        Some(kind) if is_it && kind.is_file() => Ok(Place::File(path.to_owned())),
        Some(_) if is_it => Err(HostPathError::Special(path.to_owned())),
        _ => Err(HostPathError::Type {
            path: path.to_owned(),
            wanted,
        }),
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// Makes the file, not its directory, as upstream does.
fn make_file(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o644).open(path);
    match opened {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made_where_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        fs::write(at("file"), "x").unwrap();
        fs::create_dir(at("dir")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for (name, kind, expected) in [
            ("dir", "", "directory"),
            ("file", "", "file"),
            ("dir", "Directory", "directory"),
            ("file", "File", "file"),
            ("new/er", "DirectoryOrCreate", "directory"),
            ("dir/file", "FileOrCreate", "file"),
            ("file", "FileOrCreate", "file"),
        ] {
            let place = resolve(&at(name), kind).unwrap();
            let found = match place {
                Place::Directory(_) => "directory",
                Place::File(_) => "file",
                Place::Memory => "memory",
            };
            assert_eq!(found, expected, "{name} {kind}");
        }
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "x");
        for (name, kind, part) in [
            ("absent", "", "is not a file or directory"),
            ("file", "Directory", "is not a directory"),
            ("dir", "File", "is not a file"),
            ("file", "Socket", "is not a socket file"),
            ("socket", "Socket", "neither a file nor a directory"),
            ("dir", "Sock", "invalid volume type"),
            ("../x", "", "must not contain '..'"),
        ] {
            let message = resolve(&at(name), kind).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        assert!(resolve("relative", "").is_err());
    }
}
