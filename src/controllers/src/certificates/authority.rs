//! Signs certificates with the cluster's authority.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use vaquita_reconcile::SigningAuthority;
use x509_parser::pem::parse_x509_pem;

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
    /// The certificate could not be made.
    #[error("signing the certificate")]
    Sign(#[from] rcgen::Error),
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
        let mut signing = requested.params;
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
        Ok(signing.signed_by(&self.issuer)?.pem())
    }
}
