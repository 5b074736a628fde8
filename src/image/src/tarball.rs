//! Archives of files (tar), read with bounds on everything that an archive can say.
//!
//! Enter at [`walk`]. Long names, of GNU's and of POSIX's kind, are put together here and not by the library, which would
//! read as much of them as the archive claims there is.

use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::ffi::OsStringExt as _,
    path::{Component, Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entry, EntryType, PaxExtensions};

use crate::media::Packing;

/// The longest path, in bytes: Linux's own bound.
const MAX_PATH: u64 = 4096;
/// The most that may stand before one entry in POSIX's records: attributes of files are among them.
const MAX_RECORDS: u64 = 1 << 20;

/// How much an archive may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Entries of any kind.
    pub(crate) entries: u64,
    /// Bytes of all files together, unpacked.
    pub(crate) bytes: u64,
    /// Names in one path.
    pub(crate) depth: usize,
}

/// Why an archive could not be walked over.
#[derive(Debug)]
pub(crate) enum WalkError {
    /// It is damaged, or cannot be read.
    Read(io::Error),
    /// It holds more than it may.
    TooMuch { limit: u64, what: &'static str },
}

impl From<io::Error> for WalkError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// What is said about an entry.
#[derive(Debug)]
pub(crate) struct Item {
    /// Below the root, without `.` and `..`.
    pub(crate) path: PathBuf,
    pub(crate) kind: EntryType,
    /// Where a link leads, as it is written.
    pub(crate) link: Option<PathBuf>,
    /// Seconds since 1970.
    pub(crate) modified: u64,
    /// Bytes.
    pub(crate) size: u64,
}

/// Bytes that are packed in some way, unpacked.
pub(crate) fn unpacked<'r>(
    reader: impl io::BufRead + 'r,
    packing: Packing,
) -> io::Result<Box<dyn Read + 'r>> {
    Ok(match packing {
        Packing::Tar => Box::new(reader),
        Packing::Gzip => Box::new(MultiGzDecoder::new(reader)),
        Packing::Zstd => Box::new(zstd::Decoder::with_buffer(reader)?),
    })
}

/// How bytes are packed, by the first of them.
pub(crate) fn packing_of(start: &[u8]) -> Packing {
    match start {
        [0x1f, 0x8b, ..] => Packing::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
        _ => Packing::Tar,
    }
}

/// A path of an archive below the root, without `.` and `..`; `None` for the root itself and for what would leave it.
pub(crate) fn below_root(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (!clean.as_os_str().is_empty()).then_some(clean)
}

/// Where a link leads, from the root. `..` goes up and never above the root; `None`: to the root itself.
pub(crate) fn resolved(base: Option<&Path>, target: &Path) -> Option<PathBuf> {
    let mut path = match base {
        Some(base) if target.is_relative() => base.to_owned(),
        _ => PathBuf::new(),
    };
    for component in target.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    (!path.as_os_str().is_empty()).then_some(path)
}

/// What stands before an entry and is about it.
#[derive(Default)]
struct Before {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// Calls `each` with every entry below the root and a reader of its content; entries that would be elsewhere are left out.
/// `failed` makes an error of the archive into one of the caller's.
pub(crate) fn walk<E>(
    reader: impl Read,
    bounds: Bounds,
    failed: impl Fn(WalkError) -> E,
    mut each: impl FnMut(Item, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let mut archive = Archive::new(reader);
    let mut before = Before::default();
    let (mut count, mut bytes) = (0, 0_u64);
    let entries = archive
        .entries()
        .map_err(|error| failed(WalkError::Read(error)))?;
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(|error| failed(WalkError::Read(error)))?;
        count += 1;
        within(count, bounds.entries, "entries").map_err(&failed)?;
        let Some(item) = item(&mut entry, &mut before).map_err(&failed)? else {
            continue;
        };
        bytes = bytes.saturating_add(item.size);
        within(bytes, bounds.bytes, "bytes").map_err(&failed)?;
        let (depth, deepest) = (item.path.components().count(), bounds.depth);
        within(depth as u64, deepest as u64, "directories in each other").map_err(&failed)?;
        each(item, &mut entry)?;
    }
    Ok(())
}

fn within(found: u64, limit: u64, what: &'static str) -> Result<(), WalkError> {
    if found <= limit {
        return Ok(());
    }
    Err(WalkError::TooMuch { limit, what })
}

/// The next entry; `None` if it only says something about the one behind it, or is outside of the root.
fn item<R: Read>(entry: &mut Entry<'_, R>, before: &mut Before) -> Result<Option<Item>, WalkError> {
    let kind = entry.header().entry_type();
    match kind {
        EntryType::GNULongName => before.path = Some(text(entry, MAX_PATH)?),
        EntryType::GNULongLink => before.link = Some(text(entry, MAX_PATH)?),
        EntryType::XHeader => records(entry, before)?,
        // Of no use here.
        EntryType::XGlobalHeader => {}
        EntryType::GNUSparse => {
            let error = io::Error::new(io::ErrorKind::InvalidData, "a file with holes");
            return Err(error.into());
        }
        _ => {
            let before = std::mem::take(before);
            let header = entry.header();
            let path = before
                .path
                .unwrap_or_else(|| header.path_bytes().into_owned());
            let Some(path) = below_root(&path_of(path)) else {
                return Ok(None);
            };
            let link = before
                .link
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
            return Ok(Some(Item {
                path,
                kind,
                link: link.map(path_of),
                modified: header.mtime().unwrap_or(0),
                size: header.entry_size()?,
            }));
        }
    }
    Ok(None)
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// The content of an entry, without the zeros at its end.
fn text(reader: &mut impl Read, limit: u64) -> Result<Vec<u8>, WalkError> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    within(bytes.len() as u64, limit, "bytes in a name")?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

/// POSIX's records: of the many things that they can say, names matter.
fn records(reader: &mut impl Read, before: &mut Before) -> Result<(), WalkError> {
    let bytes = text(reader, MAX_RECORDS)?;
    for record in PaxExtensions::new(&bytes) {
        let record = record?;
        let value = record.value_bytes();
        match record.key_bytes() {
            b"path" => {
                within(value.len() as u64, MAX_PATH, "bytes in a name")?;
                before.path = Some(value.to_vec());
            }
            b"linkpath" => {
                within(value.len() as u64, MAX_PATH, "bytes in a name")?;
                before.link = Some(value.to_vec());
            }
            // The header has only room for 8 GiB; what is larger is told here, and would be misread.
            b"size" => {
                let error = io::Error::new(io::ErrorKind::Unsupported, "a file of 8 GiB or more");
                return Err(error.into());
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        entries: 100,
        bytes: 1000,
        depth: 40,
    };

    fn seen(archive: &[u8], bounds: Bounds) -> Result<Vec<(String, String)>, WalkError> {
        let mut seen = Vec::new();
        walk(
            archive,
            bounds,
            |error| error,
            |item, reader| {
                let mut content = String::new();
                reader.read_to_string(&mut content)?;
                seen.push((item.path.display().to_string(), content));
                Ok(())
            },
        )?;
        Ok(seen)
    }

    #[test]
    fn long_names_are_put_together_and_bounded() {
        let long = "directory/".repeat(30) + "file";
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        archive
            .append_data(&mut header, &long, &b"one"[..])
            .unwrap();
        archive
            .append_pax_extensions([("path", &b"two"[..])])
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(3);
        archive
            .append_data(&mut header, "other", &b"two"[..])
            .unwrap();
        let archive = archive.into_inner().unwrap();
        assert_eq!(
            seen(&archive, BOUNDS).unwrap(),
            [
                (long, "one".to_owned()),
                ("two".to_owned(), "two".to_owned())
            ]
        );

        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 30);
        header.set_cksum();
        let mut hostile = header.as_bytes().to_vec();
        hostile.resize(1 << 16, b'a');
        assert!(matches!(
            seen(&hostile, BOUNDS),
            Err(WalkError::TooMuch {
                limit: MAX_PATH,
                ..
            })
        ));
    }

    #[test]
    fn entries_and_bytes_are_bounded_before_they_are_read() {
        let mut archive = tar::Builder::new(Vec::new());
        for name in ["a", "b", "c"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(10);
            archive
                .append_data(&mut header, name, &[b'x'; 10][..])
                .unwrap();
        }
        let archive = archive.into_inner().unwrap();
        assert_eq!(seen(&archive, BOUNDS).unwrap().len(), 3);
        let few = Bounds {
            entries: 2,
            ..BOUNDS
        };
        assert!(matches!(
            seen(&archive, few),
            Err(WalkError::TooMuch {
                limit: 2,
                what: "entries"
            })
        ));
        let small = Bounds {
            bytes: 29,
            ..BOUNDS
        };
        assert!(matches!(
            seen(&archive, small),
            Err(WalkError::TooMuch {
                limit: 29,
                what: "bytes"
            })
        ));
    }

    #[test]
    fn directories_in_each_other_are_bounded() {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        archive
            .append_data(&mut header, "a/./b/c", &[][..])
            .unwrap();
        let archive = archive.into_inner().unwrap();
        let deep = |depth| seen(&archive, Bounds { depth, ..BOUNDS });
        assert_eq!(deep(3).unwrap().len(), 1);
        let refused = deep(2).unwrap_err();
        assert!(matches!(refused, WalkError::TooMuch { limit: 2, .. }));
    }

    #[test]
    fn links_never_lead_above_the_root() {
        let base = Path::new("a/b");
        for (target, leads) in [
            ("c", Some("a/b/c")),
            ("../c", Some("a/c")),
            ("../../../../etc", Some("etc")),
            ("/c", Some("c")),
            ("../..", None),
        ] {
            let found = resolved(Some(base), Path::new(target));
            assert_eq!(found.as_deref(), leads.map(Path::new), "{target}");
        }
    }
}
