//! What a request's path and method ask for, before anything is looked up.
//!
//! The shapes are those of the Kubernetes API:
//! `/api/v1[/namespaces/{namespace}]/{resource}[/{name}[/{subresource}[/...]]]` for the legacy group and
//! `/apis/{group}/{version}/...` for all others. `/api/v1/namespaces/{name}` is the namespace itself.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;
use vaquita_api::registry;

/// The longest path that is looked at; no legitimate one comes near.
pub(crate) const MAX_PATH: usize = 8192;

/// A path that names a resource, an object or a subresource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RequestInfo {
    /// Empty for the legacy group.
    pub(crate) group: String,
    pub(crate) version: String,
    /// The plural, as in the path.
    pub(crate) resource: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
    /// What follows the subresource, without a leading slash (as of `proxy`).
    pub(crate) rest: String,
    /// Whether the path itself asks for a watch: `/api/v1/watch/...`, which is older than the query parameter.
    pub(crate) watch: bool,
}

/// What to do with what the path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// The verb as discovery, authorization and metrics name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }

    /// The verb as the registry names it.
    pub(crate) fn registered(self) -> registry::Verb {
        match self {
            Self::Get => registry::Verb::Get,
            Self::List => registry::Verb::List,
            Self::Watch => registry::Verb::Watch,
            Self::Create => registry::Verb::Create,
            Self::Update => registry::Verb::Update,
            Self::Patch => registry::Verb::Patch,
            Self::Delete => registry::Verb::Delete,
            Self::DeleteCollection => registry::Verb::DeleteCollection,
        }
    }

    /// What `method` means for an object (`named`) or a collection. `None` for a method that the API has no use for.
    pub(crate) fn of(method: &Method, named: bool, watch: bool) -> Option<Self> {
        Some(match (method.as_str(), named) {
            ("GET", _) if watch => Self::Watch,
            (_, _) if watch => return None,
            ("GET", true) => Self::Get,
            ("GET", false) => Self::List,
            ("POST", _) => Self::Create,
            ("PUT", _) => Self::Update,
            ("PATCH", _) => Self::Patch,
            ("DELETE", true) => Self::Delete,
            ("DELETE", false) => Self::DeleteCollection,
            _ => return None,
        })
    }
}

impl RequestInfo {
    /// Reads a path. `None` if it names no resource (`/version`, `/apis/apps/v1`, ...) or is not decodable.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        if path.len() > MAX_PATH {
            return None;
        }
        let mut segments = path.strip_prefix('/')?.trim_end_matches('/').split('/');
        let (group, version) = match segments.next()? {
            "api" => (String::new(), decode(segments.next()?)?),
            "apis" => (decode(segments.next()?)?, decode(segments.next()?)?),
            _ => return None,
        };
        let mut rest: Vec<&str> = segments.collect();
        let watch = rest.len() > 1 && rest.first() == Some(&"watch");
        if watch {
            rest.remove(0);
        }
        let info = Self {
            group,
            version,
            watch,
            ..Self::default()
        };
        match rest.as_slice() {
            [] | [""] => None,
            ["namespaces"] => Some(Self {
                resource: "namespaces".to_owned(),
                ..info
            }),
            ["namespaces", name] => Some(info.of_namespace(decode(name)?, None)),
            ["namespaces", name, sub @ ("status" | "finalize")] => {
                Some(info.of_namespace(decode(name)?, Some((*sub).to_owned())))
            }
            ["namespaces", namespace, tail @ ..] => Self {
                namespace: Some(decode(namespace)?),
                ..info
            }
            .with_resource(tail),
            tail => info.with_resource(tail),
        }
    }

    fn of_namespace(self, name: String, subresource: Option<String>) -> Self {
        // Upstream's request-info gives the namespace itself its own name as namespace too; nothing here needs that.
        Self {
            resource: "namespaces".to_owned(),
            name: Some(name),
            subresource,
            ..self
        }
    }

    fn with_resource(self, tail: &[&str]) -> Option<Self> {
        let (resource, tail) = tail.split_first()?;
        let mut tail = tail.iter();
        let resource = decode(resource)?;
        let name = tail
            .next()
            .map(|name| decode(name))
            .map_or(Some(None), |name| name.map(Some))?;
        let subresource = tail
            .next()
            .map(|name| decode(name))
            .map_or(Some(None), |name| name.map(Some))?;
        let rest = tail.copied().collect::<Vec<_>>().join("/");
        Some(Self {
            resource,
            name,
            subresource,
            rest,
            ..self
        })
    }
}

/// One path segment; `None` if it is empty, not UTF-8 or smuggles a slash or NUL in.
fn decode(segment: &str) -> Option<String> {
    let decoded = percent_decode_str(segment).decode_utf8().ok()?;
    let plain = !decoded.is_empty()
        && !decoded.contains(['/', '\0', '%'])
        && decoded != "."
        && decoded != "..";
    plain.then(|| Cow::into_owned(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(path: &str) -> RequestInfo {
        RequestInfo::parse(path).unwrap_or_else(|| panic!("{path} was not understood"))
    }

    /// What a part of a path is when it is there.
    fn text<T: From<String>>(value: &str) -> T {
        value.to_owned().into()
    }

    #[test]
    fn collections_and_objects() {
        let info = parse("/api/v1/pods");
        assert_eq!(
            (
                info.group.as_str(),
                info.version.as_str(),
                info.resource.as_str()
            ),
            ("", "v1", "pods")
        );
        assert_eq!((info.namespace, info.name), (None, None));

        let info = parse("/apis/apps/v1/namespaces/shop/deployments/web/status/");
        assert_eq!(
            (info.group.as_str(), info.resource.as_str()),
            ("apps", "deployments")
        );
        assert_eq!(
            (info.namespace, info.name, info.subresource),
            (text("shop"), text("web"), text("status"))
        );
    }

    #[test]
    fn a_namespace_is_an_object_and_a_prefix() {
        let info = parse("/api/v1/namespaces/shop");
        assert_eq!(
            (info.resource.as_str(), info.namespace, info.name),
            ("namespaces", None, text("shop"))
        );
        let info = parse("/api/v1/namespaces/shop/finalize");
        assert_eq!(
            (info.name, info.subresource),
            (text("shop"), text("finalize"))
        );
        let info = parse("/api/v1/namespaces/shop/pods");
        assert_eq!(
            (info.resource.as_str(), info.namespace, info.name),
            ("pods", text("shop"), None)
        );
    }

    #[test]
    fn a_watch_may_be_asked_for_by_the_path() {
        let info = parse("/api/v1/watch/namespaces/shop/pods/web");
        assert!(info.watch);
        assert_eq!(
            (info.resource.as_str(), info.namespace, info.name),
            ("pods", text("shop"), text("web"))
        );
        assert!(parse("/apis/apps/v1/watch/deployments").watch);
        assert!(!parse("/api/v1/namespaces/watch/pods").watch);
    }

    #[test]
    fn what_follows_a_subresource_is_kept() {
        let info = parse("/api/v1/namespaces/a/services/http:web:80/proxy/static/x.js");
        assert_eq!(
            (info.name, info.subresource),
            (text("http:web:80"), text("proxy"))
        );
        assert_eq!(info.rest, "static/x.js");
    }

    #[test]
    fn what_names_no_resource_is_none() {
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/version",
            "",
            "/api/v1//pods",
        ] {
            assert_eq!(RequestInfo::parse(path), None, "{path}");
        }
        for path in [
            "/api/v1/pods/a%2Fb",
            "/api/v1/pods/%00",
            "/api/v1/pods/..",
            "/api/v1/pods/%ff",
        ] {
            assert_eq!(RequestInfo::parse(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "\\PC{0,80}") {
            let _ = RequestInfo::parse(&path);
            let _ = RequestInfo::parse(&format!("/api/v1/{path}"));
        }

        #[test]
        fn parts_come_back(namespace in "[a-z][a-z0-9-]{0,20}", name in "[a-z][a-z0-9.:-]{0,20}") {
            prop_assume!(name != "status" && name != "finalize");
            let info = parse(&format!("/api/v1/namespaces/{namespace}/pods/{name}"));
            prop_assert_eq!(info.namespace, Some(namespace));
            prop_assert_eq!(info.name, Some(name));
        }
    }
}
