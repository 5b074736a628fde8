//! Archives going out.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use bytes::Bytes;
use futures::{Stream, stream};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::{DOCKER_FILE, DockerImage, FULL_NAME, INDEX_FILE, LAYOUT_FILE, SHORT_NAME, SaveError};
use crate::{
    Digest, Image, ImageError, ImageStore, Reference,
    layout::{Descriptor, Index, Manifest},
    media, store,
};

/// How much is handed on at a time, in bytes, and how many such pieces wait.
const CHUNK: usize = 1 << 18;
const PIECES: usize = 8;

/// An image on its way out: its content is open, so that it stays whatever becomes of the store meanwhile.
struct Outgoing {
    entry: Descriptor,
    manifest: Manifest,
    tags: Vec<String>,
}

/// Content and the file that it is in.
type Blob = (Descriptor, File);

impl ImageStore {
    /// Writes images into one archive that this store, `docker load` (if they are Linux images) and most tools that know OCI
    /// layouts can load. What is written is compared with its digests on the way.
    pub fn save(&self, references: &[&str], to: impl Write) -> Result<(), SaveError> {
        let mut images = Vec::new();
        let mut blobs = Vec::new();
        {
            let _lock = self.layout.lock_shared()?;
            let index = self.layout.read_index()?;
            for reference in references {
                let reference: Reference = reference.parse().map_err(ImageError::from)?;
                let Some(entry) = store::find(&index, &reference) else {
                    return Err(SaveError::Absent(reference.to_string()));
                };
                let tags = entry.name().map(str::to_owned).into_iter().collect();
                images.push(self.outgoing(entry, tags, &mut blobs)?);
            }
        }
        write_archive(&images, blobs, to)
    }

    /// An image as an archive for `docker load`, under these names: a stream of pieces. Its last item is the error, if there
    /// is one.
    pub fn docker_archive(
        &self,
        image: &Image,
        tags: Vec<String>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let (store, digest) = (self.clone(), image.digest.clone());
        let (sender, receiver) = mpsc::channel(PIECES);
        tokio::task::spawn_blocking(move || {
            let mut to = io::BufWriter::with_capacity(CHUNK, Pieces(sender.clone()));
            let written = store.save_one(&digest, tags, &mut to);
            let written = written.and_then(|()| to.flush().map_err(SaveError::Write));
            if let Err(error) = written {
                // What was not sent yet must not come behind the error.
                drop(to.into_parts());
                // Whoever is gone does not want to know.
                let _ = sender.blocking_send(Err(io::Error::other(error)));
            }
        });
        stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|piece| (piece, receiver))
        })
    }

    fn save_one(
        &self,
        digest: &Digest,
        tags: Vec<String>,
        to: impl Write,
    ) -> Result<(), SaveError> {
        let mut blobs = Vec::new();
        let image = {
            let _lock = self.layout.lock_shared()?;
            let index = self.layout.read_index()?;
            let found = index.images().find(|entry| entry.digest == *digest);
            let entry = found.ok_or_else(|| SaveError::Absent(digest.to_string()))?;
            self.outgoing(entry, tags, &mut blobs)?
        };
        write_archive(&[image], blobs, to)
    }

    /// Opens all that an image is made of.
    fn outgoing(
        &self,
        entry: Descriptor,
        tags: Vec<String>,
        blobs: &mut Vec<Blob>,
    ) -> Result<Outgoing, ImageError> {
        let manifest: Manifest = self.layout.read_json(&entry)?;
        for part in manifest.parts().into_iter().chain([&entry]) {
            if blobs.iter().any(|(known, _)| known.digest == part.digest) {
                continue;
            }
            let damaged = |_| ImageError::Damaged {
                digest: part.digest.clone(),
            };
            let file = File::open(self.layout.blob_path(&part.digest)).map_err(damaged)?;
            blobs.push((part.clone(), file));
        }
        Ok(Outgoing {
            entry,
            manifest,
            tags,
        })
    }
}

fn write_archive(images: &[Outgoing], blobs: Vec<Blob>, to: impl Write) -> Result<(), SaveError> {
    let mut archive = tar::Builder::new(to);
    let version = json!({"imageLayoutVersion": "1.0.0"});
    add_document(&mut archive, LAYOUT_FILE, &version)?;
    add_document(&mut archive, INDEX_FILE, &index_of(images)?)?;
    let docker = docker_list(images);
    if !docker.is_empty() {
        add_document(&mut archive, DOCKER_FILE, &docker)?;
    }
    for (descriptor, file) in blobs {
        let mut content = Checked::new(file, &descriptor);
        let added = archive.append_data(
            &mut header(descriptor.size),
            blob_file(&descriptor.digest),
            &mut content,
        );
        added.map_err(SaveError::Write)?;
        content.finish()?;
    }
    let mut to = archive.into_inner().map_err(SaveError::Write)?;
    to.flush().map_err(SaveError::Write)
}

fn index_of(images: &[Outgoing]) -> Result<Index, ImageError> {
    let mut index = Index::default();
    for image in images {
        let mut entry = image.entry.clone();
        entry.annotations.clear();
        if image.tags.is_empty() {
            index.add(&entry)?;
        }
        for tag in &image.tags {
            let short = tag.parse::<Reference>().ok();
            let short = short.as_ref().and_then(Reference::tag).unwrap_or(tag);
            let mut entry = entry.clone();
            let names = [(FULL_NAME, tag.as_str()), (SHORT_NAME, short)];
            entry
                .annotations
                .extend(names.map(|(key, name)| (key.to_owned(), name.to_owned())));
            index.add(&entry)?;
        }
    }
    Ok(index)
}

/// What Docker can load. It knows no names with digests.
fn docker_list(images: &[Outgoing]) -> Vec<DockerImage> {
    let is_for_docker = |image: &&Outgoing| {
        media::is_image_config(&image.manifest.config.media_type)
            && image
                .manifest
                .layers
                .iter()
                .all(|layer| media::packing(&layer.media_type).is_some())
    };
    let listed = |image: &Outgoing| DockerImage {
        config: blob_file(&image.manifest.config.digest),
        repo_tags: Some(
            image
                .tags
                .iter()
                .filter(|tag| !tag.contains('@'))
                .cloned()
                .collect(),
        ),
        layers: image
            .manifest
            .layers
            .iter()
            .map(|layer| blob_file(&layer.digest))
            .collect(),
    };
    images.iter().filter(is_for_docker).map(listed).collect()
}

fn blob_file(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    // The same images always give the same archive.
    header.set_mtime(0);
    header
}

fn add_document<W: Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    document: &impl Serialize,
) -> Result<(), SaveError> {
    let bytes = store::encode(document)?;
    archive
        .append_data(&mut header(bytes.len() as u64), name, bytes.as_slice())
        .map_err(SaveError::Write)
}

/// Reads content as long as it should be, and notices whether it is what it should be.
struct Checked<'d> {
    file: io::Take<File>,
    hash: Sha256,
    wanted: &'d Digest,
}

impl<'d> Checked<'d> {
    fn new(file: File, descriptor: &'d Descriptor) -> Self {
        Self {
            file: file.take(descriptor.size),
            hash: Sha256::new(),
            wanted: &descriptor.digest,
        }
    }

    fn finish(self) -> Result<(), ImageError> {
        if self.file.limit() == 0 && Digest::from_hash(self.hash) == *self.wanted {
            return Ok(());
        }
        let digest = self.wanted.clone();
        Err(ImageError::Damaged { digest })
    }
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

/// Hands on what is written, piece by piece, to asynchronous code.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
