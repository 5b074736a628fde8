//! Compiled code on disk, so that a module is compiled once and mapped from then on.
//!
//! An entry is the engine's artifact followed by a seal: a magic number and the SHA-256 of all that is before it. The
//! artifact comes first because it is mapped as it lies in the file. Loading executes what the file says, so an entry
//! is only mapped once its seal was checked; a damaged one is removed, and compiled again by the caller.
//!
//! The directory's name carries what the engine says about its own compatibility (version, settings, CPU features), the file's
//! name the module's digest. Files are written under another name and renamed, never changed in place, so
//! processes may share a cache; whoever may write to it may run code.

use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::config::Config;
use crate::module::Digest;

const MAGIC: &[u8; 8] = b"vaquita1";
const SEAL: usize = MAGIC.len() + 32;

/// Artifacts for one engine.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    /// The most bytes that all of them together may have.
    limit: u64,
}

/// Why an entry could not be used although there is one.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error("the entry is damaged: {0}")]
    Damaged(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Cache {
    /// The part of `dir` that holds artifacts for `engine`. Created if missing, with access for its owner alone.
    pub(crate) fn open(dir: &Path, limit: u64, engine: &wasmtime::Engine) -> io::Result<Self> {
        let mut hasher = Fnv::default();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let dir = dir.join(format!("{:016x}", hasher.finish()));
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&dir)?;
        Ok(Self { dir, limit })
    }

    /// The part for `engine` of the directory that is configured, if one is.
    pub(crate) fn of(config: &Config, engine: &wasmtime::Engine) -> io::Result<Option<Self>> {
        let open = |dir: &PathBuf| Self::open(dir, config.cache_limit, engine);
        config.cache_dir.as_ref().map(open).transpose()
    }

    /// Where the artifact of that module lies, after its seal was checked. `None`: there is none.
    pub(crate) fn find(&self, module: Digest) -> Result<Option<PathBuf>, ReadError> {
        let path = self.path(module);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        check_seal(&file)?;
        // The time of the last use decides what goes first when there is too much. It is no loss if it can't be noted.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(path))
    }

    /// Keeps an artifact. It is complete on disk before it gets its name.
    pub(crate) fn put(&self, module: Digest, artifact: &[u8]) -> io::Result<PathBuf> {
        let mut file = tempfile::Builder::new()
            .prefix(".new-")
            .tempfile_in(&self.dir)?;
        file.write_all(artifact)?;
        file.write_all(MAGIC)?;
        file.write_all(&Sha256::digest(artifact))?;
        file.as_file().sync_data()?;
        let path = self.path(module);
        file.persist(&path).map_err(|error| error.error)?;
        self.trim(&path);
        Ok(path)
    }

    /// Removes what was not used for the longest time, until the rest is within the limit. What is mapped stays
    /// with whoever has mapped it, whether it has a name or not. `newest` is what this is done for, and stays; times do not
    /// tell which one that is, as those of files are coarser than the clock's.
    fn trim(&self, newest: &Path) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        let mut files: Vec<_> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let about = entry.metadata().ok()?;
                Some((about.modified().ok()?, about.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, length, _)| length).sum();
        files.retain(|(_, _, path)| path != newest);
        for (_, length, path) in files {
            if total <= self.limit {
                return;
            }
            if fs::remove_file(&path).is_ok() {
                total -= length;
            }
        }
    }

    /// Forgets an entry that can't be used.
    pub(crate) fn remove(&self, module: Digest) {
        let path = self.path(module);
        if let Err(error) = fs::remove_file(&path) {
            tracing::debug!(path = %path.display(), %error, "a damaged cache entry can't be removed");
        }
    }

    fn path(&self, module: Digest) -> PathBuf {
        self.dir.join(format!("{}.cwasm", module.to_hex()))
    }
}

fn check_seal(mut file: &File) -> Result<(), ReadError> {
    let length = file.metadata()?.len();
    let artifact = length
        .checked_sub(SEAL as u64)
        .ok_or(ReadError::Damaged("it is too short"))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut body = file.take(artifact);
    loop {
        let read = body.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    let mut seal = [0; SEAL];
    file.read_exact(&mut seal)?;
    let (magic, digest) = seal.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(ReadError::Damaged("its seal is missing"));
    }
    if digest != hasher.finalize().as_slice() {
        return Err(ReadError::Damaged("its digest does not match"));
    }
    Ok(())
}

/// FNV-1a with 64 bits: unlike the standard library's hashers, the same in every build of this crate. It only tells
/// engines apart; what an entry may do rests on its seal and on the engine's own check of the artifact.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Cache {
            dir: dir.path().to_owned(),
            limit: 1 << 20,
        };
        (dir, cache)
    }

    #[test]
    fn what_was_put_is_found_under_its_digest_only() {
        let (_dir, cache) = cache();
        let path = cache.put(Digest([1; 32]), b"code").expect("written");
        assert_eq!(cache.find(Digest([1; 32])).expect("readable"), Some(path));
        assert_eq!(cache.find(Digest([2; 32])).expect("readable"), None);
    }

    #[test]
    fn any_changed_or_missing_byte_is_noticed() {
        let (_dir, cache) = cache();
        let path = cache.put(Digest([1; 32]), b"some code").expect("written");
        let whole = fs::read(&path).expect("readable");
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).expect("writable");
            assert!(
                matches!(cache.find(Digest([1; 32])), Err(ReadError::Damaged(_))),
                "byte {at}"
            );
            fs::write(&path, &whole[..at]).expect("writable");
            assert!(
                matches!(cache.find(Digest([1; 32])), Err(ReadError::Damaged(_))),
                "cut at {at}"
            );
        }
    }

    #[test]
    fn nothing_is_left_of_an_entry_but_its_file() {
        let (dir, cache) = cache();
        cache.put(Digest([1; 32]), b"old").expect("written");
        cache.put(Digest([1; 32]), b"new").expect("written again");
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
        cache.remove(Digest([1; 32]));
        assert_eq!(cache.find(Digest([1; 32])).expect("readable"), None);
    }

    #[test]
    fn what_was_used_last_stays_when_there_is_too_much() {
        let (_dir, mut cache) = cache();
        cache.limit = 3 * (100 + SEAL as u64);
        let digest = |number| Digest([number; 32]);
        let has = |cache: &Cache, number| cache.path(digest(number)).exists();
        for number in 1..=3 {
            let path = cache.put(digest(number), &[0; 100]).expect("written");
            let file = File::options().write(true).open(path).expect("there");
            let used = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number.into());
            file.set_modified(used).expect("settable");
        }
        cache.find(digest(1)).expect("readable");
        cache.put(digest(4), &[0; 100]).expect("written");
        let left: Vec<_> = (1..=4).filter(|number| has(&cache, *number)).collect();
        assert_eq!(left, [1, 3, 4]);
        // One that is too large by itself is kept all the same, alone.
        cache.put(digest(5), &[0; 1000]).expect("written");
        let left: Vec<_> = (1..=5).filter(|number| has(&cache, *number)).collect();
        assert_eq!(left, [5]);
    }
}
