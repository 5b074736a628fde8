//! Where an image may be had: its own registry, and the mirrors of that one.

use oci_distribution::{
    self as oci, Client,
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    secrets::RegistryAuth,
};

use super::{RegistriesConfig, TransferError, http::Repository, with_causes};
use crate::Reference;

/// What registries are told of who asks.
const USER_AGENT: &str = concat!("vaquita/", env!("CARGO_PKG_VERSION"));

/// A registry to ask for one image.
pub(super) struct Endpoint {
    /// The image, as this registry is asked for it.
    pub(super) reference: oci::Reference,
    host: String,
    /// Whose images these are, if they are not its own.
    mirrored: Option<String>,
}

impl Endpoint {
    /// Those of an image, in the order in which they are asked.
    pub(super) fn of(config: &RegistriesConfig, reference: &Reference) -> Vec<Self> {
        let own = reference.as_oci();
        let registry = own.registry();
        let mirrors = config.mirrors.iter().filter(|(of, _)| of == registry);
        let mirrors = mirrors.map(|(_, mirror)| {
            let mut there = own.clone();
            there.set_mirror_registry(mirror.clone());
            Self {
                reference: there,
                host: mirror.clone(),
                mirrored: Some(registry.to_owned()),
            }
        });
        let itself = Self {
            host: own.resolve_registry().to_owned(),
            reference: own.clone(),
            mirrored: None,
        };
        mirrors.chain([itself]).collect()
    }

    /// Whether its certificate is to be verified, and whether it speaks HTTP without one. Where plain HTTP is allowed, it is found
    /// out which of both is spoken.
    async fn safety(&self, config: &RegistriesConfig) -> (bool, bool) {
        let insecure = config.insecure.contains(&self.host);
        let plain = (insecure || is_loopback(&self.host)) && !speaks_tls(&self.host).await;
        // Whoever embeds this may have chosen one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        (insecure, plain)
    }

    /// The image's repository, for reading.
    pub(super) async fn open(
        &self,
        config: &RegistriesConfig,
        reference: &Reference,
        who: &RegistryAuth,
    ) -> Result<Repository, TransferError> {
        let failed = |reason: String| TransferError::Registry {
            reference: reference.to_string(),
            reason,
        };
        let (insecure, plain) = self.safety(config).await;
        let scheme = if plain { "http" } else { "https" };
        let root = format!("{scheme}://{}/v2/", self.host);
        let root = reqwest::Url::parse(&root).map_err(|error| failed(error.to_string()))?;
        let mut client = reqwest::Client::builder()
            .tls_danger_accept_invalid_certs(insecure)
            .connect_timeout(config.patience)
            .read_timeout(config.patience)
            .user_agent(USER_AGENT);
        let mut authorities = Vec::new();
        for pem in &config.authorities {
            let read = reqwest::Certificate::from_pem_bundle(pem);
            authorities.extend(read.map_err(|error| failed(with_causes(&error)))?);
        }
        if !authorities.is_empty() {
            client = client.tls_certs_merge(authorities);
        }
        let client = client
            .build()
            .map_err(|error| failed(with_causes(&error)))?;
        let name = (
            self.reference.repository().to_owned(),
            self.mirrored.clone(),
        );
        Ok(Repository::new(client, root, name, who.clone()))
    }

    /// A client for this endpoint alone, for writing.
    pub(super) async fn connect(
        &self,
        config: &RegistriesConfig,
        reference: &Reference,
    ) -> Result<Client, TransferError> {
        let (insecure, plain) = self.safety(config).await;
        let authority = |pem: &Vec<u8>| Certificate {
            encoding: CertificateEncoding::Pem,
            data: pem.clone(),
        };
        let settings = ClientConfig {
            protocol: if plain {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            accept_invalid_certificates: insecure,
            extra_root_certificates: config.authorities.iter().map(authority).collect(),
            connect_timeout: Some(config.patience),
            read_timeout: Some(config.patience),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        };
        Client::try_from(settings).map_err(|error| TransferError::Registry {
            reference: reference.to_string(),
            reason: with_causes(&error),
        })
    }
}

/// Whether a registry is on this machine, where nobody listens in.
fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// Whether somebody at `HOST[:PORT]` answers a TLS greeting with one. A plain HTTP server says something else, or nothing.
async fn speaks_tls(host: &str) -> bool {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        time::{Duration, timeout},
    };
    /// A greeting that is too short to be one, of empty lines: TLS answers it with an alert, which is a record of type 21,
    /// and HTTP with a 400.
    const BROKEN_GREETING: [u8; 13] = *b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\r\n\r\n";
    const ALERT: u8 = 21;
    let address = if host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    {
        host.to_owned()
    } else {
        format!("{host}:443")
    };
    let ask = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(&BROKEN_GREETING).await.ok()?;
        let mut first = [0];
        stream.read_exact(&mut first).await.ok()?;
        Some(first[0])
    };
    matches!(timeout(Duration::from_secs(2), ask).await, Ok(Some(ALERT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_first_and_only_for_their_registry() {
        let config = RegistriesConfig {
            mirrors: vec![
                ("docker.io".to_owned(), "mirror.example:5000".to_owned()),
                ("other.example".to_owned(), "elsewhere.example".to_owned()),
            ],
            ..RegistriesConfig::default()
        };
        let hosts = |image: &str| -> Vec<String> {
            let endpoints = Endpoint::of(&config, &image.parse().unwrap());
            endpoints
                .into_iter()
                .map(|endpoint| endpoint.host)
                .collect()
        };
        assert_eq!(hosts("hello"), ["mirror.example:5000", "index.docker.io"]);
        assert_eq!(hosts("registry.example/a"), ["registry.example"]);
    }

    #[test]
    fn loopback_is_known_by_name_and_number() {
        for (host, is) in [
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("localhost.example", false),
            ("registry.example", false),
        ] {
            assert_eq!(is_loopback(host), is, "{host}");
        }
    }
}
