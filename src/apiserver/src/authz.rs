//! Who may do what: `system:masters` everything, everybody else only look at what says nothing about the cluster.

use http::Method;

use crate::{
    authn::{AUTHENTICATED, MASTERS, User},
    request::{RequestInfo, Verb},
};

/// Paths that answer everybody: is it there, does it work, which version is it.
const OPEN: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];
/// Beginnings of paths that answer everybody who is somebody: what could be asked for.
const DISCOVERY: [&str; 3] = ["/api", "/apis", "/openapi"];

/// Whether `user` may use a path that names no resource. The error says why not, as Kubernetes words it.
pub(crate) fn path(user: &User, path: &str, method: &Method) -> Result<(), String> {
    let below = |base: &&str| {
        path.strip_prefix(*base)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let reads = matches!(method.as_str(), "GET" | "HEAD");
    let open = reads && OPEN.iter().any(below);
    let discovery = reads && user.is_in(AUTHENTICATED) && DISCOVERY.iter().any(below);
    if user.is_in(MASTERS) || open || discovery {
        return Ok(());
    }
    let verb = method.as_str().to_ascii_lowercase();
    Err(format!("User {:?} cannot {verb} path {path:?}", user.name))
}

/// Whether `user` may do `verb` to a resource.
pub(crate) fn resource(user: &User, verb: Verb, info: &RequestInfo) -> Result<(), String> {
    if user.is_in(MASTERS) {
        return Ok(());
    }
    let resource = match &info.subresource {
        Some(subresource) => format!("{}/{subresource}", info.resource),
        None => info.resource.clone(),
    };
    let scope = match &info.namespace {
        Some(namespace) => format!("in the namespace {namespace:?}"),
        None => "at the cluster scope".to_owned(),
    };
    let (name, verb, group) = (&user.name, verb.as_str(), &info.group);
    Err(format!(
        "User {name:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_may_probe_and_nobody_may_read_metrics() {
        let nobody = User::anonymous();
        assert!(path(&nobody, "/readyz/ping", &Method::GET).is_ok());
        assert!(path(&nobody, "/healthzz", &Method::GET).is_err());
        assert!(path(&nobody, "/version", &Method::POST).is_err());
        let refused = path(&nobody, "/metrics", &Method::GET).unwrap_err();
        assert_eq!(
            refused,
            "User \"system:anonymous\" cannot get path \"/metrics\""
        );
    }

    #[test]
    fn whoever_is_known_may_discover() {
        let somebody = User::new("jane", ["dev"]);
        assert!(path(&somebody, "/apis/apps/v1", &Method::GET).is_ok());
        assert!(path(&User::anonymous(), "/api", &Method::GET).is_err());
        assert!(path(&somebody, "/metrics", &Method::GET).is_err());
    }

    #[test]
    fn objects_are_for_masters() {
        let info = RequestInfo::parse("/api/v1/namespaces/a/pods/b/log").unwrap();
        assert!(resource(&User::in_process("root"), Verb::Get, &info).is_ok());
        assert_eq!(
            resource(&User::new("jane", ["dev"]), Verb::Get, &info).unwrap_err(),
            "User \"jane\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"a\""
        );
    }
}
