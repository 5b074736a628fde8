//! `Ingress`: which Services requests from outside reach, by host and path.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::TypedLocalObjectReference;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec,
    IngressTLS,
};
use serde_json::{Value, json};

use crate::checks::{required, wildcard_subdomain};
use crate::{Here, stored};
use vaquita_api::Object;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names::{self, Problems};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::network::{self, NOT_AN_IP};

/// The annotation that named the class before there was a field for it.
const CLASS: &str = "kubernetes.io/ingress.class";
const NOT_A_NAME: &str = "must be a DNS name, not an IP address";
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];

pub(super) fn resource() -> Resource {
    stored::<Ingress>("ingress", true)
        .short(&["ing"])
        .with_status()
}

impl Kind<Here> for Ingress {
    const GENERATION: bool = true;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Class", "The class, which says what serves the Ingress."),
        Column::string("Hosts", "The hosts that are served."),
        Column::string("Address", "Where requests are accepted."),
        Column::string("Ports", "The ports on which they are."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        self.spec.get_or_insert_default();
        let status = self.status.get_or_insert_default();
        status.load_balancer.get_or_insert_default();
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({"loadBalancer": {}}));
    }

    fn validate(&self, errors: &mut Errors) {
        let Some(spec) = &self.spec else { return };
        validate_spec(spec, &Path::root("spec"), errors);
        let annotations = self.metadata.annotations.as_ref();
        let class = annotations.and_then(|annotations| annotations.get(CLASS));
        if let (Some(annotated), Some(class)) = (class, &spec.ingress_class_name)
            && annotated != class
        {
            let path = Path::root("annotations");
            let detail = "must match `ingressClassName` when both are specified";
            errors.push(FieldError::invalid(
                &path.child(CLASS),
                annotated.as_str(),
                detail,
            ));
        }
    }

    fn validate_update(&self, _old: &Self, errors: &mut Errors) {
        if let Some(spec) = &self.spec {
            validate_spec(spec, &Path::root("spec"), errors);
        }
    }

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        let path = Path::root("status");
        let path = path.child("loadBalancer");
        let path = path.child("ingress");
        let status = self.status.as_ref();
        let balancer = status.and_then(|status| status.load_balancer.as_ref());
        let points = balancer.and_then(|balancer| balancer.ingress.as_deref());
        for (at, point) in points.unwrap_or_default().iter().enumerate() {
            let path = path.index(at);
            if let Some(ip) = point.ip.as_ref().filter(|ip| ip.parse::<IpAddr>().is_err()) {
                errors.push(FieldError::invalid(
                    &path.child("ip"),
                    ip.as_str(),
                    NOT_AN_IP,
                ));
            }
            if let Some(host) = &point.hostname {
                let at = path.child("hostname");
                invalid(&at, host, names::dns1123_subdomain(host), errors);
                refuse_address(host, &at, errors);
            }
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let secured = spec.tls.is_some_and(|tls| !tls.is_empty());
        vec![
            self.name_cell(),
            spec.ingress_class_name
                .unwrap_or_else(|| "<none>".to_owned())
                .into(),
            hosts(spec.rules.as_deref().unwrap_or_default()).into(),
            address(self).into(),
            if secured { "80, 443" } else { "80" }.into(),
            self.age_cell(now),
        ]
    }
}

/// The first three hosts; `*` if there are none.
fn hosts(rules: &[IngressRule]) -> String {
    const SHOWN: usize = 3;
    let (mut list, mut more) = (Vec::new(), false);
    for rule in rules {
        more |= list.len() == SHOWN;
        list.extend(
            rule.host
                .as_deref()
                .filter(|host| !more && !host.is_empty()),
        );
    }
    match (list.join(","), more) {
        (list, _) if list.is_empty() => "*".to_owned(),
        (list, false) => list,
        (list, true) => format!("{list} + {} more...", rules.len() - SHOWN),
    }
}

fn address(ingress: &Ingress) -> String {
    let status = ingress.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let points = balancer.and_then(|balancer| balancer.ingress.as_deref());
    let given = |text: &'_ Option<String>| text.clone().filter(|text| !text.is_empty());
    let addresses: BTreeSet<String> = points
        .unwrap_or_default()
        .iter()
        .filter_map(|point| given(&point.ip).or_else(|| given(&point.hostname)))
        .collect();
    addresses.into_iter().collect::<Vec<_>>().join(",")
}

fn refuse_address(host: &str, path: &Path<'_>, errors: &mut Errors) {
    if host.parse::<IpAddr>().is_ok() {
        errors.push(FieldError::invalid(path, host, NOT_A_NAME));
    }
}

/// A host, of which the first label may be `*`.
fn host_name(host: &str) -> Problems {
    if host.contains('*') {
        wildcard_subdomain(host)
    } else {
        names::dns1123_subdomain(host)
    }
}

fn validate_spec(spec: &IngressSpec, path: &Path<'_>, errors: &mut Errors) {
    let rules = spec.rules.as_deref().unwrap_or_default();
    match &spec.default_backend {
        Some(backend) => validate_backend(backend, &path.child("defaultBackend"), errors),
        None if rules.is_empty() => {
            let value = spec.rules.as_ref().map_or(Value::Null, |_| json!([]));
            let detail = "either `defaultBackend` or `rules` must be specified";
            errors.push(FieldError::invalid(path, value, detail));
        }
        None => {}
    }
    let at = path.child("rules");
    for (index, rule) in rules.iter().enumerate() {
        validate_rule(rule, &at.index(index), errors);
    }
    let at = path.child("tls");
    for (index, tls) in spec.tls.iter().flatten().enumerate() {
        validate_tls(tls, &at.index(index), errors);
    }
    if let Some(class) = &spec.ingress_class_name {
        let problems = names::dns1123_subdomain(class);
        invalid(&path.child("ingressClassName"), class, problems, errors);
    }
}

fn validate_tls(tls: &IngressTLS, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("hosts");
    for (index, host) in tls.hosts.iter().flatten().enumerate() {
        invalid(&at.index(index), host, host_name(host), errors);
    }
    if let Some(secret) = tls.secret_name.as_ref().filter(|name| !name.is_empty()) {
        let problems = names::dns1123_subdomain(secret);
        invalid(&path.child("secretName"), secret, problems, errors);
    }
}

fn validate_rule(rule: &IngressRule, path: &Path<'_>, errors: &mut Errors) {
    if let Some(host) = rule.host.as_ref().filter(|host| !host.is_empty()) {
        let at = path.child("host");
        refuse_address(host, &at, errors);
        invalid(&at, host, host_name(host), errors);
    }
    let Some(http) = &rule.http else { return };
    let path = path.child("http");
    let path = path.child("paths");
    if http.paths.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    for (index, http_path) in http.paths.iter().enumerate() {
        validate_path(http_path, &path.index(index), errors);
    }
}

fn validate_path(http_path: &HTTPIngressPath, path: &Path<'_>, errors: &mut Errors) {
    const SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
    const SUFFIXES: [&str; 2] = ["/..", "/."];
    let (at, text) = (
        path.child("path"),
        http_path.path.as_deref().unwrap_or_default(),
    );
    let mut refuse = |detail: String| errors.push(FieldError::invalid(&at, text, detail));
    match http_path.path_type.as_str() {
        "" => {
            let detail = "pathType must be specified";
            errors.push(FieldError::required(&path.child("pathType"), detail));
            return;
        }
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                refuse("must be an absolute path".to_owned());
            }
            for sequence in SEQUENCES.iter().filter(|part| text.contains(**part)) {
                refuse(format!("must not contain '{sequence}'"));
            }
            for suffix in SUFFIXES.iter().filter(|part| text.ends_with(**part)) {
                refuse(format!("cannot end with '{suffix}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                refuse("must be an absolute path".to_owned());
            }
        }
        other => errors.push(FieldError::not_supported(
            &path.child("pathType"),
            other,
            &PATH_TYPES,
        )),
    }
    validate_backend(&http_path.backend, &path.child("backend"), errors);
}

fn validate_backend(backend: &IngressBackend, path: &Path<'_>, errors: &mut Errors) {
    let mut refuse = |detail| errors.push(FieldError::invalid(path, "", detail));
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => refuse("cannot set both resource and service backends"),
        (None, None) => refuse("resource or service backend is required"),
        (Some(resource), None) => validate_resource(resource, &path.child("resource"), errors),
        (None, Some(service)) => validate_service(service, path, errors),
    }
}

fn validate_service(service: &IngressServiceBackend, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("service");
    required(
        &service.name,
        names::dns1123_label,
        &at.child("name"),
        errors,
    );
    let at = at.child("port");
    let port = service.port.clone().unwrap_or_default();
    let name = port.name.filter(|name| !name.is_empty());
    let number = port.number.filter(|number| *number != 0);
    match (name, number) {
        (Some(_), Some(_)) => {
            let detail = "cannot set both port name & port number";
            errors.push(FieldError::invalid(path, "", detail));
        }
        (Some(name), None) => invalid(&at.child("name"), &name, names::port_name(&name), errors),
        (None, Some(number)) => network::port(number, &at.child("number"), errors),
        (None, None) => errors.push(FieldError::required(
            path,
            "port name or number is required",
        )),
    }
}

fn validate_resource(resource: &TypedLocalObjectReference, path: &Path<'_>, errors: &mut Errors) {
    if let Some(group) = &resource.api_group {
        let problems = names::dns1123_subdomain(group);
        invalid(&path.child("apiGroup"), group, problems, errors);
    }
    let segment = names::path_segment;
    required(&resource.kind, segment, &path.child("kind"), errors);
    required(&resource.name, segment, &path.child("name"), errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn ingress(path: Value) -> Value {
        json!({
            "metadata": {"name": "web"},
            "spec": {"rules": [{"host": "example.com", "http": {"paths": [path]}}], "tls": [{"hosts": ["example.com"]}]},
        })
    }

    fn path(path: &str) -> Value {
        json!({"path": path, "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}})
    }

    #[test]
    fn leads_to_services() {
        let old = created(&resource(), ingress(path("/")));
        assert_eq!(old["status"], json!({"loadBalancer": {}}));
        assert_stable(&resource(), &old);
        let status = changed(&old, |object| {
            object["status"]["loadBalancer"]["ingress"] =
                json!([{"ip": "10.0.0.2"}, {"ip": "10.0.0.1"}, {"hostname": "a.b"}]);
        });
        let new = updated(&resource(), &old, status, Part::Status).unwrap();
        let row = resource().row(&new, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!([
                "web",
                "<none>",
                "example.com",
                "10.0.0.1,10.0.0.2,a.b",
                "80, 443",
                "0s"
            ])
        );
        let status = changed(&old, |object| {
            object["status"]["loadBalancer"]["ingress"] =
                json!([{"ip": "x", "hostname": "1.2.3.4"}]);
        });
        assert_eq!(
            causes(updated(&resource(), &old, status, Part::Status)),
            [
                "status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or \
                 2001:db8::ffff)",
                "status.loadBalancer.ingress[0].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            ]
        );
    }

    #[test]
    fn shows_a_few_hosts() {
        let rules = |names: &[&str]| {
            let rule = |host: &&str| IngressRule {
                host: Some((*host).to_owned()),
                http: None,
            };
            hosts(&names.iter().map(rule).collect::<Vec<_>>())
        };
        assert_eq!(rules(&[""]), "*");
        assert_eq!(rules(&["a", "b", "c"]), "a,b,c");
        assert_eq!(rules(&["a", "b", "c", "d", "e"]), "a,b,c + 2 more...");
    }

    #[test]
    fn refuses_paths_that_are_ambiguous() {
        assert_eq!(
            refused(&resource(), ingress(path("a//..")))
                .iter()
                .map(|error| error.rsplit(": ").next().unwrap())
                .collect::<Vec<_>>(),
            [
                "must be an absolute path",
                "must not contain '//'",
                "cannot end with '/..'"
            ]
        );
        let mut untyped = path("/");
        untyped["pathType"] = Value::Null;
        assert_eq!(
            refused(&resource(), ingress(untyped)),
            ["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"]
        );
    }

    #[test]
    fn refuses_backends_that_are_none_or_two() {
        let with = |backend: Value| {
            let mut path = path("/");
            path["backend"] = backend;
            refused(&resource(), ingress(path))
        };
        let at = "spec.rules[0].http.paths[0].backend";
        assert_eq!(
            with(json!({})),
            [format!(
                "{at}: Invalid value: \"\": resource or service backend is required"
            )]
        );
        assert_eq!(
            with(json!({"service": {"name": "web"}})),
            [format!(
                "{at}: Required value: port name or number is required"
            )]
        );
        assert_eq!(
            with(json!({"service": {"name": "web", "port": {"name": "http", "number": 80}}})),
            [format!(
                "{at}: Invalid value: \"\": cannot set both port name & port number"
            )]
        );
        assert_eq!(
            with(json!({"resource": {"kind": "Bucket", "name": "a/b"}})),
            [format!(
                "{at}.resource.name: Invalid value: \"a/b\": may not contain '/'"
            )]
        );
        assert_eq!(
            refused(&resource(), json!({"metadata": {"name": "a"}})),
            ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]
        );
    }

    #[test]
    fn agrees_with_its_annotation() {
        let mut both = ingress(path("/"));
        both["metadata"]["annotations"] = json!({CLASS: "a"});
        both["spec"]["ingressClassName"] = "b".into();
        assert_eq!(
            refused(&resource(), both),
            [
                "annotations.kubernetes.io/ingress.class: Invalid value: \"a\": must match `ingressClassName` when both are \
                 specified"
            ]
        );
    }
}
