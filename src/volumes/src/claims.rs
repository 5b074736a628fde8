//! `persistentVolumeClaim`: from a claim to a directory of this machine.
//!
//! A claim gets a volume that somebody made, or else, if its class is provisioned by [`PROVISIONER`], a new directory of
//! the node that the scheduler chose for the first pod which uses it ([`Claims::settle`]). Such a volume belongs to the
//! node from then on: its `nodeAffinity` says so.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity as Amount,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use vaquita_api::quantity::Quantity;

use crate::{Place, host_path};

/// What the `provisioner` of a storage class names to have its volumes made here.
pub const PROVISIONER: &str = "vaquita.dev/local-path";
/// Says on a claim for which node a volume is wanted.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Says on a volume who made it.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// Why a claim gives no directory. Texts are upstream's where it has some.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// There is no such claim.
    #[error("persistentvolumeclaim \"{0}\" not found")]
    Absent(String),
    /// It is about to go.
    #[error("error processing PVC {0}: PVC is being deleted")]
    BeingDeleted(String),
    /// No volume is bound to it, and none can be made.
    #[error("error processing PVC {0}: PVC is not bound")]
    Unbound(String),
    /// The volume that it names is not there, or belongs to another claim.
    #[error("persistentvolume \"{volume}\" is not bound to claim {claim}")]
    Foreign {
        /// The volume's name.
        volume: String,
        /// The claim, as `namespace/name`.
        claim: String,
    },
    /// The volume is on another node.
    #[error(
        "MountVolume.NodeAffinity check failed for volume {0:?}: no matching NodeSelectorTerms"
    )]
    Elsewhere(String),
    /// The volume is of a kind that nothing here can mount.
    #[error(
        "volume {0:?} is neither local nor a hostPath, or not a file system: it cannot be mounted here"
    )]
    Unsupported(String),
    /// The volume's directory is not there.
    #[error(transparent)]
    Path(#[from] host_path::HostPathError),
    /// A directory could not be made.
    #[error("making the directory of volume {volume}: {source}")]
    Make {
        /// The volume's name.
        volume: String,
        /// What the system said.
        source: io::Error,
    },
    /// The API server said no.
    #[error("error processing PVC {claim}: {source}")]
    Api {
        /// The claim, as `namespace/name`.
        claim: String,
        /// What it said.
        source: Box<kube::Error>,
    },
}

/// The claims that a node makes volumes for.
#[derive(Clone)]
pub struct Claims {
    client: Client,
    node: String,
    /// New volumes are directories in it.
    dir: PathBuf,
}

/// What a claim stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Its content.
    pub place: Place,
    /// Whether it must not be written to.
    pub read_only: bool,
    /// Bytes that it may hold, if the node has made it.
    pub size_limit: Option<u64>,
}

impl Claims {
    /// For the node of that name, which keeps new volumes in `dir`.
    pub fn new(client: Client, node: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        Self {
            client,
            node: node.into(),
            dir: dir.into(),
        }
    }

    /// What a claim stands for. Binds the claim if nobody has.
    pub async fn resolve(&self, namespace: &str, name: &str) -> Result<Claimed, ClaimError> {
        let id = format!("{namespace}/{name}");
        let failed = |source| ClaimError::Api {
            claim: id.clone(),
            source: Box::new(source),
        };
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let claim = claims.get_opt(name).await.map_err(failed)?;
        let claim = claim.ok_or_else(|| ClaimError::Absent(name.to_owned()))?;
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(ClaimError::BeingDeleted(id));
        }
        let volume = match volume_name(&claim) {
            Some(volume) if is_bound(&claim) => self.get(volume).await.map_err(failed)?,
            _ => {
                let volume = self.volume_for(&claim, &id).await?;
                let bound = self.bind(&claim, &volume).await;
                bound.map_err(failed)?;
                Some(volume)
            }
        };
        let foreign = || ClaimError::Foreign {
            volume: volume_name(&claim).unwrap_or_default().to_owned(),
            claim: id.clone(),
        };
        let volume = volume.ok_or_else(foreign)?;
        let owner = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.claim_ref.as_ref());
        if owner.is_none_or(|owner| owner.uid != claim.metadata.uid) && is_bound(&claim) {
            return Err(foreign());
        }
        self.place(&volume)
    }

    /// Binds an unbound claim, if that is this node's to do: the scheduler has chosen the node, or a volume that can be
    /// used here; or the claim's class does not wait for a pod, and there is a volume that fits.
    pub async fn settle(&self, claim: &PersistentVolumeClaim) -> Result<(), ClaimError> {
        if is_bound(claim) || claim.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let id = format!(
            "{}/{}",
            claim.namespace().unwrap_or_default(),
            claim.name_any()
        );
        let failed = |source| ClaimError::Api {
            claim: id.clone(),
            source: Box::new(source),
        };
        let is_chosen = match claim.annotations().get(SELECTED_NODE) {
            Some(node) if *node != self.node => return Ok(()),
            chosen => chosen.is_some(),
        };
        let class = self.class(claim).await.map_err(failed)?;
        let waits = class.as_ref().is_some_and(|class| {
            class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
        });
        if !is_chosen && waits {
            let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
            let all = volumes.list(&ListParams::default()).await.map_err(failed)?;
            let kept = all
                .into_iter()
                .find(|volume| is_meant_for(volume, claim) && fits(volume, claim, &self.node));
            return match kept {
                Some(volume) => self.bind(claim, &volume).await.map_err(failed),
                None => Ok(()),
            };
        }
        match self.volume_for(claim, &id).await {
            Ok(volume) => self.bind(claim, &volume).await.map_err(failed),
            // Somebody may yet make one.
            Err(ClaimError::Unbound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn class(&self, claim: &PersistentVolumeClaim) -> kube::Result<Option<StorageClass>> {
        let spec = claim.spec.as_ref();
        let name = spec.and_then(|spec| spec.storage_class_name.as_deref());
        match name.filter(|name| !name.is_empty()) {
            Some(name) => Api::all(self.client.clone()).get_opt(name).await,
            None => Ok(None),
        }
    }

    async fn get(&self, volume: &str) -> kube::Result<Option<PersistentVolume>> {
        Api::all(self.client.clone()).get_opt(volume).await
    }

    /// Where a volume is on this machine.
    fn place(&self, volume: &PersistentVolume) -> Result<Claimed, ClaimError> {
        let name = volume.name_any();
        let unsupported = || ClaimError::Unsupported(name.clone());
        let spec = volume.spec.as_ref().ok_or_else(unsupported)?;
        if !is_here(spec, &self.node) {
            return Err(ClaimError::Elsewhere(name));
        }
        if spec.volume_mode.as_deref() == Some("Block") {
            return Err(unsupported());
        }
        let (path, kind) = match (&spec.local, &spec.host_path) {
            (Some(local), _) => (&local.path, "Directory"),
            (None, Some(path)) => (&path.path, path.type_.as_deref().unwrap_or_default()),
            (None, None) => return Err(unsupported()),
        };
        let modes = spec.access_modes.iter().flatten();
        let read_only =
            modes.clone().count() > 0 && modes.into_iter().all(|mode| mode == "ReadOnlyMany");
        let provisioner = volume.annotations().get(PROVISIONED_BY);
        let is_ours = provisioner.is_some_and(|provisioner| provisioner == PROVISIONER);
        let size = u64::try_from(capacity(volume)).ok();
        Ok(Claimed {
            place: host_path::resolve(path, kind)?,
            read_only,
            // What somebody else has made is as large as it is.
            size_limit: size.filter(|size| is_ours && *size > 0),
        })
    }

    /// The volume that an unbound claim gets.
    async fn volume_for(
        &self,
        claim: &PersistentVolumeClaim,
        id: &str,
    ) -> Result<PersistentVolume, ClaimError> {
        let failed = |source| ClaimError::Api {
            claim: id.to_owned(),
            source: Box::new(source),
        };
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let all = volumes.list(&ListParams::default()).await.map_err(failed)?;
        let mut fitting: Vec<PersistentVolume> = all
            .into_iter()
            .filter(|volume| fits(volume, claim, &self.node))
            .collect();
        // The one that was made for the claim, or else the smallest.
        fitting.sort_by_key(|volume| (!is_meant_for(volume, claim), capacity(volume)));
        if !fitting.is_empty() {
            return Ok(fitting.swap_remove(0));
        }
        let class = self.class(claim).await.map_err(failed)?;
        match class {
            Some(class) if class.provisioner == PROVISIONER && volume_name(claim).is_none() => {
                self.provision(claim, &class, id).await
            }
            _ => Err(ClaimError::Unbound(id.to_owned())),
        }
    }

    /// Makes a directory and the volume that it is.
    async fn provision(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        id: &str,
    ) -> Result<PersistentVolume, ClaimError> {
        let name = format!("pvc-{}", claim.uid().unwrap_or_default());
        let path = self.dir.join(&name);
        let (dir, made) = (path.clone(), name.clone());
        let making = tokio::task::spawn_blocking(move || make(&dir)).await;
        let making = making.unwrap_or_else(|error| Err(io::Error::other(error)));
        making.map_err(|source| ClaimError::Make {
            volume: made,
            source,
        })?;
        let volume = new_volume(claim, class, &name, &path, &self.node);
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let failed = |source| ClaimError::Api {
            claim: id.to_owned(),
            source: Box::new(source),
        };
        match volumes.create(&PostParams::default(), &volume).await {
            Ok(volume) => Ok(volume),
            // Made a moment ago, here or by another node that has a pod of the same claim.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let found = volumes.get(&name).await;
                found.map_err(failed)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Makes claim and volume name each other.
    async fn bind(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> kube::Result<()> {
        let params = PatchParams::default();
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let owner = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "namespace": claim.namespace(), "name": claim.name_any(), "uid": claim.uid(),
        });
        // With the version that was looked at, so that nobody else has taken it meanwhile.
        let patch = json!({
            "metadata": {"resourceVersion": volume.resource_version()},
            "spec": {"claimRef": owner},
        });
        let name = volume.name_any();
        volumes.patch(&name, &params, &Patch::Merge(patch)).await?;
        let patch = Patch::Merge(json!({"status": {"phase": "Bound"}}));
        volumes.patch_status(&name, &params, &patch).await?;

        let namespace = claim.namespace().unwrap_or_default();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace);
        let patch = json!({
            "metadata": {"uid": claim.uid(), "annotations": {
                "pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes",
            }},
            "spec": {"volumeName": name},
        });
        let own = claim.name_any();
        claims.patch(&own, &params, &Patch::Merge(patch)).await?;
        let spec = volume.spec.as_ref();
        let patch = json!({"status": {
            "phase": "Bound",
            "accessModes": spec.and_then(|spec| spec.access_modes.clone()),
            "capacity": spec.and_then(|spec| spec.capacity.clone()),
        }});
        let patch = Patch::Merge(patch);
        claims.patch_status(&own, &params, &patch).await?;
        Ok(())
    }

    /// Removes volumes of this node whose claims are gone, as their reclaim policy says. `is_used` tells whether a pod
    /// still uses a claim, by namespace and name. Says whether any had to be left because of that.
    pub async fn reclaim(&self, is_used: impl Fn(&str, &str) -> bool) -> kube::Result<bool> {
        let mut is_left = false;
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        for volume in volumes.list(&ListParams::default()).await? {
            let Some(spec) = &volume.spec else { continue };
            let Some(owner) = &spec.claim_ref else {
                continue;
            };
            let (Some(namespace), Some(claim)) = (&owner.namespace, &owner.name) else {
                continue;
            };
            let is_ours =
                volume.annotations().get(PROVISIONED_BY).map(String::as_str) == Some(PROVISIONER);
            if !is_ours || !is_here(spec, &self.node) {
                continue;
            }
            let claims: Api<PersistentVolumeClaim> =
                Api::namespaced(self.client.clone(), namespace);
            let found = claims.get_opt(claim).await?;
            if found.is_some_and(|found| found.metadata.uid == owner.uid) {
                continue;
            }
            if is_used(namespace, claim) {
                is_left = true;
                continue;
            }
            self.release(&volumes, &volume).await?;
        }
        Ok(is_left)
    }

    async fn release(
        &self,
        volumes: &Api<PersistentVolume>,
        volume: &PersistentVolume,
    ) -> kube::Result<()> {
        let name = volume.name_any();
        let policy = volume.spec.as_ref();
        let policy = policy.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
        if policy != Some("Delete") {
            let phase = volume
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            if phase != Some("Released") {
                let patch = Patch::Merge(json!({"status": {"phase": "Released"}}));
                volumes
                    .patch_status(&name, &PatchParams::default(), &patch)
                    .await?;
            }
            return Ok(());
        }
        // Only what was made here, wherever the object says that it is.
        let dir = self.dir.join(&name);
        let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(dir)).await;
        if let Ok(Err(error)) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(volume = name, %error, "cannot remove a volume's directory");
            return Ok(());
        }
        volumes
            .delete(&name, &kube::api::DeleteParams::default())
            .await?;
        Ok(())
    }
}

fn make(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))
}

fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    let spec = claim.spec.as_ref()?;
    spec.volume_name.as_deref().filter(|name| !name.is_empty())
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    status.and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// Whether a volume's node affinity lets it be used on the node. Of its terms, those that ask for host names count;
/// nothing here makes others.
fn is_here(spec: &PersistentVolumeSpec, node: &str) -> bool {
    let required = spec
        .node_affinity
        .as_ref()
        .and_then(|affinity| affinity.required.as_ref());
    let Some(required) = required else {
        return true;
    };
    required.node_selector_terms.iter().any(|term| {
        term.match_expressions.iter().flatten().all(|wanted| {
            let values = wanted.values.as_deref().unwrap_or_default();
            let is_listed = values.iter().any(|value| value == node);
            match (wanted.key.as_str(), wanted.operator.as_str()) {
                ("kubernetes.io/hostname", "In") => is_listed,
                ("kubernetes.io/hostname", "NotIn") => !is_listed,
                _ => true,
            }
        })
    })
}

/// Whether a volume was made for this claim.
fn is_meant_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let owner = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    owner.is_some_and(|owner| {
        owner.name == claim.metadata.name
            && owner.namespace == claim.metadata.namespace
            && (owner.uid.is_none() || owner.uid == claim.metadata.uid)
    })
}

/// Whether a volume could be a claim's: upstream's `FindMatchingVolume`, as far as it matters for directories.
fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim, node: &str) -> bool {
    let (Some(spec), Some(wanted)) = (&volume.spec, &claim.spec) else {
        return false;
    };
    if !is_here(spec, node) || volume.metadata.deletion_timestamp.is_some() {
        return false;
    }
    if is_meant_for(volume, claim) {
        return true;
    }
    if let Some(name) = volume_name(claim) {
        return name == volume.name_any() && spec.claim_ref.is_none();
    }
    let class = |name: &Option<String>| name.clone().unwrap_or_default();
    let modes = wanted.access_modes.iter().flatten();
    let offered = spec.access_modes.as_deref().unwrap_or_default();
    spec.claim_ref.is_none()
        && class(&spec.storage_class_name) == class(&wanted.storage_class_name)
        && modes.into_iter().all(|mode| offered.contains(mode))
        && capacity(volume) >= requested(claim)
        && wanted.selector.as_ref().is_none_or(|selector| {
            let labels = volume.labels();
            let mut equal = selector.match_labels.iter().flatten();
            selector.match_expressions.iter().flatten().next().is_none()
                && equal.all(|(key, value)| labels.get(key) == Some(value))
        })
}

fn bytes(amount: Option<&Amount>) -> i64 {
    let parsed = amount.and_then(|amount| amount.0.parse::<Quantity>().ok());
    parsed.map_or(0, Quantity::value)
}

fn capacity(volume: &PersistentVolume) -> i64 {
    let spec = volume.spec.as_ref();
    bytes(spec.and_then(|spec| spec.capacity.as_ref()?.get("storage")))
}

fn requested(claim: &PersistentVolumeClaim) -> i64 {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    bytes(resources.and_then(|resources| resources.requests.as_ref()?.get("storage")))
}

fn new_volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    name: &str,
    path: &Path,
    node: &str,
) -> PersistentVolume {
    let wanted = claim.spec.clone().unwrap_or_default();
    let storage = wanted
        .resources
        .and_then(|resources| resources.requests?.get("storage").cloned());
    let volume: Value = json!({
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": storage.unwrap_or_else(|| Amount("0".to_owned()))},
            "accessModes": wanted.access_modes,
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.name_any(),
            "volumeMode": "Filesystem",
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
            ]}]}},
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace(), "name": claim.name_any(), "uid": claim.uid(),
            },
        },
    });
    // It has the shape of the type.
    serde_json::from_value(volume).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers pass what they have just made"
    )]
    fn claim(spec: Value) -> PersistentVolumeClaim {
        let metadata = json!({"name": "c", "namespace": "ns", "uid": "u"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers pass what they have just made"
    )]
    fn volume(spec: Value) -> PersistentVolume {
        serde_json::from_value(
            json!({"metadata": {"name": "v", "labels": {"disk": "fast"}}, "spec": spec}),
        )
        .unwrap()
    }

    #[test]
    fn a_volume_must_offer_what_the_claim_wants() {
        let wanted = claim(
            json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
            "resources": {"requests": {"storage": "1Gi"}}, "selector": {"matchLabels": {"disk": "fast"}}}),
        );
        let good = json!({"accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "storageClassName": "manual",
            "capacity": {"storage": "2Gi"}, "hostPath": {"path": "/x"}});
        assert!(fits(&volume(good.clone()), &wanted, "n"));
        for (field, value) in [
            ("accessModes", json!(["ReadOnlyMany"])),
            ("storageClassName", json!("other")),
            ("capacity", json!({"storage": "1M"})),
            ("claimRef", json!({"namespace": "ns", "name": "other"})),
            (
                "nodeAffinity",
                json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["other"]}]}]}}),
            ),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            assert!(!fits(&volume(bad), &wanted, "n"), "{field}");
        }
        let mut meant = good;
        meant["claimRef"] = json!({"namespace": "ns", "name": "c"});
        meant["capacity"] = json!({"storage": "1M"});
        assert!(fits(&volume(meant), &wanted, "n"));
    }

    #[test]
    fn a_new_volume_is_the_claims_and_the_nodes() {
        let wanted = claim(
            json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "local-path",
            "resources": {"requests": {"storage": "1Gi"}}}),
        );
        let class: StorageClass = serde_json::from_value(
            json!({"metadata": {"name": "local-path"}, "provisioner": PROVISIONER}),
        )
        .unwrap();
        let made = new_volume(&wanted, &class, "pvc-u", Path::new("/data/pvc-u"), "n");
        assert!(
            is_meant_for(&made, &wanted) && fits(&made, &wanted, "n") && !fits(&made, &wanted, "m")
        );
        let spec = made.spec.unwrap();
        assert_eq!(spec.local.unwrap().path, "/data/pvc-u");
        assert_eq!(
            spec.persistent_volume_reclaim_policy.as_deref(),
            Some("Delete")
        );
    }
}
