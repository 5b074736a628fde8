//! Reaching a webhook: by its URL, or as a Service of the cluster, over HTTPS with the certificates that it is known by.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::body::Body;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    ServiceReference, WebhookClientConfig,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use tokio_rustls::TlsConnector;
use vaquita_api::meta;

use crate::{Duplex, server::Server};

/// The longest answer of a webhook.
const ANSWER_LIMIT: usize = 16 << 20;

/// Where a webhook is: what it is called, and under which addresses it may be found.
struct Place {
    host: String,
    addresses: Vec<SocketAddr>,
    path: String,
}

/// Sends JSON to a webhook, and gives back the JSON of its answer.
pub(super) async fn post(
    server: &Server,
    config: &WebhookClientConfig,
    body: &Value,
) -> Result<Value, String> {
    let place = match (&config.url, &config.service) {
        (Some(url), _) => by_url(url).await?,
        (None, Some(service)) => by_service(server, service)?,
        (None, None) => return Err("exactly one of url or service is required".to_owned()),
    };
    let url = format!("https://{}{}", place.host, place.path);
    let failed = |error: &dyn std::fmt::Display| format!("Post {url:?}: {error}");
    let bundle = config
        .ca_bundle
        .as_ref()
        .map_or(&[][..], |bundle| &bundle.0);
    let stream = connect(server, &place, bundle)
        .await
        .map_err(|error| failed(&error))?;
    let connected = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.map_err(|error| failed(&error))?;
    let connection = tokio::spawn(connection);
    let request = Request::post(&place.path)
        .header(header::HOST, &place.host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Body::from(body.to_string()))
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| failed(&error))?;
    let status = response.status();
    let read = Limited::new(response.into_body(), ANSWER_LIMIT)
        .collect()
        .await;
    connection.abort();
    let bytes = read.map_err(|error| failed(&error))?.to_bytes();
    if !(StatusCode::OK..StatusCode::MULTIPLE_CHOICES).contains(&status) {
        let text = String::from_utf8_lossy(&bytes);
        let text: String = text.chars().take(256).collect();
        return Err(failed(&format_args!("{status}: {text}")));
    }
    serde_json::from_slice(&bytes).map_err(|error| failed(&error))
}

async fn by_url(url: &str) -> Result<Place, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(443);
    let found = tokio::net::lookup_host((host, port)).await;
    let addresses =
        found.map_err(|error| format!("Post {url:?}: dial tcp: lookup {host}: {error}"))?;
    Ok(Place {
        addresses: addresses.collect(),
        host: host.to_owned(),
        path: uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned(),
    })
}

fn by_service(server: &Server, reference: &ServiceReference) -> Result<Place, String> {
    let (name, namespace) = (&reference.name, &reference.namespace);
    let services = server.core("services");
    let entry = services.and_then(|services| services.get(&services.key(Some(namespace), name)));
    let service = entry
        .and_then(|entry| entry.value().ok())
        .ok_or_else(|| format!("service {name:?} not found"))?;
    let port = i64::from(reference.port.unwrap_or(443));
    let ports = meta::at(&service, &["spec", "ports"]).and_then(Value::as_array);
    let port = ports
        .into_iter()
        .flatten()
        .find(|own| own["port"] == port)
        .ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let port_name = port["name"].as_str().unwrap_or_default();
    let addresses = endpoints(server, namespace, name, port_name);
    if addresses.is_empty() {
        return Err(format!("no endpoints available for service {name:?}"));
    }
    Ok(Place {
        host: format!("{name}.{namespace}.svc"),
        addresses,
        path: reference.path.clone().unwrap_or_else(|| "/".to_owned()),
    })
}

/// The addresses behind a Service's port that are ready.
fn endpoints(server: &Server, namespace: &str, service: &str, port: &str) -> Vec<SocketAddr> {
    let Some(served) = server.served("discovery.k8s.io", "v1", "endpointslices") else {
        return Vec::new();
    };
    let scope = served.collection.scope(Some(namespace));
    let mut found = Vec::new();
    for entry in served.collection.snapshot().range(&scope, None) {
        let Ok(slice) = entry.value() else {
            continue;
        };
        if meta::labels(&slice)
            .get("kubernetes.io/service-name")
            .map(String::as_str)
            != Some(service)
        {
            continue;
        }
        let list = |field: &str| {
            slice
                .get(field)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
        };
        let number = list("ports")
            .find(|own| own["name"].as_str().unwrap_or_default() == port)
            .and_then(|own| u16::try_from(own["port"].as_u64()?).ok());
        let Some(number) = number else {
            continue;
        };
        let ready = list("endpoints").filter(|endpoint| endpoint["conditions"]["ready"] != false);
        let address = |endpoint: &Value| -> Option<SocketAddr> {
            let ip: IpAddr = endpoint["addresses"][0].as_str()?.parse().ok()?;
            Some(SocketAddr::new(ip, number))
        };
        found.extend(ready.filter_map(address));
    }
    found
}

/// Connects to the first address that answers, and makes sure that it is who it should be.
async fn connect(server: &Server, place: &Place, bundle: &[u8]) -> io::Result<Box<dyn Duplex>> {
    let dialer = server.dialer();
    let mut problem = io::Error::other("no address is known");
    let mut stream = None;
    for address in &place.addresses {
        match dialer.dial(*address).await {
            Ok(dialled) => {
                stream = Some(dialled);
                break;
            }
            Err(error) => {
                problem = io::Error::other(format!("dial tcp {address}: connect: {error}"));
            }
        }
    }
    let Some(stream) = stream else {
        return Err(problem);
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        roots
            .add(certificate.map_err(io::Error::other)?)
            .map_err(io::Error::other)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = match place.host.parse::<IpAddr>() {
        Ok(ip) => ServerName::from(ip),
        Err(_) => ServerName::try_from(place.host.clone()).map_err(io::Error::other)?,
    };
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await;
    let failed =
        |error: io::Error| io::Error::other(format!("tls: failed to verify certificate: {error}"));
    Ok(Box::new(stream.map_err(failed)?))
}
