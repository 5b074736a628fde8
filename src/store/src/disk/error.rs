//! What can be wrong with the file.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{DatabaseError, StorageError};

use crate::BackendError;

/// Why a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open, or another part of this one.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// The file isn't a database of ours, or no longer.
    #[error("{} is damaged or not a database: {reason}", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A later version of this program wrote it.
    #[error(
        "{} has format {found}, this version knows formats up to {supported}: use a newer version",
        path.display()
    )]
    NewerFormat {
        /// The database file.
        path: PathBuf,
        /// The file's format.
        found: u64,
        /// The newest format that can be opened.
        supported: u64,
    },
    /// The system refuses.
    #[error("cannot open {}: {source}", path.display())]
    Io {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A failure of an open, before the path is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenFailure {
    #[error("the database is in use by another process")]
    InUse,
    #[error("the database is damaged: {0}")]
    Damaged(String),
    #[error("the database has format {0}, which is too new")]
    NewerFormat(u64),
    #[error("cannot open the database: {0}")]
    Io(#[source] io::Error),
}

impl OpenFailure {
    pub(super) fn at(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        match self {
            Self::InUse => OpenError::InUse { path },
            Self::Damaged(reason) => OpenError::Damaged { path, reason },
            Self::NewerFormat(found) => OpenError::NewerFormat {
                path,
                found,
                supported: super::format::FORMAT,
            },
            Self::Io(source) => OpenError::Io { path, source },
        }
    }
}

impl From<io::Error> for OpenFailure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // So redb reports a file that it did not write, and one that was cut off.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Io(error),
        }
    }
}

impl From<DatabaseError> for OpenFailure {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Self::InUse,
            DatabaseError::Storage(error) => error.into(),
            error => Self::Damaged(error.to_string()),
        }
    }
}

impl From<StorageError> for OpenFailure {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Io(error) => error.into(),
            StorageError::Corrupted(reason) => Self::Damaged(reason),
            error => Self::Io(io::Error::other(error)),
        }
    }
}

impl From<DiskError> for OpenFailure {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Storage(error) => error.into(),
            error => Self::Damaged(error.to_string()),
        }
    }
}

/// A failure of an open database.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("a table of the database is damaged: {0}")]
    Table(#[source] redb::TableError),
    #[error("the database is damaged: {0}")]
    Damaged(&'static str),
}

impl DiskError {
    /// Whether the database was closed below the operation.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Storage(StorageError::DatabaseClosed))
    }

    pub(super) fn shared(self) -> BackendError {
        Arc::new(self)
    }
}

impl From<redb::TableError> for DiskError {
    fn from(error: redb::TableError) -> Self {
        match error {
            redb::TableError::Storage(error) => Self::Storage(error),
            error => Self::Table(error),
        }
    }
}

impl From<redb::TransactionError> for DiskError {
    fn from(error: redb::TransactionError) -> Self {
        match error {
            redb::TransactionError::Storage(error) => Self::Storage(error),
            error => Self::Storage(StorageError::Backend(Box::new(error))),
        }
    }
}

impl From<redb::CommitError> for DiskError {
    fn from(error: redb::CommitError) -> Self {
        match error {
            redb::CommitError::Storage(error) => Self::Storage(error),
            error => Self::Storage(StorageError::Backend(Box::new(error))),
        }
    }
}
