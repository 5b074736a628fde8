//! The authority itself: kept on disk, and the one thing that signs.

use std::{net::IpAddr, path::Path, time::Duration};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::time::ASN1Time;

use crate::{
    Identity, PkiError,
    files::{damaged, read_optional, write_file, write_private},
};

const DAY: Duration = Duration::from_hours(24);
/// How long an authority is valid.
const AUTHORITY_LIFETIME: Duration = DAY.saturating_mul(3652);
/// How long a serving certificate is valid.
const SERVING_LIFETIME: Duration = DAY.saturating_mul(30);
/// How long a client certificate is valid.
const CLIENT_LIFETIME: Duration = DAY.saturating_mul(365);
/// How long before now certificates begin, for clocks that are behind.
const BACKDATE: Duration = DAY;
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

pub(crate) struct Authority {
    pub(crate) certificate: String,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) issuer: Issuer<'static, KeyPair>,
    /// When its certificate ends; nothing that it issues lasts longer.
    pub(crate) ends: Timestamp,
}

/// A certificate that was issued, and when it is to be replaced.
pub(crate) struct Leaf {
    pub(crate) identity: Identity,
    begins: Timestamp,
    renew_at: Timestamp,
}

impl Leaf {
    /// Whether two thirds of its time are over, or the clock was set back to before it begins.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        now < self.begins || now >= self.renew_at
    }
}

impl Authority {
    pub(crate) fn load_or_create(dir: &Path, now: Timestamp) -> Result<Self, PkiError> {
        let (certificate_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        match (read_optional(&certificate_path)?, read_optional(&key_path)?) {
            (Some(certificate), Some(key)) => {
                Self::load((&certificate_path, certificate), (&key_path, &key), now)
            }
            (Some(_), None) => Err(damaged(
                &key_path,
                "it is missing, but the certificate is there",
            )),
            // The certificate is written last: a key alone is what a start leaves behind that was cut off.
            (None, _) => Self::create(&certificate_path, &key_path, now),
        }
    }

    fn load(
        (certificate_path, certificate): (&Path, String),
        (key_path, key): (&Path, &str),
        now: Timestamp,
    ) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key).map_err(|error| damaged(key_path, error))?;
        let der =
            pem_certificate(&certificate).map_err(|error| damaged(certificate_path, error))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| damaged(certificate_path, error))?;
        let at = |time: ASN1Time| {
            Timestamp::from_second(time.timestamp())
                .map_err(|error| damaged(certificate_path, error))
        };
        let (begins, ends) = (
            at(parsed.validity().not_before)?,
            at(parsed.validity().not_after)?,
        );
        if now < begins {
            let path = certificate_path.to_owned();
            return Err(PkiError::NotYet { path, begins });
        }
        if now >= ends {
            return Err(PkiError::Ended(ends));
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
            ends,
        })
    }

    fn create(certificate_path: &Path, key_path: &Path, now: Timestamp) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let ends = saturating_add(now, AUTHORITY_LIFETIME);
        let mut params = params("vaquita-ca", None);
        set_validity(&mut params, saturating_sub(now, BACKDATE), ends);
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
            ends,
        })
    }

    pub(crate) fn issue_serving(&self, hosts: &[String], now: Timestamp) -> Result<Leaf, PkiError> {
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
        let mut params = params("kube-apiserver", None);
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&mut params, SERVING_LIFETIME, now)
    }

    pub(crate) fn issue_admin(&self, now: Timestamp) -> Result<Leaf, PkiError> {
        self.issue_client("kubernetes-admin", "system:masters", now)
    }

    pub(crate) fn issue_client(
        &self,
        name: &str,
        group: &str,
        now: Timestamp,
    ) -> Result<Leaf, PkiError> {
        let mut params = params(name, Some(group));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&mut params, CLIENT_LIFETIME, now)
    }

    fn sign(
        &self,
        params: &mut CertificateParams,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Leaf, PkiError> {
        if now >= self.ends {
            return Err(PkiError::Ended(self.ends));
        }
        let begins = saturating_sub(now, BACKDATE);
        let ends = saturating_add(now, lifetime).min(self.ends);
        let lasts = Duration::try_from(ends.duration_since(now)).unwrap_or_default();
        set_validity(params, begins, ends);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf {
            identity: Identity {
                certificate: certificate.pem(),
                key: key.serialize_pem(),
            },
            begins,
            renew_at: saturating_add(now, lasts * 2 / 3),
        })
    }
}

fn params(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params
}

fn set_validity(params: &mut CertificateParams, begins: Timestamp, ends: Timestamp) {
    let date = |at: Timestamp| {
        let seconds = u64::try_from(at.as_second()).unwrap_or(0);
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    params.not_before = date(begins);
    params.not_after = date(ends);
}

fn saturating_add(at: Timestamp, span: Duration) -> Timestamp {
    at.checked_add(span).unwrap_or(Timestamp::MAX)
}

fn saturating_sub(at: Timestamp, span: Duration) -> Timestamp {
    at.checked_sub(span).unwrap_or(Timestamp::MIN)
}

pub(crate) fn pem_certificate(pem: &str) -> Result<CertificateDer<'static>, rustls::Error> {
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
