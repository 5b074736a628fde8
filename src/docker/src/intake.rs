//! Images that are kept elsewhere, and copied to the engine for the containers that are made of them.
//!
//! A copy has a name of the shim's own, which its keeper chooses and nobody else uses: whatever the engine's own images are
//! called, neither is taken for the other.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use futures::Stream;
use tokio::sync::Mutex;

use crate::{engine::EngineError, image::EngineImage, shim::Shim};

/// What repositories of copies are named below.
const COPIES: &str = "vaquita.local";

/// Who copies which image at the moment. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Intake(Arc<std::sync::Mutex<HashMap<String, Arc<Mutex<()>>>>>);

impl Intake {
    /// The turn of who copies this image: others wait, and find it there.
    fn turn(&self, name: &str) -> Arc<Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(name.to_owned()).or_default().clone()
    }
}

/// Why an image was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The engine did not take it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It took the archive, and yet does not have the image.
    #[error("the Docker engine does not have the image after it was loaded")]
    Lost,
}

impl Shim {
    /// The repository of this shim's copies.
    fn repository(&self) -> String {
        format!("{COPIES}/{}", self.settings().owner)
    }

    /// The engine's copy of an image, known to its keeper by this key (letters, digits, `.`, `-` and `_`, 128 at most). If
    /// there is none, it is made of an archive as `docker save` writes it, in which the image has the name that `archive` is
    /// given.
    pub async fn copy<S>(
        &self,
        key: &str,
        archive: impl FnOnce(String) -> S,
    ) -> Result<EngineImage, CopyError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let name = format!("{}:{key}", self.repository());
        let engine = self.engine();
        let turn = self.intake.turn(&name);
        let _turn = turn.lock().await;
        if let Some(image) = engine.image(&name).await? {
            return Ok(image);
        }
        engine.load(archive(name.clone())).await?;
        engine.image(&name).await?.ok_or(CopyError::Lost)
    }

    /// The keys of all copies that the engine has.
    pub async fn copies(&self) -> Result<Vec<String>, EngineError> {
        let names = self.engine().tags(&self.repository()).await?;
        let keys = names.iter().filter_map(|name| name.rsplit_once(':'));
        Ok(keys.map(|(_, key)| key.to_owned()).collect())
    }

    /// Removes a copy, unless a container was made of it.
    pub async fn remove_copy(&self, key: &str) -> Result<(), EngineError> {
        let name = format!("{}:{key}", self.repository());
        let turn = self.intake.turn(&name);
        let _turn = turn.lock().await;
        self.engine().untag(&name).await
    }
}
