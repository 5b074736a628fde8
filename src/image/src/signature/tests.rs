use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType,
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use serde_json::json;

use super::*;
use crate::layout::Descriptor;

const SUBJECT: &str = "https://ci.example/team/app@main";
const ISSUER: &str = "https://login.example";

fn sign(key: &KeyPair, message: &[u8]) -> Vec<u8> {
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::from_pkcs8(
        &ECDSA_P256_SHA256_ASN1_SIGNING,
        key.serialized_der(),
        &random,
    );
    pair.unwrap()
        .sign(&random, message)
        .unwrap()
        .as_ref()
        .to_vec()
}

fn payload(digest: &Digest) -> Vec<u8> {
    let payload = json!({"critical": {
        "identity": {"docker-reference": "registry.example/app"},
        "image": {"docker-manifest-digest": &**digest},
        "type": "cosign container image signature"}, "optional": null});
    payload.to_string().into_bytes()
}

/// A signature as cosign's layers have it.
fn signed(key: &KeyPair, payload: &[u8], more: &[(&str, String)]) -> Evidence {
    let mut layer = Descriptor::of(PAYLOAD_TYPE, payload);
    let signature = BASE64.encode(sign(key, payload));
    let annotations = [("dev.cosignproject.cosign/signature", signature)];
    for (key, value) in annotations.iter().chain(more) {
        layer.annotations.insert((*key).to_owned(), value.clone());
    }
    simple_signing(&layer, payload.to_vec()).unwrap()
}

fn key_of(key: &KeyPair) -> PublicKey {
    PublicKey::from_pem(key.public_key_pem().as_bytes()).unwrap()
}

/// An authority, and a certificate of it for a key.
struct Authority {
    pem: String,
    leaf: String,
    key: KeyPair,
}

impl Authority {
    fn new(subject: &str, issuer: &str, usage: ExtendedKeyUsagePurpose) -> Self {
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = ca.self_signed(&ca_key).unwrap();
        let mut leaf = CertificateParams::new(Vec::new()).unwrap();
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.subject_alt_names = vec![SanType::URI(subject.try_into().unwrap())];
        leaf.extended_key_usages = vec![usage];
        leaf.not_before = rcgen::date_time_ymd(2020, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(2020, 1, 2);
        leaf.custom_extensions = vec![CustomExtension::from_oid_content(
            &[1, 3, 6, 1, 4, 1, 57264, 1, 1],
            issuer.as_bytes().to_vec(),
        )];
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        Self {
            pem: root.pem(),
            leaf: leaf.pem(),
            key,
        }
    }

    fn identity(&self, log: Option<&KeyPair>) -> Identity {
        let config = IdentityConfig {
            authorities: self.pem.clone().into_bytes(),
            subject: "https://ci.example/team/*".to_owned(),
            issuer: ISSUER.to_owned(),
            log_key: log.map(|key| key.public_key_pem().into_bytes()),
        };
        Identity::new(&config).unwrap()
    }
}

/// A moment at which the certificates of the tests are valid: noon of 1 January 2020.
fn then() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(438_300)
}

fn later() -> SystemTime {
    then() + Duration::from_hours(48)
}

#[test]
fn a_key_opens_only_what_was_signed_with_it_and_is_about_the_image() {
    let (ours, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let digest = Digest::of(b"image");
    let signers = [Signer::Key(key_of(&ours))];
    let check = |evidence: &Evidence, digest: &Digest| check(evidence, &[digest], &signers, then());
    let evidence = signed(&ours, &payload(&digest), &[]);
    assert_eq!(check(&evidence, &digest), Ok(()));
    let reason = check(&evidence, &Digest::of(b"another")).unwrap_err();
    assert!(reason.contains("another image"), "{reason}");
    let forged = signed(&other, &payload(&digest), &[]);
    let reason = check(&forged, &digest).unwrap_err();
    assert!(reason.contains("not made with the key"), "{reason}");
    let mut changed = signed(&ours, &payload(&Digest::of(b"another")), &[]);
    changed.message = payload(&digest);
    changed.payload = payload(&digest);
    assert!(check(&changed, &digest).is_err());
    assert!(super::check(&evidence, &[&digest], &[], then()).is_err());
}

#[test]
fn other_keys_and_texts_are_no_keys() {
    let rsa_or_so = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(matches!(
        PublicKey::from_pem(rsa_or_so.public_key_pem().as_bytes()),
        Err(SignerError::Algorithm)
    ));
    assert!(matches!(
        PublicKey::from_pem(b"no key"),
        Err(SignerError::Pem { .. })
    ));
    let edwards = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let pair =
        ring::signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(edwards.serialized_der());
    let signature = pair.unwrap().sign(b"text");
    assert!(key_of(&edwards).verify(b"text", signature.as_ref()));
    assert!(!key_of(&edwards).verify(b"other", signature.as_ref()));
}

#[test]
fn an_identity_is_who_its_certificate_says_while_that_is_valid() {
    let digest = Digest::of(b"image");
    let code = ExtendedKeyUsagePurpose::CodeSigning;
    let right = Authority::new(SUBJECT, ISSUER, code.clone());
    let signers = [Signer::Identity(Box::new(right.identity(None)))];
    let certified = |authority: &Authority, key: &KeyPair| {
        let leaf = [("dev.sigstore.cosign/certificate", authority.leaf.clone())];
        signed(key, &payload(&digest), &leaf)
    };
    let evidence = certified(&right, &right.key);
    assert_eq!(check(&evidence, &[&digest], &signers, then()), Ok(()));
    let reason = check(&evidence, &[&digest], &signers, later()).unwrap_err();
    assert!(reason.contains("not valid"), "{reason}");

    let stranger = KeyPair::generate().unwrap();
    let elsewhere = Authority::new(SUBJECT, ISSUER, code.clone());
    for (evidence, why) in [
        (signed(&right.key, &payload(&digest), &[]), "no certificate"),
        (certified(&right, &stranger), "certificate's key"),
        (certified(&elsewhere, &elsewhere.key), "not valid"),
    ] {
        let reason = check(&evidence, &[&digest], &signers, then()).unwrap_err();
        assert!(reason.contains(why), "{reason}");
    }
    for (subject, issuer, usage, why) in [
        ("https://ci.example/other", ISSUER, code.clone(), "made by"),
        (SUBJECT, "https://elsewhere.example", code, "vouched for"),
        (
            SUBJECT,
            ISSUER,
            ExtendedKeyUsagePurpose::ServerAuth,
            "not valid",
        ),
    ] {
        let wrong = Authority::new(subject, issuer, usage);
        let signers = [Signer::Identity(Box::new(wrong.identity(None)))];
        let evidence = certified(&wrong, &wrong.key);
        let reason = check(&evidence, &[&digest], &signers, then()).unwrap_err();
        assert!(reason.contains(why), "{reason}");
    }
}

/// What a log says about a signature, as cosign annotates it.
fn log_entry(log: &KeyPair, payload: &[u8], signature: &[u8], time: SystemTime) -> String {
    let hash = Digest::of(payload);
    let body = json!({"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {
        "data": {"hash": {"algorithm": "sha256", "value": hash.hex()}},
        "signature": {"content": BASE64.encode(signature)}}});
    let time = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let entry = json!({"body": BASE64.encode(body.to_string()), "integratedTime": time,
        "logID": "abcd", "logIndex": 7});
    let promise = BASE64.encode(sign(log, entry.to_string().as_bytes()));
    json!({"SignedEntryTimestamp": promise, "Payload": entry}).to_string()
}

#[test]
fn the_log_says_when_a_signature_was_made() {
    let digest = Digest::of(b"image");
    let authority = Authority::new(SUBJECT, ISSUER, ExtendedKeyUsagePurpose::CodeSigning);
    let (log, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let signers = [Signer::Identity(Box::new(authority.identity(Some(&log))))];
    let leaf = ("dev.sigstore.cosign/certificate", authority.leaf.clone());
    let check = |evidence: &Evidence| super::check(evidence, &[&digest], &signers, later());
    let payload = payload(&digest);
    let logged = |by: &KeyPair, about: &[u8], time| {
        let mut evidence = signed(&authority.key, &payload, std::slice::from_ref(&leaf));
        let entry = log_entry(by, about, &evidence.signature, time);
        let layer = {
            let mut layer = Descriptor::of(PAYLOAD_TYPE, &payload);
            let signature = BASE64.encode(&evidence.signature);
            for (key, value) in [
                ("dev.cosignproject.cosign/signature", signature),
                ("dev.sigstore.cosign/bundle", entry),
                (leaf.0, leaf.1.clone()),
            ] {
                layer.annotations.insert(key.to_owned(), value);
            }
            layer
        };
        evidence = simple_signing(&layer, payload.clone()).unwrap();
        evidence
    };
    assert_eq!(check(&logged(&log, &payload, then())), Ok(()));
    for (evidence, why) in [
        (
            signed(&authority.key, &payload, std::slice::from_ref(&leaf)),
            "in no transparency log",
        ),
        (logged(&other, &payload, then()), "has not signed"),
        (logged(&log, b"other", then()), "something else"),
        (logged(&log, &payload, later()), "not valid"),
    ] {
        let reason = check(&evidence).unwrap_err();
        assert!(reason.contains(why), "{reason}");
    }
}

#[test]
fn bundles_count_if_they_say_that_the_image_was_signed() {
    let key = KeyPair::generate().unwrap();
    let digest = Digest::of(b"image");
    let signers = [Signer::Key(key_of(&key))];
    let made = |predicate: &str| {
        let statement = json!({"_type": "https://in-toto.io/Statement/v1", "predicateType": predicate,
            "subject": [{"digest": {"sha256": digest.hex()}}]});
        let payload = statement.to_string().into_bytes();
        let kind = "application/vnd.in-toto+json";
        let mut message = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
        message.extend(&payload);
        let bundle = json!({
            "mediaType": BUNDLE_TYPES[0],
            "verificationMaterial": {"publicKey": {"hint": "x"}},
            "dsseEnvelope": {"payload": BASE64.encode(&payload), "payloadType": kind,
                "signatures": [{"sig": BASE64.encode(sign(&key, &message))}]},
        });
        bundle.to_string().into_bytes()
    };
    let evidence = bundle(&made("https://sigstore.dev/cosign/sign/v1")).unwrap();
    assert_eq!(check(&evidence, &[&digest], &signers, then()), Ok(()));
    assert!(check(&evidence, &[&Digest::of(b"other")], &signers, then()).is_err());
    // A list of what is in it, signed by the same people.
    assert!(bundle(&made("https://spdx.dev/Document")).is_none());
    assert!(bundle(b"{}").is_none());
}
