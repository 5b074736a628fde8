//! Which certificate a client is shown, by the name that it asks for.
//!
//! Certificates come from Secrets of type `kubernetes.io/tls`. A new version of a Secret is in use from the next
//! handshake on. Who asks for a name that no Secret covers, or for none, gets a certificate that was made at the start
//! and that nobody has signed.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

use crate::routes::wildcard;

/// Names of one certificate that are looked at: more would be a mistake or worse.
const MAX_NAMES: usize = 1000;

/// Why a Secret cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error("the type is not kubernetes.io/tls")]
    Type,
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("tls.crt is not a chain of certificates in PEM")]
    Chain,
    #[error("tls.key is not a private key in PEM")]
    Key,
    #[error("key and certificate do not fit: {0}")]
    Unfit(#[from] rustls::Error),
}

/// Certificates by host.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    hosts: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows the asterisk.
    wildcards: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    /// Shows this certificate for these hosts, or if none are given, for those that it names itself. Whoever came first
    /// for a host stays.
    pub(crate) fn add(&mut self, hosts: &[String], key: &Arc<CertifiedKey>) {
        let own = if hosts.is_empty() {
            names_in(key)
        } else {
            Vec::new()
        };
        for host in hosts.iter().chain(&own) {
            let host = host.to_ascii_lowercase();
            match host.strip_prefix('*') {
                Some(suffix) => self.wildcards.entry(suffix.to_owned()),
                None => self.hosts.entry(host),
            }
            .or_insert_with(|| key.clone());
        }
    }

    /// The certificate for a name in lower case.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.hosts
            .get(name)
            .or_else(|| self.wildcards.get(wildcard(name)?))
    }
}

/// The DNS names that a certificate is for.
fn names_in(key: &CertifiedKey) -> Vec<String> {
    let Some(leaf) = key.cert.first() else {
        return Vec::new();
    };
    let Ok((_, parsed)) = x509_parser::certificate::X509Certificate::from_der(leaf) else {
        return Vec::new();
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter().take(MAX_NAMES);
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}

/// Parsed Secrets, so that only a changed one is parsed again.
#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    keys: HashMap<Version, Arc<CertifiedKey>>,
    used: HashSet<Version>,
}

/// Uid and resourceVersion.
type Version = (String, String);

impl KeyCache {
    /// Starts a round.
    pub(crate) fn begin(&mut self) {
        self.used.clear();
    }

    /// Ends a round: what was not asked for is forgotten.
    pub(crate) fn end(&mut self) {
        let used = &self.used;
        self.keys.retain(|version, _| used.contains(version));
    }

    pub(crate) fn get(&mut self, secret: &Secret) -> Result<Arc<CertifiedKey>, SecretError> {
        let version = (
            secret.uid().unwrap_or_default(),
            secret.resource_version().unwrap_or_default(),
        );
        let key = match self.keys.get(&version) {
            Some(key) => key.clone(),
            None => Arc::new(parse(secret)?),
        };
        self.used.insert(version.clone());
        self.keys.insert(version, key.clone());
        Ok(key)
    }
}

fn parse(secret: &Secret) -> Result<CertifiedKey, SecretError> {
    if secret.type_.as_deref() != Some("kubernetes.io/tls") {
        return Err(SecretError::Type);
    }
    let data = |name: &'static str| {
        let found = secret.data.as_ref().and_then(|data| data.get(name));
        found.ok_or(SecretError::Missing(name))
    };
    let chain = CertificateDer::pem_slice_iter(&data("tls.crt")?.0)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_damaged| SecretError::Chain)?;
    if chain.is_empty() {
        return Err(SecretError::Chain);
    }
    let key = PrivateKeyDer::from_pem_slice(&data("tls.key")?.0).map_err(|_| SecretError::Key)?;
    Ok(CertifiedKey::from_der(
        chain,
        key,
        &ring::default_provider(),
    )?)
}

/// Why there is no certificate to fall back on.
#[derive(Debug, thiserror::Error)]
pub enum DefaultCertificateError {
    /// It could not be made.
    #[error("making the default certificate")]
    Make(#[from] rcgen::Error),
    /// It could not be used.
    #[error("using the default certificate")]
    Use(#[from] rustls::Error),
}

/// Makes the certificate for whoever no Secret is for.
pub(crate) fn make_default() -> Result<Arc<CertifiedKey>, DefaultCertificateError> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(vec!["ingress.local".to_owned()])?;
    params.distinguished_name.push(
        rcgen::DnType::CommonName,
        "Vaquita Ingress default certificate",
    );
    let certificate = params.self_signed(&key)?;
    let secret = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|error| rustls::Error::General(error.to_owned()))?;
    let chain = vec![certificate.der().clone()];
    let key = CertifiedKey::from_der(chain, secret, &ring::default_provider())?;
    Ok(Arc::new(key))
}

/// Shows the right certificate out of the table of the moment.
pub(crate) struct Resolver {
    pub(crate) table: crate::Shared,
    pub(crate) default: Arc<CertifiedKey>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.table.load();
        // The library gives names in lower case.
        let wanted = hello.server_name();
        let found = wanted.and_then(|name| table.certificates.find(name));
        Some(found.unwrap_or(&self.default).clone())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    /// A Secret with a certificate for these names.
    pub(crate) fn secret(name: &str, version: u32, hosts: &[&str]) -> Secret {
        let key = rcgen::KeyPair::generate().unwrap();
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let params = rcgen::CertificateParams::new(hosts).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let data = [
            ("tls.crt".to_owned(), ByteString(certificate.pem().into())),
            ("tls.key".to_owned(), ByteString(key.serialize_pem().into())),
        ];
        let mut secret = Secret {
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(data.into()),
            ..Secret::default()
        };
        secret.metadata.name = Some(name.to_owned());
        secret.metadata.namespace = Some("shop".to_owned());
        secret.metadata.uid = Some(format!("uid-{name}"));
        secret.metadata.resource_version = Some(version.to_string());
        secret
    }

    #[test]
    fn names_find_their_certificates() {
        let mut keys = KeyCache::default();
        let one = keys.get(&secret("one", 1, &["own.example"])).unwrap();
        let two = keys.get(&secret("two", 1, &["x.example"])).unwrap();
        let mut certificates = Certificates::default();
        certificates.add(&[], &one);
        certificates.add(
            &["*.Wild.example".to_owned(), "own.example".to_owned()],
            &two,
        );
        let find = |name: &str| certificates.find(name);
        assert!(Arc::ptr_eq(find("own.example").unwrap(), &one));
        assert!(Arc::ptr_eq(find("a.wild.example").unwrap(), &two));
        for name in ["wild.example", "a.b.wild.example", "x.example", ""] {
            assert!(find(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_secret_is_parsed_once_for_each_version() {
        let mut keys = KeyCache::default();
        let (old, new) = (secret("one", 1, &["a"]), secret("one", 2, &["a"]));
        keys.begin();
        let first = keys.get(&old).unwrap();
        assert!(Arc::ptr_eq(&first, &keys.get(&old).unwrap()));
        keys.end();
        keys.begin();
        assert!(!Arc::ptr_eq(&first, &keys.get(&new).unwrap()));
        keys.end();
        assert_eq!(keys.keys.len(), 1);
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_said() {
        let good = secret("one", 1, &["a"]);
        let other = secret("two", 1, &["a"]);
        let broken = |change: &dyn Fn(&mut Secret)| {
            let mut secret = good.clone();
            change(&mut secret);
            parse(&secret).unwrap_err().to_string()
        };
        let data = |secret: &mut Secret, name: &str, value: &[u8]| {
            let value = ByteString(value.to_vec());
            secret.data.as_mut().unwrap().insert(name.to_owned(), value);
        };
        let foreign = other.data.as_ref().unwrap()["tls.key"].0.clone();
        for (message, said) in [
            (broken(&|secret| secret.type_ = None), "type"),
            (broken(&|secret| secret.data = None), "tls.crt is missing"),
            (
                broken(&|secret| data(secret, "tls.crt", b"x")),
                "tls.crt is not",
            ),
            (
                broken(&|secret| data(secret, "tls.key", b"x")),
                "tls.key is not",
            ),
            (
                broken(&|secret| data(secret, "tls.key", &foreign)),
                "do not fit",
            ),
        ] {
            assert!(message.contains(said), "{message}");
        }
    }

    #[test]
    fn there_is_a_certificate_for_everybody() {
        assert_eq!(names_in(&make_default().unwrap()), ["ingress.local"]);
    }
}
