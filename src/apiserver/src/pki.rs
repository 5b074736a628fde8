//! The cluster's certificate authority and what it issues.
//!
//! Three things are kept on disk: the authority (certificate and key), the key that signs tokens of service accounts, and the
//! administrator's bearer token. The serving
//! certificate and the administrator's client certificate are issued afresh by each [`Pki::load_or_create`], which
//! takes a fraction of a millisecond: so none of them can be stale, cover the wrong names or expire unnoticed, and a
//! kubeconfig that somebody copied earlier stays good until its own certificate ends.
//!
//! All keys are ECDSA on P-256. Files are written to a temporary name, synced and renamed; secrets have mode 600.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::{ToSpan as _, Zoned, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use vaquita_auth::tokens::{KeyError, SigningKey};

/// How long an authority is valid. Serving certificates end with it.
const AUTHORITY_YEARS: i32 = 10;
/// How long a client certificate is valid. The administrator gets a new one with each start.
const CLIENT_YEARS: i32 = 1;
/// Names that reach the API server from inside every cluster, whatever the caller adds.
const STANDING_NAMES: [&str; 7] = [
    "localhost",
    "127.0.0.1",
    "::1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

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
    serving: Identity,
    admin: Identity,
    token: String,
    service_account_key: SigningKey,
}

struct Authority {
    certificate: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Opens the authority in `dir` (`ca.crt`, `ca.key`, `sa.key`, `token`), or makes a new one; then issues a serving
    /// certificate for `hosts` (DNS names and IP addresses, besides the names that every cluster's API has) and a
    /// client certificate for `kubernetes-admin` of group `system:masters`.
    ///
    /// `dir` is made with mode 700 if it is absent.
    pub fn load_or_create(dir: &Path, hosts: &[String]) -> Result<Self, PkiError> {
        create_private_dir(dir)?;
        let authority = Authority::load_or_create(dir)?;
        let serving = authority.issue_serving(hosts)?;
        let admin = authority.issue_client("kubernetes-admin", "system:masters")?;
        let token = load_or_create_token(&dir.join("token"))?;
        let service_account_key = load_or_create_signing_key(&dir.join("sa.key"))?;
        Ok(Self {
            authority,
            serving,
            admin,
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

    /// The administrator's client certificate and key.
    pub fn admin(&self) -> &Identity {
        &self.admin
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
        self.authority.issue_client(name, group)
    }

    /// A kubeconfig for the administrator, whose cluster is at `server` (such as `https://127.0.0.1:6443`).
    pub fn kubeconfig(&self, server: &str) -> String {
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
            certificate = BASE64.encode(&self.admin.certificate),
            key = BASE64.encode(&self.admin.key),
        )
    }

    /// TLS for serving: the serving certificate, optional client certificates of this authority, ALPN for HTTP/2 and
    /// HTTP/1.1.
    ///
    /// A client without a certificate is let in (it may bring a token, or be anonymous); one whose certificate the
    /// authority did not issue is cut off in the handshake.
    pub fn server_config(&self) -> Result<ServerConfig, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der.clone())?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()?;
        let chain = vec![pem_certificate(&self.serving.certificate)?];
        let key = PrivateKeyDer::from_pem_slice(self.serving.key.as_bytes())
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
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

impl Authority {
    fn load_or_create(dir: &Path) -> Result<Self, PkiError> {
        let (certificate_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        match (read_optional(&certificate_path)?, read_optional(&key_path)?) {
            (Some(certificate), Some(key)) => {
                Self::load(&certificate_path, certificate, &key_path, &key)
            }
            (Some(_), None) => Err(damaged(
                &key_path,
                "it is missing, but the certificate is there",
            )),
            // The certificate is written last: a key alone is what a start leaves behind that was cut off.
            (None, _) => Self::create(&certificate_path, &key_path),
        }
    }

    fn load(
        certificate_path: &Path,
        certificate: String,
        key_path: &Path,
        key: &str,
    ) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key).map_err(|error| damaged(key_path, error))?;
        let der =
            pem_certificate(&certificate).map_err(|error| damaged(certificate_path, error))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| damaged(certificate_path, error))?;
        if !parsed.validity().is_valid() {
            return Err(damaged(
                certificate_path,
                format!("it is valid only until {}", parsed.validity().not_after),
            ));
        }
        if parsed.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(damaged(
                certificate_path,
                "it does not belong to the key beside it",
            ));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|error| damaged(certificate_path, error))?;
        Ok(Self {
            certificate,
            der,
            issuer,
        })
    }

    fn create(certificate_path: &Path, key_path: &Path) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = params("vaquita-ca", None, AUTHORITY_YEARS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key)?;
        write_private(key_path, key.serialize_pem().as_bytes())?;
        write_file(certificate_path, certificate.pem().as_bytes(), 0o644)?;
        let (der, certificate) = (certificate.der().clone(), certificate.pem());
        Ok(Self {
            certificate,
            der,
            issuer: Issuer::new(params, key),
        })
    }

    fn issue_serving(&self, hosts: &[String]) -> Result<Identity, PkiError> {
        let mut names: Vec<String> = STANDING_NAMES.iter().map(ToString::to_string).collect();
        // Zone and scope are not part of a name: `[::1]` is written by some callers as in a URL.
        names.extend(
            hosts
                .iter()
                .map(|host| host.trim_matches(['[', ']']).to_owned()),
        );
        names.sort_unstable();
        names.dedup();
        names.retain(|name| {
            name.parse::<IpAddr>().is_ok_and(|ip| !ip.is_unspecified()) || is_dns_name(name)
        });
        let mut params = params("kube-apiserver", None, AUTHORITY_YEARS);
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&mut params)
    }

    fn issue_client(&self, name: &str, group: &str) -> Result<Identity, PkiError> {
        let mut params = params(name, Some(group), CLIENT_YEARS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&mut params)
    }

    fn sign(&self, params: &mut CertificateParams) -> Result<Identity, PkiError> {
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// Writes a file that only its owner may read (mode 600), atomically: a reader sees the old content or the new.
fn write_private(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    write_file(path, content, 0o600)
}

fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
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

fn create_private_dir(dir: &Path) -> Result<(), PkiError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|source| PkiError::File {
        path: dir.to_owned(),
        source,
    })
}

fn read_optional(path: &Path) -> Result<Option<String>, PkiError> {
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

fn load_or_create_token(path: &Path) -> Result<String, PkiError> {
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

fn load_or_create_signing_key(path: &Path) -> Result<SigningKey, PkiError> {
    if let Some(pem) = read_optional(path)? {
        return SigningKey::from_pem(&pem).map_err(|error| damaged(path, error));
    }
    let (key, pem) = SigningKey::generate()?;
    write_private(path, pem.as_bytes())?;
    Ok(key)
}

fn damaged(path: &Path, reason: impl std::fmt::Display) -> PkiError {
    PkiError::Damaged {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn params(name: &str, group: Option<&str>, years: i32) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    let now = Zoned::now().with_time_zone(TimeZone::UTC);
    // A day of grace for clocks that are behind.
    let date = |day: Zoned| {
        let part = |value: i8| u8::try_from(value).unwrap_or(1);
        rcgen::date_time_ymd(day.year().into(), part(day.month()), part(day.day()))
    };
    params.not_before = date(now.saturating_sub(1.day()));
    params.not_after = date(now.saturating_add(years.years()));
    params
}

fn pem_certificate(pem: &str) -> Result<CertificateDer<'static>, rustls::Error> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| rustls::Error::General(error.to_string()))
}

fn is_dns_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject_alt_names(pki: &Pki) -> Vec<String> {
        let der = pem_certificate(&pki.serving.certificate).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        names
            .value
            .general_names
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn authority_and_token_survive_a_restart_and_leaves_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::load_or_create(dir.path(), &[]).unwrap();
        let second = Pki::load_or_create(
            dir.path(),
            &["box.example".to_owned(), "192.0.2.7".to_owned()],
        )
        .unwrap();
        assert_eq!(first.ca_certificate(), second.ca_certificate());
        assert_eq!(first.admin_token(), second.admin_token());
        assert_eq!(
            first.service_account_key().jwks(),
            second.service_account_key().jwks()
        );
        assert_ne!(first.serving.certificate, second.serving.certificate);
        let names = subject_alt_names(&second).join(" ");
        assert!(
            names.contains("box.example") && names.contains("localhost"),
            "{names}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn secrets_are_readable_by_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        Pki::load_or_create(dir.path(), &[]).unwrap();
        for name in ["ca.key", "sa.key", "token"] {
            let mode = fs::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_damaged_authority_is_reported_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        Pki::load_or_create(dir.path(), &[]).unwrap();
        let path = dir.path().join("ca.crt");
        fs::write(&path, "not a certificate").unwrap();
        assert!(matches!(
            Pki::load_or_create(dir.path(), &[]),
            Err(PkiError::Damaged { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a certificate");
    }

    #[test]
    fn a_foreign_key_beside_the_certificate_is_noticed() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Pki::load_or_create(one.path(), &[]).unwrap();
        Pki::load_or_create(other.path(), &[]).unwrap();
        fs::copy(other.path().join("ca.key"), one.path().join("ca.key")).unwrap();
        assert!(matches!(
            Pki::load_or_create(one.path(), &[]),
            Err(PkiError::Damaged { .. })
        ));
    }

    #[test]
    fn an_empty_token_file_does_not_become_a_token() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), "\n").unwrap();
        assert!(matches!(
            Pki::load_or_create(dir.path(), &[]),
            Err(PkiError::Damaged { .. })
        ));
    }

    #[test]
    fn the_kubeconfig_parses_and_carries_the_authority() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::load_or_create(dir.path(), &[]).unwrap();
        let config: serde_json::Value =
            serde_yaml::from_str(&pki.kubeconfig("https://127.0.0.1:6443")).unwrap();
        assert_eq!(
            config["clusters"][0]["cluster"]["server"],
            "https://127.0.0.1:6443"
        );
        let ca = config["clusters"][0]["cluster"]["certificate-authority-data"]
            .as_str()
            .unwrap();
        assert_eq!(BASE64.decode(ca).unwrap(), pki.ca_certificate().as_bytes());
        assert_eq!(config["current-context"], "vaquita");
    }

    #[test]
    fn tls_speaks_both_http_versions() {
        let dir = tempfile::tempdir().unwrap();
        let config = Pki::load_or_create(dir.path(), &[])
            .unwrap()
            .server_config()
            .unwrap();
        assert_eq!(
            config.alpn_protocols,
            [b"h2".to_vec(), b"http/1.1".to_vec()]
        );
    }
}
