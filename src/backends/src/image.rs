//! An image that is at hand, wherever it is.

use vaquita_docker::EngineImage;
use vaquita_image::{Image, StartConfig};

/// What a container can be started from.
#[derive(Debug, Clone)]
pub enum Runnable {
    /// An image of the node's store.
    Stored(Box<Image>),
    /// One of the Docker engine.
    Engine(Box<EngineImage>, Box<StartConfig>),
}

impl Runnable {
    /// How it wants to be started, if it says so.
    pub fn start(&self) -> Option<&StartConfig> {
        match self {
            Self::Stored(image) => image.start.as_ref(),
            Self::Engine(_, start) => Some(start),
        }
    }

    /// What `imageID` in a container's status says.
    pub fn id(&self) -> String {
        match self {
            Self::Stored(image) => image_id(image),
            Self::Engine(image, _) => match &image.digest {
                Some(digest) => digest.clone(),
                None => image.id.clone(),
            },
        }
    }

    /// What tells it from any other, whatever it is called.
    pub fn digest(&self) -> String {
        match self {
            Self::Stored(image) => image.digest.to_string(),
            Self::Engine(image, _) => image.id.clone(),
        }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Stored(image) => image.size,
            Self::Engine(image, _) => image.size,
        }
    }

    /// Whether a program of the machine's own kind is in it, and no module.
    pub fn is_native(&self) -> bool {
        match self {
            Self::Stored(image) => !image.kind.is_wasm(),
            Self::Engine(..) => true,
        }
    }
}

impl From<Image> for Runnable {
    fn from(image: Image) -> Self {
        Self::Stored(Box::new(image))
    }
}

impl From<EngineImage> for Runnable {
    fn from(image: EngineImage) -> Self {
        let start = StartConfig {
            entrypoint: image.entrypoint.clone(),
            cmd: image.cmd.clone(),
            env: image.env.clone(),
            working_dir: image.working_dir.clone(),
            user: image.user.clone(),
            ..StartConfig::default()
        };
        Self::Engine(Box::new(image), Box::new(start))
    }
}

/// `registry/repository@sha256:...`: what `imageID` in a container's status says.
pub fn image_id(image: &Image) -> String {
    let name = image
        .reference
        .rsplit_once(':')
        .map_or(image.reference.as_str(), |(name, _tag)| name);
    format!("{name}@{}", image.digest)
}
