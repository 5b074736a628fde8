use std::{fs, time::Duration};

use super::*;
use crate::authority::pem_certificate;

mod handshake;

const DAY: Duration = Duration::from_hours(24);

fn serving(pki: &Pki) -> String {
    pki.lock().serving.identity.certificate.clone()
}

fn subject_alt_names(pki: &Pki) -> Vec<String> {
    let der = pem_certificate(&serving(pki)).unwrap();
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
    assert_ne!(serving(&first), serving(&second));
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

#[test]
fn certificates_are_renewed_when_two_thirds_of_their_time_are_over() {
    let dir = tempfile::tempdir().unwrap();
    let start = Timestamp::now();
    let pki = Pki::load_or_create_at(dir.path(), &[], start).unwrap();
    let renewed = |days| {
        let Renewed { serving, admin } = pki.renew(start + DAY * days).unwrap();
        (serving, admin)
    };
    assert_eq!(renewed(19), (false, false));
    assert_eq!(renewed(20), (true, false));
    assert_eq!(renewed(21), (false, false));
    assert_eq!(renewed(400), (true, true), "the clock went on by a year");
    assert_eq!(renewed(2), (true, true), "the clock was set back");
    assert_eq!(renewed(2), (false, false));
}

#[test]
fn nothing_outlasts_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let start = Timestamp::now();
    let pki = Pki::load_or_create_at(dir.path(), &[], start).unwrap();
    let late = pki.ends() - DAY;
    assert!(pki.renew(late).unwrap().admin);
    let der = pem_certificate(&pki.admin().certificate).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(
        parsed.validity().not_after.timestamp(),
        pki.ends().as_second()
    );
    assert!(matches!(pki.renew(pki.ends()), Err(PkiError::Ended(_))));
    assert!(matches!(
        Pki::load_or_create_at(dir.path(), &[], pki.ends()),
        Err(PkiError::Ended(_))
    ));
    assert!(matches!(
        Pki::load_or_create_at(dir.path(), &[], start - DAY * 2),
        Err(PkiError::NotYet { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn the_kubeconfig_is_written_again_with_the_new_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let start = Timestamp::now();
    let pki = Pki::load_or_create_at(&dir.path().join("pki"), &[], start).unwrap();
    let files = AdminFiles {
        dir: dir.path().join("home"),
        server: "https://127.0.0.1:6443".to_owned(),
    };
    let path = files.dir.join("admin.kubeconfig");
    let begun = tokio::time::Instant::now();
    let keeping = keep_fresh(&pki, &files, || start + begun.elapsed());
    let looking = async {
        tokio::time::sleep(DAY * 243).await;
        assert!(!path.exists(), "nothing was due");
        tokio::time::sleep(DAY).await;
        assert!(pki.admin().certificate.contains("BEGIN CERTIFICATE"));
        assert!(!path.exists(), "there is nowhere to write it");
        fs::create_dir(&files.dir).unwrap();
        tokio::time::sleep(Duration::from_mins(2)).await;
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            pki.kubeconfig(&files.server)
        );
    };
    tokio::select! {
        () = keeping => unreachable!("it goes on as long as the cluster runs"),
        () = looking => {}
    }
}
