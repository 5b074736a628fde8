//! The volumes of one pod.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};
use kube::ResourceExt as _;
use vaquita_api::quantity::Quantity;

use crate::{
    Payload, Sources, atomic,
    claims::{ClaimError, Claims},
    fields::Machine,
    fill::{FillError, Filler, Reference, references},
    host_path::{self, HostPathError},
    layout::{Plugin, PodDir},
    ownership::Ownership,
    tokens::Tokens,
};

/// Where the content of a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a directory of the machine.
    Directory(PathBuf),
    /// The volume is one file.
    File(PathBuf),
    /// In memory, empty at first: who runs the containers keeps it.
    Memory,
}

/// A volume that is there to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The volume's name in the manifest.
    pub name: String,
    /// Its content.
    pub place: Place,
    /// Bytes that it may take; `None`: as many as there are.
    pub size_limit: Option<u64>,
    /// Whether nobody may write to it, whatever a container's mount says.
    pub read_only: bool,
}

/// Why a volume is not there. Texts are upstream's where it has some.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Its files cannot be known.
    #[error(transparent)]
    Fill(#[from] FillError),
    /// It is a path that cannot be used.
    #[error(transparent)]
    HostPath(#[from] HostPathError),
    /// It is a claim that gives nothing.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// It could not be written.
    #[error("writing the volume: {0}")]
    Write(#[from] io::Error),
    /// Nothing here makes such volumes.
    #[error("volumes of type {0} are not supported: no volume plugin matched")]
    Unsupported(String),
}

/// The volumes of one pod. They stay until [`remove`](Self::remove), also when this is dropped.
pub struct PodVolumes {
    dir: PodDir,
    sources: Arc<dyn Sources>,
    claims: Option<Claims>,
    machine: Machine,
    tokens: Tokens,
}

impl PodVolumes {
    /// For the pod with this directory. Without `claims`, there are no persistent volumes.
    pub fn new(
        dir: PodDir,
        sources: Arc<dyn Sources>,
        claims: Option<Claims>,
        machine: Machine,
    ) -> Self {
        Self {
            dir,
            sources,
            claims,
            machine,
            tokens: Tokens::default(),
        }
    }

    /// Sets a volume up; what an earlier attempt left is used.
    pub async fn mount(&mut self, pod: &Pod, volume: &Volume) -> Result<Mounted, MountError> {
        let mounted = self.find(pod, volume).await?;
        // A path of the machine is the machine's.
        if volume.host_path.is_none()
            && let Place::Directory(path) = &mounted.place
        {
            give(pod, path.clone(), mounted.read_only).await?;
        }
        Ok(mounted)
    }

    async fn find(&mut self, pod: &Pod, volume: &Volume) -> Result<Mounted, MountError> {
        let mut mounted = Mounted {
            name: volume.name.clone(),
            place: Place::Memory,
            size_limit: None,
            read_only: false,
        };
        if let Some(empty) = &volume.empty_dir {
            let limit = empty.size_limit.as_ref();
            let limit = limit.and_then(|limit| limit.0.parse::<Quantity>().ok());
            let limit = limit.and_then(|limit| u64::try_from(limit.value()).ok());
            mounted.size_limit = limit.filter(|bytes| *bytes > 0);
            if empty.medium.as_deref() != Some("Memory") {
                let path = self.dir.volume(Plugin::EmptyDir, &volume.name);
                make_directory(path.clone(), 0o777).await?;
                mounted.place = Place::Directory(path);
            }
            return Ok(mounted);
        }
        if let Some(path) = &volume.host_path {
            let (path, kind) = (path.path.clone(), path.type_.clone().unwrap_or_default());
            mounted.place = blocking(move || Ok(host_path::resolve(&path, &kind))).await??;
            return Ok(mounted);
        }
        let claim = match &volume.persistent_volume_claim {
            Some(claim) => Some((claim.claim_name.clone(), claim.read_only == Some(true))),
            None if volume.ephemeral.is_some() => {
                Some((format!("{}-{}", pod.name_any(), volume.name), false))
            }
            None => None,
        };
        if let Some((name, read_only)) = claim {
            let Some(claims) = &self.claims else {
                return Err(MountError::Unsupported("persistentVolumeClaim".to_owned()));
            };
            let namespace = pod.namespace().unwrap_or_default();
            let claimed = claims.resolve(&namespace, &name).await?;
            mounted.place = claimed.place;
            mounted.read_only = read_only || claimed.read_only;
            mounted.size_limit = claimed.size_limit;
            return Ok(mounted);
        }
        let path = self.fill(pod, volume).await?;
        mounted.place = Place::Directory(path);
        // A program's changes would be lost with the next update.
        mounted.read_only = true;
        Ok(mounted)
    }

    /// Writes the files of a volume, and says where.
    async fn fill(&mut self, pod: &Pod, volume: &Volume) -> Result<PathBuf, MountError> {
        let plugin = plugin(volume).ok_or_else(|| MountError::Unsupported(kind_of(volume)))?;
        let mut filler = Filler {
            pod,
            machine: self.machine,
            sources: &*self.sources,
            tokens: &mut self.tokens,
        };
        let payload = filler.fill(volume).await?.unwrap_or_default();
        let path = self.dir.volume(plugin, &volume.name);
        write(path.clone(), payload).await?;
        Ok(path)
    }

    /// Brings a volume that the cluster fills up to date.
    pub async fn refresh(&mut self, pod: &Pod, volume: &Volume) -> Result<(), MountError> {
        if plugin(volume).is_some() {
            let path = self.fill(pod, volume).await?;
            give(pod, path, true).await?;
        }
        Ok(())
    }

    /// What the volumes of a pod are made of, that may change: each once.
    pub fn references(pod: &Pod) -> Vec<Reference> {
        let volumes = pod
            .spec
            .iter()
            .flat_map(|spec| spec.volumes.iter().flatten());
        let mut all: Vec<Reference> = volumes.flat_map(references).collect();
        all.sort();
        all.dedup();
        all
    }

    /// When a token in one of the volumes is to be renewed, by [`refresh`](Self::refresh).
    pub fn renew_at(&self) -> Option<Timestamp> {
        self.tokens.renew_at()
    }

    /// Removes the volumes, but for what they stand for elsewhere.
    pub async fn remove(self) {
        let dir = self.dir;
        let _ = tokio::task::spawn_blocking(move || dir.remove()).await;
    }
}

/// The plugin of a volume that the cluster fills.
fn plugin(volume: &Volume) -> Option<Plugin> {
    if volume.config_map.is_some() {
        Some(Plugin::ConfigMap)
    } else if volume.secret.is_some() {
        Some(Plugin::Secret)
    } else if volume.downward_api.is_some() {
        Some(Plugin::DownwardApi)
    } else if volume.projected.is_some() {
        Some(Plugin::Projected)
    } else {
        None
    }
}

/// The field that says what a volume is.
fn kind_of(volume: &Volume) -> String {
    let fields = serde_json::to_value(volume).ok();
    let fields = fields.as_ref().and_then(|fields| fields.as_object());
    let field = fields.and_then(|fields| fields.keys().find(|field| *field != "name"));
    field.cloned().unwrap_or_else(|| "(none)".to_owned())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Gives a volume to the pod's group, if it has one.
async fn give(pod: &Pod, path: PathBuf, read_only: bool) -> io::Result<()> {
    let Some(ownership) = Ownership::of(pod) else {
        return Ok(());
    };
    match blocking(move || ownership.give(&path, read_only)).await {
        // Who is not the superuser may give nothing away: it stays whose it is.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        given => given,
    }
}

async fn make_directory(path: PathBuf, mode: u32) -> io::Result<()> {
    blocking(move || directory(&path, mode)).await
}

fn directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

async fn write(path: PathBuf, payload: Payload) -> io::Result<()> {
    blocking(move || {
        directory(&path, 0o755)?;
        atomic::write(&path, &payload).map(drop)
    })
    .await
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use k8s_openapi::api::{
        authentication::v1::TokenRequestSpec,
        core::v1::{ConfigMap, Secret},
    };
    use serde_json::{Value, json};
    use std::sync::Mutex;

    use super::*;
    use crate::{Store, Token};

    /// A config map that changes.
    #[derive(Default)]
    struct Cluster(Mutex<Option<Value>>);

    #[async_trait]
    impl Sources for Cluster {
        async fn config_map(&self, _: &str, _: &str) -> kube::Result<Option<ConfigMap>> {
            let map = self.0.lock().unwrap().clone();
            Ok(map.map(|data| serde_json::from_value(json!({"data": data})).unwrap()))
        }

        async fn secret(&self, _: &str, _: &str) -> kube::Result<Option<Secret>> {
            Ok(None)
        }

        async fn token(&self, _: &str, _: &str, _: TokenRequestSpec) -> kube::Result<Token> {
            unreachable!("no test here wants a token")
        }
    }

    fn volume(volume: Value) -> Volume {
        serde_json::from_value(volume).unwrap()
    }

    fn volumes(dir: &Path, cluster: &Arc<Cluster>) -> PodVolumes {
        let machine = Machine { cpus: 1, memory: 1 };
        let dir = Store::open(dir).unwrap().of("uid");
        PodVolumes::new(dir, cluster.clone(), None, machine)
    }

    #[tokio::test]
    async fn a_config_map_is_written_and_kept_current() {
        let (dir, cluster) = (tempfile::tempdir().unwrap(), Arc::new(Cluster::default()));
        let (mut volumes, pod) = (volumes(dir.path(), &cluster), Pod::default());
        let config = volume(json!({"name": "config", "configMap": {"name": "c"}}));
        let missing = volumes.mount(&pod, &config).await.unwrap_err();
        assert_eq!(missing.to_string(), "configmap \"c\" not found");
        *cluster.0.lock().unwrap() = Some(json!({"key": "1"}));
        let mounted = volumes.mount(&pod, &config).await.unwrap();
        let Place::Directory(path) = mounted.place else {
            panic!("{mounted:?}")
        };
        assert!(mounted.read_only);
        assert_eq!(fs::read_to_string(path.join("key")).unwrap(), "1");
        *cluster.0.lock().unwrap() = Some(json!({"key": "2"}));
        volumes.refresh(&pod, &config).await.unwrap();
        assert_eq!(fs::read_to_string(path.join("key")).unwrap(), "2");
        volumes.remove().await;
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn an_empty_dir_keeps_its_content_and_has_its_limit() {
        let (dir, cluster) = (tempfile::tempdir().unwrap(), Arc::default());
        let mut volumes = volumes(dir.path(), &cluster);
        let empty = volume(json!({"name": "data", "emptyDir": {"sizeLimit": "1Mi"}}));
        let pod = Pod::default();
        let first = volumes.mount(&pod, &empty).await.unwrap();
        let Place::Directory(path) = &first.place else {
            panic!("{first:?}")
        };
        fs::write(path.join("kept"), "x").unwrap();
        assert_eq!(volumes.mount(&pod, &empty).await.unwrap(), first);
        assert!(path.join("kept").exists());
        assert_eq!((first.size_limit, first.read_only), (Some(1 << 20), false));
        let memory = volume(json!({"name": "m", "emptyDir": {"medium": "Memory"}}));
        assert_eq!(
            volumes.mount(&pod, &memory).await.unwrap().place,
            Place::Memory
        );
    }

    #[tokio::test]
    async fn what_is_not_made_here_is_named() {
        let (dir, cluster) = (tempfile::tempdir().unwrap(), Arc::default());
        let mut volumes = volumes(dir.path(), &cluster);
        let nfs = volume(json!({"name": "v", "nfs": {"server": "s", "path": "/"}}));
        let refused = volumes.mount(&Pod::default(), &nfs).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "volumes of type nfs are not supported: no volume plugin matched"
        );
    }
}
