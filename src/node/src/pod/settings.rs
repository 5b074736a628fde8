//! What a container is started with, besides its image and its arguments: also what commands in it are started with.

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt as _;
use vaquita_backends::{Grants, Resources, Sandbox};
use vaquita_docker::Bind;
use vaquita_manifest::{Place, resources};
use vaquita_runtime::Mount;

use super::{Context, storage::Storage, wasm_policy};

/// A container's configuration, with everything that its manifest refers to.
pub(crate) struct Settings {
    pub(crate) env: Vec<(String, String)>,
    pub(crate) mounts: Vec<Mount>,
    /// The same for a container on the machine's kernel; or why one cannot have them.
    pub(crate) binds: Result<Vec<Bind>, String>,
    /// Where relative paths begin, if not at the root.
    pub(crate) working_dir: Option<String>,
    /// What modules may import.
    pub(crate) grants: Grants,
    /// What it may use.
    pub(crate) resources: Resources,
}

/// Resolves a container's configuration; or says what is missing.
pub(crate) async fn container_settings(
    context: &Context,
    pod: &Pod,
    container: &Container,
    sandbox: &dyn Sandbox,
    storage: &Storage,
) -> Result<Settings, String> {
    let grants = wasm_policy::grants(&context.client, pod).await;
    let grants = grants.map_err(|error| error.to_string())?;
    let env = environment(context, pod, container, sandbox).await?;
    let mounts = storage.mounts(container, &env);
    Ok(Settings {
        binds: storage.binds(container, &env),
        mounts: mounts.map_err(|problem| problem.to_string())?,
        env,
        working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
        resources: grants.bound(resources(container))?,
        grants,
    })
}

async fn environment(
    context: &Context,
    pod: &Pod,
    container: &Container,
    sandbox: &dyn Sandbox,
) -> Result<Vec<(String, String)>, String> {
    context.services.synced().await;
    let namespace = pod.namespace().unwrap_or_default();
    let all = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.enable_service_links)
        .unwrap_or(true);
    let services = context.services.environment(&namespace, all);
    let place = Place {
        pod_ip: sandbox.ip(),
        host_ips: &context.host_ips,
        capacity: &context.capacity,
    };
    let resolved =
        vaquita_manifest::environment(pod, container, place, services, &*context.sources).await;
    resolved.map_err(|problem| problem.to_string())
}
