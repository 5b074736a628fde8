//! The group that a pod's volumes belong to: `fsGroup`.
//!
//! A kubelet gives everything in a volume to the group, lets the group do what an owner may, and marks directories so that
//! what is made in them later is the group's too. So processes of any user share a volume, if they are in the group.

use std::{
    ffi::{CStr, OsStr},
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, chownat, fchmod, fchown, fstat, open,
        openat, statat,
    },
    io::Errno,
};

/// What a group may do with files.
const READ_WRITE: u32 = 0o660;
const READ: u32 = 0o440;
/// What directories have beside that: the group may enter them, and what is made in them is the group's.
const DIRECTORY: u32 = 0o2110;

/// A group that a volume is given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ownership {
    group: u32,
    /// Whether a volume whose root is right already is left alone.
    only_on_mismatch: bool,
}

impl Ownership {
    /// What the manifest wants, if it wants anything.
    pub(crate) fn of(pod: &Pod) -> Option<Self> {
        let security = pod.spec.as_ref()?.security_context.as_ref()?;
        let policy = security.fs_group_change_policy.as_deref();
        Some(Self {
            group: u32::try_from(security.fs_group?).ok()?,
            only_on_mismatch: policy == Some("OnRootMismatch"),
        })
    }

    /// Gives it all that is in a directory. Links are not followed. Takes as long as there are files.
    pub(crate) fn give(self, root: &Path, read_only: bool) -> io::Result<()> {
        let bits = if read_only { READ } else { READ_WRITE };
        let root = open(root, DIRECTORIES, Mode::empty())?;
        let stat = fstat(&root)?;
        let wanted = mode(&stat).as_raw_mode() | bits | DIRECTORY;
        let is_right = stat.st_gid == self.group && mode(&stat).as_raw_mode() == wanted;
        if self.only_on_mismatch && is_right {
            return Ok(());
        }
        // Names from the root on, since there may be more directories than files may be open.
        let mut left = vec![PathBuf::new()];
        while let Some(path) = left.pop() {
            let opened = below(&root, &path);
            // Somebody may have been faster.
            let Some(directory) = unless_gone(opened)? else {
                continue;
            };
            for entry in Dir::read_from(&directory)? {
                let entry = entry?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                let given = self.give_entry(&directory, name, bits);
                if unless_gone(given)? == Some(FileType::Directory) {
                    left.push(path.join(OsStr::from_bytes(name.to_bytes())));
                }
            }
            if !path.as_os_str().is_empty() {
                self.give_open(&directory, bits | DIRECTORY)?;
            }
        }
        // The root comes last: if it is right, all is.
        self.give_open(&root, bits | DIRECTORY)
    }

    /// A file is done then, a directory is not.
    fn give_entry(self, directory: impl AsFd, name: &CStr, bits: u32) -> io::Result<FileType> {
        let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => {}
            FileType::RegularFile => {
                // Whatever is in its place by now: not waited for, and no link.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = openat(&directory, name, flags, Mode::empty())?;
                self.give_open(&file, bits)?;
            }
            // Links, sockets and the like: nobody needs a right to them but who they belong to.
            _ => chownat(
                &directory,
                name,
                None,
                Some(self.gid()),
                AtFlags::SYMLINK_NOFOLLOW,
            )?,
        }
        Ok(kind)
    }

    fn give_open(self, file: &OwnedFd, bits: u32) -> io::Result<()> {
        fchown(file, None, Some(self.gid()))?;
        // After the owner: the kernel takes some bits away with that.
        let mode = mode(&fstat(file)?).union(Mode::from_raw_mode(bits as _));
        Ok(fchmod(file, mode)?)
    }

    fn gid(self) -> Gid {
        Gid::from_raw(self.group)
    }
}

const DIRECTORIES: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Opens a directory by its names from another one on, none of which is a link.
fn below(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let mut directory = openat(root, c".", DIRECTORIES, Mode::empty())?;
    for name in path {
        directory = openat(
            &directory,
            name,
            DIRECTORIES | OFlags::NOFOLLOW,
            Mode::empty(),
        )?;
    }
    Ok(directory)
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode)
}

/// What a name says that leads to something else by now, or nowhere.
const GONE: [Errno; 3] = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP];

/// `None` for what is not there any more, or is something else.
fn unless_gone<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error)
            if GONE
                .iter()
                .any(|gone| error.raw_os_error() == Some(gone.raw_os_error())) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    };

    use serde_json::json;

    use super::*;

    fn ownership(security: &serde_json::Value) -> Option<Ownership> {
        let pod = json!({"metadata": {}, "spec": {"containers": [], "securityContext": security}});
        Ownership::of(&serde_json::from_value(pod).unwrap())
    }

    fn facts(path: &Path) -> (u32, u32) {
        let found = fs::symlink_metadata(path).unwrap();
        (found.gid(), found.mode() & 0o7777)
    }

    /// A group that whoever runs the tests may give files to.
    fn own_group() -> u32 {
        rustix::process::getgid().as_raw()
    }

    #[test]
    fn nothing_is_given_unless_the_manifest_says_so() {
        assert_eq!(ownership(&json!({})), None);
        assert_eq!(ownership(&json!({"fsGroup": -1})), None);
        let found = ownership(&json!({"fsGroup": 5, "fsGroupChangePolicy": "OnRootMismatch"}));
        assert_eq!(
            found,
            Some(Ownership {
                group: 5,
                only_on_mismatch: true
            })
        );
    }

    #[test]
    fn the_group_may_do_what_an_owner_may() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir_all(root.join("a/b")).unwrap();
        for (file, mode) in [
            (&outside, 0o600),
            (&root.join("a/b/file"), 0o600),
            (&root.join("tool"), 0o755),
        ] {
            fs::write(file, "").unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
        symlink(&outside, root.join("a/link")).unwrap();
        let group = own_group();
        let given = ownership(&json!({"fsGroup": group})).unwrap();
        given.give(&root, false).unwrap();
        assert_eq!(facts(&root), (group, 0o2770));
        assert_eq!(facts(&root.join("a/b")), (group, 0o2775));
        assert_eq!(facts(&root.join("a/b/file")), (group, 0o660));
        assert_eq!(facts(&root.join("tool")), (group, 0o775));
        assert_eq!(facts(&outside).1, 0o600, "no link is followed");
    }

    #[test]
    fn a_root_that_is_right_may_say_that_all_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let group = own_group();
        let given = ownership(&json!({"fsGroup": group, "fsGroupChangePolicy": "OnRootMismatch"}));
        let given = given.unwrap();
        given.give(dir.path(), true).unwrap();
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        given.give(dir.path(), true).unwrap();
        assert_eq!(facts(&file).1, 0o600);
        let always = ownership(&json!({"fsGroup": group})).unwrap();
        always.give(dir.path(), true).unwrap();
        assert_eq!(facts(&file).1, 0o640);
    }
}
