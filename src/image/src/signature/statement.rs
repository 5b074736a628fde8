//! What signatures look like: cosign's simple signing, and Sigstore's bundles.

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::Deserialize;
use serde_json::Value;

use crate::{Digest, layout::Descriptor};

/// What the layers of simple signing are.
pub(crate) const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// What bundles are.
pub(crate) const BUNDLE_TYPES: [&str; 2] = [
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
];
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const LOG: &str = "dev.sigstore.cosign/bundle";
/// The only kind of payload whose meaning is known: statements about what was made.
const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The kinds of statements that say nothing but "I have signed this".
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// How many certificates and digests one signature may come with.
const MOST: usize = 16;

/// A signature and all that comes with it.
#[derive(Debug)]
pub(crate) struct Evidence {
    /// What was signed, byte for byte.
    pub(super) message: Vec<u8>,
    /// What it says, without its packing.
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
    /// DER, the signer's own first.
    pub(super) certificates: Vec<Vec<u8>>,
    pub(super) log: Option<LogEntry>,
    /// What it is about.
    digests: Vec<String>,
}

/// What a transparency log says about a signature.
#[derive(Debug)]
pub(super) struct LogEntry {
    /// In base64, as it was signed.
    pub(super) body: String,
    /// Seconds since 1970.
    pub(super) time: u64,
    pub(super) log_id: String,
    pub(super) index: u64,
    /// The log's signature.
    pub(super) promise: Vec<u8>,
}

impl Evidence {
    pub(super) fn is_about(&self, digest: &Digest) -> bool {
        self.digests.iter().any(|known| *known == **digest)
    }
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
struct LogBundle {
    #[serde(rename = "SignedEntryTimestamp")]
    promise: String,
    #[serde(rename = "Payload")]
    payload: LogPayload,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogPayload {
    body: String,
    integrated_time: u64,
    log_index: u64,
    #[serde(rename = "logID")]
    log_id: String,
}

/// A signature of simple signing: a payload, and what its layer is annotated with. `None`: it is none.
pub(crate) fn simple_signing(layer: &Descriptor, payload: Vec<u8>) -> Option<Evidence> {
    let annotation = |key| layer.annotations.get(key);
    let signature = BASE64.decode(annotation(SIGNATURE)?.trim()).ok()?;
    let said: Payload = serde_json::from_slice(&payload).ok()?;
    let kinds = [
        "cosign container image signature",
        "atomic container signature",
    ];
    if !kinds.contains(&said.critical.kind.as_str()) {
        return None;
    }
    let certificates = [annotation(CERTIFICATE), annotation(CHAIN)];
    let pem = certificates.into_iter().flatten();
    let certificates = pem.flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()));
    let log = annotation(LOG).and_then(|text| {
        let bundle: LogBundle = serde_json::from_str(text).ok()?;
        Some(LogEntry {
            body: bundle.payload.body,
            time: bundle.payload.integrated_time,
            log_id: bundle.payload.log_id,
            index: bundle.payload.log_index,
            promise: BASE64.decode(bundle.promise).ok()?,
        })
    });
    Some(Evidence {
        message: payload.clone(),
        payload,
        signature,
        certificates: certificates
            .take(MOST)
            .filter_map(Result::ok)
            .map(|der| der.to_vec())
            .collect(),
        log,
        digests: vec![said.critical.image.digest],
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    verification_material: Material,
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    #[serde(default)]
    certificate: Option<RawBytes>,
    #[serde(default)]
    x509_certificate_chain: Option<Chain>,
    #[serde(default)]
    tlog_entries: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBytes {
    raw_bytes: String,
}

#[derive(Deserialize)]
struct Chain {
    certificates: Vec<RawBytes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: std::collections::BTreeMap<String, String>,
}

/// The signature of a bundle. `None`: it is none of an image.
pub(crate) fn bundle(bytes: &[u8]) -> Option<Evidence> {
    let bundle: Bundle = serde_json::from_slice(bytes).ok()?;
    let envelope = bundle.dsse_envelope;
    if envelope.payload_type != IN_TOTO {
        return None;
    }
    let payload = BASE64.decode(&envelope.payload).ok()?;
    let statement: Statement = serde_json::from_slice(&payload).ok()?;
    // Other statements are about the image too, such as what it is made of, and say nothing in its favour.
    if statement.predicate_type != SIGNED {
        return None;
    }
    let material = bundle.verification_material;
    let chain = material.x509_certificate_chain;
    let chain = chain.map(|chain| chain.certificates).unwrap_or_default();
    let certificates = material.certificate.into_iter().chain(chain);
    let subjects = statement.subject.into_iter().take(MOST);
    Some(Evidence {
        message: before_signing(&envelope.payload_type, &payload),
        signature: BASE64.decode(&envelope.signatures.first()?.sig).ok()?,
        certificates: certificates
            .take(MOST)
            .filter_map(|raw| BASE64.decode(raw.raw_bytes).ok())
            .collect(),
        log: material.tlog_entries.first().and_then(log_entry),
        digests: subjects
            .filter_map(|subject| Some(format!("sha256:{}", subject.digest.get("sha256")?)))
            .collect(),
        payload,
    })
}

/// What is signed in place of a payload (DSSE's "pre-authentication encoding").
fn before_signing(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    message.extend(payload);
    message
}

/// An entry of a transparency log, as bundles have it: numbers are strings there.
fn log_entry(entry: &Value) -> Option<LogEntry> {
    let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str);
    let number = |pointer: &str| text(pointer).and_then(|text| text.parse().ok());
    let id = BASE64.decode(text("/logId/keyId")?).ok()?;
    let id = id.iter().fold(String::new(), |mut hex, byte| {
        use std::fmt::Write as _;
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    Some(LogEntry {
        body: text("/canonicalizedBody")?.to_owned(),
        time: number("/integratedTime")?,
        log_id: id,
        index: number("/logIndex")?,
        promise: BASE64
            .decode(text("/inclusionPromise/signedEntryTimestamp")?)
            .ok()?,
    })
}
