use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{CertificateParams, KeyPair};
use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

use super::*;

fn signed() -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["node.example.com".to_owned()]).unwrap();
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    (key, request)
}

fn request(pem: &str) -> Value {
    json!({
        "metadata": {"name": "node:1"},
        "spec": {
            "request": BASE64_STANDARD.encode(pem), "signerName": "example.com/nodes", "usages": ["client auth"],
            "expirationSeconds": 3600, "username": "root", "groups": ["system:masters"], "extra": {"a": ["b"]}, "uid": "0",
        },
    })
}

#[test]
fn belongs_to_who_asks_and_never_changes() {
    let mut old = created(&resource(), request(&signed().1));
    for field in REQUESTER {
        assert!(old["spec"].get(field).is_none(), "{field}");
    }
    let user = UserInfo {
        username: Some("ann".to_owned()),
        groups: Some(vec!["team".to_owned()]),
        uid: Some(String::new()),
        extra: None,
    };
    set_requester(&mut old, &user);
    assert_eq!(old["spec"]["username"], "ann");
    assert_eq!(old["spec"]["groups"], json!(["team"]));
    assert!(old["spec"].get("uid").is_none());
    assert_stable(&resource(), &old);
    let row = resource().row(&old, Timestamp::UNIX_EPOCH);
    assert_eq!(
        Value::from(row),
        json!(["node:1", "0s", "example.com/nodes", "ann", "60m", "Pending"])
    );
    let other = changed(&old, |request| request["spec"]["username"] = "root".into());
    let new = updated(&resource(), &old, other, Part::Main).unwrap();
    assert_eq!(new["spec"], old["spec"]);
}

#[test]
fn is_approved_then_signed() {
    let old = created(&resource(), request(&signed().1));
    let approved = changed(&old, |request| {
        request["status"] =
            json!({"certificate": "eA==", "conditions": [{"type": "Approved", "status": "True"}]});
    });
    let approved = updated(&resource(), &old, approved, Part::Approval).unwrap();
    assert_eq!(
        approved["status"],
        json!({"conditions": [{
            "type": "Approved", "status": "True",
            "lastUpdateTime": "1970-01-01T00:00:00Z", "lastTransitionTime": "1970-01-01T00:00:00Z",
        }]})
    );
    let (key, _) = signed();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    let issued = changed(&approved, |request| {
        request["status"]["certificate"] = BASE64_STANDARD.encode(certificate.pem()).into();
        // What the signer says about the approval does not count.
        request["status"]["conditions"][0]["message"] = "me".into();
    });
    let issued = updated(&resource(), &approved, issued, Part::Status).unwrap();
    assert_eq!(
        issued["status"]["conditions"],
        approved["status"]["conditions"]
    );
    let row = resource().row(&issued, Timestamp::UNIX_EPOCH);
    assert_eq!(row[5], "Approved,Issued");
    let again = changed(&issued, |request| {
        request["status"]["certificate"] = "eA==".into();
    });
    assert_eq!(
        causes(updated(&resource(), &issued, again, Part::Status)),
        [
            "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block",
            "status.certificate: Forbidden: updates may not modify existing certificate content",
        ]
    );
}

#[test]
fn is_decided_once_and_by_approval_only() {
    let old = created(&resource(), request(&signed().1));
    let with = |old: &Object, conditions: Value, part: Part| {
        let new = changed(old, |request| request["status"]["conditions"] = conditions);
        updated(&resource(), old, new, part)
    };
    let approved = json!([{"type": "Approved", "status": "True"}]);
    assert_eq!(
        causes(with(&old, approved.clone(), Part::Status)),
        ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
    );
    let both =
        json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]);
    assert_eq!(
        causes(with(&old, both, Part::Approval)),
        [
            "status.conditions[1].type: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive"
        ]
    );
    assert_eq!(
        causes(with(
            &old,
            json!([{"type": "Denied", "status": "False"}]),
            Part::Approval
        )),
        ["status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\""]
    );
    let approved = with(&old, approved, Part::Approval).unwrap();
    assert_eq!(
        causes(with(&approved, json!([]), Part::Approval)),
        ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
    );
}

#[test]
fn refuses_what_nobody_could_sign() {
    let with = |change: fn(&mut Value)| {
        let mut request = request(&signed().1);
        change(&mut request["spec"]);
        let errors = refused(&resource(), request);
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.into_iter().next().unwrap_or_default()
    };
    assert_eq!(
        with(|spec| spec["usages"] = json!([])),
        "spec.usages: Required value"
    );
    assert_eq!(
        with(|spec| spec["usages"] = json!(["signing", "signing"])),
        "spec.usages[1]: Duplicate value: \"signing\""
    );
    assert_eq!(
        with(|spec| spec["expirationSeconds"] = 5.into()),
        "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 600 seconds (10 minutes)"
    );
    assert_eq!(
        with(|spec| spec["request"] = "eA==".into()),
        "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST"
    );
}

#[test]
fn wants_the_signature_of_the_key_that_it_is_for() {
    let (_, pem) = signed();
    let mut block = x509_parser::pem::Pem::read(std::io::Cursor::new(pem.as_bytes()))
        .unwrap()
        .0;
    let last = block.contents.len() - 1;
    block.contents[last] ^= 1;
    let forged = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        BASE64_STANDARD.encode(&block.contents)
    );
    let errors = refused(&resource(), request(&forged));
    assert!(
        errors[0].contains("x509: cannot verify signature"),
        "{errors:?}"
    );
}
