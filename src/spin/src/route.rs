//! Which component answers a path.
//!
//! A route is a path whose segments are names or, behind a colon, stand for any one: `/users/:id`. It may end in `/...`,
//! which stands for whatever follows, nothing included. Of several routes that fit, the one with the most segments answers,
//! exact ones before those with an end left open, and names before what stands for any.

use std::cmp::Reverse;

/// Routes, and what each leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes<T> {
    routes: Vec<Route<T>>,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self { routes: Vec::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Route<T> {
    /// As it was written.
    text: String,
    segments: Vec<Segment>,
    /// Whether anything may follow.
    open: bool,
    target: T,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Name(String),
    Any(String),
}

/// A route that fits a path.
#[derive(Debug, PartialEq, Eq)]
pub struct Match<'r, T> {
    /// What it leads to.
    pub target: &'r T,
    /// The route, as it was written.
    pub route: &'r str,
    /// The route without its open end.
    pub base: &'r str,
    /// What of the path is behind the route, with the slash before it; empty if the route ends where the path does.
    pub rest: String,
    /// What the segments that stand for any one are, by name.
    pub segments: Vec<(&'r str, String)>,
}

/// A text that is no route, or one that there is already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// It makes no sense.
    #[error("{0} is no route: it begins with a slash, and `...` is at its end only")]
    Malformed(String),
    /// It fits just what another one fits.
    #[error("the routes {0:?} and {1:?} fit the same")]
    Twice(String, String),
}

impl<T> Routes<T> {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Adds a route.
    pub fn add(&mut self, route: &str, target: T) -> Result<(), RouteError> {
        let malformed = || RouteError::Malformed(format!("{route:?}"));
        if !route.starts_with('/') {
            return Err(malformed());
        }
        let (path, open) = match route.strip_suffix("/...") {
            Some(path) => (path, true),
            None => (route, false),
        };
        let segment = |name: &str| match name.strip_prefix(':') {
            Some(name) if !name.is_empty() => Some(Segment::Any(name.to_owned())),
            None if name != "..." && name != "*" => Some(Segment::Name(name.to_owned())),
            _ => None,
        };
        let segments = names(path).map(segment).collect::<Option<Vec<_>>>();
        let segments = segments.ok_or_else(malformed)?;
        let shape = |segments: &[Segment]| -> Vec<Option<String>> {
            let name = |segment: &Segment| match segment {
                Segment::Name(name) => Some(name.clone()),
                Segment::Any(_) => None,
            };
            segments.iter().map(name).collect()
        };
        let same =
            |other: &&Route<T>| other.open == open && shape(&other.segments) == shape(&segments);
        if let Some(other) = self.routes.iter().find(same) {
            return Err(RouteError::Twice(other.text.clone(), route.to_owned()));
        }
        self.routes.push(Route {
            text: route.to_owned(),
            segments,
            open,
            target,
        });
        // The first that fits is the one.
        self.routes.sort_by_key(|route| {
            let any = route.segments.iter();
            let any: Vec<bool> = any.map(|it| matches!(it, Segment::Any(_))).collect();
            (Reverse(route.segments.len()), route.open, any)
        });
        Ok(())
    }

    /// The route for a path, which is as it was in the request's line: escapes are not resolved.
    pub fn find(&self, path: &str) -> Option<Match<'_, T>> {
        let path: Vec<&str> = names(path).collect();
        self.routes.iter().find_map(|route| route.fit(&path))
    }
}

impl<T> Route<T> {
    fn fit(&self, path: &[&str]) -> Option<Match<'_, T>> {
        let (own, rest) = path.split_at_checked(self.segments.len())?;
        if !self.open && !rest.is_empty() {
            return None;
        }
        let mut segments = Vec::new();
        for (segment, name) in self.segments.iter().zip(own) {
            match segment {
                Segment::Name(wanted) if wanted == name => {}
                Segment::Name(_) => return None,
                Segment::Any(key) => segments.push((key.as_str(), (*name).to_owned())),
            }
        }
        Some(Match {
            target: &self.target,
            route: &self.text,
            base: self.text.strip_suffix("/...").unwrap_or(&self.text),
            rest: rest.iter().flat_map(|name| ["/", name]).collect(),
            segments,
        })
    }
}

/// The names between the slashes. One slash at the end makes no difference.
fn names(path: &str) -> impl Iterator<Item = &str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    let is_root = path.is_empty();
    path.split('/').filter(move |_| !is_root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(all: &[&'static str]) -> Routes<&'static str> {
        let mut routes = Routes::default();
        for route in all {
            routes.add(route, *route).unwrap();
        }
        routes
    }

    #[test]
    fn the_longest_and_most_exact_route_answers() {
        let routes = routes(&[
            "/...",
            "/",
            "/api/...",
            "/api/users",
            "/api/users/:id",
            "/api/users/me",
            "/files/:name/...",
        ]);
        for (path, route) in [
            ("/", "/"),
            ("", "/"),
            ("/other", "/..."),
            ("/api", "/api/..."),
            ("/api/", "/api/..."),
            ("/api/users", "/api/users"),
            ("/api/users/", "/api/users"),
            ("/api/users/7", "/api/users/:id"),
            ("/api/users/me", "/api/users/me"),
            ("/api/users/7/more", "/api/..."),
            ("/apis", "/..."),
            ("/files/a", "/files/:name/..."),
        ] {
            let found = routes.find(path).map(|found| *found.target);
            assert_eq!(found, Some(route), "{path}");
        }
    }

    #[test]
    fn a_match_tells_what_the_route_left_open() {
        let routes = routes(&["/files/:name/..."]);
        let found = routes.find("/files/a/b/c").unwrap();
        assert_eq!((found.base, found.rest.as_str()), ("/files/:name", "/b/c"));
        assert_eq!(found.segments, [("name", "a".to_owned())]);
        assert_eq!(routes.find("/files/a").unwrap().rest, "");
        assert!(routes.find("/files").is_none());
        assert!(routes.find("/").is_none());
    }

    #[test]
    fn nonsense_and_doubles_are_refused() {
        let mut routes = routes(&["/a/:x"]);
        for route in ["", "a", "/a/.../b", "/:", "/a/*"] {
            let refused = routes.add(route, "");
            assert!(matches!(refused, Err(RouteError::Malformed(_))), "{route}");
        }
        let twice = routes.add("/a/:y/", "");
        assert!(matches!(twice, Err(RouteError::Twice(..))), "{twice:?}");
        routes.add("/a/:y/...", "").unwrap();
    }
}
