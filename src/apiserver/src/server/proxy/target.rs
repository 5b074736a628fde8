//! Where the name in a proxied request's path leads.

use std::net::{IpAddr, SocketAddr};

use rand::seq::IndexedRandom as _;
use serde_json::Value;
use vaquita_api::{Object, meta, status::Status};

use super::super::call::Call;

/// The port of the node's own server.
const KUBELET_PORT: u64 = 10250;

/// How to speak to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// To the node's own server.
    Node(String),
    /// To an address in the pod network, under the name of a host.
    Address(Scheme, SocketAddr, String),
}

/// `[scheme:]name[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Id<'n> {
    scheme: Scheme,
    name: &'n str,
    /// Empty if it is not said.
    port: &'n str,
}

impl<'n> Id<'n> {
    fn parse(text: &'n str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match *parts.as_slice() {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        let scheme = match scheme {
            "" | "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { scheme, name, port })
    }
}

/// Where the request goes.
pub(super) fn target(call: &Call<'_>) -> Result<Target, Status> {
    let text = call.name();
    let what = match call.resource.plural.as_str() {
        "pods" => "pod",
        "services" => "service",
        _ => "node",
    };
    let id = Id::parse(text)
        .ok_or_else(|| Status::bad_request(format!("invalid {what} request {text:?}")))?;
    let object = object(call, id.name)?;
    match what {
        "pod" => pod(&id, &object),
        "service" => service(call, &id, &object),
        _ => node(&id, &object),
    }
}

fn object(call: &Call<'_>, name: &str) -> Result<Object, Status> {
    let key = call
        .served
        .collection
        .key(call.info.namespace.as_deref(), name);
    let entry = call.served.get(&key)?;
    let missing = || Status::not_found(&call.resource.group, &call.resource.plural, name);
    entry.ok_or_else(missing)?.value().map_err(Status::internal)
}

fn pod(id: &Id<'_>, pod: &Object) -> Result<Target, Status> {
    let port = if id.port.is_empty() {
        let containers = list(meta::at(pod, &["spec", "containers"]));
        let first = containers
            .iter()
            .find_map(|container| container["ports"][0]["containerPort"].as_u64());
        first.map_or(default_port(id.scheme), |port| {
            u16::try_from(port).unwrap_or(0)
        })
    } else {
        number(id.port)
            .ok_or_else(|| Status::bad_request(format!("invalid pod request {:?}", id.port)))?
    };
    let ip = meta::at(pod, &["status", "podIP"]).and_then(Value::as_str);
    let Some(ip) = ip.and_then(|ip| ip.parse().ok()) else {
        let message = format!(
            "error trying to reach service: pod {:?} has no address",
            id.name
        );
        return Err(Status::unavailable(message));
    };
    address(id.scheme, ip, port)
}

fn default_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    }
}

fn number(port: &str) -> Option<u16> {
    port.parse().ok().filter(|port| *port > 0)
}

/// An address that may be proxied to: of a pod or a host, not of this process's own surroundings.
fn address(scheme: Scheme, ip: IpAddr, port: u16) -> Result<Target, Status> {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() || link_local {
        return Err(Status::bad_request("address not allowed"));
    }
    let address = SocketAddr::new(ip, port);
    Ok(Target::Address(scheme, address, ip.to_string()))
}

fn service(call: &Call<'_>, id: &Id<'_>, service: &Object) -> Result<Target, Status> {
    let mut port = id.port.to_owned();
    if let Ok(number) = id.port.parse::<u64>() {
        let ports = list(meta::at(service, &["spec", "ports"]));
        let found = ports
            .iter()
            .find(|port| port["port"].as_u64() == Some(number));
        let Some(found) = found else {
            let message = format!("no service port {number} found for service {:?}", id.name);
            return Err(Status::unavailable(message));
        };
        found["name"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut port);
    }
    let mut endpoints = Vec::new();
    for slice in slices(call, id.name)? {
        endpoints.extend(ready(&slice, &port));
    }
    let Some((ip, port)) = endpoints.choose(&mut rand::rng()).copied() else {
        let message = format!("no endpoints available for service {:?}", call.name());
        return Err(Status::unavailable(message));
    };
    address(id.scheme, ip, port)
}

/// The slices of a Service's endpoints.
fn slices(call: &Call<'_>, service: &str) -> Result<Vec<Object>, Status> {
    let Some(served) = call
        .server
        .served("discovery.k8s.io", "v1", "endpointslices")
    else {
        return Ok(Vec::new());
    };
    let scope = served.collection.scope(call.info.namespace.as_deref());
    let mut slices = Vec::new();
    for entry in served.collection.snapshot().range(&scope, None) {
        let slice = entry.value().map_err(Status::internal)?;
        let owner = meta::labels(&slice).remove("kubernetes.io/service-name");
        if owner.as_deref() == Some(service) {
            slices.push(slice);
        }
    }
    Ok(slices)
}

/// The addresses of a slice that are ready, with the port named `port`.
fn ready(slice: &Object, port: &str) -> Vec<(IpAddr, u16)> {
    let ports = list(slice.get("ports"));
    let named = ports
        .iter()
        .find(|own| own["name"].as_str().unwrap_or_default() == port);
    let Some(port) = named.and_then(|own| u16::try_from(own["port"].as_u64()?).ok()) else {
        return Vec::new();
    };
    list(slice.get("endpoints"))
        .iter()
        .filter(|endpoint| endpoint["conditions"]["ready"].as_bool() != Some(false))
        .filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse().ok())
        .map(|ip| (ip, port))
        .collect()
}

fn node(id: &Id<'_>, node: &Object) -> Result<Target, Status> {
    let own = meta::at(
        node,
        &["status", "daemonEndpoints", "kubeletEndpoint", "Port"],
    );
    let own = own.and_then(Value::as_u64).unwrap_or(KUBELET_PORT);
    if id.port.is_empty() || id.port.parse() == Ok(own) || id.port.parse() == Ok(KUBELET_PORT) {
        return Ok(Target::Node(id.name.to_owned()));
    }
    let Some(port) = number(id.port) else {
        return Err(Status::bad_request(format!(
            "invalid node request {:?}",
            id.port
        )));
    };
    let addresses = list(meta::at(node, &["status", "addresses"]));
    let internal = addresses
        .iter()
        .find(|address| address["type"] == "InternalIP");
    let ip = internal.and_then(|address| address["address"].as_str()?.parse().ok());
    let Some(ip) = ip else {
        let message = format!(
            "error trying to reach service: node {:?} has no address",
            id.name
        );
        return Err(Status::unavailable(message));
    };
    address(id.scheme, ip, port)
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_may_have_a_scheme_and_a_port() {
        let id = |scheme, name, port| Some(Id { scheme, name, port });
        assert_eq!(Id::parse("web"), id(Scheme::Http, "web", ""));
        assert_eq!(Id::parse("web:http"), id(Scheme::Http, "web", "http"));
        assert_eq!(Id::parse("https:web:443"), id(Scheme::Https, "web", "443"));
        assert_eq!(Id::parse(":web:"), id(Scheme::Http, "web", ""));
        for bad in ["", ":80", "ftp:web:21", "a:b:c:d", "https::443"] {
            assert_eq!(Id::parse(bad), None, "{bad}");
        }
    }

    fn object(value: &Value) -> Object {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn a_pod_is_reached_at_its_first_port() {
        let web = object(&json!({
            "spec": {"containers": [{"name": "side"}, {"name": "web", "ports": [{"containerPort": 8080}]}]},
            "status": {"podIP": "10.244.0.7"},
        }));
        let at = |port: &str| {
            let address = format!("10.244.0.7:{port}").parse().unwrap();
            Target::Address(Scheme::Http, address, "10.244.0.7".to_owned())
        };
        assert_eq!(pod(&Id::parse("web").unwrap(), &web).unwrap(), at("8080"));
        assert_eq!(pod(&Id::parse("web:9").unwrap(), &web).unwrap(), at("9"));
        assert_eq!(
            pod(&Id::parse("web:http").unwrap(), &web)
                .unwrap_err()
                .code(),
            400
        );
        let bare = object(&json!({"status": {"podIP": "10.244.0.7"}}));
        assert_eq!(pod(&Id::parse("web").unwrap(), &bare).unwrap(), at("80"));
        for bad in ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1"] {
            let own = object(&json!({"status": {"podIP": bad}}));
            let refused = pod(&Id::parse("web").unwrap(), &own).unwrap_err();
            assert_eq!(refused.message(), "address not allowed");
        }
    }

    #[test]
    fn only_ready_endpoints_with_the_port_count() {
        let slice = object(&json!({
            "ports": [{"name": "http", "port": 80}, {"port": 81}],
            "endpoints": [
                {"addresses": ["10.244.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.244.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.244.0.3"]},
                {"addresses": ["web.example"]},
            ],
        }));
        let ip = |last| IpAddr::from([10, 244, 0, last]);
        assert_eq!(ready(&slice, "http"), [(ip(1), 80), (ip(3), 80)]);
        assert_eq!(ready(&slice, ""), [(ip(1), 81), (ip(3), 81)]);
        assert_eq!(ready(&slice, "https"), []);
    }
}
