//! Images of the engine.

use std::{collections::HashMap, io};

use bollard::{
    auth::DockerCredentials,
    body_stream, body_try_stream,
    query_parameters::{
        CreateImageOptionsBuilder, ImportImageOptionsBuilder, ListImagesOptionsBuilder,
        RemoveImageOptionsBuilder,
    },
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
    /// The signal that asks its program to end; `None`: the usual one.
    pub stop_signal: Option<String>,
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
            stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
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

    /// Takes in an archive as `docker save` writes it. An error of the stream ends the attempt.
    pub async fn load(
        &self,
        archive: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), EngineError> {
        let options = ImportImageOptionsBuilder::default().quiet(true).build();
        let loading = self
            .docker
            .import_image(options, body_try_stream(archive), None);
        let loaded = loading.try_for_each(|_| std::future::ready(Ok(())));
        loaded.await.map_err(EngineError::of("loading the image"))
    }

    /// The names of all images in a repository, `REPOSITORY:TAG`.
    pub(crate) async fn tags(&self, repository: &str) -> Result<Vec<String>, EngineError> {
        let filters = HashMap::from([("reference".to_owned(), vec![repository.to_owned()])]);
        let options = ListImagesOptionsBuilder::default()
            .filters(&filters)
            .build();
        let found = self.docker.list_images(Some(options)).await;
        let found = found.map_err(EngineError::of("listing images"))?;
        let names = found.into_iter().flat_map(|image| image.repo_tags);
        // What has other names as well is listed with all of them.
        Ok(names
            .filter(|name| {
                name.rsplit_once(':')
                    .is_some_and(|(it, _)| it == repository)
            })
            .collect())
    }

    /// Takes a name away from an image, and removes it if it has no other. One that a container was made of stays.
    pub(crate) async fn untag(&self, name: &str) -> Result<(), EngineError> {
        let options = RemoveImageOptionsBuilder::default().build();
        let removed = self.docker.remove_image(name, Some(options), None).await;
        match removed.map_err(EngineError::of("removing an image")) {
            Err(error) if error.is_absent() || error.is_conflict() => Ok(()),
            other => other.map(drop),
        }
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
