//! Layers of files: what a path shows when all of them lie upon each other.
//!
//! A layer is an archive from whoever made the image, so nothing in it is believed: paths that leave the root are left
//! out, links lead nowhere but to other files of the image, and everything has a bound.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Component, Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType};

use crate::media::Packing;

/// How many entries a layer may have.
const MAX_ENTRIES: u64 = 1 << 20;
/// A file of this name and the name of another one behind it hides that one in the layers below.
const WHITEOUT: &str = ".wh.";

/// Why layers could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// An archive is damaged, or cannot be read.
    #[error("cannot read the layer {}", path.display())]
    Read {
        /// The layer's file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// It holds more than is unpacked.
    #[error("the layer {} holds more than {limit} {what}", path.display())]
    TooMuch {
        /// The layer's file.
        path: PathBuf,
        /// How much there may be.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
}

/// A layer's file and how it is packed.
pub(crate) type Layer = (PathBuf, Packing);

fn open((path, packing): &Layer) -> Result<Archive<Box<dyn Read>>, LayerError> {
    let failed = |source| LayerError::Read {
        path: path.clone(),
        source,
    };
    let file = BufReader::new(File::open(path).map_err(failed)?);
    let reader: Box<dyn Read> = match packing {
        Packing::Tar => Box::new(file),
        Packing::Gzip => Box::new(MultiGzDecoder::new(file)),
        Packing::Zstd => Box::new(zstd::Decoder::with_buffer(file).map_err(failed)?),
    };
    Ok(Archive::new(reader))
}

/// A path of an archive below the root, without `.` and `..`; `None` for the root itself and for what would leave it.
fn below_root(path: &Path) -> Option<PathBuf> {
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

/// What a layer says about a path.
enum Said {
    Nothing,
    Gone,
    Link(PathBuf),
    File(Vec<u8>),
}

/// The bytes of the file at `path` in the layers, the lowest first; `None` if there is no such file. Links are followed.
pub(crate) fn find(
    layers: &[Layer],
    path: &str,
    limit: u64,
) -> Result<Option<Vec<u8>>, LayerError> {
    const LINKS: usize = 8;
    let Some(mut wanted) = below_root(Path::new(path)) else {
        return Ok(None);
    };
    for _ in 0..LINKS {
        let mut link = None;
        for layer in layers.iter().rev() {
            match look(layer, &wanted, limit)? {
                Said::Nothing => {}
                Said::Gone => return Ok(None),
                Said::File(bytes) => return Ok(Some(bytes)),
                Said::Link(target) => {
                    link = Some(target);
                    break;
                }
            }
        }
        match link {
            Some(target) => wanted = target,
            None => return Ok(None),
        }
    }
    Ok(None)
}

fn look(layer: &Layer, wanted: &Path, limit: u64) -> Result<Said, LayerError> {
    let failed = |source| LayerError::Read {
        path: layer.0.clone(),
        source,
    };
    let hidden = wanted.file_name().map(|name| {
        let mut mark = std::ffi::OsString::from(WHITEOUT);
        mark.push(name);
        wanted.with_file_name(mark)
    });
    let mut said = Said::Nothing;
    let mut archive = open(layer)?;
    for (count, entry) in archive.entries().map_err(failed)?.enumerate() {
        within(count as u64, MAX_ENTRIES, "entries", layer)?;
        let mut entry = entry.map_err(failed)?;
        let path = entry.path().map_err(failed)?.into_owned();
        let Some(path) = below_root(&path) else {
            continue;
        };
        if Some(&path) == hidden.as_ref() && matches!(said, Said::Nothing) {
            said = Said::Gone;
        }
        if path != wanted {
            continue;
        }
        said = match entry.header().entry_type() {
            EntryType::Symlink | EntryType::Link => {
                let hard = entry.header().entry_type() == EntryType::Link;
                let target = entry.link_name().map_err(failed)?;
                let base = if hard { None } else { path.parent() };
                match target.and_then(|target| resolved(base, &target)) {
                    Some(target) => Said::Link(target),
                    None => Said::Gone,
                }
            }
            EntryType::Regular | EntryType::Continuous => {
                within(entry.size(), limit, "bytes in a module", layer)?;
                let mut bytes = Vec::new();
                (&mut entry)
                    .take(limit)
                    .read_to_end(&mut bytes)
                    .map_err(failed)?;
                Said::File(bytes)
            }
            _ => Said::Gone,
        };
    }
    Ok(said)
}

/// Where a link leads, from the root. `..` goes up and never above the root.
fn resolved(base: Option<&Path>, target: &Path) -> Option<PathBuf> {
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

fn within(found: u64, limit: u64, what: &'static str, (path, _): &Layer) -> Result<(), LayerError> {
    if found <= limit {
        return Ok(());
    }
    Err(LayerError::TooMuch {
        path: path.clone(),
        limit,
        what,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive of these entries: a path and its content, or `-> target` for a link.
    fn layer(dir: &Path, name: &str, entries: &[(&str, &str)]) -> Layer {
        let path = dir.join(name);
        let mut archive = tar::Builder::new(File::create(&path).unwrap());
        for (path, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            if let Some(target) = content.strip_prefix("-> ") {
                header.set_entry_type(EntryType::Symlink);
                header.set_size(0);
                archive.append_link(&mut header, path, target).unwrap();
            } else {
                header.set_size(content.len() as u64);
                // The library refuses to write paths that it refuses to read.
                header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
                header.set_cksum();
                archive.append(&header, content.as_bytes()).unwrap();
            }
        }
        archive.finish().unwrap();
        (path, Packing::Tar)
    }

    fn found(layers: &[Layer], path: &str) -> Option<String> {
        let bytes = find(layers, path, 1 << 20).unwrap();
        bytes.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn upper_layers_replace_hide_and_link() {
        let dir = tempfile::tempdir().unwrap();
        let layers = [
            layer(
                dir.path(),
                "1",
                &[("app.wasm", "one"), ("bin/old.wasm", "old")],
            ),
            layer(
                dir.path(),
                "2",
                &[
                    ("./app.wasm", "two"),
                    ("bin/.wh.old.wasm", ""),
                    ("bin/run", "-> ../app.wasm"),
                ],
            ),
        ];
        assert_eq!(found(&layers, "/app.wasm").as_deref(), Some("two"));
        assert_eq!(found(&layers, "bin/run").as_deref(), Some("two"));
        assert_eq!(found(&layers, "bin/old.wasm"), None);
        assert_eq!(found(&layers[..1], "bin/old.wasm").as_deref(), Some("old"));
    }

    #[test]
    fn nothing_leads_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let layers = [layer(
            dir.path(),
            "1",
            &[
                ("../evil.wasm", "evil"),
                ("loop", "-> loop"),
                ("out", "-> ../../app.wasm"),
                ("app.wasm", "app"),
            ],
        )];
        assert_eq!(found(&layers, "../evil.wasm"), None);
        assert_eq!(found(&layers, "evil.wasm"), None);
        assert_eq!(found(&layers, "loop"), None);
        assert_eq!(
            found(&layers, "out").as_deref(),
            Some("app"),
            "the root is above itself"
        );
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let layers = [layer(dir.path(), "1", &[("app.wasm", "0123456789")])];
        let error = find(&layers, "app.wasm", 5).unwrap_err().to_string();
        assert!(error.contains("more than 5"), "{error}");
    }
}
