//! Images of the engine.

use bollard::{
    auth::DockerCredentials,
    body_stream,
    query_parameters::{CreateImageOptionsBuilder, ImportImageOptionsBuilder},
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};

use crate::engine::{Engine, EngineError};

/// An image that the engine has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineImage {
    /// What it was asked for by.
    pub name: String,
    /// Its identifier: `sha256:` and the digest of its configuration.
    pub id: String,
    /// The name of its manifest in a registry, `REPOSITORY@sha256:...`, if it has come from one.
    pub digest: Option<String>,
    /// Bytes of its file system.
    pub size: u64,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments.
    pub cmd: Vec<String>,
    /// Variables, each `NAME=value`.
    pub env: Vec<String>,
    /// Where it starts; empty: at the root.
    pub working_dir: String,
    /// Who runs it; empty: the superuser.
    pub user: String,
}

/// Who asks a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// A name.
    pub user: String,
    /// What proves it.
    pub password: String,
    /// In place of both.
    pub token: Option<String>,
    /// The registry that they are for.
    pub registry: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// The image of that name or identifier; `None` if the engine has none.
    pub async fn image(&self, name: &str) -> Result<Option<EngineImage>, EngineError> {
        let found = match self.docker.inspect_image(name).await {
            Ok(found) => found,
            Err(error) => {
                let error = EngineError::of("looking for an image")(error);
                return if error.is_absent() {
                    Ok(None)
                } else {
                    Err(error)
                };
            }
        };
        let config = found.config.unwrap_or_default();
        Ok(Some(EngineImage {
            name: name.to_owned(),
            id: found.id.unwrap_or_default(),
            digest: found.repo_digests.into_iter().flatten().next(),
            size: found
                .size
                .and_then(|size| u64::try_from(size).ok())
                .unwrap_or(0),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
        }))
    }

    /// Has the engine bring the image in from its registry.
    pub async fn pull(&self, name: &str, login: Option<Login>) -> Result<(), EngineError> {
        // Without a tag it would bring in all there are.
        let last = name.rsplit('/').next().unwrap_or(name);
        let name = if last.contains([':', '@']) {
            name.to_owned()
        } else {
            format!("{name}:latest")
        };
        let options = CreateImageOptionsBuilder::default()
            .from_image(&name)
            .build();
        let credentials = login.map(|login| DockerCredentials {
            username: Some(login.user),
            password: Some(login.password),
            identitytoken: login.token,
            serveraddress: Some(login.registry),
            ..DockerCredentials::default()
        });
        let pulling = self.docker.create_image(Some(options), None, credentials);
        let pulled = pulling.try_for_each(|_| std::future::ready(Ok(())));
        pulled.await.map_err(EngineError::of("pulling the image"))
    }

    /// Takes in an archive as `docker save` writes it.
    pub async fn load(
        &self,
        archive: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<(), EngineError> {
        let options = ImportImageOptionsBuilder::default().quiet(true).build();
        let loading = self
            .docker
            .import_image(options, body_stream(archive), None);
        let loaded = loading.try_for_each(|_| std::future::ready(Ok(())));
        loaded.await.map_err(EngineError::of("loading the image"))
    }

    /// Makes an image of a root file system, an uncompressed archive.
    pub(crate) async fn import(
        &self,
        root: Vec<u8>,
        name: &str,
        tag: &str,
    ) -> Result<(), EngineError> {
        let options = CreateImageOptionsBuilder::default()
            .from_src("-")
            .repo(name)
            .tag(tag)
            .build();
        let body = body_stream(futures::stream::iter([Bytes::from(root)]).boxed());
        let importing = self.docker.create_image(Some(options), Some(body), None);
        let imported = importing.try_for_each(|_| std::future::ready(Ok(())));
        imported.await.map_err(EngineError::of("making the image"))
    }
}
