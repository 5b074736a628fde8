//! Where a webhook is reached: a URL, or a Service of the cluster.

use k8s_openapi::api::admissionregistration::v1::{ServiceReference, WebhookClientConfig};

use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;

pub(super) fn apply_defaults(client: &mut WebhookClientConfig) {
    if let Some(service) = &mut client.service {
        service.port.get_or_insert(443);
    }
}

pub(super) fn validate(client: &WebhookClientConfig, path: &Path<'_>, errors: &mut Errors) {
    match (&client.url, &client.service) {
        (Some(url), None) => validate_url(url, &path.child("url"), errors),
        (None, Some(service)) => validate_service(service, &path.child("service"), errors),
        _ => errors.push(FieldError::required(
            path,
            "exactly one of url or service is required",
        )),
    }
}

/// The parts of a URL that there are rules about.
struct Url<'u> {
    scheme: &'u str,
    user: Option<&'u str>,
    host: &'u str,
    query: &'u str,
    fragment: &'u str,
}

impl<'u> Url<'u> {
    /// Takes `scheme://user@host/path?query#fragment` apart, as RFC 3986, appendix B, does.
    fn split(text: &'u str) -> Self {
        let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (text, query) = text.split_once('?').unwrap_or((text, ""));
        let is_scheme = |scheme: &str| {
            scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        };
        let split = text.split_once(':').filter(|(scheme, _)| is_scheme(scheme));
        let (scheme, rest) = split.unwrap_or(("", text));
        let authority = rest.strip_prefix("//").unwrap_or_default();
        let authority = authority.split('/').next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        Self {
            scheme,
            user,
            host,
            query,
            fragment,
        }
    }
}

fn validate_url(text: &str, path: &Path<'_>, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    if let Some(control) = text.chars().find(char::is_ascii_control) {
        let detail = format!(
            "url must be a valid URL: parse {text:?}: net/url: invalid control character in URL: {control:?}{FORM}"
        );
        errors.push(FieldError::required(path, detail));
        return;
    }
    let url = Url::split(text);
    if !url.scheme.eq_ignore_ascii_case("https") {
        let detail = format!("'https' is the only allowed URL scheme{FORM}");
        errors.push(FieldError::invalid(
            path,
            url.scheme.to_ascii_lowercase(),
            detail,
        ));
    }
    if url.host.is_empty() {
        let detail = format!("host must be specified{FORM}");
        errors.push(FieldError::invalid(path, "", detail));
    }
    for (part, detail) in [
        (url.user, "user information is not permitted in the URL"),
        (
            Some(url.fragment).filter(|part| !part.is_empty()),
            "fragments are not permitted in the URL",
        ),
        (
            Some(url.query).filter(|part| !part.is_empty()),
            "query parameters are not permitted in the URL",
        ),
    ] {
        if let Some(part) = part {
            errors.push(FieldError::invalid(path, part, detail));
        }
    }
}

fn validate_service(service: &ServiceReference, path: &Path<'_>, errors: &mut Errors) {
    for (field, value) in [("name", &service.name), ("namespace", &service.namespace)] {
        if value.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
    let port = service.port.unwrap_or(443);
    let problems = names::port_number(port.into());
    if !problems.is_empty() {
        let detail = format!("port is not valid: {}", problems.join(","));
        errors.push(FieldError::invalid(&path.child("port"), port, detail));
    }
    if let Some(text) = &service.path {
        validate_path(text, &path.child("path"), errors);
    }
}

fn validate_path(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if matches!(text, "" | "/") {
        return;
    }
    let mut refuse = |detail: String| errors.push(FieldError::invalid(path, text, detail));
    if text == "//" {
        refuse("segment[0] may not be empty".to_owned());
        return;
    }
    let Some(rest) = text.strip_prefix('/') else {
        refuse("must start with a '/'".to_owned());
        return;
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    for (at, segment) in rest.split('/').enumerate() {
        if segment.is_empty() {
            refuse(format!("segment[{at}] may not be empty"));
            continue;
        }
        for problem in names::dns1123_subdomain(segment) {
            refuse(format!("segment[{at}]: {problem}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problems(client: serde_json::Value) -> Vec<String> {
        let mut errors = Errors::default();
        let client = serde_json::from_value(client).unwrap();
        validate(&client, &Path::root("client"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn speaks_tls_to_hosts() {
        let url = |url: &str| problems(json!({"url": url}));
        assert_eq!(url("https://example.com:8443/check"), [""; 0]);
        assert_eq!(
            url("http://example.com"),
            [
                "client.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: \
                 https://host[/path]"
            ]
        );
        assert_eq!(
            url("https://ann@example.com/?a=b#c"),
            [
                "client.url: Invalid value: \"ann\": user information is not permitted in the URL",
                "client.url: Invalid value: \"c\": fragments are not permitted in the URL",
                "client.url: Invalid value: \"a=b\": query parameters are not permitted in the URL",
            ]
        );
        assert_eq!(url("https:///x").len(), 1);
        assert_eq!(url("").len(), 2);
    }

    #[test]
    fn finds_services() {
        let service = |path: &str| {
            problems(json!({"service": {"namespace": "n", "name": "s", "path": path}}))
        };
        assert_eq!(service("/a/b/"), [""; 0]);
        assert_eq!(
            service("a"),
            ["client.service.path: Invalid value: \"a\": must start with a '/'"]
        );
        assert_eq!(
            service("/a//b"),
            ["client.service.path: Invalid value: \"/a//b\": segment[1] may not be empty"]
        );
        assert_eq!(
            problems(json!({})),
            ["client: Required value: exactly one of url or service is required"]
        );
        assert_eq!(
            problems(json!({"service": {"namespace": "n", "name": "s", "port": 0}})),
            [
                "client.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive"
            ]
        );
    }
}
