//! Content on its way into the store.
//!
//! It grows in a file of its own beside the blobs. Whoever is interrupted leaves that file, and whoever comes next goes on
//! where it ends. When it is complete and is what its digest says, it becomes a blob by changing its name.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::PathBuf,
};

use sha2::{Digest as _, Sha256};

use crate::{
    Digest, ImageError,
    layout::{Descriptor, Layout},
};

/// Content that comes in. As long as it lives, no other process works on the same content.
pub(crate) struct Ingest {
    file: File,
    path: PathBuf,
    target: PathBuf,
    wanted: Descriptor,
    hash: Sha256,
    length: u64,
}

/// Why content did not become a blob.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngestError {
    /// It is not what its digest says.
    #[error("the content is not what its digest says")]
    Content,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] ImageError),
}

impl Ingest {
    /// Begins, or goes on with what there is already. Waits while another process works on the same content; `None` if the
    /// blob is there by then.
    pub(crate) fn begin(layout: &Layout, wanted: &Descriptor) -> Result<Option<Self>, ImageError> {
        let dir = layout.dir().join("ingest");
        fs::create_dir_all(&dir).map_err(ImageError::io("create", &dir))?;
        let target = layout.blob_path(&wanted.digest);
        let path = dir.join(wanted.digest.hex());
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .map_err(ImageError::io("open", &path))?;
            file.lock().map_err(ImageError::io("lock", &path))?;
            if layout.has_blob(wanted) {
                return Ok(None);
            }
            // Whoever had the lock before has given the file another name, or removed it.
            if !is_same(&file, &path) {
                continue;
            }
            let mut ingest = Self {
                file,
                path,
                target,
                wanted: wanted.clone(),
                hash: Sha256::new(),
                length: 0,
            };
            ingest.catch_up()?;
            return Ok(Some(ingest));
        }
    }

    /// Reads what an earlier attempt has left.
    fn catch_up(&mut self) -> Result<(), ImageError> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = self.file.read(&mut buffer).map_err(self.failed("read"))?;
            if read == 0 {
                break;
            }
            self.hash.update(&buffer[..read]);
            self.length += read as u64;
        }
        if self.length > self.wanted.size {
            self.restart()?;
        }
        Ok(())
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> ImageError {
        ImageError::io(action, &self.path)
    }

    /// How many bytes there are.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Forgets all that there is.
    pub(crate) fn restart(&mut self) -> Result<(), ImageError> {
        let emptied = self.file.set_len(0);
        emptied
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(self.failed("empty"))?;
        self.hash = Sha256::new();
        self.length = 0;
        Ok(())
    }

    /// Adds bytes. Writing into the system's cache: short enough for an asynchronous context.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.file.write_all(bytes).map_err(self.failed("write"))?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Makes it a blob. What is not the right content is thrown away.
    pub(crate) fn finish(mut self) -> Result<(), IngestError> {
        let digest = Digest::from_hash(std::mem::take(&mut self.hash));
        if digest != self.wanted.digest || self.length != self.wanted.size {
            self.restart()?;
            return Err(IngestError::Content);
        }
        self.file.sync_all().map_err(self.failed("write"))?;
        fs::rename(&self.path, &self.target).map_err(self.failed("rename"))?;
        if let Some(dir) = self.target.parent() {
            let synced = File::open(dir).and_then(|dir| dir.sync_all());
            synced.map_err(ImageError::io("write", dir))?;
        }
        Ok(())
    }
}

/// Whether `path` still is this file.
pub(crate) fn is_same(file: &File, path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.ino() == named.ino() && open.dev() == named.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        (dir, layout)
    }

    fn begin(layout: &Layout, wanted: &Descriptor) -> Ingest {
        Ingest::begin(layout, wanted).unwrap().unwrap()
    }

    #[test]
    fn an_interrupted_download_goes_on_where_it_was() {
        let (_dir, layout) = layout();
        let wanted = Descriptor::of("application/wasm", b"hello world");
        let mut first = begin(&layout, &wanted);
        first.write(b"hello ").unwrap();
        drop(first);
        let mut second = begin(&layout, &wanted);
        assert_eq!(second.length(), 6);
        second.write(b"world").unwrap();
        second.finish().unwrap();
        assert_eq!(layout.read_blob(&wanted, 100).unwrap(), b"hello world");
        assert!(Ingest::begin(&layout, &wanted).unwrap().is_none());
    }

    #[test]
    fn what_is_not_the_content_never_becomes_a_blob() {
        let (_dir, layout) = layout();
        let wanted = Descriptor::of("application/wasm", b"hello");
        let mut ingest = begin(&layout, &wanted);
        ingest.write(b"hullo").unwrap();
        assert!(matches!(ingest.finish(), Err(IngestError::Content)));
        assert!(!layout.has_blob(&wanted));
        assert_eq!(begin(&layout, &wanted).length(), 0, "nothing of it is kept");
    }
}
