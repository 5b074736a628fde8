//! Files of keys: written whole or not at all, and for their owner's eyes alone.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use vaquita_auth::tokens::SigningKey;

use crate::PkiError;

/// Writes a file that only its owner may read (mode 600), atomically: a reader sees the old content or the new.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    write_file(path, content, 0o600)
}

pub(crate) fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        let mut file = options.open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| PkiError::File {
        path: path.to_owned(),
        source,
    })
}

pub(crate) fn create_private_dir(dir: &Path) -> Result<(), PkiError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|source| PkiError::File {
        path: dir.to_owned(),
        source,
    })
}

pub(crate) fn read_optional(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(damaged(path, error)),
        Err(source) => Err(PkiError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

pub(crate) fn load_or_create_token(path: &Path) -> Result<String, PkiError> {
    if let Some(text) = read_optional(path)? {
        let token = text.trim();
        // Somebody may have chosen a token of their own; an empty one would let everybody in.
        if token.len() < 16 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(damaged(
                path,
                "it must hold at least 16 visible ASCII characters",
            ));
        }
        return Ok(token.to_owned());
    }
    let [high, low] = rand::random::<[u128; 2]>();
    let token = format!("{high:032x}{low:032x}");
    write_private(path, token.as_bytes())?;
    Ok(token)
}

pub(crate) fn load_or_create_signing_key(path: &Path) -> Result<SigningKey, PkiError> {
    if let Some(pem) = read_optional(path)? {
        return SigningKey::from_pem(&pem).map_err(|error| damaged(path, error));
    }
    let (key, pem) = SigningKey::generate()?;
    write_private(path, pem.as_bytes())?;
    Ok(key)
}

pub(crate) fn damaged(path: &Path, reason: impl std::fmt::Display) -> PkiError {
    PkiError::Damaged {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
