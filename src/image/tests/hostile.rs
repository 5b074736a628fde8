//! Registries that are not what they should be: those that never end, and those that want a token.

use std::{
    io::{BufRead as _, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use vaquita_image::{
    Credential, Credentials, Digest, ImageStore, Reference, Registries, Silent, TransferError,
};

/// A server that answers each request, head in lower case, by a function.
fn serve(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.unwrap(), answer.clone());
            thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                let mut head = String::new();
                // What is no HTTP ends at its first empty line, too.
                for line in BufReader::new(stream).lines() {
                    match line {
                        Ok(line) if !line.is_empty() => {
                            head.push_str(&line);
                            head.push('\n');
                        }
                        _ => break,
                    }
                }
                answer(&head.to_lowercase(), &mut writer);
            });
        }
    });
    address
}

fn say(to: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let length = body.len();
    let _ = write!(
        to,
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    let _ = to.write_all(body);
}

/// Sends for ever.
fn without_end(to: &mut TcpStream, status: &str) {
    let _ = write!(to, "HTTP/1.1 {status}\r\nconnection: close\r\n\r\n");
    let piece = vec![b' '; 1 << 16];
    while to.write_all(&piece).is_ok() {}
}

fn store() -> (tempfile::TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    (dir, store)
}

async fn pull(address: &str, credentials: &[Credential]) -> Result<Digest, TransferError> {
    let (_dir, store) = store();
    let name = format!("{address}/team/app:v1");
    let registries = Registries::default();
    let pulled = registries.pull(&store, &name, credentials, &Silent);
    pulled.await.map(|image| image.digest)
}

#[tokio::test]
async fn documents_without_end_are_not_read_to_their_end() {
    let manifest = serve(|_, to| without_end(to, "200 OK"));
    let refused = pull(&manifest, &[]).await;
    assert!(
        matches!(refused, Err(TransferError::TooLarge { .. })),
        "{refused:?}"
    );
    let failure = serve(|_, to| without_end(to, "500 Internal Server Error"));
    let refused = pull(&failure, &[]).await.unwrap_err().to_string();
    assert!(refused.contains("500 Internal Server Error"), "{refused}");
    let announced = serve(|_, to| {
        let _ = write!(to, "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n");
    });
    let refused = pull(&announced, &[]).await;
    assert!(
        matches!(
            refused,
            Err(TransferError::TooLarge {
                size: 99_999_999_999,
                ..
            })
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_configuration_is_small_or_not_read() {
    let config = Digest::of(b"config");
    let manifest = format!(
        r#"{{"schemaVersion": 2, "config": {{"mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": "{config}", "size": 10000000}}, "layers": []}}"#
    );
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let address = serve(move |head, to| {
        let line = head.lines().next().unwrap_or_default().to_owned();
        if line.contains("/manifests/") {
            say(to, "200 OK", "", manifest.as_bytes());
        } else {
            without_end(to, "200 OK");
        }
        seen.lock().unwrap().push(line);
    });
    let refused = pull(&address, &[]).await;
    assert!(
        matches!(
            refused,
            Err(TransferError::TooLarge {
                size: 10_000_000,
                ..
            })
        ),
        "{refused:?}"
    );
    let asked = asked.lock().unwrap();
    assert!(
        !asked.iter().any(|line| line.contains("/blobs/")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_token_is_fetched_with_the_password_and_shown() {
    let address = Arc::new(Mutex::new(String::new()));
    let own = address.clone();
    let served = serve(move |head, to| {
        let own = own.lock().unwrap().clone();
        if head.starts_with("get /token?") {
            let asks_right = head.contains("scope=repository%3ateam%2fapp%3apull")
                && head.contains("service=here");
            // `a:b`, as it is written in a header.
            if asks_right && head.contains("authorization: basic ytpi") {
                say(to, "200 OK", "", br#"{"access_token": "open-sesame"}"#);
            } else {
                say(to, "401 Unauthorized", "", b"{}");
            }
        } else if head.contains("authorization: bearer open-sesame") {
            let body = br#"{"errors": [{"code": "MANIFEST_UNKNOWN"}]}"#;
            say(to, "404 Not Found", "", body);
        } else {
            let challenge = format!(
                "www-authenticate: Bearer realm=\"http://{own}/token\",service=\"here\"\r\n"
            );
            say(to, "401 Unauthorized", &challenge, b"{}");
        }
    });
    address.lock().unwrap().push_str(&served);
    let right = Credential::password("a", "b");
    let refused = pull(&served, &[right]).await.unwrap_err();
    assert!(refused.is_not_found(), "as somebody who may ask: {refused}");
    let refused = pull(&served, &[Credential::password("a", "c")]).await;
    assert!(
        matches!(refused, Err(TransferError::Unauthorized { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_identity_is_exchanged_for_a_token() {
    let address = Arc::new(Mutex::new(String::new()));
    let own = address.clone();
    let served = serve(move |head, to| {
        let own = own.lock().unwrap().clone();
        if head.starts_with("post /token ") {
            say(to, "200 OK", "", br#"{"access_token": "open-sesame"}"#);
        } else if head.contains("authorization: bearer open-sesame") {
            say(to, "404 Not Found", "", b"{}");
        } else {
            let challenge = format!("www-authenticate: Bearer realm=\"http://{own}/token\"\r\n");
            say(to, "401 Unauthorized", &challenge, b"{}");
        }
    });
    address.lock().unwrap().push_str(&served);
    let config = format!(r#"{{"auths": {{"{served}": {{"identitytoken": "me"}}}}}}"#);
    let known = Credentials::from_docker_config(config.as_bytes()).unwrap();
    let name: Reference = format!("{served}/team/app:v1").parse().unwrap();
    let refused = pull(&served, &known.of_image(&name)).await.unwrap_err();
    assert!(refused.is_not_found(), "as somebody who may ask: {refused}");
}
