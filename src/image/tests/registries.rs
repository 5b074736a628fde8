//! Images to and from a real registry (Debian's `docker-registry`) on loopback: plain, with a password, with TLS.

use std::{
    fs::{self, File},
    io::Read as _,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use vaquita_image::{
    Credential, Digest, ImageKind, ImageStore, Progress, PublicKey, Registries, RegistriesConfig,
    SignatureError, Signer, Silent, TransferError,
};

/// `tester` with the password `secret`, as the registry keeps it.
const PASSWORDS: &str = "tester:$2y$05$/kLfuCpqG6GftbvE1uZZCeDc57xJMBUX7adhtT57ZbinaDme4pMgi\n";

/// A running registry.
struct Registry {
    child: Child,
    dir: TempDir,
    address: String,
    certificate: Option<Vec<u8>>,
}

impl Registry {
    fn plain() -> Self {
        Self::start(false, false)
    }

    fn start(password: bool, tls: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let mut http = json!({"addr": format!("127.0.0.1:{port}"), "secret": "a test's"});
        let mut certificate = None;
        if tls {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
            fs::write(path("cert"), made.cert.pem()).unwrap();
            fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
            http["tls"] = json!({"certificate": path("cert"), "key": path("key")});
            certificate = Some(made.cert.pem().into_bytes());
        }
        let mut config = json!({
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": path("data")}},
            "http": http,
        });
        if password {
            fs::write(path("passwords"), PASSWORDS).unwrap();
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": path("passwords")}});
        }
        // JSON is YAML.
        fs::write(path("config"), config.to_string()).unwrap();
        let log = File::create(path("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(path("config"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed: `cargo task test` does that");
        let registry = Self {
            child,
            dir,
            address: format!("localhost:{port}"),
            certificate,
        };
        registry.wait(port);
        registry
    }

    fn wait(&self, port: u16) {
        let give_up = Instant::now() + Duration::from_mins(1);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < give_up, "no registry: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Puts content into the registry by its plainest interface: an upload in one piece.
    fn put_blob(&self, name: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        let place = curl(
            &[
                "-i",
                "-X",
                "POST",
                &format!("http://{}/v2/{name}/blobs/uploads/", self.address),
            ],
            None,
        );
        let place = place
            .lines()
            .find_map(|line| line.strip_prefix("Location: "))
            .expect("an upload")
            .trim();
        let url = format!("{place}&digest={digest}");
        curl(
            &[
                "-f",
                "-X",
                "PUT",
                "-H",
                "Content-Type: application/octet-stream",
                &url,
            ],
            Some(bytes),
        );
        json!({"digest": &*digest, "size": bytes.len()})
    }

    fn put_manifest(&self, name: &str, tag: &str, manifest: &Value) -> Value {
        let bytes = manifest.to_string();
        let media_type = manifest["mediaType"].as_str().unwrap();
        let url = format!("http://{}/v2/{name}/manifests/{tag}", self.address);
        let header = format!("Content-Type: {media_type}");
        curl(
            &["-f", "-X", "PUT", "-H", &header, &url],
            Some(bytes.as_bytes()),
        );
        json!({"mediaType": media_type, "digest": &*Digest::of(bytes.as_bytes()), "size": bytes.len()})
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs curl, which must succeed, with this body.
fn curl(args: &[&str], body: Option<&[u8]>) -> String {
    let mut command = Command::new("curl");
    command.args(["-sS"]).args(args);
    let file = tempfile::NamedTempFile::new().unwrap();
    if let Some(body) = body {
        fs::write(file.path(), body).unwrap();
        command
            .arg("--data-binary")
            .arg(format!("@{}", file.path().display()));
    }
    let output = command.output().expect("curl");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn module() -> Vec<u8> {
    wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#).unwrap()
}

fn component() -> Vec<u8> {
    wat::parse_str("(component (core module))").unwrap()
}

fn store() -> (TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    (dir, store)
}

/// Counts bytes.
#[derive(Default)]
struct Count {
    expected: AtomicU64,
    moved: AtomicU64,
}

impl Progress for Count {
    fn begin(&self, bytes: u64) {
        self.expected.store(bytes, Ordering::Relaxed);
    }

    fn advance(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn an_image_goes_out_and_comes_back_the_same() {
    let registry = Registry::plain();
    let registries = Registries::default();
    let (_here, store_here) = store();
    let (_there, destination) = store();
    let name = registry.image("team/hello:v1");
    let loaded = store_here.load(&name, &module()).unwrap();
    let nobody = Credential::anonymous();
    let pushed = registries.push(&store_here, &name, &name, &nobody, &Silent);
    assert_eq!(pushed.await.unwrap(), loaded.digest);

    let count = Count::default();
    let pulled = registries
        .pull(&destination, &name, &[], &count)
        .await
        .unwrap();
    assert_eq!(
        (&pulled.digest, pulled.kind),
        (&loaded.digest, ImageKind::WasmModule)
    );
    assert_eq!(destination.read(&pulled).unwrap(), module());
    let moved = count.moved.load(Ordering::Relaxed);
    assert!(moved > 0 && moved == count.expected.load(Ordering::Relaxed));

    let again = Count::default();
    registries
        .pull(&destination, &name, &[], &again)
        .await
        .unwrap();
    assert_eq!(again.moved.load(Ordering::Relaxed), 0, "it is there");
    let exact = format!("{}@{}", registry.image("team/hello"), loaded.digest);
    assert_eq!(
        registries
            .pull(&destination, &exact, &[], &Silent)
            .await
            .unwrap()
            .digest,
        loaded.digest
    );
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_so() {
    let registry = Registry::plain();
    let (_dir, store) = store();
    let registries = Registries::default();
    let name = registry.image("no/such:image");
    let error = registries
        .pull(&store, &name, &[], &Silent)
        .await
        .unwrap_err();
    assert!(error.is_not_found(), "{error}");
    let nowhere = format!("localhost:{}/a:b", free_port());
    let error = registries
        .pull(&store, &nowhere, &[], &Silent)
        .await
        .unwrap_err();
    assert!(
        !error.is_not_found() && error.to_string().contains(&nowhere),
        "{error}"
    );
    assert!(store.list().unwrap().is_empty());
}

#[tokio::test]
async fn a_password_opens_what_is_closed() {
    let registry = Registry::start(true, false);
    let registries = Registries::default();
    let (_dir, store) = store();
    let name = registry.image("closed:v1");
    store.load(&name, &module()).unwrap();
    let nobody = Credential::anonymous();
    let refused = registries
        .push(&store, &name, &name, &nobody, &Silent)
        .await;
    assert!(
        matches!(refused, Err(TransferError::Unauthorized { .. })),
        "{refused:?}"
    );
    let right = Credential::password("tester", "secret");
    registries
        .push(&store, &name, &name, &right, &Silent)
        .await
        .unwrap();
    store.remove(&name).unwrap();

    let refused = registries.pull(&store, &name, &[], &Silent).await;
    assert!(
        matches!(refused, Err(TransferError::Unauthorized { .. })),
        "{refused:?}"
    );
    let wrong = Credential::password("tester", "guess");
    let refused = registries
        .pull(&store, &name, std::slice::from_ref(&wrong), &Silent)
        .await;
    assert!(
        matches!(refused, Err(TransferError::Unauthorized { .. })),
        "{refused:?}"
    );
    registries
        .pull(&store, &name, &[wrong, right], &Silent)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_certificate_is_verified() {
    let registry = Registry::start(false, true);
    let (_dir, store) = store();
    let name = registry.image("sealed:v1");
    store.load(&name, &module()).unwrap();
    let nobody = Credential::anonymous();
    let refused = Registries::default()
        .push(&store, &name, &name, &nobody, &Silent)
        .await;
    assert!(
        matches!(refused, Err(TransferError::Registry { .. })),
        "{refused:?}"
    );
    let trusting = Registries::new(RegistriesConfig {
        authorities: registry.certificate.clone().into_iter().collect(),
        ..RegistriesConfig::default()
    });
    trusting
        .push(&store, &name, &name, &nobody, &Silent)
        .await
        .unwrap();
    let careless = Registries::new(RegistriesConfig {
        insecure: vec![registry.address.clone()],
        ..RegistriesConfig::default()
    });
    store.remove(&name).unwrap();
    careless.pull(&store, &name, &[], &Silent).await.unwrap();
}

#[tokio::test]
async fn a_mirror_is_asked_first() {
    let mirror = Registry::plain();
    let (_dir, store) = store();
    let there = mirror.image("team/hello:v1");
    store.load(&there, &module()).unwrap();
    let nobody = Credential::anonymous();
    let plain = Registries::default();
    plain
        .push(&store, &there, &there, &nobody, &Silent)
        .await
        .unwrap();
    let mirrored = Registries::new(RegistriesConfig {
        mirrors: vec![("registry.invalid".to_owned(), mirror.address.clone())],
        ..RegistriesConfig::default()
    });
    let name = "registry.invalid/team/hello:v1";
    let pulled = mirrored.pull(&store, name, &[], &Silent).await.unwrap();
    assert_eq!(pulled.reference, name);
}

/// A layer with one file.
fn layer(path: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::fast(),
    ));
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    archive.append_data(&mut header, path, content).unwrap();
    archive.into_inner().unwrap().finish().unwrap()
}

fn described(mut descriptor: Value, media_type: &str) -> Value {
    descriptor["mediaType"] = media_type.into();
    descriptor
}

/// An ordinary image for a platform, whose entry point is a file in its only layer.
fn ordinary(registry: &Registry, name: &str, platform: (&str, &str), content: &[u8]) -> Value {
    let config = json!({
        "os": platform.0, "architecture": platform.1,
        "config": {"Entrypoint": ["/app.wasm"], "Cmd": ["serve"], "Env": ["COLOUR=grey"], "WorkingDir": "/srv"},
        "rootfs": {"type": "layers", "diff_ids": []},
    });
    let config = registry.put_blob(name, config.to_string().as_bytes());
    let layer = registry.put_blob(name, &layer("app.wasm", content));
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(layer, "application/vnd.oci.image.layer.v1.tar+gzip")],
    })
}

#[tokio::test]
async fn of_several_platforms_wasm_is_taken_and_its_file_found_in_the_layers() {
    let registry = Registry::plain();
    let name = "mixed";
    let mut entries = Vec::new();
    for (os, architecture, content) in [
        ("linux", "amd64", b"\x7fELF native".to_vec()),
        ("wasi", "wasm", component()),
    ] {
        let manifest = ordinary(&registry, name, (os, architecture), &content);
        let mut entry = registry.put_manifest(name, &format!("only-{os}"), &manifest);
        entry["platform"] = json!({"os": os, "architecture": architecture});
        entries.push(entry);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    registry.put_manifest(name, "v1", &index);
    let (dir, store) = store();
    let registries = Registries::default();
    let image = registry.image("mixed:v1");
    let pulled = registries.pull(&store, &image, &[], &Silent).await.unwrap();
    assert_eq!(pulled.kind, ImageKind::WasmComponent);
    assert_eq!(store.read(&pulled).unwrap(), component());
    let start = pulled.start.unwrap();
    assert_eq!(
        (start.program(), start.working_dir.as_str()),
        (Some("/app.wasm"), "/srv")
    );
    assert_eq!(start.env, ["COLOUR=grey"]);
    assert_eq!(store.get(&image).unwrap().unwrap().digest, pulled.digest);

    let native = registries
        .pull(&store, &registry.image("mixed:only-linux"), &[], &Silent)
        .await;
    // It would start a file that ends in `.wasm`, and is none.
    assert!(native.unwrap_err().to_string().contains("ELF"));
    assert!(store.remove(&image).unwrap());
    let module = Digest::of(&component());
    assert!(
        !blob(dir.path(), &module).exists(),
        "what was taken out of the layers goes with the image"
    );
}

fn blob(dir: &Path, digest: &Digest) -> std::path::PathBuf {
    dir.join("blobs/sha256").join(digest.hex())
}

#[tokio::test]
async fn the_other_ways_to_pack_a_module_are_known() {
    let registry = Registry::plain();
    let registries = Registries::default();
    let (_dir, store) = store();
    for (at, media_type) in [
        "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
        "application/vnd.w3c.wasm.module.v1+wasm",
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/vnd.module.wasm.content.layer.v1+wasm",
    ]
    .into_iter()
    .enumerate()
    {
        let config = registry.put_blob("packed", br#"{"architecture": "wasm", "os": "wasip1"}"#);
        let layer = registry.put_blob("packed", &module());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [described(layer, media_type)],
        });
        registry.put_manifest("packed", &format!("v{at}"), &manifest);
        let image = registry.image(&format!("packed:v{at}"));
        let pulled = registries.pull(&store, &image, &[], &Silent).await.unwrap();
        assert_eq!(store.read(&pulled).unwrap(), module(), "{media_type}");
    }
}

#[tokio::test]
async fn a_linux_image_is_known_before_its_layers_come_in() {
    let registry = Registry::plain();
    let config =
        json!({"os": "linux", "architecture": "amd64", "config": {"Entrypoint": ["/bin/server"]}});
    let config = registry.put_blob("native", config.to_string().as_bytes());
    let layer = registry.put_blob("native", &layer("bin/server", b"\x7fELF"));
    let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": described(config, "application/vnd.docker.container.image.v1+json"),
        "layers": [described(layer, "application/vnd.docker.image.rootfs.diff.tar.gzip")],
    });
    registry.put_manifest("native", "v1", &manifest);
    let (dir, store) = store();
    let image = registry.image("native:v1");
    let registries = Registries::default();
    let only_wasm = registries.clone().with_linux(false);
    let error = only_wasm
        .pull(&store, &image, &[], &Silent)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("is for Linux"), "{error}");
    assert!(!blob(dir.path(), &digest).exists());

    let pulled = registries.pull(&store, &image, &[], &Silent).await.unwrap();
    assert_eq!(pulled.kind, ImageKind::Linux);
    assert!(pulled.has_files() && blob(dir.path(), &digest).exists());
    assert_eq!(pulled.start.unwrap().program(), Some("/bin/server"));
}

#[tokio::test]
async fn a_download_that_broke_off_goes_on() {
    let registry = Registry::plain();
    let registries = Registries::default();
    let (_dir, here) = store();
    let (there_dir, there) = store();
    // Large enough for a part of it to be there.
    let padding = "x".repeat(3 << 20);
    let wat = format!(r#"(module (memory 64) (data (i32.const 0) "{padding}"))"#);
    let large = wat::parse_str(wat).unwrap();
    let name = registry.image("large:v1");
    here.load(&name, &large).unwrap();
    let nobody = Credential::anonymous();
    registries
        .push(&here, &name, &name, &nobody, &Silent)
        .await
        .unwrap();
    let ingest = there_dir.path().join("ingest");
    fs::create_dir_all(&ingest).unwrap();
    fs::write(ingest.join(Digest::of(&large).hex()), &large[..1 << 20]).unwrap();
    let count = Count::default();
    let pulled = registries.pull(&there, &name, &[], &count).await.unwrap();
    assert_eq!(there.read(&pulled).unwrap(), large);
    let moved = usize::try_from(count.moved.load(Ordering::Relaxed)).unwrap();
    assert!(moved < large.len(), "only the rest was fetched: {moved}");
    let expected = count.expected.load(Ordering::Relaxed);
    assert_eq!(expected, moved as u64, "as it was said");
    let mut rest = String::new();
    File::open(there_dir.path().join("index.json"))
        .unwrap()
        .read_to_string(&mut rest)
        .unwrap();
    assert!(rest.contains(&name));
}

/// Signs a digest as cosign does, and puts the signature where cosign puts it.
fn sign(registry: &Registry, name: &str, digest: &str, key: &rcgen::KeyPair) {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    let payload = json!({"critical": {"identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest}, "type": "cosign container image signature"}});
    let payload = payload.to_string();
    let random = ring::rand::SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, key.serialized_der(), &random).unwrap();
    let signature = pair.sign(&random, payload.as_bytes()).unwrap();
    let mut layer = described(
        registry.put_blob(name, payload.as_bytes()),
        "application/vnd.dev.cosign.simplesigning.v1+json",
    );
    layer["annotations"] =
        json!({"dev.cosignproject.cosign/signature": BASE64_STANDARD.encode(signature.as_ref())});
    let config = registry.put_blob(name, b"{}");
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [layer],
    });
    let tag = format!("{}.sig", digest.replace(':', "-"));
    registry.put_manifest(name, &tag, &manifest);
}

fn signer(key: &rcgen::KeyPair) -> [Signer; 1] {
    let key = PublicKey::from_pem(key.public_key_pem().as_bytes()).unwrap();
    [Signer::Key(key)]
}

#[tokio::test]
async fn a_signature_is_found_beside_its_image() {
    let registry = Registry::plain();
    let registries = Registries::default();
    let (_dir, store) = store();
    let name = registry.image("signed:v1");
    store.load(&name, &module()).unwrap();
    let nobody = Credential::anonymous();
    registries
        .push(&store, &name, &name, &nobody, &Silent)
        .await
        .unwrap();
    let image = registries.pull(&store, &name, &[], &Silent).await.unwrap();
    let ours = rcgen::KeyPair::generate().unwrap();
    let unsigned = registries.verify(&image, &[], &signer(&ours)).await;
    assert!(
        matches!(unsigned, Err(SignatureError::Unsigned { .. })),
        "{unsigned:?}"
    );
    sign(&registry, "signed", &image.digest, &ours);
    registries
        .verify(&image, &[], &signer(&ours))
        .await
        .unwrap();
    let other = rcgen::KeyPair::generate().unwrap();
    let refused = registries.verify(&image, &[], &signer(&other)).await;
    assert!(
        matches!(refused, Err(SignatureError::Refused { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn the_signature_of_an_index_is_one_of_its_images() {
    let registry = Registry::plain();
    let registries = Registries::default();
    let (_dir, store) = store();
    let manifest = ordinary(&registry, "many", ("wasi", "wasm"), &component());
    let mut entry = registry.put_manifest("many", "one", &manifest);
    entry["platform"] = json!({"os": "wasi", "architecture": "wasm"});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    let index = registry.put_manifest("many", "v1", &index);
    let key = rcgen::KeyPair::generate().unwrap();
    sign(&registry, "many", index["digest"].as_str().unwrap(), &key);
    let name = registry.image("many:v1");
    let image = registries.pull(&store, &name, &[], &Silent).await.unwrap();
    registries.verify(&image, &[], &signer(&key)).await.unwrap();
    // By its own name, it is none that came by that index.
    let name = registry.image("many:one");
    let image = registries.pull(&store, &name, &[], &Silent).await.unwrap();
    let unsigned = registries.verify(&image, &[], &signer(&key)).await;
    assert!(
        matches!(unsigned, Err(SignatureError::Unsigned { .. })),
        "{unsigned:?}"
    );
}
