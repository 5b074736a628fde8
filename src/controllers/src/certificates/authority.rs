//! Signs certificates with the cluster's authority.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SigningKey as _, date_time_ymd,
};
use vaquita_reconcile::SigningAuthority;
use x509_parser::{
    asn1_rs::{Any, BitString, FromDer as _, Sequence, SerializeError, ToDer as _},
    error::X509Error,
    pem::parse_x509_pem,
};

use super::requested::Requested;

/// How long certificates last, if nothing shorter is asked for.
const LIFETIME: Duration = Duration::from_hours(365 * 24);
/// The shortest lifetime there is.
const SHORTEST: Duration = Duration::from_mins(10);
/// How long before now certificates begin, for clocks that are behind.
const BACKDATE: Duration = Duration::from_mins(5);

/// Why the authority cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its certificate or key is not what it should be.
    #[error("the cluster's authority cannot be read: {0}")]
    Unreadable(String),
    /// What was made could not be read, or written, as DER.
    #[error("encoding the certificate: {0}")]
    Der(String),
    /// The certificate could not be made.
    #[error("signing the certificate")]
    Sign(#[from] rcgen::Error),
}

impl From<SerializeError> for AuthorityError {
    fn from(error: SerializeError) -> Self {
        Self::Der(error.to_string())
    }
}

/// A certificate taken apart around its subject; see RFC 5280, section 4.1.
struct Parts<'a> {
    before_subject: &'a [u8],
    after_subject: &'a [u8],
    /// By which it was signed.
    algorithm: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(certificate: &'a [u8]) -> Result<Self, X509Error> {
        /// The first value of `bytes`, and what follows.
        fn first(bytes: &[u8]) -> Result<(&[u8], &[u8]), X509Error> {
            let (rest, _) = Any::from_der(bytes).map_err(|_| X509Error::InvalidCertificate)?;
            Ok(bytes.split_at(bytes.len() - rest.len()))
        }
        fn content(bytes: &[u8]) -> Result<&[u8], X509Error> {
            let (_, any) = Any::from_der(bytes).map_err(|_| X509Error::InvalidCertificate)?;
            Ok(any.data)
        }
        let (signed, rest) = first(content(certificate)?)?;
        let (algorithm, _signature) = first(rest)?;
        let fields = content(signed)?;
        let mut rest = fields;
        // Version, serial number, algorithm, issuer, validity.
        for _ in 0..5 {
            rest = first(rest)?.1;
        }
        let (_subject, after_subject) = first(rest)?;
        Ok(Self {
            before_subject: &fields[..fields.len() - rest.len()],
            after_subject,
            algorithm,
        })
    }
}

fn sequence(content: &[u8]) -> Result<Vec<u8>, AuthorityError> {
    Ok(Sequence::new(content.into()).to_der_vec()?)
}

/// One `CERTIFICATE` block.
fn x509_pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// The cluster's authority, ready to sign.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// When its own certificate ends, in seconds since 1970.
    ends: i64,
}

impl Authority {
    pub(super) fn new(authority: &SigningAuthority) -> Result<Self, AuthorityError> {
        let unreadable = |error: String| AuthorityError::Unreadable(error);
        let key = KeyPair::from_pem(&authority.key)?;
        let (_, block) = parse_x509_pem(authority.certificate.as_bytes())
            .map_err(|error| unreadable(error.to_string()))?;
        let certificate = block
            .parse_x509()
            .map_err(|error| unreadable(error.to_string()))?;
        Ok(Self {
            ends: certificate.validity().not_after.timestamp(),
            issuer: Issuer::from_ca_cert_pem(&authority.certificate, key)?,
        })
    }

    /// The certificate that `object` asks for, as PEM.
    pub(super) fn sign(
        &self,
        object: &CertificateSigningRequest,
        requested: Requested,
        now: Timestamp,
    ) -> Result<String, AuthorityError> {
        let Requested {
            params: mut signing,
            subject,
            ..
        } = requested;
        let params = &mut signing.params;
        let asked = object.spec.expiration_seconds;
        let asked = asked.and_then(|seconds| u64::try_from(seconds).ok());
        let lifetime = asked.map_or(LIFETIME, |seconds| {
            Duration::from_secs(seconds).clamp(SHORTEST, LIFETIME)
        });
        let now = now.as_second();
        let ends = now
            .saturating_add_unsigned(lifetime.as_secs())
            .min(self.ends);
        let at = |second: i64| {
            date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(second).unwrap_or(0))
        };
        params.not_before = at(now.saturating_sub_unsigned(BACKDATE.as_secs()));
        params.not_after = at(ends);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        let usages = object.spec.usages.as_deref().unwrap_or_default();
        let asks = |usage: &str| usages.iter().any(|own| own == usage);
        // What the object asks for counts, not what the request inside does.
        params.key_usages = [
            ("digital signature", KeyUsagePurpose::DigitalSignature),
            ("key encipherment", KeyUsagePurpose::KeyEncipherment),
        ]
        .into_iter()
        .filter_map(|(usage, purpose)| asks(usage).then_some(purpose))
        .collect();
        params.extended_key_usages = [
            ("client auth", ExtendedKeyUsagePurpose::ClientAuth),
            ("server auth", ExtendedKeyUsagePurpose::ServerAuth),
        ]
        .into_iter()
        .filter_map(|(usage, purpose)| asks(usage).then_some(purpose))
        .collect();
        let certificate = signing.signed_by(&self.issuer)?;
        let der = self.with_subject(certificate.der(), &subject)?;
        Ok(x509_pem(&der))
    }

    /// The certificate once more, for `subject` (a name in DER) instead of its own.
    fn with_subject(&self, certificate: &[u8], subject: &[u8]) -> Result<Vec<u8>, AuthorityError> {
        let parts =
            Parts::of(certificate).map_err(|error| AuthorityError::Der(error.to_string()))?;
        let signed = sequence(&[parts.before_subject, subject, parts.after_subject].concat())?;
        let signature = self.issuer.key().sign(&signed)?;
        let signature = BitString::new(0, &signature).to_der_vec()?;
        sequence(&[&signed, parts.algorithm, &signature].concat())
    }
}
