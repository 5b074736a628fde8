//! Where volumes are: `DIR/UID/volumes/PLUGIN/NAME`, as under a kubelet's `/var/lib/kubelet/pods`.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The directories of all pods of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// Kinds of volumes that have directories of their own, by upstream's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// `emptyDir` on disk.
    EmptyDir,
    /// `configMap`.
    ConfigMap,
    /// `secret`.
    Secret,
    /// `downwardAPI`.
    DownwardApi,
    /// `projected`.
    Projected,
}

impl Plugin {
    fn directory(self) -> &'static str {
        match self {
            Self::EmptyDir => "kubernetes.io~empty-dir",
            Self::ConfigMap => "kubernetes.io~configmap",
            Self::Secret => "kubernetes.io~secret",
            Self::DownwardApi => "kubernetes.io~downward-api",
            Self::Projected => "kubernetes.io~projected",
        }
    }
}

impl Store {
    /// Uses a directory, which is made if absent.
    pub fn open(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        fs::create_dir_all(&dir)?;
        // Secrets are below.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750))?;
        Ok(Self { dir })
    }

    /// The directory of a pod. It need not be there.
    pub fn of(&self, uid: &str) -> PodDir {
        PodDir {
            path: self.dir.join(component(uid)),
        }
    }

    /// Removes the directories of all pods but these: of those which were deleted while nobody looked. Directories that
    /// cannot be removed are reported, and left.
    pub fn keep_only(&self, uids: &HashSet<String>) {
        let keep: HashSet<String> = uids.iter().map(|uid| component(uid)).collect();
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let is_kept = name.to_str().is_some_and(|name| keep.contains(name));
            if !is_kept && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                PodDir { path: entry.path() }.remove();
            }
        }
    }
}

/// The directory of a pod.
#[derive(Debug, Clone)]
pub struct PodDir {
    path: PathBuf,
}

impl PodDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a volume is. It need not be there.
    pub fn volume(&self, plugin: Plugin, name: &str) -> PathBuf {
        let volumes = self.path.join("volumes").join(plugin.directory());
        volumes.join(component(name))
    }

    /// The directory of a container, for what the node keeps of it. It need not be there.
    pub fn container(&self, name: &str) -> PathBuf {
        self.path.join("containers").join(component(name))
    }

    /// Removes the directory and all that is in it. What cannot be removed is reported, and left for the next start.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.path.display(), %error, "cannot remove a pod's directory");
        }
    }
}

/// One component of a path, whatever an API server has let pass as a name.
fn component(name: &str) -> String {
    let safe = |letter: char| {
        if letter.is_ascii_alphanumeric() || "-_.".contains(letter) {
            letter
        } else {
            '-'
        }
    };
    let name: String = name.chars().map(safe).take(253).collect();
    if name.is_empty() || name.starts_with('.') {
        format!("-{name}")
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_directory() {
        let store = Store::open(tempfile::tempdir().unwrap().path().join("pods")).unwrap();
        let path = store.of("u-1").volume(Plugin::ConfigMap, "config");
        assert!(path.ends_with("pods/u-1/volumes/kubernetes.io~configmap/config"));
        for name in ["..", "../x", "/etc", ".", "", "a/../../b"] {
            let path = store.of(name).volume(Plugin::Secret, name);
            let inside = path.strip_prefix(&store.dir).unwrap();
            assert_eq!(inside.components().count(), 4, "{name:?}: {inside:?}");
            assert!(!inside.to_str().unwrap().contains("/../"), "{inside:?}");
        }
    }

    #[test]
    fn what_belongs_to_no_pod_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for uid in ["kept", "gone"] {
            let volume = store.of(uid).volume(Plugin::EmptyDir, "v");
            fs::create_dir_all(&volume).unwrap();
            fs::write(volume.join("file"), "x").unwrap();
        }
        store.keep_only(&HashSet::from(["kept".to_owned()]));
        assert!(store.of("kept").path().exists() && !store.of("gone").path().exists());
        store.of("kept").remove();
        store.of("kept").remove();
        assert!(!store.of("kept").path().exists());
    }
}
