//! A request's query string, and the options that Kubernetes reads from it.

use std::{borrow::Cow, time::Duration};

use percent_encoding::percent_decode_str;

/// Pairs beyond this many are not looked at.
const MAX_PAIRS: usize = 64;

/// Decoded pairs, in order.
#[derive(Debug, Default)]
pub(crate) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Reads `application/x-www-form-urlencoded` pairs; bytes that are not UTF-8 become U+FFFD.
    pub(crate) fn parse(query: Option<&'a str>) -> Self {
        let pairs = query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .take(MAX_PAIRS);
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (unescape(key), unescape(value))
                })
                .collect(),
        )
    }

    /// The first value of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(own, _)| own == key)
            .map(|(_, value)| value.as_ref())
    }

    /// All values of `key`.
    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(own, _)| own == key)
            .map(|(_, value)| value.as_ref())
    }

    /// The value of `key` unless it is empty.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// A boolean, as Go's `strconv.ParseBool` reads it; present without a value is true.
    pub(crate) fn flag(&self, key: &str) -> Result<bool, BadQuery> {
        match self.get(key) {
            None | Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
            Some("" | "1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
            Some(value) => Err(BadQuery::new(key, value, "must be a boolean")),
        }
    }

    /// An integer, absent if empty.
    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>, BadQuery> {
        match self.text(key) {
            None => Ok(None),
            Some(value) => value
                .parse()
                .map(Some)
                .map_err(|_| BadQuery::new(key, value, "must be an integer")),
        }
    }
}

fn unescape(text: &str) -> Cow<'_, str> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned());
    }
    percent_decode_str(text).decode_utf8_lossy()
}

/// A query parameter that does not mean anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid value {value:?} for query parameter {key:?}: {reason}")]
pub(crate) struct BadQuery {
    key: String,
    value: String,
    reason: &'static str,
}

impl BadQuery {
    pub(crate) fn new(key: &str, value: &str, reason: &'static str) -> Self {
        Self {
            key: key.to_owned(),
            value: value.chars().take(128).collect(),
            reason,
        }
    }
}

/// How a list or watch relates to `resourceVersion`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    NotOlderThan,
    Exact,
}

/// The options of lists, watches and collection deletes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ListOptions {
    pub(crate) label_selector: Option<String>,
    pub(crate) field_selector: Option<String>,
    pub(crate) watch: bool,
    pub(crate) bookmarks: bool,
    /// `None` if not given or empty; `"0"` is `Some(0)`.
    pub(crate) resource_version: Option<u64>,
    pub(crate) version_match: Option<VersionMatch>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) limit: Option<usize>,
    pub(crate) continue_token: Option<String>,
    pub(crate) send_initial_events: Option<bool>,
}

impl ListOptions {
    pub(crate) fn from_query(query: &Query<'_>) -> Result<Self, BadQuery> {
        let text = |key: &str| query.text(key).map(str::to_owned);
        let version_match = match query.text("resourceVersionMatch") {
            None => None,
            Some("NotOlderThan") => Some(VersionMatch::NotOlderThan),
            Some("Exact") => Some(VersionMatch::Exact),
            Some(value) => {
                return Err(BadQuery::new(
                    "resourceVersionMatch",
                    value,
                    "must be NotOlderThan or Exact",
                ));
            }
        };
        let timeout = query
            .integer("timeoutSeconds")?
            .and_then(|seconds| u64::try_from(seconds).ok());
        Ok(Self {
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
            watch: query.flag("watch")?,
            bookmarks: query.flag("allowWatchBookmarks")?,
            resource_version: resource_version(query)?,
            version_match,
            timeout: timeout
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
            limit: query
                .integer("limit")?
                .and_then(|limit| usize::try_from(limit).ok())
                .filter(|limit| *limit > 0),
            continue_token: text("continue"),
            send_initial_events: match query.text("sendInitialEvents") {
                None => None,
                Some(_) => Some(query.flag("sendInitialEvents")?),
            },
        })
    }
}

/// The `resourceVersion` parameter; `None` if it is absent or empty.
pub(crate) fn resource_version(query: &Query<'_>) -> Result<Option<u64>, BadQuery> {
    match query.text("resourceVersion") {
        None => Ok(None),
        Some(value) => value
            .parse()
            .map(Some)
            .map_err(|_| BadQuery::new("resourceVersion", value, "must be an unsigned integer")),
    }
}

/// What a write does with fields that it does not know or that occur twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// The options of create, update and patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
}

impl WriteOptions {
    pub(crate) fn from_query(query: &Query<'_>) -> Result<Self, BadQuery> {
        let field_validation = match query.text("fieldValidation") {
            None => FieldValidation::default(),
            Some("Ignore") => FieldValidation::Ignore,
            Some("Warn") => FieldValidation::Warn,
            Some("Strict") => FieldValidation::Strict,
            Some(value) => {
                return Err(BadQuery::new(
                    "fieldValidation",
                    value,
                    "must be Ignore, Warn or Strict",
                ));
            }
        };
        Ok(Self {
            dry_run: dry_run(query.all("dryRun"))?,
            field_validation,
        })
    }
}

/// Whether `dryRun` was asked for; `All` is the only value there is.
pub(crate) fn dry_run<'v>(values: impl Iterator<Item = &'v str>) -> Result<bool, BadQuery> {
    let mut dry = false;
    for value in values.filter(|value| !value.is_empty()) {
        if value != "All" {
            return Err(BadQuery::new("dryRun", value, "must be All"));
        }
        dry = true;
    }
    Ok(dry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(query: &str) -> Result<ListOptions, BadQuery> {
        ListOptions::from_query(&Query::parse(Some(query)))
    }

    #[test]
    fn pairs_are_decoded() {
        let query = Query::parse(Some("a=x%20y+z&b&a=2&=3"));
        assert_eq!(query.get("a"), Some("x y z"));
        assert_eq!(query.get("b"), Some(""));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["x y z", "2"]);
        assert_eq!(Query::parse(None).get("a"), None);
    }

    #[test]
    fn list_options() {
        let options =
            list("labelSelector=app%3Dweb&limit=500&watch=1&resourceVersion=0&timeoutSeconds=30")
                .unwrap();
        assert_eq!(options.label_selector.as_deref(), Some("app=web"));
        assert_eq!(
            (options.limit, options.watch, options.resource_version),
            (Some(500), true, Some(0))
        );
        assert_eq!(options.timeout, Some(Duration::from_secs(30)));
        assert_eq!(
            list("resourceVersion=&limit=0&limit=5").unwrap(),
            ListOptions::default()
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for query in [
            "limit=many",
            "watch=maybe",
            "resourceVersion=-1",
            "resourceVersionMatch=Roughly",
        ] {
            assert!(list(query).is_err(), "{query}");
        }
        let write = |query| WriteOptions::from_query(&Query::parse(Some(query)));
        assert!(write("dryRun=Some").is_err());
        assert!(write("fieldValidation=Loose").is_err());
        assert_eq!(
            write("dryRun=All&fieldValidation=Strict")
                .unwrap()
                .field_validation,
            FieldValidation::Strict
        );
    }
}
