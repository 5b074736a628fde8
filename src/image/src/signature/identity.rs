//! Identities: somebody whom an authority has seen to be who they say, and who has got a certificate for a key of the moment.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use webpki::{EndEntityCert, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{Evidence, PublicKey, SignerError, statement::LogEntry};

/// `id-kp-codeSigning`, 1.3.6.1.5.5.7.3.3.
const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];
/// Who has vouched for the subject, as Fulcio writes it: first as bytes, in newer certificates as a string of ASN.1 too.
const ISSUER_BYTES: &str = "1.3.6.1.4.1.57264.1.1";
const ISSUER_STRING: &str = "1.3.6.1.4.1.57264.1.8";
/// `UTF8String`, with a length of one byte.
const UTF8_STRING: u8 = 0x0c;

/// An identity, in text. Subject and issuer may end in `*`, which stands for anything.
#[derive(Debug, Clone, Default)]
pub struct IdentityConfig {
    /// Certificates (PEM) of the authorities that certificates may come from, and those between.
    pub authorities: Vec<u8>,
    /// Who signs: an address or URI, such as `https://ci.example/team/project/*`.
    pub subject: String,
    /// Who vouches for them: the address of the `OpenID` Connect provider.
    pub issuer: String,
    /// The public key (PEM) of a transparency log. If there is one, signatures must be in the log, and their time is the log's:
    /// that is needed for certificates that are valid for minutes only. If there is none, certificates must be valid when
    /// they are looked at.
    pub log_key: Option<Vec<u8>>,
}

/// Somebody whom certificates name.
#[derive(Debug, Clone)]
pub struct Identity {
    anchors: Vec<TrustAnchor<'static>>,
    between: Vec<CertificateDer<'static>>,
    subject: String,
    issuer: String,
    log: Option<PublicKey>,
}

impl Identity {
    /// Reads its parts.
    pub fn new(config: &IdentityConfig) -> Result<Self, SignerError> {
        if config.subject.trim_matches('*').is_empty() || config.issuer.is_empty() {
            return Err(SignerError::Nobody);
        }
        let what = "certificate";
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&config.authorities)
            .collect::<Result<_, _>>()
            .map_err(|_| SignerError::Pem { what })?;
        let (mut anchors, mut between) = (Vec::new(), Vec::new());
        for certificate in certificates {
            let (_, parsed) =
                X509Certificate::from_der(&certificate).map_err(|_| SignerError::Certificate)?;
            // Those that vouch for themselves are where trust begins.
            if parsed.subject() == parsed.issuer() {
                let anchor =
                    anchor_from_trusted_cert(&certificate).map_err(|_| SignerError::Certificate)?;
                anchors.push(anchor.to_owned());
            } else {
                between.push(certificate);
            }
        }
        if anchors.is_empty() {
            return Err(SignerError::Pem { what });
        }
        let log = config.log_key.as_deref().map(PublicKey::from_pem);
        Ok(Self {
            anchors,
            between,
            subject: config.subject.clone(),
            issuer: config.issuer.clone(),
            log: log.transpose()?,
        })
    }

    /// Whether it has made a signature. Otherwise, why not.
    pub(super) fn verify(&self, evidence: &Evidence, now: SystemTime) -> Result<(), String> {
        let refused = |why: &str| Err(why.to_owned());
        let Some((leaf, chain)) = evidence.certificates.split_first() else {
            return refused("it has no certificate");
        };
        let time = match &self.log {
            None => now,
            Some(log) => logged(log, evidence)?,
        };
        let leaf = CertificateDer::from(leaf.as_slice());
        self.check_chain(&leaf, chain, time)?;
        let Ok((_, parsed)) = X509Certificate::from_der(&leaf) else {
            return refused("its certificate makes no sense");
        };
        if !subjects(&parsed).any(|subject| fits(&self.subject, subject)) {
            let subject = subjects(&parsed).next().unwrap_or_default();
            return Err(format!(
                "it was made by {}",
                crate::store::shortened(subject)
            ));
        }
        let issuer = issuer(&parsed).unwrap_or_default();
        if !fits(&self.issuer, &issuer) {
            let issuer = crate::store::shortened(&issuer);
            return Err(format!("who made it is vouched for by {issuer}"));
        }
        let key = PublicKey::of(parsed.public_key()).map_err(|error| error.to_string())?;
        if key.verify(&evidence.message, &evidence.signature) {
            Ok(())
        } else {
            refused("it was not made with its certificate's key")
        }
    }

    fn check_chain(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[Vec<u8>],
        time: SystemTime,
    ) -> Result<(), String> {
        let failed = |error: webpki::Error| format!("its certificate is not valid: {error}");
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        let time = UnixTime::since_unix_epoch(since.unwrap_or_default());
        let mut between = self.between.clone();
        between.extend(chain.iter().map(|der| CertificateDer::from(der.clone())));
        let leaf = EndEntityCert::try_from(leaf).map_err(failed)?;
        let usage = webpki::KeyUsage::required(CODE_SIGNING);
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &self.anchors,
            &between,
            time,
            usage,
            None,
            None,
        )
        .map(drop)
        .map_err(failed)
    }
}

/// When a log has seen a signature.
fn logged(log: &PublicKey, evidence: &Evidence) -> Result<SystemTime, String> {
    let Some(entry) = &evidence.log else {
        return Err("it is in no transparency log".to_owned());
    };
    // Keys in order, and no space: that is what the log signs.
    let promise = json!({
        "body": entry.body,
        "integratedTime": entry.time,
        "logID": entry.log_id,
        "logIndex": entry.index,
    });
    if !log.verify(promise.to_string().as_bytes(), &entry.promise) {
        return Err("the transparency log has not signed its entry".to_owned());
    }
    if !is_entry_of(entry, evidence) {
        return Err("the transparency log's entry is about something else".to_owned());
    }
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(entry.time))
        .ok_or_else(|| "the transparency log's time makes no sense".to_owned())
}

/// Whether an entry is about this very signature.
fn is_entry_of(entry: &LogEntry, evidence: &Evidence) -> bool {
    let body = BASE64.decode(&entry.body).unwrap_or_default();
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return false;
    };
    let signature = BASE64.encode(&evidence.signature);
    let is =
        |pointer: &str, wanted: &str| body.pointer(pointer).and_then(Value::as_str) == Some(wanted);
    let hash = |bytes: &[u8]| crate::Digest::from_hash(Sha256::new_with_prefix(bytes));
    match body["kind"].as_str() {
        Some("hashedrekord") => {
            is("/spec/signature/content", &signature)
                && is("/spec/data/hash/value", hash(&evidence.message).hex())
        }
        Some("dsse") => {
            is("/spec/signatures/0/signature", &signature)
                && is("/spec/payloadHash/value", hash(&evidence.payload).hex())
        }
        _ => false,
    }
}

fn subjects<'c>(certificate: &'c X509Certificate<'_>) -> impl Iterator<Item = &'c str> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.iter());
    names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::URI(name) | GeneralName::RFC822Name(name) => Some(*name),
        _ => None,
    })
}

fn issuer(certificate: &X509Certificate<'_>) -> Option<String> {
    let value = |oid: &str| {
        let extensions = certificate.extensions().iter();
        extensions
            .filter(|extension| extension.oid.to_id_string() == oid)
            .map(|extension| extension.value)
            .next()
    };
    let bytes = match (value(ISSUER_STRING), value(ISSUER_BYTES)) {
        (Some([UTF8_STRING, length, text @ ..]), _) if usize::from(*length) == text.len() => text,
        (_, Some(bytes)) => bytes,
        _ => return None,
    };
    String::from_utf8(bytes.to_vec()).ok()
}

/// Whether a name is the wanted one, or begins as the wanted one does before its `*`.
fn fits(wanted: &str, name: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == wanted,
    }
}
