//! Handshakes in memory, between the server's side of TLS and a client whose clock is the test's.

use std::io::{Read as _, Write as _};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConnection,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
    time_provider::TimeProvider,
};

use super::*;

#[derive(Debug)]
struct At(Timestamp);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// Two ends of one connection.
struct Connection {
    client: ClientConnection,
    server: ServerConnection,
}

impl Connection {
    fn open(pki: &Pki, server: &Arc<ServerConfig>, now: Timestamp) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(pem_certificate(pki.ca_certificate())?)?;
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(At(now)))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from("localhost").unwrap();
        let mut connection = Self {
            client: ClientConnection::new(Arc::new(config), name)?,
            server: ServerConnection::new(server.clone())?,
        };
        while connection.client.is_handshaking() || connection.server.is_handshaking() {
            connection.pass()?;
        }
        Ok(connection)
    }

    /// Hands on what each side has to say.
    fn pass(&mut self) -> Result<(), rustls::Error> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            self.server.read_tls(&mut rest).unwrap();
            self.server.process_new_packets()?;
        }
        bytes.clear();
        while self.server.wants_write() {
            self.server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).unwrap();
            self.client.process_new_packets()?;
        }
        Ok(())
    }

    fn shown(&self) -> CertificateDer<'static> {
        self.client.peer_certificates().unwrap()[0].clone()
    }
}

#[test]
fn new_connections_get_the_new_certificate_and_open_ones_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let start = Timestamp::now();
    let pki = Pki::load_or_create_at(dir.path(), &[], start).unwrap();
    let server = Arc::new(pki.server_config().unwrap());
    let mut open = Connection::open(&pki, &server, start).unwrap();
    let later = start + DAY * 31;
    assert!(
        Connection::open(&pki, &server, later).is_err(),
        "it has ended"
    );
    assert!(pki.renew(later).unwrap().serving);
    let new = Connection::open(&pki, &server, later).unwrap();
    assert_ne!(open.shown(), new.shown());

    open.server.writer().write_all(b"still here").unwrap();
    open.pass().unwrap();
    let mut heard = [0; 10];
    open.client.reader().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still here");
}
