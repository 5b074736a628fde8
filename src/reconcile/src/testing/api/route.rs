//! What a request's path means.

use http::Uri;

/// The object or collection that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// The path of the collection over all namespaces, without the leading slash: `api/v1/pods`.
    pub(super) collection: String,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Route {
    /// Nothing for the paths of discovery.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => (format!("api/{version}"), rest),
            ["apis", group, version, rest @ ..] => (format!("apis/{group}/{version}"), rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, rest),
            ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
            _ => (None, rest),
        };
        let (plural, rest) = rest.split_first()?;
        let part = |at: usize| rest.get(at).map(|part: &&str| (*part).to_owned());
        Some(Self {
            collection: format!("{version}/{plural}"),
            namespace,
            name: part(0),
            subresource: part(1),
        })
    }
}

/// The value of a query parameter; none of those that matter here is ever escaped.
pub(super) fn query<'u>(uri: &'u Uri, name: &str) -> Option<&'u str> {
    uri.query()?
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_collections_objects_and_subresources() {
        let route = Route::parse("/api/v1/namespaces/shop/pods/a/status").unwrap();
        assert_eq!(route.collection, "api/v1/pods");
        assert_eq!(route.namespace.as_deref(), Some("shop"));
        assert_eq!(route.name.as_deref(), Some("a"));
        assert_eq!(route.subresource.as_deref(), Some("status"));
        let route = Route::parse("/api/v1/namespaces/shop/finalize").unwrap();
        assert_eq!(
            (route.collection.as_str(), route.name.as_deref()),
            ("api/v1/namespaces", Some("shop"))
        );
        let route = Route::parse("/apis/coordination.k8s.io/v1/leases").unwrap();
        assert_eq!(
            (route.collection.as_str(), route.name),
            ("apis/coordination.k8s.io/v1/leases", None)
        );
        assert_eq!(Route::parse("/apis/coordination.k8s.io/v1"), None);
    }
}
