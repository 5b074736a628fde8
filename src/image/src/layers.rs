//! Layers of files: what a path shows when all of them lie upon each other.
//!
//! A layer is an archive from whoever made the image, so nothing in it is believed: paths that leave the root are left
//! out, links lead nowhere but to other files of the image, and everything has a bound.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use tar::EntryType;

use crate::{
    media::Packing,
    tarball::{self, Bounds, Item, WalkError, below_root},
};

/// How many entries a layer may have, and how much of it is read in search of a module.
const LOOK: Bounds = Bounds {
    entries: 1 << 20,
    bytes: 64 << 30,
    depth: usize::MAX,
};
/// A file of this name and the name of another one behind it hides that one in the layers below.
pub(crate) const WHITEOUT: &str = ".wh.";

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

impl LayerError {
    /// The error of a layer that could not be walked over.
    pub(crate) fn at(path: &Path, error: WalkError) -> Self {
        let path = path.to_owned();
        match error {
            WalkError::Read(source) => Self::Read { path, source },
            WalkError::TooMuch { limit, what } => Self::TooMuch { path, limit, what },
        }
    }
}

/// Walks over the entries of a layer.
pub(crate) fn walk_layer<E: From<LayerError>>(
    (path, packing): &Layer,
    bounds: Bounds,
    each: impl FnMut(Item, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let failed = |error| E::from(LayerError::at(path, error));
    let opened = File::open(path).map(BufReader::new);
    let reader = opened.and_then(|file| tarball::unpacked(file, *packing));
    let reader = reader.map_err(|error| failed(WalkError::Read(error)))?;
    tarball::walk(reader, bounds, failed, each)
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
    let hidden = wanted.file_name().map(|name| {
        let mut mark = std::ffi::OsString::from(WHITEOUT);
        mark.push(name);
        wanted.with_file_name(mark)
    });
    let mut said = Said::Nothing;
    walk_layer(layer, LOOK, |item, reader| {
        if Some(&item.path) == hidden.as_ref() && matches!(said, Said::Nothing) {
            said = Said::Gone;
        }
        if item.path == wanted {
            said = what_is(&item, reader, layer, limit)?;
        }
        Ok::<_, LayerError>(())
    })?;
    Ok(said)
}

/// What an entry at the wanted path says.
fn what_is(
    item: &Item,
    reader: &mut dyn Read,
    (path, _): &Layer,
    limit: u64,
) -> Result<Said, LayerError> {
    let failed = |error| LayerError::at(path, error);
    Ok(match item.kind {
        EntryType::Symlink | EntryType::Link => {
            let is_hard = item.kind == EntryType::Link;
            let base = if is_hard { None } else { item.path.parent() };
            let target = item.link.as_deref();
            match target.and_then(|target| tarball::resolved(base, target)) {
                Some(target) => Said::Link(target),
                None => Said::Gone,
            }
        }
        EntryType::Regular | EntryType::Continuous => {
            if item.size > limit {
                let what = "bytes in a module";
                return Err(failed(WalkError::TooMuch { limit, what }));
            }
            let mut bytes = Vec::new();
            let read = reader.take(limit).read_to_end(&mut bytes);
            read.map_err(|error| failed(WalkError::Read(error)))?;
            Said::File(bytes)
        }
        _ => Said::Gone,
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
