//! How a container comes by its image: from the node's store or from a registry, as its pull policy says, however long that
//! takes. Events and reasons are the kubelet's.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    ByteString,
    api::core::v1::{Container, ImageVolumeSource, Pod},
};
use kube::{Resource as _, ResourceExt as _};
use tokio::time::{Instant, sleep};
use vaquita_backends::Runnable;
use vaquita_image::{Credentials, CredentialsError};

use super::{
    Context,
    backoff::Doubling,
    board::Verdict,
    container::{Runner, go_duration},
};
use crate::images::{ImageProblem, is_local_only, policy};

/// How long a container shows that its image could not be pulled before it shows that it waits to try again.
const SHOW_PULL_ERROR: Duration = Duration::from_secs(1);

/// Reads what a pull secret says, in one of its forms.
type ReadCredentials = fn(&[u8]) -> Result<Credentials, CredentialsError>;

/// When the registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PullPolicy {
    /// Each time.
    Always,
    /// When the image is not here.
    IfNotPresent,
    /// Not at all.
    Never,
}

impl PullPolicy {
    fn of(container: &Container) -> Self {
        match container.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            _ => Self::IfNotPresent,
        }
    }

    /// That of an image that is a volume. A cluster that leaves it out wants what it would want of a container.
    pub(super) fn of_volume(source: &ImageVolumeSource) -> Self {
        let reference = source.reference.as_deref().unwrap_or_default();
        let name = reference.rsplit('/').next().unwrap_or_default();
        let is_latest = !name.contains([':', '@']) || name.ends_with(":latest");
        match source.pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            None | Some("") if is_latest => Self::Always,
            _ => Self::IfNotPresent,
        }
    }
}

impl Runner {
    /// Gets the image, however long it takes, and says how in the words of an event. `None`: the manifest names another one
    /// now.
    pub(super) async fn image(&self, container: &Container) -> Option<(Runnable, String)> {
        let name = container.image.as_deref().unwrap_or_default();
        let policy = PullPolicy::of(container);
        let mut backoff = Doubling::as_for_crashes();
        loop {
            let attempt = tokio::select! {
                attempt = self.trusted(name, policy) => attempt,
                () = self.image_changed(container.image.as_deref()) => return None,
            };
            let problem = match attempt {
                Ok(obtained) => return Some(obtained),
                Err(problem) => problem,
            };
            self.complain_about_image(&problem);
            if let Some(kind) = problem.wrong_kind() {
                self.refuse_image(name, kind, &problem);
            }
            let wait = backoff.next();
            tokio::select! {
                () = self.until_next_pull(name, &problem, wait) => {}
                // One without a signature is here already.
                () = self.appears(name), if !matches!(problem, ImageProblem::Signature { .. }) => {}
                () = self.image_changed(container.image.as_deref()) => return None,
            }
        }
    }

    /// Says that the image takes another kind of node. The pod fails, so that whoever made it makes another one, which the
    /// scheduler then sends elsewhere.
    fn refuse_image(&self, name: &str, kind: &'static str, problem: &ImageProblem) {
        self.context.refused.add(name, kind);
        let message =
            format!("Pod was rejected: this node does not run Linux containers: {problem}");
        self.board.update(|facts| {
            facts.verdict.get_or_insert(Verdict {
                reason: "UnsupportedImage",
                message,
                grace: None,
            });
        });
    }

    /// The image, with the signatures that the namespace's policies want.
    async fn trusted(
        &self,
        name: &str,
        policy: PullPolicy,
    ) -> Result<(Runnable, String), ImageProblem> {
        let obtained = self.obtain(name, policy).await?;
        if let Runnable::Stored(image) = &obtained.0 {
            self.context.images.check_kind(image)?;
        }
        let namespace = self.pod().namespace().unwrap_or_default();
        let wanted = policy::requirements(&self.context.client, &namespace, name).await;
        let wanted = wanted.map_err(|error| ImageProblem::Signature {
            image: name.to_owned(),
            reason: format!("cannot read the namespace's ImagePolicies: {error}"),
        })?;
        if !wanted.is_empty() {
            let credentials = pull_credentials(&self.context, &self.pod()).await;
            let images = &self.context.images;
            let Runnable::Stored(image) = &obtained.0 else {
                return Err(ImageProblem::Signature {
                    image: name.to_owned(),
                    reason: "of images that the Docker engine has, signatures cannot be checked"
                        .to_owned(),
                });
            };
            images.verify(image, &credentials, wanted).await?;
        }
        Ok(obtained)
    }

    async fn obtain(
        &self,
        name: &str,
        policy: PullPolicy,
    ) -> Result<(Runnable, String), ImageProblem> {
        let images = &self.context.images;
        let here = self.context.find_image(name).await?;
        // Somebody has put it here by hand, and nowhere else.
        let local = is_local_only(name);
        match (here, policy) {
            (Some(image), _) if local || policy != PullPolicy::Always => {
                let news = format!("Container image \"{name}\" already present on machine");
                Ok((image, news))
            }
            (None, PullPolicy::Never) => {
                let image = name.to_owned();
                Err(ImageProblem::NeverPull { image })
            }
            _ => {
                let message = format!("Pulling image \"{name}\"");
                self.context
                    .events
                    .normal(&self.about(), "Pulling", message);
                let begun = Instant::now();
                let credentials = pull_credentials(&self.context, &self.pod()).await;
                let image = Runnable::from(images.pull(name, &credentials).await?);
                // As the kubelet has it: to the millisecond.
                let took = begun.elapsed().as_millis();
                let took = go_duration(Duration::from_millis(took.try_into().unwrap_or(u64::MAX)));
                let news = format!(
                    "Successfully pulled image \"{name}\" in {took} ({took} including waiting). Image size: {} bytes.",
                    image.size()
                );
                Ok((image, news))
            }
        }
    }

    /// Shows the problem for a moment, then that the next attempt is waited for, and waits for it.
    async fn until_next_pull(&self, name: &str, problem: &ImageProblem, wait: Duration) {
        if !problem.may_pass() {
            // Trying again cannot help.
            return std::future::pending().await;
        }
        sleep(SHOW_PULL_ERROR).await;
        let events = &self.context.events;
        let message = format!("Back-off pulling image \"{name}\"");
        events.normal(&self.about(), "BackOff", message.clone());
        events.warning(&self.about(), "Failed", "Error: ImagePullBackOff");
        let message = format!("{message}: {}: {problem}", problem.reason());
        self.wait_with("ImagePullBackOff", Some(message));
        sleep(wait).await;
    }

    /// Waits until the image is in the store, by whatever way.
    async fn appears(&self, name: &str) {
        let mut changes = self.context.images.changes();
        loop {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
            if matches!(self.context.find_image(name).await, Ok(Some(_))) {
                return;
            }
        }
    }

    fn complain_about_image(&self, problem: &ImageProblem) {
        let (events, about) = (&self.context.events, self.about());
        match problem {
            ImageProblem::InvalidName { .. } => {
                events.warning(&about, "InspectFailed", problem.to_string());
            }
            ImageProblem::NeverPull { .. } => {
                events.warning(&about, "ErrImageNeverPull", problem.to_string());
            }
            ImageProblem::Absent { image }
            | ImageProblem::Pull { image, .. }
            | ImageProblem::Signature { image, .. }
            | ImageProblem::Store { image, .. } => {
                let message = format!("Failed to pull image \"{image}\": {problem}");
                events.warning(&about, "Failed", message);
            }
        }
        events.warning(&about, "Failed", format!("Error: {}", problem.reason()));
        self.wait_with(problem.reason(), Some(problem.to_string()));
    }
}

/// What the pod's pull secrets say.
pub(super) async fn pull_credentials(context: &Context, pod: &Pod) -> Credentials {
    let (mut all, mut missing) = (Credentials::default(), Vec::new());
    let namespace = pod.namespace().unwrap_or_default();
    let secrets = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.image_pull_secrets.clone());
    for secret in secrets.into_iter().flatten() {
        let found = context.sources.secret(&namespace, &secret.name).await;
        let Ok(Some(found)) = found else {
            missing.push(secret.name);
            continue;
        };
        let data = found.data.unwrap_or_default();
        let forms: [(&str, ReadCredentials); 2] = [
            (".dockerconfigjson", Credentials::from_docker_config),
            (".dockercfg", Credentials::from_docker_cfg),
        ];
        for (key, read) in forms {
            let Some(ByteString(bytes)) = data.get(key) else {
                continue;
            };
            match read(bytes) {
                Ok(credentials) => all.extend(credentials),
                Err(error) => {
                    tracing::warn!(namespace, secret = secret.name, %error, "left out");
                }
            }
        }
    }
    if !missing.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        let about = Arc::new(pod.object_ref(&()));
        context
            .events
            .warning(&about, "FailedToRetrieveImagePullSecret", message);
    }
    all
}
