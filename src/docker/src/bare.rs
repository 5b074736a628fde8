//! What an engine itself takes for what a pod is, to be compared with.

use std::time::{Duration, Instant};

use bollard::{
    models::{ContainerCreateBody, HostConfig},
    query_parameters::CreateContainerOptions,
};

use crate::{
    engine::{Engine, EngineError},
    pod::remove,
};

impl Engine {
    /// How long the engine takes to start a container on a network of its, and another one in the namespaces of that, both of
    /// this image: by nothing but the requests that it takes. Both are removed again.
    pub async fn time_of_a_pod(&self, image: &str, network: &str) -> Result<Duration, EngineError> {
        let begun = Instant::now();
        let holder = self.start_bare(image, network.to_owned(), None).await?;
        let joined = format!("container:{holder}");
        let inside = self.start_bare(image, joined.clone(), Some(joined)).await;
        let took = begun.elapsed();
        if let Ok(inside) = &inside {
            remove(self, inside).await?;
        }
        remove(self, &holder).await?;
        inside.map(|_| took)
    }

    async fn start_bare(
        &self,
        image: &str,
        network: String,
        ipc: Option<String>,
    ) -> Result<String, EngineError> {
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            host_config: Some(HostConfig {
                network_mode: Some(network),
                ipc_mode: Some(ipc.unwrap_or_else(|| "shareable".to_owned())),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = None::<CreateContainerOptions>;
        let created = self.docker.create_container(options, body).await;
        let id = created.map_err(EngineError::of("making a container"))?.id;
        let started = self.docker.start_container(&id, None).await;
        if let Err(error) = started.map_err(EngineError::of("starting a container")) {
            // The other error tells more.
            let _ = remove(self, &id).await;
            return Err(error);
        }
        Ok(id)
    }
}
