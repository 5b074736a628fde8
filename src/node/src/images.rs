//! From the `image` of a container to something that can be started.
//!
//! The node takes images from its local store, and pulls them into it from registries as the pull policy says. When an
//! image appears in the store in another way, whoever waits for it is told at once, so that a back-off need not be sat out.
//! Images named `localhost/...`, without a port, are nowhere but in the store: no registry is asked for them.

pub(crate) mod compile;
pub(crate) mod gc;
pub(crate) mod policy;

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use vaquita_image::{
    Credential, Credentials, Digest, Image, ImageError, ImageFiles, ImageStore, Reference,
    Registries, Silent, TransferError,
};

use vaquita_backends::with_causes;

use crate::refused;
use policy::Requirement;

/// How often the store is looked at for changes by others.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a program that keeps credentials may take.
const HELPER_PATIENCE: Duration = Duration::from_secs(30);
/// How many images come in at a time; more wait for their turn.
const PULLS: usize = 4;
/// How many signatures are remembered to be right; beyond that, they are checked again.
const MOST_VERIFIED: usize = 10_000;
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
    /// Which images have met which requirements on their signatures.
    verified: Arc<Mutex<HashSet<Met>>>,
}

/// An image's name and digest, and a requirement that it has met.
type Met = (String, Digest, String);

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
    #[error("image pull failed for {image} because the signature validation failed: {reason}")]
    Signature { image: String, reason: String },
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
            Self::Signature { .. } => "SignatureValidationFailed",
            Self::Absent { .. } | Self::Pull { .. } | Self::Store { .. } => "ErrImagePull",
        }
    }

    /// What it takes to run the image, if this node is not what it takes.
    pub(crate) fn wrong_kind(&self) -> Option<&'static str> {
        let is_linux = match self {
            Self::Pull {
                source: TransferError::Store(ImageError::Linux { .. }),
                ..
            }
            | Self::Store {
                source: ImageError::Linux { .. },
                ..
            } => true,
            Self::Pull {
                source: TransferError::Platform { found, .. },
                ..
            } => found.starts_with("linux/"),
            _ => false,
        };
        is_linux.then_some(refused::LINUX)
    }

    /// Whether it may pass by itself.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Absent { .. }
            | Self::Pull { .. }
            | Self::Signature { .. }
            | Self::Store { .. } => true,
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
    let asking = tokio::task::spawn_blocking(move || Credentials::from_home(&image));
    match tokio::time::timeout(HELPER_PATIENCE, asking).await {
        Ok(Ok(Ok(credential))) => credential,
        Ok(Ok(Err(error))) => {
            tracing::warn!(%reference, error = with_causes(&error), "no credential");
            None
        }
        Ok(Err(_)) => None,
        Err(_) => {
            tracing::warn!(%reference, "no credential: the program that has it does not answer");
            None
        }
    }
}

impl Images {
    pub(crate) fn new(store: ImageStore, registries: Registries) -> Self {
        Self {
            store,
            registries,
            pulls: Arc::new(Semaphore::new(PULLS)),
            changes: watch::Sender::new(0),
            listed: Arc::default(),
            verified: Arc::default(),
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

    /// Refuses an image that nothing on this node runs.
    pub(crate) fn check_kind(&self, image: &Image) -> Result<(), ImageProblem> {
        if image.kind.is_wasm() || self.registries.takes_linux() {
            return Ok(());
        }
        let (image, reference) = (image.reference.clone(), image.reference.clone());
        let source = ImageError::Linux { reference };
        Err(ImageProblem::Store { image, source })
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
        let before = self.find(image).await.ok().flatten();
        let pulled = self
            .registries
            .pull(&self.store, image, &who, &Silent)
            .await
            .map_err(|source| ImageProblem::Pull {
                image: image.to_owned(),
                source,
            })?;
        let is_new = before.is_none_or(|before| before.digest != pulled.digest);
        if is_new {
            // Nobody has to wait until the change is noticed.
            self.changes.send_modify(|count| *count += 1);
        }
        Ok(pulled)
    }

    /// The same for an image that is a volume: whatever it is for.
    pub(crate) async fn pull_files(
        &self,
        image: &str,
        credentials: &Credentials,
    ) -> Result<Image, ImageProblem> {
        let any = Self {
            registries: self.registries.clone().with_linux(true),
            ..self.clone()
        };
        any.pull(image, credentials).await
    }

    /// The files of an image, unpacked if they were not yet; `None`: it has none.
    pub(crate) async fn files(&self, image: Image) -> Result<Option<ImageFiles>, ImageError> {
        let store = self.store.clone();
        let unpack = move || store.files(&image);
        // The store's thread is gone: the process ends.
        let unpacked = tokio::task::spawn_blocking(unpack).await;
        unpacked.unwrap_or(Ok(None))
    }

    /// Makes sure that an image has the signatures that policies want.
    pub(crate) async fn verify(
        &self,
        image: &Image,
        credentials: &Credentials,
        requirements: Vec<Requirement>,
    ) -> Result<(), ImageProblem> {
        let refused = |policy: &str, reason: String| ImageProblem::Signature {
            image: image.reference.clone(),
            reason: format!("{reason} (ImagePolicy {policy})"),
        };
        for wanted in requirements {
            let met = (
                image.reference.clone(),
                image.digest.clone(),
                wanted.fingerprint,
            );
            if lock(&self.verified).contains(&met) {
                continue;
            }
            let signers = wanted
                .signers
                .map_err(|error| refused(&wanted.policy, with_causes(&error)))?;
            let reference: Reference = image.reference.parse().map_err(|error| {
                ImageProblem::of(&image.reference, ImageError::Reference(error))
            })?;
            if is_local_only(&image.reference) {
                let reason = "the image has no registry that could have its signature".to_owned();
                return Err(refused(&wanted.policy, reason));
            }
            let mut who = credentials.of_image(&reference);
            who.extend(own_credential(&reference).await);
            let checked = self.registries.verify(image, &who, &signers).await;
            checked.map_err(|error| refused(&wanted.policy, with_causes(&error)))?;
            let mut verified = lock(&self.verified);
            if verified.len() >= MOST_VERIFIED {
                verified.clear();
            }
            verified.insert(met);
        }
        Ok(())
    }

    /// Forgets an image.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), ImageProblem> {
        let (store, image) = (self.store.clone(), name.to_owned());
        let removed = tokio::task::spawn_blocking(move || store.remove(&image)).await;
        self.changes.send_modify(|count| *count += 1);
        match removed {
            Ok(Err(error)) => Err(ImageProblem::of(name, error)),
            _ => Ok(()),
        }
    }

    /// Removes what no image needs and is older than that: what was left behind when something broke off.
    pub(crate) async fn sweep(&self, older_than: SystemTime) {
        let store = self.store.clone();
        let swept = tokio::task::spawn_blocking(move || store.sweep(older_than)).await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(error = with_causes(&error), "cannot clean the image store");
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
        lock(&self.listed)
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
