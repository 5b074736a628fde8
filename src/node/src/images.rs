//! From the `image` of a container to something that can be started.
//!
//! The node takes images from its local store only. An image that is missing there is a failed pull, as it would be if
//! a registry did not have it; when it appears in the store, whoever waits for it is told at once, so that a back-off
//! need not be sat out.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vaquita_image::{Image, ImageError, ImageStore};

/// How often the store is looked at for changes by others.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The images of the node. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    store: ImageStore,
    /// How often the store was seen to change.
    changes: watch::Sender<u64>,
    /// The list as it was after so many changes.
    listed: Arc<Mutex<Option<Listed>>>,
}

/// A number of changes, and the list after them.
type Listed = (u64, Vec<Image>);

/// Why there is no image. Messages are upstream's where there is such a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageProblem {
    #[error(
        "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {reason}"
    )]
    InvalidName { image: String, reason: String },
    #[error("Container image {image:?} is not present with pull policy of Never")]
    NeverPull { image: String },
    #[error(
        "{image:?} is not in the node's image store, and there is no registry to pull from: \
         load it with 'vaquita image load FILE {image}'"
    )]
    Absent { image: String },
    #[error(
        "cannot read {image:?} from the node's image store: {}",
        with_causes(source)
    )]
    Store { image: String, source: ImageError },
}

impl ImageProblem {
    /// The reason that a container waits with.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => "InvalidImageName",
            Self::NeverPull { .. } => "ErrImageNeverPull",
            Self::Absent { .. } | Self::Store { .. } => "ErrImagePull",
        }
    }
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some errors already say their cause.
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

impl Images {
    pub(crate) fn new(store: ImageStore) -> Self {
        Self {
            store,
            changes: watch::Sender::new(0),
            listed: Arc::default(),
        }
    }

    /// The image of that name. `never` is the pull policy under which a missing one is an error of its own kind.
    pub(crate) async fn find(&self, image: &str, never: bool) -> Result<Image, ImageProblem> {
        let (store, name) = (self.store.clone(), image.to_owned());
        let found = tokio::task::spawn_blocking(move || store.get(&name)).await;
        let image = image.to_owned();
        match found {
            Ok(Ok(Some(found))) => Ok(found),
            Ok(Ok(None)) if never => Err(ImageProblem::NeverPull { image }),
            // Without an answer, the store's thread is gone: the process ends.
            Ok(Ok(None)) | Err(_) => Err(ImageProblem::Absent { image }),
            Ok(Err(ImageError::Reference(error))) => Err(ImageProblem::InvalidName {
                image,
                reason: error.reason,
            }),
            Ok(Err(source)) => Err(ImageProblem::Store { image, source }),
        }
    }

    /// All images; none if the store cannot be read, which is reported.
    pub(crate) async fn list(&self) -> Vec<Image> {
        let version = *self.changes.borrow();
        if let Some((known, images)) = &*self.lock()
            && *known == version
        {
            return images.clone();
        }
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.list()).await {
            Ok(Ok(images)) => {
                *self.lock() = Some((version, images.clone()));
                images
            }
            Ok(Err(error)) => {
                tracing::warn!(error = with_causes(&error), "cannot list images");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Listed>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever the store has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Watches the store for changes by other processes.
    pub(crate) async fn watch(self, shutdown: CancellationToken) {
        let index: PathBuf = self.store.dir().join("index.json");
        let look = || {
            std::fs::metadata(&index)
                .ok()
                .and_then(|file| Some((file.modified().ok()?, file.len())))
        };
        let mut last = look();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            // One stat of a file in cache: not worth another thread.
            let now = look();
            if now != last {
                last = now;
                self.changes.send_modify(|count| *count += 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> (tempfile::TempDir, Images) {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        (dir, Images::new(store))
    }

    #[tokio::test]
    async fn problems_have_upstreams_reasons() {
        let (_dir, images) = images();
        let reason = async |image, never| images.find(image, never).await.unwrap_err().reason();
        assert_eq!(reason("absent:v1", false).await, "ErrImagePull");
        assert_eq!(reason("absent:v1", true).await, "ErrImageNeverPull");
        assert_eq!(reason("Not A Name", false).await, "InvalidImageName");
        let message = images
            .find("localhost/absent:v1", false)
            .await
            .unwrap_err()
            .to_string();
        assert!(message.contains("localhost/absent:v1"), "{message}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_by_somebody_else_is_noticed() {
        let (_dir, images) = images();
        let mut changes = images.changes();
        let stop = CancellationToken::new();
        let watching = tokio::spawn(images.clone().watch(stop.clone()));
        tokio::time::sleep(LOOK_EVERY * 3).await;
        assert!(!changes.has_changed().unwrap());
        let module = wat::parse_str("(module)").unwrap();
        images.store.load("new:v1", &module).unwrap();
        changes.changed().await.unwrap();
        assert!(images.find("new:v1", false).await.is_ok());
        stop.cancel();
        watching.await.unwrap();
    }
}
