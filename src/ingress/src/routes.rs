//! Which backend a request goes to: hosts and paths. Pure.
//!
//! Every rule that a request fits is a candidate. The most particular host wins (in full, then with a wildcard, then any),
//! then an exact path, then the longest prefix; the older Ingress wins a tie, because it was there first.

use std::{collections::HashMap, sync::Arc};

/// How a path is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathMatch {
    /// This path and no other.
    Exact,
    /// This path and all below it, element by element.
    Prefix,
}

/// The routes of all Ingresses, to something of type `B`.
#[derive(Debug)]
pub(crate) struct Routes<B> {
    hosts: HashMap<String, Paths<B>>,
    /// By what follows the asterisk: `.example.com`.
    wildcards: HashMap<String, Paths<B>>,
    any_host: Paths<B>,
    fallback: Option<Arc<B>>,
}

#[derive(Debug)]
struct Paths<B> {
    exact: HashMap<String, Arc<B>>,
    /// Without a slash at the end: the root is the empty string.
    prefixes: HashMap<String, Arc<B>>,
    fallback: Option<Arc<B>>,
}

impl<B> Default for Paths<B> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            prefixes: HashMap::new(),
            fallback: None,
        }
    }
}

impl<B> Default for Routes<B> {
    fn default() -> Self {
        Self {
            hosts: HashMap::new(),
            wildcards: HashMap::new(),
            any_host: Paths::default(),
            fallback: None,
        }
    }
}

impl<B> Routes<B> {
    /// Adds a route, unless there is one for the same host and path: older Ingresses come first. No host, or an empty
    /// one, is any host.
    pub(crate) fn add(&mut self, host: Option<&str>, path: &str, how: PathMatch, to: Arc<B>) {
        let paths = self.paths_of(host);
        match how {
            PathMatch::Exact => paths.exact.entry(path.to_owned()).or_insert(to),
            PathMatch::Prefix => paths
                .prefixes
                .entry(path.trim_end_matches('/').to_owned())
                .or_insert(to),
        };
    }

    /// Sets where requests to this host go that no path fits.
    pub(crate) fn add_host_fallback(&mut self, host: Option<&str>, to: &Arc<B>) {
        let paths = self.paths_of(host);
        paths.fallback.get_or_insert_with(|| to.clone());
    }

    /// Sets where requests go that fit nothing at all.
    pub(crate) fn add_fallback(&mut self, to: Arc<B>) {
        self.fallback.get_or_insert(to);
    }

    fn paths_of(&mut self, host: Option<&str>) -> &mut Paths<B> {
        let host = host.unwrap_or_default().to_ascii_lowercase();
        if host.is_empty() {
            return &mut self.any_host;
        }
        match host.strip_prefix('*') {
            Some(suffix) => self.wildcards.entry(suffix.to_owned()).or_default(),
            None => self.hosts.entry(host).or_default(),
        }
    }

    /// The backend of a request to `host` (in lower case, without a port) for `path`.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&Arc<B>> {
        let candidates = [
            self.hosts.get(host),
            wildcard(host).and_then(|suffix| self.wildcards.get(suffix)),
            Some(&self.any_host),
        ];
        let mut candidates = candidates.into_iter().flatten();
        candidates
            .clone()
            .find_map(|paths| paths.find(path))
            .or_else(|| candidates.find_map(|paths| paths.fallback.as_ref()))
            .or(self.fallback.as_ref())
    }
}

impl<B> Paths<B> {
    fn find(&self, path: &str) -> Option<&Arc<B>> {
        if let Some(found) = self.exact.get(path) {
            return Some(found);
        }
        if self.prefixes.is_empty() {
            return None;
        }
        let mut rest = path.trim_end_matches('/');
        loop {
            if let Some(found) = self.prefixes.get(rest) {
                return Some(found);
            }
            rest = &rest[..rest.rfind('/')?];
        }
    }
}

/// What a wildcard that covers this host has behind its asterisk: it stands for exactly one label.
pub(crate) fn wildcard(host: &str) -> Option<&str> {
    let dot = host.find('.').filter(|dot| *dot > 0)?;
    Some(&host[dot..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use PathMatch::{Exact, Prefix};

    fn routes(all: &[(&str, &str, PathMatch, &'static str)]) -> Routes<&'static str> {
        let mut routes = Routes::default();
        for (host, path, how, to) in all {
            routes.add(Some(host), path, *how, Arc::new(*to));
        }
        routes
    }

    fn find(routes: &Routes<&'static str>, host: &str, path: &str) -> &'static str {
        routes.find(host, path).map_or("-", |found| **found)
    }

    /// The table of the API's own documentation.
    #[test]
    fn paths_match_as_documented() {
        for (how, path, request, fits) in [
            (Prefix, "/", "/anything", true),
            (Exact, "/foo", "/foo", true),
            (Exact, "/foo", "/bar", false),
            (Exact, "/foo", "/foo/", false),
            (Exact, "/foo/", "/foo", false),
            (Prefix, "/foo", "/foo", true),
            (Prefix, "/foo", "/foo/", true),
            (Prefix, "/foo/", "/foo", true),
            (Prefix, "/foo/", "/foo/", true),
            (Prefix, "/aaa/bb", "/aaa/bbb", false),
            (Prefix, "/aaa/bbb", "/aaa/bbb", true),
            (Prefix, "/aaa/bbb/", "/aaa/bbb", true),
            (Prefix, "/aaa/bbb", "/aaa/bbb/", true),
            (Prefix, "/aaa/bbb", "/aaa/bbb/ccc", true),
            (Prefix, "/aaa/bbb", "/aaa/bbbxyz", false),
            (Prefix, "/aaa/bbb", "/aaa", false),
        ] {
            let routes = routes(&[("", path, how, "hit")]);
            let found = find(&routes, "any.example", request) == "hit";
            assert_eq!(found, fits, "{how:?} {path} and {request}");
        }
    }

    #[test]
    fn the_most_particular_rule_wins() {
        let routes = routes(&[
            ("", "/", Prefix, "any"),
            ("*.example.com", "/", Prefix, "wild"),
            ("a.example.com", "/", Prefix, "root"),
            ("a.example.com", "/x", Prefix, "prefix"),
            ("a.example.com", "/x/y", Prefix, "longer"),
            ("a.example.com", "/x/y", Exact, "exact"),
            ("a.example.com", "/x/y", Exact, "too late"),
            ("*.example.com", "/wild/only", Exact, "wild exact"),
        ]);
        for (host, path, expected) in [
            ("a.example.com", "/x/y", "exact"),
            ("a.example.com", "/x/y/z", "longer"),
            ("a.example.com", "/x/z", "prefix"),
            ("a.example.com", "/", "root"),
            ("a.example.com", "/wild/only", "root"),
            ("b.example.com", "/x", "wild"),
            ("b.example.com", "/wild/only", "wild exact"),
            ("a.b.example.com", "/", "any"),
            ("example.com", "/", "any"),
            (".example.com", "/", "any"),
        ] {
            assert_eq!(find(&routes, host, path), expected, "{host}{path}");
        }
    }

    #[test]
    fn what_fits_nothing_falls_back() {
        let mut routes = routes(&[("a.example", "/x", Exact, "x")]);
        assert_eq!(find(&routes, "a.example", "/y"), "-");
        routes.add_fallback(Arc::new("all"));
        routes.add_fallback(Arc::new("younger"));
        routes.add_host_fallback(Some("a.example"), &Arc::new("own"));
        assert_eq!(find(&routes, "a.example", "/y"), "own");
        assert_eq!(find(&routes, "b.example", "/y"), "all");
    }

    proptest! {
        /// Cutting off elements finds what comparing with each prefix finds.
        #[test]
        fn the_longest_prefix_is_found(
            prefixes in prop::collection::vec("(/[ab]{1,2}){0,3}/?", 1..6),
            path in "(/[ab]{1,2}){0,4}/?",
        ) {
            let mut routes = Routes::default();
            for prefix in &prefixes {
                routes.add(None, prefix, Prefix, Arc::new(prefix.trim_end_matches('/').to_owned()));
            }
            let elements = |text: &str| text.split('/').filter(|e| !e.is_empty()).map(str::to_owned).collect::<Vec<_>>();
            let wanted = prefixes
                .iter()
                .filter(|prefix| elements(&path).starts_with(&elements(prefix)))
                .map(|prefix| prefix.trim_end_matches('/'))
                .max_by_key(|prefix| prefix.len());
            let found = routes.find("h", &path).map(|found| found.as_str());
            prop_assert_eq!(found, wanted);
        }
    }
}
