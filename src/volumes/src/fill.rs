//! From what a manifest names to the files of a volume.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume, VolumeProjection,
};
use kube::ResourceExt as _;

use crate::{
    File, PathError, Payload, Sources,
    fields::{self, Machine},
    tokens::Tokens,
};

/// Permission bits of files if the manifest does not say: upstream's default.
const DEFAULT_MODE: u32 = 0o644;

/// Something in the cluster that a volume is made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// A config map of the pod's namespace.
    ConfigMap(String),
    /// A secret of the pod's namespace.
    Secret(String),
}

/// Why the files of a volume cannot be known. Texts are upstream's where it has some.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// An object that must be there is not.
    #[error("{kind} \"{name}\" not found")]
    Absent {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Of the object.
        name: String,
    },
    /// An object does not have a key that it must have.
    #[error("{what}: {key}")]
    NoKey {
        /// What is wrong with the key.
        what: &'static str,
        /// The key.
        key: String,
    },
    /// The API server did not give an object.
    #[error("couldn't get {kind} {namespace}/{name}: {source}")]
    Api {
        /// `configMap` or `secret`.
        kind: &'static str,
        /// Of the object.
        namespace: String,
        /// Of the object.
        name: String,
        /// What went wrong.
        source: Box<kube::Error>,
    },
    /// The API server did not give a token.
    #[error("failed to fetch token: {0}")]
    Token(#[source] Box<kube::Error>),
    /// A field that pods do not have, or files cannot.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// A resource that containers do not have, or a container that the pod does not have.
    #[error("unsupported container resource: {0}")]
    Resource(String),
    /// A file that cannot be there.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Nothing here makes such a volume.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// More than one of these.
    #[error("[{}]", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Several(Vec<FillError>),
}

/// What a volume is made of: its files are to be looked at again when one of these changes.
pub fn references(volume: &Volume) -> Vec<Reference> {
    let mut found = Vec::new();
    if let Some(map) = &volume.config_map {
        found.push(Reference::ConfigMap(map.name.clone()));
    }
    if let Some(secret) = &volume.secret {
        found.extend(secret.secret_name.clone().map(Reference::Secret));
    }
    let parts = volume.projected.iter();
    for part in parts.flat_map(|projected| projected.sources.iter().flatten()) {
        if let Some(map) = &part.config_map {
            found.push(Reference::ConfigMap(map.name.clone()));
        }
        if let Some(secret) = &part.secret {
            found.push(Reference::Secret(secret.name.clone()));
        }
    }
    found
}

/// Finds the files of one pod's volumes.
pub struct Filler<'a> {
    /// Whose volumes they are.
    pub pod: &'a Pod,
    /// What the node has.
    pub machine: Machine,
    /// The cluster.
    pub sources: &'a dyn Sources,
    /// Tokens that were asked for before.
    pub tokens: &'a mut Tokens,
}

impl Filler<'_> {
    /// The files of a volume; `None` if it is not one that the cluster fills.
    pub async fn fill(&mut self, volume: &Volume) -> Result<Option<Payload>, FillError> {
        let mut payload = Payload::default();
        if let Some(map) = &volume.config_map {
            let mode = mode(map.default_mode);
            let optional = map.optional == Some(true);
            self.config_map(
                &mut payload,
                &map.name,
                map.items.as_deref(),
                optional,
                mode,
            )
            .await?;
        } else if let Some(secret) = &volume.secret {
            let (name, mode) = (secret.secret_name.as_deref(), mode(secret.default_mode));
            let optional = secret.optional == Some(true);
            let items = secret.items.as_deref();
            self.secret(
                &mut payload,
                name.unwrap_or_default(),
                items,
                optional,
                mode,
            )
            .await?;
        } else if let Some(downward) = &volume.downward_api {
            let mode = mode(downward.default_mode);
            self.downward(&mut payload, downward.items.as_deref(), mode)?;
        } else if let Some(projected) = &volume.projected {
            let mode = mode(projected.default_mode);
            let mut problems = Vec::new();
            for part in projected.sources.iter().flatten() {
                if let Err(problem) = self.part(&mut payload, part, mode).await {
                    problems.push(problem);
                }
            }
            match problems.len() {
                0 => {}
                1 => return Err(problems.remove(0)),
                _ => return Err(FillError::Several(problems)),
            }
        } else {
            return Ok(None);
        }
        Ok(Some(payload))
    }

    async fn part(
        &mut self,
        payload: &mut Payload,
        part: &VolumeProjection,
        mode: u32,
    ) -> Result<(), FillError> {
        if let Some(map) = &part.config_map {
            let optional = map.optional == Some(true);
            return self
                .config_map(payload, &map.name, map.items.as_deref(), optional, mode)
                .await;
        }
        if let Some(secret) = &part.secret {
            let optional = secret.optional == Some(true);
            return self
                .secret(
                    payload,
                    &secret.name,
                    secret.items.as_deref(),
                    optional,
                    mode,
                )
                .await;
        }
        if let Some(downward) = &part.downward_api {
            return self.downward(payload, downward.items.as_deref(), mode);
        }
        if let Some(token) = &part.service_account_token {
            let text = self.tokens.get(self.pod, token, self.sources).await;
            let content = text.map_err(|error| FillError::Token(Box::new(error)))?;
            let content = content.into_bytes();
            return Ok(payload.put(&token.path, File { content, mode })?);
        }
        if part.cluster_trust_bundle.is_some() {
            return Err(FillError::Unsupported(
                "projected source clusterTrustBundle",
            ));
        }
        Err(FillError::Unsupported("this projected source"))
    }

    async fn config_map(
        &self,
        payload: &mut Payload,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
        mode: u32,
    ) -> Result<(), FillError> {
        let namespace = self.pod.namespace().unwrap_or_default();
        let found = self.sources.config_map(&namespace, name).await;
        let found = found.map_err(|source| api_error("configMap", &namespace, name, source))?;
        let map = match found {
            Some(map) => map,
            None if optional => ConfigMap::default(),
            None => return Err(absent("configmap", name)),
        };
        let text = map.data.unwrap_or_default().into_iter();
        let text = text.map(|(key, value)| (key, value.into_bytes()));
        let binary = map.binary_data.unwrap_or_default().into_iter();
        let binary = binary.map(|(key, value)| (key, value.0));
        let what = "configmap references non-existent config key";
        put_keys(
            payload,
            text.chain(binary).collect(),
            items,
            optional,
            mode,
            what,
        )
    }

    async fn secret(
        &self,
        payload: &mut Payload,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
        mode: u32,
    ) -> Result<(), FillError> {
        let namespace = self.pod.namespace().unwrap_or_default();
        let found = self.sources.secret(&namespace, name).await;
        let found = found.map_err(|source| api_error("secret", &namespace, name, source))?;
        let secret = match found {
            Some(secret) => secret,
            None if optional => Secret::default(),
            None => return Err(absent("secret", name)),
        };
        let data = secret.data.unwrap_or_default().into_iter();
        let data = data.map(|(key, value)| (key, value.0)).collect();
        let what = "references non-existent secret key";
        put_keys(payload, data, items, optional, mode, what)
    }

    fn downward(
        &self,
        payload: &mut Payload,
        items: Option<&[DownwardAPIVolumeFile]>,
        default: u32,
    ) -> Result<(), FillError> {
        for item in items.unwrap_or_default() {
            let content = if let Some(field) = &item.field_ref {
                let path = &field.field_path;
                fields::metadata(self.pod, path).ok_or_else(|| FillError::Field(path.clone()))?
            } else if let Some(field) = &item.resource_field_ref {
                let value = fields::resource(self.pod, None, field, self.machine);
                let problem = || FillError::Resource(field.resource.clone());
                value.ok_or_else(problem)?.to_string()
            } else {
                continue;
            };
            let content = content.into_bytes();
            let mode = item_mode(item.mode, default);
            payload.put(&item.path, File { content, mode })?;
        }
        Ok(())
    }
}

fn absent(kind: &'static str, name: &str) -> FillError {
    FillError::Absent {
        kind,
        name: name.to_owned(),
    }
}

fn api_error(kind: &'static str, namespace: &str, name: &str, source: kube::Error) -> FillError {
    FillError::Api {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        source: Box::new(source),
    }
}

/// Puts all keys, or those of the items where these say.
fn put_keys(
    payload: &mut Payload,
    mut data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    default: u32,
    what: &'static str,
) -> Result<(), FillError> {
    let items = items.unwrap_or_default();
    if items.is_empty() {
        for (key, content) in data {
            payload.put(
                &key,
                File {
                    content,
                    mode: default,
                },
            )?;
        }
        return Ok(());
    }
    // A key may be wanted in several places; most are wanted in one.
    for (index, item) in items.iter().enumerate() {
        let is_last = items[index + 1..].iter().all(|other| other.key != item.key);
        let content = if is_last {
            data.remove(&item.key)
        } else {
            data.get(&item.key).cloned()
        };
        let Some(content) = content else {
            if optional {
                continue;
            }
            return Err(FillError::NoKey {
                what,
                key: item.key.clone(),
            });
        };
        let mode = item_mode(item.mode, default);
        payload.put(&item.path, File { content, mode })?;
    }
    Ok(())
}

fn mode(set: Option<i32>) -> u32 {
    item_mode(set, DEFAULT_MODE)
}

fn item_mode(set: Option<i32>, default: u32) -> u32 {
    let set = set.and_then(|mode| u32::try_from(mode).ok());
    set.filter(|mode| *mode <= 0o777).unwrap_or(default)
}

#[cfg(test)]
mod tests;
