//! The authority itself: kept on disk, and the one thing that signs.

use std::{net::IpAddr, path::Path};

use jiff::{ToSpan as _, Zoned, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::{
    Identity, PkiError,
    files::{damaged, read_optional, write_file, write_private},
};

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

pub(crate) struct Authority {
    pub(crate) certificate: String,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn load_or_create(dir: &Path) -> Result<Self, PkiError> {
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

    pub(crate) fn issue_serving(&self, hosts: &[String]) -> Result<Identity, PkiError> {
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

    pub(crate) fn issue_client(&self, name: &str, group: &str) -> Result<Identity, PkiError> {
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
