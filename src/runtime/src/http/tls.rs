//! TLS of requests that guests send to `https` addresses. The host does it: guests need neither certificates nor code
//! for that.

use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use vaquita_net::Stream;
use wasmtime_wasi_http::Error;

/// How guests' requests are secured.
#[derive(Default)]
pub(crate) struct Tls {
    configured: Option<Arc<ClientConfig>>,
    /// What this machine trusts, once it was needed.
    machine: OnceLock<Arc<ClientConfig>>,
}

impl Tls {
    /// As configured, or by the certificates that this machine trusts.
    pub(crate) fn new(configured: Option<Arc<ClientConfig>>) -> Self {
        Self {
            configured,
            machine: OnceLock::new(),
        }
    }

    fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        if let Some(config) = self.configured.as_ref().or(self.machine.get()) {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a trusted certificate of this machine can't be read");
        }
        roots.add_parsable_certificates(found.certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Tls(std::io::Error::other(error)))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(self.machine.get_or_init(|| Arc::new(config))))
    }

    /// Secures a connection to the server of that name.
    pub(super) async fn connect(
        &self,
        name: &str,
        stream: Stream,
    ) -> Result<TlsStream<Stream>, Error> {
        let name =
            ServerName::try_from(name.to_owned()).map_err(|_| Error::HttpRequestUriInvalid)?;
        let connector = TlsConnector::from(self.config()?);
        connector.connect(name, stream).await.map_err(|error| {
            let rustls = error.get_ref().and_then(|error| error.downcast_ref());
            match rustls {
                Some(rustls::Error::InvalidCertificate(_)) => Error::TlsCertificateError,
                Some(_) => Error::TlsProtocolError,
                None => Error::Tls(error),
            }
        })
    }
}
