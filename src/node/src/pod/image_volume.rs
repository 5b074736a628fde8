//! Volumes that are the files of an image (`volumes[].image`): all its layers, as one directory that nobody writes to.
//!
//! The image comes as a container's does: by the pull policy, with the pod's pull secrets, and with the signatures that the
//! namespace's policies want. It need not be one that the node can run.

use std::{path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::{ImageVolumeSource, Pod};
use kube::{Resource as _, ResourceExt as _};
use vaquita_backends::with_causes;
use vaquita_image::{Image, ImageFiles};

use super::{
    Context,
    pull::{PullPolicy, pull_credentials},
};
use crate::images::{ImageProblem, is_local_only, policy};

/// Why there are no such files.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageVolumeError {
    #[error("{reason}: {0}", reason = .0.reason())]
    Image(#[from] ImageProblem),
    #[error("cannot read the namespace's ImagePolicies: {0}")]
    Policies(#[source] kube::Error),
    #[error("image {0:?} has no files: it is a module and nothing else")]
    NoFiles(String),
    #[error("unpacking the image {image:?}: {}", with_causes(source))]
    Unpack {
        image: String,
        source: vaquita_image::ImageError,
    },
}

/// The files of an image, which are there as long as this is.
#[derive(Debug)]
pub(super) struct ImageVolume {
    files: ImageFiles,
}

impl ImageVolume {
    /// Gets the image, if it is not here, and unpacks it, if it is not yet.
    pub(super) async fn open(
        context: &Arc<Context>,
        pod: &Pod,
        source: &ImageVolumeSource,
    ) -> Result<Self, ImageVolumeError> {
        let name = source.reference.as_deref().unwrap_or_default();
        let image = obtain(context, pod, name, PullPolicy::of_volume(source)).await?;
        let files = context.images.files(image).await;
        let files = files.map_err(|source| ImageVolumeError::Unpack {
            image: name.to_owned(),
            source,
        })?;
        let files = files.ok_or_else(|| ImageVolumeError::NoFiles(name.to_owned()))?;
        Ok(Self { files })
    }

    /// The directory.
    pub(super) fn path(&self) -> PathBuf {
        self.files.path().to_owned()
    }
}

async fn obtain(
    context: &Arc<Context>,
    pod: &Pod,
    name: &str,
    policy: PullPolicy,
) -> Result<Image, ImageVolumeError> {
    let here = context.images.find(name).await?;
    let image = match here {
        Some(image) if is_local_only(name) || policy != PullPolicy::Always => image,
        None if policy == PullPolicy::Never => {
            let image = name.to_owned();
            return Err(ImageProblem::NeverPull { image }.into());
        }
        _ => {
            let about = Arc::new(pod.object_ref(&()));
            let message = format!("Pulling image \"{name}\"");
            context.events.normal(&about, "Pulling", message);
            let credentials = pull_credentials(context, pod).await;
            let image = context.images.pull_files(name, &credentials).await?;
            let message = format!(
                "Successfully pulled image \"{name}\". Image size: {} bytes.",
                image.size
            );
            context.events.normal(&about, "Pulled", message);
            image
        }
    };
    let namespace = pod.namespace().unwrap_or_default();
    let wanted = policy::requirements(&context.client, &namespace, name).await;
    let wanted = wanted.map_err(ImageVolumeError::Policies)?;
    if !wanted.is_empty() {
        let credentials = pull_credentials(context, pod).await;
        context.images.verify(&image, &credentials, wanted).await?;
    }
    Ok(image)
}
