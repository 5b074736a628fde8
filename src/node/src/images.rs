//! From the `image` of a container to something that can be started.
//!
//! The node takes images from its local store, and pulls them into it from registries as the pull policy says. When an
//! image appears in the store in another way, whoever waits for it is told at once, so that a back-off need not be sat out.
//! Images named `localhost/...`, without a port, are nowhere but in the store: no registry is asked for them.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use vaquita_image::{
    Credential, Credentials, Image, ImageError, ImageStore, Reference, Registries, Silent,
    TransferError,
};

use crate::refused;

/// How often the store is looked at for changes by others.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many images come in at a time; more wait for their turn.
const PULLS: usize = 4;
/// What images that no registry has are named below.
const LOCAL_ONLY: &str = "localhost/";

/// The images of the node. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    store: ImageStore,
    registries: Registries,
    pulls: Arc<Semaphore>,
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
    #[error("failed to pull and unpack image {image:?}: {source}")]
    Pull {
        image: String,
        source: TransferError,
    },
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
            Self::Absent { .. } | Self::Pull { .. } | Self::Store { .. } => "ErrImagePull",
        }
    }

    /// What it takes to run the image, if this node is not what it takes.
    pub(crate) fn wrong_kind(&self) -> Option<&'static str> {
        let found = match self {
            Self::Pull {
                source: TransferError::Store(ImageError::NotWasm { found, .. }),
                ..
            }
            | Self::Store {
                source: ImageError::NotWasm { found, .. },
                ..
            } => found.strip_prefix("it is for ")?,
            Self::Pull {
                source: TransferError::Platform { found, .. },
                ..
            } => found,
            _ => return None,
        };
        found.starts_with("linux/").then_some(refused::LINUX)
    }

    /// Whether it may pass by itself.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Absent { .. } | Self::Pull { .. } | Self::Store { .. } => true,
            Self::InvalidName { .. } | Self::NeverPull { .. } => false,
        }
    }
}

/// Whether an image is only ever in the store.
pub(crate) fn is_local_only(image: &str) -> bool {
    image.starts_with(LOCAL_ONLY)
}

impl ImageProblem {
    fn of(image: &str, error: ImageError) -> Self {
        let image = image.to_owned();
        match error {
            ImageError::Reference(error) => Self::InvalidName {
                image,
                reason: error.reason,
            },
            source => Self::Store { image, source },
        }
    }
}

/// What the configuration of the user that the node runs as has for an image. Trouble with it is no reason not to try
/// without.
async fn own_credential(reference: &Reference) -> Option<Credential> {
    let image = reference.clone();
    // It may run a program.
    let asked = tokio::task::spawn_blocking(move || Credentials::from_home(&image)).await;
    match asked {
        Ok(Ok(credential)) => credential,
        Ok(Err(error)) => {
            tracing::warn!(%reference, error = with_causes(&error), "no credential");
            None
        }
        Err(_) => None,
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
    pub(crate) fn new(store: ImageStore, registries: Registries) -> Self {
        Self {
            store,
            registries,
            pulls: Arc::new(Semaphore::new(PULLS)),
            changes: watch::Sender::new(0),
            listed: Arc::default(),
        }
    }

    /// The image of that name in the store.
    pub(crate) async fn find(&self, image: &str) -> Result<Option<Image>, ImageProblem> {
        let (store, name) = (self.store.clone(), image.to_owned());
        let found = tokio::task::spawn_blocking(move || store.get(&name)).await;
        match found {
            Ok(found) => found.map_err(|error| ImageProblem::of(image, error)),
            // The store's thread is gone: the process ends.
            Err(_) => Ok(None),
        }
    }

    /// Brings the image in from its registry, or makes sure that the one that is here is the registry's. `credentials` are
    /// the pod's; those that the node's own user has come after them.
    pub(crate) async fn pull(
        &self,
        image: &str,
        credentials: &Credentials,
    ) -> Result<Image, ImageProblem> {
        if is_local_only(image) {
            let image = image.to_owned();
            return Err(ImageProblem::Absent { image });
        }
        let reference: Reference = image
            .parse()
            .map_err(|error| ImageProblem::of(image, ImageError::Reference(error)))?;
        let mut who = credentials.of_image(&reference);
        who.extend(own_credential(&reference).await);
        // Never closed.
        let _turn = self.pulls.acquire().await;
        self.registries
            .pull(&self.store, image, &who, &Silent)
            .await
            .map_err(|source| ImageProblem::Pull {
                image: image.to_owned(),
                source,
            })
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
        (dir, Images::new(store, Registries::default()))
    }

    #[tokio::test]
    async fn problems_have_upstreams_reasons() {
        let (_dir, images) = images();
        let nobody = Credentials::default();
        let problem = images
            .pull("localhost/absent:v1", &nobody)
            .await
            .unwrap_err();
        assert_eq!(problem.reason(), "ErrImagePull");
        assert!(problem.may_pass());
        assert!(
            problem.to_string().contains("localhost/absent:v1"),
            "{problem}"
        );
        let problem = images.find("Not A Name").await.unwrap_err();
        assert_eq!(problem.reason(), "InvalidImageName");
        assert!(!problem.may_pass());
        assert!(images.find("absent:v1").await.unwrap().is_none());
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
        assert!(images.find("new:v1").await.unwrap().is_some());
        stop.cancel();
        watching.await.unwrap();
    }
}
