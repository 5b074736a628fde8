//! From Ingresses, Services and Secrets to what the proxy serves. Pure.
//!
//! Whatever an Ingress refers to may be missing or unfit. That is a [`Problem`] of the Ingress, never a reason to leave
//! out the rest: a route to nothing answers 503 and says why.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::{Secret, Service, ServicePort},
    networking::v1::{Ingress, IngressBackend, IngressServiceBackend},
};
use kube::ResourceExt as _;
use rustls::sign::CertifiedKey;
use vaquita_net::{PortRef, ServiceKey};
use vaquita_reconcile::{ObjectKey, informer::Store};

use crate::{
    certificates::{Certificates, KeyCache},
    routes::{PathMatch, Routes},
};

/// Where requests of a route go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    /// `namespace/name:port`, for messages and figures.
    pub(crate) name: String,
    pub(crate) to: Target,
}

/// What is known of a backend.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A port of a Service, headless or not, which the network finds by name.
    Service {
        service: ServiceKey,
        port: PortRef,
        protocol: Protocol,
    },
    /// Nothing that can be reached, and why.
    Broken(String),
}

/// What a backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    /// HTTP/2 without TLS, said by the port's `appProtocol: kubernetes.io/h2c`.
    Http2,
}

/// All that the proxy serves.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) routes: Routes<Backend>,
    pub(crate) certificates: Certificates,
}

/// Something that an Ingress refers to and that is not there, or not fit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    /// The reason of the Event.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The objects by which references are followed.
pub(crate) struct Objects<'a> {
    pub(crate) services: &'a Store<Service>,
    pub(crate) secrets: &'a Store<Secret>,
}

/// Compiles Ingresses, the oldest first, and says what is wrong with each.
pub(crate) fn compile(
    ingresses: &mut [Arc<Ingress>],
    objects: &Objects<'_>,
    keys: &mut KeyCache,
) -> (Table, Vec<(ObjectKey, BTreeSet<Problem>)>) {
    ingresses.sort_by_cached_key(|ingress| {
        let made = ingress.metadata.creation_timestamp.as_ref();
        (made.map(|time| time.0), ObjectKey::of(&**ingress))
    });
    let mut table = Table::default();
    let mut problems = Vec::new();
    keys.begin();
    for ingress in ingresses.iter() {
        let mut compiling = Compiling {
            namespace: ingress.namespace().unwrap_or_default(),
            objects,
            backends: HashMap::new(),
            problems: BTreeSet::new(),
        };
        compiling.add(ingress, &mut table, keys);
        problems.push((ObjectKey::of(&**ingress), compiling.problems));
    }
    keys.end();
    (table, problems)
}

/// One Ingress on its way into the table.
struct Compiling<'a> {
    namespace: String,
    objects: &'a Objects<'a>,
    backends: HashMap<String, Arc<Backend>>,
    problems: BTreeSet<Problem>,
}

impl Compiling<'_> {
    fn add(&mut self, ingress: &Ingress, table: &mut Table, keys: &mut KeyCache) {
        let Some(spec) = &ingress.spec else { return };
        let rules = spec.rules.as_deref().unwrap_or_default();
        if let Some(backend) = &spec.default_backend {
            let backend = self.backend(backend);
            for rule in rules {
                table
                    .routes
                    .add_host_fallback(rule.host.as_deref(), &backend);
            }
            table.routes.add_fallback(backend);
        }
        for rule in rules {
            let paths = rule.http.iter().flat_map(|http| &http.paths);
            for path in paths {
                let how = match path.path_type.as_str() {
                    "Exact" => PathMatch::Exact,
                    // What is up to the implementation is a prefix here.
                    _ => PathMatch::Prefix,
                };
                let backend = self.backend(&path.backend);
                let at = path.path.as_deref().unwrap_or("/");
                table.routes.add(rule.host.as_deref(), at, how, backend);
            }
        }
        for tls in spec.tls.iter().flatten() {
            // Without a Secret, the default certificate is meant.
            let Some(name) = tls.secret_name.as_deref().filter(|name| !name.is_empty()) else {
                continue;
            };
            if let Some(key) = self.secret(name, keys) {
                let hosts = tls.hosts.as_deref().unwrap_or_default();
                table.certificates.add(hosts, &key);
            }
        }
    }

    fn problem(&mut self, reason: &'static str, message: String) {
        self.problems.insert(Problem { reason, message });
    }

    fn secret(&mut self, name: &str, keys: &mut KeyCache) -> Option<Arc<CertifiedKey>> {
        let key = ObjectKey::new(&*self.namespace, name);
        let Some(secret) = self.objects.secrets.get(&key) else {
            let message = format!(
                "Secret {key} of type kubernetes.io/tls not found: the default certificate is served instead"
            );
            self.problem("SecretNotFound", message);
            return None;
        };
        match keys.get(&secret) {
            Ok(key) => Some(key),
            Err(error) => {
                self.problem("SecretInvalid", format!("Secret {key}: {error}"));
                None
            }
        }
    }

    fn backend(&mut self, backend: &IngressBackend) -> Arc<Backend> {
        let (name, to) = if let Some(service) = &backend.service {
            let name = format!("{}/{}:{}", self.namespace, service.name, port_name(service));
            if let Some(known) = self.backends.get(&name) {
                return known.clone();
            }
            (name, self.target(service))
        } else {
            let kind = backend.resource.as_ref().map_or("nothing", |r| &*r.kind);
            let message = format!("a backend must be a Service; {kind} is not supported");
            (kind.to_owned(), Err(("BackendNotSupported", message)))
        };
        let to = to.unwrap_or_else(|(reason, message)| {
            self.problem(reason, message.clone());
            Target::Broken(message)
        });
        let backend = Arc::new(Backend { name, to });
        self.backends.insert(backend.name.clone(), backend.clone());
        backend
    }

    fn target(&self, wanted: &IngressServiceBackend) -> Result<Target, (&'static str, String)> {
        let key = ObjectKey::new(&*self.namespace, &*wanted.name);
        let service = self
            .objects
            .services
            .get(&key)
            .ok_or_else(|| ("ServiceNotFound", format!("Service {key} not found")))?;
        let spec = service.spec.clone().unwrap_or_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            let message = format!("Service {key} is of type ExternalName, which is not supported");
            return Err(("BackendNotSupported", message));
        }
        let port = spec
            .ports
            .iter()
            .flatten()
            .find(|port| is_wanted(port, wanted))
            .ok_or_else(|| {
                let message = format!("Service {key} has no TCP port {}", port_name(wanted));
                ("PortNotFound", message)
            })?;
        let protocol = match port.app_protocol.as_deref() {
            Some("kubernetes.io/h2c") => Protocol::Http2,
            _ => Protocol::Http1,
        };
        let number = u16::try_from(port.port).map_err(|_| {
            (
                "PortNotFound",
                format!("Service {key} has a port that is none"),
            )
        })?;
        Ok(Target::Service {
            service: ServiceKey {
                namespace: key.namespace,
                name: key.name,
            },
            port: PortRef::Number(number),
            protocol,
        })
    }
}

fn is_wanted(port: &ServicePort, wanted: &IngressServiceBackend) -> bool {
    let Some(asked) = &wanted.port else {
        return false;
    };
    let same = match (asked.number, asked.name.as_deref()) {
        (Some(number), _) if number != 0 => port.port == number,
        (_, Some(name)) => port.name.as_deref() == Some(name),
        _ => false,
    };
    same && port.protocol.as_deref().unwrap_or("TCP") == "TCP"
}

fn port_name(service: &IngressServiceBackend) -> String {
    match &service.port {
        Some(port) => match (port.number, &port.name) {
            (Some(number), _) if number != 0 => number.to_string(),
            (_, name) => name.clone().unwrap_or_default(),
        },
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
