//! Runs Spin applications: a process for each [component], and before them an [entrance] that answers on the pod's ports.

mod component;
mod entrance;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::future::{join_all, select_all};
use tokio_util::sync::CancellationToken;
use vaquita_image::{Image, ImageFiles};
use vaquita_net::{Listener, PodNetwork};
use vaquita_runtime::{Process, ProcessConfig};
use vaquita_spin::Application;

use self::{component::Shared, entrance::Entrance};
use super::{WasmBackend, WasmSandbox};
use crate::{ContainerConfig, Exit, Instance, Resources, StartError, Usage, with_causes};

/// Where an application answers, if its pod does not say.
const PORT: u16 = 80;

/// Starts all components of an application, and what is before them.
pub(super) async fn start(
    sandbox: &WasmSandbox,
    image: &Image,
    mut container: ContainerConfig,
) -> Result<Box<dyn Instance>, StartError> {
    let Some(declared) = container.ports.take() else {
        let message = "a Spin application serves HTTP: it cannot be executed as a command";
        return Err(StartError::Create(message.to_owned()));
    };
    let images = sandbox.backend.images.clone();
    let described = image.clone();
    let description = blocking(move || images.description(&described)).await?;
    let application = Application::from_json(&description)
        .map_err(|error| StartError::Create(with_causes(&error)))?;
    let values = application.values(|name| {
        let found = container.env.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    });
    let wanted = container.http.port;
    let shared = Shared::new(sandbox, image, container, values);
    let mut configs = Vec::new();
    let mut files = Vec::new();
    for component in &application.components {
        let (config, dir) = shared.config(component).await?;
        configs.push(config);
        files.extend(dir);
    }
    // Before anything runs: a port that is taken is found out in time.
    let listeners = listeners(&sandbox.network, &declared, wanted)?;
    let processes = start_all(sandbox, configs).await?;
    let running = Running {
        processes: Arc::new(processes),
        stop: CancellationToken::new(),
        _files: files,
    };
    let entrance = Entrance::new(
        running.processes.clone(),
        application.routes,
        running.stop.clone(),
    );
    let entrance = Arc::new(entrance);
    for listener in listeners {
        tokio::spawn(entrance.clone().accept(listener));
    }
    Ok(Box::new(running))
}

/// Starts either all of them or none.
async fn start_all(
    sandbox: &WasmSandbox,
    configs: Vec<ProcessConfig>,
) -> Result<Vec<Process>, StartError> {
    let mut processes: Vec<Process> = Vec::new();
    for config in configs {
        match sandbox.pod.start(config).await {
            Ok(process) => processes.push(process),
            Err(error) => {
                processes.iter().for_each(Process::kill);
                return Err(StartError::Run(with_causes(&error)));
            }
        }
    }
    Ok(processes)
}

impl WasmBackend {
    /// Compiles all modules of an application, so that they are in the cache when a container needs them.
    pub(super) async fn prepare_application(&self, image: Image) {
        let (images, described) = (self.images.clone(), image.clone());
        let Ok(description) = blocking(move || images.description(&described)).await else {
            return;
        };
        let Ok(application) = Application::from_json(&description) else {
            return;
        };
        for component in application.components {
            let (images, image) = (self.images.clone(), image.clone());
            if let Ok(wasm) = blocking(move || images.part(&image, &component.module)).await {
                // What fails is told to whoever starts it.
                let _ = self.loaded(wasm.into()).await;
            }
        }
    }
}

/// Work on files, on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, vaquita_image::ImageError> + Send + 'static,
) -> Result<T, StartError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| StartError::Create(with_causes(&error))),
        Err(_) => Err(StartError::Create("the node is shutting down".to_owned())),
    }
}

fn listeners(
    network: &PodNetwork,
    declared: &[u16],
    wanted: Option<u16>,
) -> Result<Vec<Listener>, StartError> {
    let ports = match (wanted, declared) {
        (Some(port), _) => vec![port],
        (None, []) => vec![PORT],
        (None, declared) => declared.to_vec(),
    };
    let listen = |port| {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let listener = network.listen(address);
        listener.map_err(|error| StartError::Run(format!("listening on port {port}: {error}")))
    };
    ports.into_iter().map(listen).collect()
}

/// An application that runs.
struct Running {
    processes: Arc<Vec<Process>>,
    stop: CancellationToken,
    _files: Vec<ImageFiles>,
}

#[async_trait]
impl Instance for Running {
    async fn wait(&self) -> Exit {
        let waits = self
            .processes
            .iter()
            .map(|process| Box::pin(process.wait()));
        let (first, _, _) = select_all(waits).await;
        // One component less is no application any more.
        self.stop.cancel();
        if !matches!(first, vaquita_runtime::Exit::Exited(0)) {
            self.kill();
        }
        join_all(self.processes.iter().map(Process::wait)).await;
        first.into()
    }

    fn terminate(&self, grace: Duration) {
        self.stop.cancel();
        for process in self.processes.iter() {
            process.terminate(grace);
        }
    }

    fn kill(&self) {
        self.stop.cancel();
        self.processes.iter().for_each(Process::kill);
    }

    async fn resize(&self, resources: Resources) -> Result<(), String> {
        for process in self.processes.iter() {
            process
                .set_limits(
                    resources.memory_limit,
                    resources.cpu_limit,
                    resources.cpu_request,
                )
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn usage(&self) -> Usage {
        let usages = self.processes.iter().map(Process::usage);
        usages.fold(Usage::default(), |sum, usage| Usage {
            cpu: sum.cpu + usage.cpu,
            memory: sum.memory + usage.memory,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
