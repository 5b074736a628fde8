use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use vaquita_reconcile::{Options, SigningAuthority, testing::api::FakeApi};
use x509_parser::pem::parse_x509_pem;

use super::*;

const REQUESTS: &str = "apis/certificates.k8s.io/v1/certificatesigningrequests";

fn start(api: &FakeApi) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap().pem();
    let public = key.public_key_raw().to_vec();
    let options = Options {
        authority: Some(SigningAuthority {
            certificate,
            key: key.serialize_pem(),
        }),
        ..Options::default()
    };
    let context = Context::new(api.client(), options, CancellationToken::new());
    tokio::spawn(run(context));
    public
}

/// A request for a subject, with these usages, of a signer.
fn request(name: &str, signer: &str, organization: &str, usages: &[&str]) -> Value {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "system:node:n1");
    for (index, organization) in organization.split('+').enumerate() {
        // As a kind of its own, so that the library keeps the first as well.
        let attribute = match index {
            0 => DnType::OrganizationName,
            _ => DnType::CustomDnType(vec![2, 5, 4, 10]),
        };
        params.distinguished_name.push(attribute, organization);
    }
    let key = KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    json!({
        "metadata": { "name": name, "creationTimestamp": Timestamp::now() },
        "spec": {
            "request": ByteString(pem.into_bytes()), "signerName": signer, "usages": usages,
            "username": "system:node:n1", "expirationSeconds": 3600,
        },
    })
}

fn approved(mut request: Value, at: Timestamp) -> Value {
    request["status"] =
        json!({ "conditions": [{ "type": "Approved", "status": "True", "lastUpdateTime": at }] });
    request
}

fn condition(api: &FakeApi, name: &str) -> Value {
    let request = api.object(REQUESTS, "", name).unwrap();
    let conditions = request["status"]["conditions"].as_array();
    conditions
        .and_then(|all| all.last())
        .cloned()
        .unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn what_is_approved_and_fits_its_signer_is_signed() {
    let api = FakeApi::new();
    let usages = ["digital signature", "client auth"];
    let now = Timestamp::now();
    for (name, signer, organization) in [
        ("client", requested::CLIENT, "team"),
        ("two", requested::CLIENT, "team+another"),
        ("two-nodes", KUBELET_CLIENT, "system:nodes+system:masters"),
        ("kubelet", KUBELET_CLIENT, "system:nodes"),
        ("stranger", KUBELET_CLIENT, "team"),
        ("serving", requested::KUBELET_SERVING, "system:nodes"),
        ("foreign", "example.com/own", "team"),
    ] {
        api.put(
            REQUESTS,
            &approved(request(name, signer, organization, &usages), now),
        );
    }
    api.put(
        REQUESTS,
        &request("pending", requested::CLIENT, "team", &usages),
    );
    let authority = start(&api);
    let certificate = |api: &FakeApi, name: &str| {
        let request = api.object(REQUESTS, "", name).unwrap();
        let bytes = request["status"]["certificate"].clone();
        serde_json::from_value::<Option<ByteString>>(bytes).unwrap()
    };
    for name in ["client", "two", "kubelet"] {
        api.until(name, |api| certificate(api, name).is_some())
            .await;
    }
    let pem = certificate(&api, "client").unwrap();
    let (_, block) = parse_x509_pem(&pem.0).unwrap();
    let signed = block.parse_x509().unwrap();
    let lasts = signed.validity().not_after.timestamp() - now.as_second();
    assert!((3600..3700).contains(&lasts), "{lasts}");
    assert!(!signed.is_ca());
    assert!(signed.subject().to_string().contains("CN=system:node:n1"));
    let pem = certificate(&api, "two").unwrap();
    let (_, block) = parse_x509_pem(&pem.0).unwrap();
    let two = block.parse_x509().unwrap();
    let organizations: Vec<_> = two.subject().iter_organization().collect();
    assert_eq!(organizations.len(), 2);
    let authority_key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, authority);
    let signature = &two.signature_value.data;
    authority_key
        .verify(two.tbs_certificate.as_ref(), signature)
        .unwrap();
    api.until("another refusal", |api| {
        condition(api, "two-nodes")["type"] == "Failed"
    })
    .await;
    api.until("a refusal", |api| {
        condition(api, "stranger")["type"] == "Failed"
    })
    .await;
    assert_eq!(
        condition(&api, "stranger")["message"],
        "subject organization is not system:nodes"
    );
    api.until("another", |api| {
        condition(api, "serving")["type"] == "Failed"
    })
    .await;
    api.settle().await;
    for name in ["foreign", "pending", "stranger"] {
        assert!(certificate(&api, name).is_none(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn old_requests_are_deleted() {
    let api = FakeApi::new();
    let ago = |hours| Timestamp::now() - Duration::from_hours(hours);
    let of = |name: &str| request(name, "example.com/own", "team", &["client auth"]);
    let mut denied = of("denied");
    denied["status"] =
        json!({ "conditions": [{ "type": "Denied", "status": "True", "lastUpdateTime": ago(2) }] });
    let mut forgotten = of("forgotten");
    forgotten["metadata"]["creationTimestamp"] = json!(ago(25));
    for request in [
        denied,
        forgotten,
        of("young"),
        approved(of("waiting"), ago(2)),
    ] {
        api.put(REQUESTS, &request);
    }
    start(&api);
    api.until("two", |api| api.objects(REQUESTS).len() == 2)
        .await;
    api.settle().await;
    for name in ["young", "waiting"] {
        assert!(api.object(REQUESTS, "", name).is_some(), "{name}");
    }
}
