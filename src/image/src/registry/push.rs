//! Blobs going out.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, stream};
use http::HeaderValue;
use oci_distribution::{RegistryOperation, errors::OciDistributionError};
use tokio::{fs::File, io::AsyncReadExt as _};

use super::{Endpoint, Progress, Registries, TransferError};
use crate::{Credential, Digest, ImageStore, Reference, layout::MAX_DOCUMENT};

/// How much of a blob is read at a time, in bytes.
const CHUNK: usize = 1 << 20;
/// How often it is told how far that is.
const TELL_EVERY: Duration = Duration::from_millis(100);

impl Registries {
    /// Brings an image of the store into the registry that `to` names. What is there already is not sent again. Returns the
    /// digest of the image's manifest.
    pub async fn push(
        &self,
        store: &ImageStore,
        image: &str,
        to: &str,
        credential: &Credential,
        progress: &dyn Progress,
    ) -> Result<Digest, TransferError> {
        let to: Reference = to.parse()?;
        let failed = |error: OciDistributionError| TransferError::of_push(&to, &error);
        let absent = || TransferError::Absent(image.to_owned());
        let Some((entry, manifest)) = store.manifest(image)? else {
            return Err(absent());
        };
        // Not to a mirror: those are for reading.
        let Some(endpoint) = Endpoint::of(&self.config, &to).pop() else {
            return Err(absent());
        };
        let client = endpoint.connect(&self.config, &to).await?;
        let there = &endpoint.reference;
        client
            .auth(there, &credential.0, RegistryOperation::Push)
            .await
            .map_err(failed)?;
        let mut missing = Vec::new();
        for part in manifest.parts() {
            if !client
                .blob_exists(there, &part.digest)
                .await
                .map_err(failed)?
            {
                missing.push(part);
            }
        }
        progress.begin(missing.iter().map(|part| part.size).sum());
        for part in missing {
            let path = store.blob_path(&part.digest);
            let file = File::open(&path)
                .await
                .map_err(crate::ImageError::io("read", &path))?;
            let sent = Arc::new(AtomicU64::new(0));
            let content = chunks(file, sent.clone());
            let push = client.push_blob_stream(there, content, &part.digest, Some(part.size));
            let told = watched(push, &sent, progress).await.map_err(failed)?;
            progress.advance(part.size.saturating_sub(told));
        }
        let bytes = store.blob(&entry, MAX_DOCUMENT)?;
        let media_type = HeaderValue::from_str(&entry.media_type)
            .unwrap_or(HeaderValue::from_static(crate::layout::MANIFEST_TYPE));
        client
            .push_manifest_raw(there, bytes, media_type)
            .await
            .map_err(failed)?;
        Ok(entry.digest)
    }
}

/// Tells from time to time how much was sent, until the work is done; returns how much that was.
async fn watched<T, E>(
    work: impl Future<Output = Result<T, E>>,
    sent: &AtomicU64,
    progress: &dyn Progress,
) -> Result<u64, E> {
    let mut work = pin!(work);
    let mut told = 0;
    let mut ticks = tokio::time::interval(TELL_EVERY);
    loop {
        tokio::select! {
            done = &mut work => return done.map(|_| told),
            _ = ticks.tick() => {
                let now = sent.load(Ordering::Relaxed);
                progress.advance(now - told);
                told = now;
            }
        }
    }
}

fn chunks(
    file: File,
    sent: Arc<AtomicU64>,
) -> impl Stream<Item = Result<Bytes, OciDistributionError>> + Send + 'static {
    stream::try_unfold((file, sent), |(mut file, sent)| async move {
        let mut chunk = Vec::with_capacity(CHUNK);
        let limit = CHUNK as u64;
        let read = (&mut file).take(limit).read_to_end(&mut chunk).await?;
        sent.fetch_add(read as u64, Ordering::Relaxed);
        Ok((read > 0).then(|| (Bytes::from(chunk), (file, sent))))
    })
}
