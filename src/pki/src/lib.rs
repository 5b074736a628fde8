//! The cluster's certificate authority and what it issues.
//!
//! Three things are kept on disk: the authority (certificate and key), the key that signs tokens of service accounts, and the
//! administrator's bearer token. The serving certificate (for 30 days) and the administrator's client certificate (for
//! a year) are issued afresh by each [`Pki::load_or_create`], which takes a fraction of a millisecond: so none of them
//! can be stale or cover the wrong names. [`keep_fresh`] replaces them while the cluster runs, when two thirds of their time
//! are over. A kubeconfig that somebody copied earlier stays good until its own certificate ends.
//!
//! All keys are ECDSA on P-256. Files are written to a temporary name, synced and renamed; secrets have mode 600.

mod authority;
mod files;
mod renewal;
mod serving;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use rustls::ServerConfig;
use vaquita_auth::tokens::{KeyError, SigningKey};

use crate::{
    authority::{Authority, Leaf},
    files::{create_private_dir, load_or_create_signing_key, load_or_create_token, write_private},
    serving::Shown,
};

pub use renewal::{AdminFiles, keep_fresh};

/// Why keys and certificates could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file or directory could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is there but is not what it should be. It is never replaced silently: clients trust the old authority.
    #[error(
        "{path} is damaged: {reason}: restore it, or remove {path} and its neighbours to start a new authority"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The authority's certificate has not begun yet.
    #[error("{path} is valid only from {begins} on: set the clock")]
    NotYet {
        /// The file.
        path: PathBuf,
        /// When it begins.
        begins: Timestamp,
    },
    /// The authority's own certificate has ended: nothing that it issues would be trusted.
    #[error("the cluster's authority ended at {0}: remove its files to start a new one")]
    Ended(Timestamp),
    /// A key or certificate could not be made.
    #[error("cannot issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// A key that signs tokens could not be made.
    #[error("cannot make a key for the tokens of service accounts: {0}")]
    Tokens(#[from] KeyError),
    /// The TLS library refused what was issued.
    #[error("cannot set TLS up: {0}")]
    Tls(#[from] rustls::Error),
    /// The TLS library refused the authority as a root for client certificates.
    #[error("cannot set verification of client certificates up: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// A certificate and its private key, both as PEM.
#[derive(Clone)]
pub struct Identity {
    /// One `CERTIFICATE` block.
    pub certificate: String,
    /// One `PRIVATE KEY` block (PKCS #8).
    pub key: String,
}

/// Keys and certificates of one cluster. See the module's words on what is kept and what is issued anew.
pub struct Pki {
    authority: Authority,
    hosts: Vec<String>,
    serving: Arc<Shown>,
    leaves: Mutex<Leaves>,
    token: String,
    service_account_key: SigningKey,
}

/// What is issued anew from time to time.
struct Leaves {
    serving: Leaf,
    admin: Leaf,
}

/// What [`Pki::renew`] replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    /// The certificate that clients are shown.
    pub serving: bool,
    /// The administrator's certificate: the kubeconfig is to be written again.
    pub admin: bool,
}

impl Pki {
    /// Opens the authority in `dir` (`ca.crt`, `ca.key`, `sa.key`, `token`), or makes a new one; then issues a serving
    /// certificate for `hosts` (DNS names and IP addresses, besides the names that every cluster's API has) and a
    /// client certificate for `kubernetes-admin` of group `system:masters`.
    ///
    /// `dir` is made with mode 700 if it is absent.
    pub fn load_or_create(dir: &Path, hosts: &[String]) -> Result<Self, PkiError> {
        Self::load_or_create_at(dir, hosts, Timestamp::now())
    }

    fn load_or_create_at(dir: &Path, hosts: &[String], now: Timestamp) -> Result<Self, PkiError> {
        create_private_dir(dir)?;
        let authority = Authority::load_or_create(dir, now)?;
        let leaves = Leaves {
            serving: authority.issue_serving(hosts, now)?,
            admin: authority.issue_admin(now)?,
        };
        let token = load_or_create_token(&dir.join("token"))?;
        let service_account_key = load_or_create_signing_key(&dir.join("sa.key"))?;
        Ok(Self {
            authority,
            hosts: hosts.to_vec(),
            serving: Arc::new(Shown::new(&leaves.serving.identity)?),
            leaves: Mutex::new(leaves),
            token,
            service_account_key,
        })
    }

    /// The authority's certificate as PEM: what clients have to trust.
    pub fn ca_certificate(&self) -> &str {
        &self.authority.certificate
    }

    /// The authority's private key as PEM, for whoever signs on behalf of the cluster.
    pub fn ca_key(&self) -> String {
        self.authority.issuer.key().serialize_pem()
    }

    /// The administrator's bearer token: 64 hexadecimal digits.
    pub fn admin_token(&self) -> &str {
        &self.token
    }

    /// The key that signs the tokens of service accounts.
    pub fn service_account_key(&self) -> &SigningKey {
        &self.service_account_key
    }

    /// The administrator's client certificate and key, as they are now.
    pub fn admin(&self) -> Identity {
        self.lock().admin.identity.clone()
    }

    /// Replaces what is due at `now`: what has less than a third of its time left, or has not begun yet since the clock was
    /// set back. New connections are shown the new serving certificate; open ones go on with the old.
    pub fn renew(&self, now: Timestamp) -> Result<Renewed, PkiError> {
        let mut leaves = self.lock();
        let renewed = Renewed {
            serving: leaves.serving.is_due(now),
            admin: leaves.admin.is_due(now),
        };
        if renewed.serving {
            let serving = self.authority.issue_serving(&self.hosts, now)?;
            self.serving.show(&serving.identity)?;
            leaves.serving = serving;
        }
        if renewed.admin {
            leaves.admin = self.authority.issue_admin(now)?;
        }
        Ok(renewed)
    }

    /// When the authority's own certificate ends.
    pub fn ends(&self) -> Timestamp {
        self.authority.ends
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Leaves> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes `admin.kubeconfig`, for a cluster at `server`, and `admin.token` into `dir`, both with mode 600.
    pub fn write_admin_files(&self, dir: &Path, server: &str) -> Result<(), PkiError> {
        write_private(
            &dir.join("admin.kubeconfig"),
            self.kubeconfig(server).as_bytes(),
        )?;
        write_private(&dir.join("admin.token"), self.token.as_bytes())
    }

    /// A client certificate for user `name` (its CN) in `group` (its O), valid for one year.
    pub fn issue_client(&self, name: &str, group: &str) -> Result<Identity, PkiError> {
        let leaf = self.authority.issue_client(name, group, Timestamp::now())?;
        Ok(leaf.identity)
    }

    /// A kubeconfig for the administrator, whose cluster is at `server` (such as `https://127.0.0.1:6443`).
    pub fn kubeconfig(&self, server: &str) -> String {
        let admin = self.admin();
        format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: vaquita\n\
             \x20 cluster:\n\
             \x20   server: {server}\n\
             \x20   certificate-authority-data: {ca}\n\
             users:\n\
             - name: vaquita-admin\n\
             \x20 user:\n\
             \x20   client-certificate-data: {certificate}\n\
             \x20   client-key-data: {key}\n\
             contexts:\n\
             - name: vaquita\n\
             \x20 context:\n\
             \x20   cluster: vaquita\n\
             \x20   user: vaquita-admin\n\
             current-context: vaquita\n\
             preferences: {{}}\n",
            ca = BASE64.encode(self.ca_certificate()),
            certificate = BASE64.encode(&admin.certificate),
            key = BASE64.encode(&admin.key),
        )
    }

    /// TLS for serving: the serving certificate as [`Self::renew`] leaves it, optional client certificates of this authority, ALPN for HTTP/2 and
    /// HTTP/1.1.
    ///
    /// A client without a certificate is let in (it may bring a token, or be anonymous); one whose certificate the
    /// authority did not issue is cut off in the handshake.
    pub fn server_config(&self) -> Result<ServerConfig, PkiError> {
        serving::config(&self.authority.der, self.serving.clone())
    }
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}
