//! Blobs coming in.

use std::time::Duration;

use super::{Progress, TransferError, http::Repository};
use crate::{
    ImageStore, Reference,
    ingest::{Ingest, IngestError},
    layout::Descriptor,
};

/// How often a download that broke off is taken up again before it counts as failed.
const ATTEMPTS: u32 = 4;
/// How long to wait before the first time; twice as long before each next one.
const PAUSE: Duration = Duration::from_millis(250);

/// The image that comes in.
pub(super) struct Incoming<'i> {
    /// Where it comes from.
    pub(super) from: &'i Repository,
    /// As people call it.
    pub(super) named: &'i Reference,
    pub(super) progress: &'i dyn Progress,
}

impl Incoming<'_> {
    /// Brings one blob into the store.
    pub(super) async fn blob(
        &self,
        store: &ImageStore,
        part: Descriptor,
    ) -> Result<(), TransferError> {
        let mut failed = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(PAUSE * 2_u32.pow(attempt - 1)).await;
            }
            let (store, wanted) = (store.clone(), part.clone());
            let begun = tokio::task::spawn_blocking(move || store.ingest(&wanted)).await;
            let ingest = match begun {
                Ok(ingest) => ingest?,
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            };
            // Somebody else has brought it in meanwhile.
            let Some(ingest) = ingest else {
                return Ok(());
            };
            match self.receive(ingest, &part).await {
                Ok(()) => return Ok(()),
                Err(error @ TransferError::Registry { .. }) => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| TransferError::NotFound {
            reference: self.named.to_string(),
        }))
    }

    async fn receive(&self, mut ingest: Ingest, part: &Descriptor) -> Result<(), TransferError> {
        if ingest.length() < part.size || part.size == 0 {
            self.stream(&mut ingest, part).await?;
        }
        let done = tokio::task::spawn_blocking(move || ingest.finish()).await;
        match done {
            Ok(Ok(())) => Ok(()),
            Ok(Err(IngestError::Content)) => Err(TransferError::Content {
                reference: self.named.to_string(),
                digest: part.digest.clone(),
            }),
            Ok(Err(IngestError::Store(error))) => Err(error.into()),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    async fn stream(&self, ingest: &mut Ingest, part: &Descriptor) -> Result<(), TransferError> {
        let failed = |error| TransferError::of(self.named, error);
        // Addresses elsewhere, which an image may name for its layers, are whatever its author wrote: they are not followed.
        let blob = self.from.blob(&part.digest, ingest.length()).await;
        let mut blob = blob.map_err(failed)?;
        // It gives all or nothing.
        if !blob.is_rest {
            ingest.restart()?;
        }
        while let Some(chunk) = blob.next().await.map_err(failed)? {
            if ingest.length() + chunk.len() as u64 > part.size {
                ingest.restart()?;
                return Err(TransferError::Content {
                    reference: self.named.to_string(),
                    digest: part.digest.clone(),
                });
            }
            ingest.write(&chunk)?;
            self.progress.advance(chunk.len() as u64);
        }
        Ok(())
    }
}
