//! The modules of a pod that has Linux containers too: they are where those are.

use std::{net::IpAddr, sync::Arc};

use tokio::sync::Mutex;
use vaquita_docker::Pod;

use crate::{
    Sandbox as _, SandboxConfig, StartError,
    wasm::{WasmBackend, WasmSandbox},
};

/// Why an engine elsewhere has no such pods.
const ELSEWHERE: &str =
    "modules and Linux containers in one pod take a Docker engine on the node's own machine";

/// A sandbox for modules in the namespaces of a pod, made when the first one starts.
pub(super) struct Modules {
    backend: WasmBackend,
    config: SandboxConfig,
    ip: IpAddr,
    current: Mutex<Option<Current>>,
}

struct Current {
    /// What holds the namespaces that it is in.
    process: u32,
    sandbox: Arc<WasmSandbox>,
}

impl Modules {
    pub(super) fn new(backend: WasmBackend, config: SandboxConfig, ip: IpAddr) -> Self {
        Self {
            backend,
            config,
            ip,
            current: Mutex::default(),
        }
    }

    /// The sandbox. What runs in an earlier one, whose namespaces are gone, is ended.
    pub(super) async fn sandbox(&self, pod: &Pod) -> Result<Arc<WasmSandbox>, StartError> {
        let failed = |error: String| StartError::Create(error);
        pod.revive()
            .await
            .map_err(|error| failed(error.to_string()))?;
        let process = process(pod).await.map_err(failed)?;
        let mut current = self.current.lock().await;
        if let Some(current) = &*current
            && current.process == process
        {
            return Ok(current.sandbox.clone());
        }
        if let Some(before) = current.take() {
            before.sandbox.shutdown().await;
        }
        let made = self.backend.beside(self.config.clone(), self.ip, process);
        let made = made.map_err(|error| {
            failed(format!(
                "cannot enter the network namespace of the pod's containers: {error}"
            ))
        })?;
        let sandbox = Arc::new(made);
        *current = Some(Current {
            process,
            sandbox: sandbox.clone(),
        });
        Ok(sandbox)
    }

    /// Ends what runs in namespaces that are gone: whatever restarts it, restarts it in the new ones.
    pub(super) async fn follow(&self, pod: &Pod) {
        let mut current = self.current.lock().await;
        let Some(before) = &*current else { return };
        let is_there = process(pod)
            .await
            .is_ok_and(|process| process == before.process);
        if !is_there && let Some(before) = current.take() {
            before.sandbox.shutdown().await;
        }
    }

    pub(super) async fn shutdown(&self) {
        if let Some(before) = self.current.lock().await.take() {
            before.sandbox.shutdown().await;
        }
    }
}

/// What holds the pod's namespaces.
async fn process(pod: &Pod) -> Result<u32, String> {
    let found = pod.process().await.map_err(|error| error.to_string())?;
    found.ok_or_else(|| ELSEWHERE.to_owned())
}
