use std::fs;

use super::*;

fn subject_alt_names(pki: &Pki) -> Vec<String> {
    let der = pem_certificate(&pki.serving.certificate).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    names
        .value
        .general_names
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn authority_and_token_survive_a_restart_and_leaves_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::load_or_create(dir.path(), &[]).unwrap();
    let second = Pki::load_or_create(
        dir.path(),
        &["box.example".to_owned(), "192.0.2.7".to_owned()],
    )
    .unwrap();
    assert_eq!(first.ca_certificate(), second.ca_certificate());
    assert_eq!(first.admin_token(), second.admin_token());
    assert_eq!(
        first.service_account_key().jwks(),
        second.service_account_key().jwks()
    );
    assert_ne!(first.serving.certificate, second.serving.certificate);
    let names = subject_alt_names(&second).join(" ");
    assert!(
        names.contains("box.example") && names.contains("localhost"),
        "{names}"
    );
}

#[cfg(unix)]
#[test]
fn secrets_are_readable_by_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    Pki::load_or_create(dir.path(), &[]).unwrap();
    for name in ["ca.key", "sa.key", "token"] {
        let mode = fs::metadata(dir.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_damaged_authority_is_reported_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    Pki::load_or_create(dir.path(), &[]).unwrap();
    let path = dir.path().join("ca.crt");
    fs::write(&path, "not a certificate").unwrap();
    assert!(matches!(
        Pki::load_or_create(dir.path(), &[]),
        Err(PkiError::Damaged { .. })
    ));
    assert_eq!(fs::read_to_string(&path).unwrap(), "not a certificate");
}

#[test]
fn a_foreign_key_beside_the_certificate_is_noticed() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Pki::load_or_create(one.path(), &[]).unwrap();
    Pki::load_or_create(other.path(), &[]).unwrap();
    fs::copy(other.path().join("ca.key"), one.path().join("ca.key")).unwrap();
    assert!(matches!(
        Pki::load_or_create(one.path(), &[]),
        Err(PkiError::Damaged { .. })
    ));
}

#[test]
fn an_empty_token_file_does_not_become_a_token() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), "\n").unwrap();
    assert!(matches!(
        Pki::load_or_create(dir.path(), &[]),
        Err(PkiError::Damaged { .. })
    ));
}

#[test]
fn the_kubeconfig_parses_and_carries_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::load_or_create(dir.path(), &[]).unwrap();
    let config: serde_json::Value =
        serde_yaml::from_str(&pki.kubeconfig("https://127.0.0.1:6443")).unwrap();
    assert_eq!(
        config["clusters"][0]["cluster"]["server"],
        "https://127.0.0.1:6443"
    );
    let ca = config["clusters"][0]["cluster"]["certificate-authority-data"]
        .as_str()
        .unwrap();
    assert_eq!(BASE64.decode(ca).unwrap(), pki.ca_certificate().as_bytes());
    assert_eq!(config["current-context"], "vaquita");
}

#[test]
fn tls_speaks_both_http_versions() {
    let dir = tempfile::tempdir().unwrap();
    let config = Pki::load_or_create(dir.path(), &[])
        .unwrap()
        .server_config()
        .unwrap();
    assert_eq!(
        config.alpn_protocols,
        [b"h2".to_vec(), b"http/1.1".to_vec()]
    );
}
