//! A request's query string, and the options that Kubernetes reads from it.

use std::{borrow::Cow, time::Duration};

use percent_encoding::percent_decode_str;
use vaquita_api::{
    apply::MANAGER_MAX,
    field::{FieldError, Path},
    status::Status,
};

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
pub(crate) enum BadQuery {
    /// Not of the parameter's type.
    #[error("invalid value {value:?} for query parameter {key:?}: {reason}")]
    Unreadable {
        key: String,
        value: String,
        reason: &'static str,
    },
    /// A `resourceVersion` that no object has.
    #[error(
        "invalid resource version: resourceVersion: Invalid value: {0:?}: strconv.ParseUint: parsing {0:?}: invalid syntax"
    )]
    Version(String),
}

/// As much of a value as an error shows.
fn shortened(value: &str) -> String {
    value.chars().take(128).collect()
}

impl BadQuery {
    pub(crate) fn new(key: &str, value: &str, reason: &'static str) -> Self {
        Self::Unreadable {
            key: key.to_owned(),
            value: shortened(value),
            reason,
        }
    }
}

/// How a list or watch relates to `resourceVersion`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    NotOlderThan,
    Exact,
    /// Something that it does not know.
    Other(String),
}

/// The options of lists, watches and collection deletes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ListOptions {
    pub(crate) label_selector: Option<String>,
    pub(crate) field_selector: Option<String>,
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
        let version_match = query.text("resourceVersionMatch").map(|how| match how {
            "NotOlderThan" => VersionMatch::NotOlderThan,
            "Exact" => VersionMatch::Exact,
            other => VersionMatch::Other(other.to_owned()),
        });
        let timeout = query
            .integer("timeoutSeconds")?
            .and_then(|seconds| u64::try_from(seconds).ok());
        Ok(Self {
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
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
            .map_err(|_| BadQuery::Version(shortened(value))),
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

/// The kinds of writes, which take different options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writing {
    Create,
    Update,
    Patch,
    /// A patch of the kind that server-side apply is.
    Apply,
}

impl Writing {
    /// What the options are called.
    fn options(self) -> &'static str {
        match self {
            Self::Create => "CreateOptions",
            Self::Update => "UpdateOptions",
            Self::Patch | Self::Apply => "PatchOptions",
        }
    }
}

/// The options of create, update and patch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    /// Who the client says it is, for the ownership of fields.
    pub(crate) field_manager: Option<String>,
    /// Whether an apply takes fields from others.
    pub(crate) force: bool,
}

impl WriteOptions {
    /// Reads and checks the options. The error is 400 for what cannot be read, 422 for what makes no sense.
    pub(crate) fn read(query: &Query<'_>, writing: Writing) -> Result<Self, Status> {
        let unreadable = |error: BadQuery| Status::bad_request(error.to_string());
        let force = match query.text("force") {
            None => None,
            Some(_) => Some(query.flag("force").map_err(unreadable)?),
        };
        let mut errors = Vec::new();
        let force_path = Path::root("force");
        match (writing, force) {
            (Writing::Create | Writing::Update | Writing::Apply, _) | (Writing::Patch, None) => {}
            (Writing::Patch, Some(_)) => errors.push(FieldError::forbidden(
                &force_path,
                "may not be specified for non-apply patch",
            )),
        }
        let field_manager = query.text("fieldManager").map(str::to_owned);
        manager_errors(field_manager.as_deref(), writing, &mut errors);
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let field_validation = field_validation(query, &mut errors);
        if !errors.is_empty() {
            return Err(invalid_options(writing.options(), &errors));
        }
        Ok(Self {
            dry_run,
            field_validation,
            field_manager,
            force: force.unwrap_or(false),
        })
    }
}

fn manager_errors(manager: Option<&str>, writing: Writing, errors: &mut Vec<FieldError>) {
    let path = Path::root("fieldManager");
    let manager = match manager {
        Some(manager) => manager,
        None if writing == Writing::Apply => {
            errors.push(FieldError::required(&path, "is required for apply patch"));
            return;
        }
        None => return,
    };
    if manager.len() > MANAGER_MAX {
        errors.push(FieldError::too_long(&path, MANAGER_MAX));
    }
    if manager.chars().any(char::is_control) {
        let detail = "should only contain printable characters";
        errors.push(FieldError::invalid(&path, manager, detail));
    }
}

fn field_validation(query: &Query<'_>, errors: &mut Vec<FieldError>) -> FieldValidation {
    match query.text("fieldValidation") {
        None => FieldValidation::default(),
        Some("Ignore") => FieldValidation::Ignore,
        Some("Warn") => FieldValidation::Warn,
        Some("Strict") => FieldValidation::Strict,
        Some(other) => {
            let known = ["", "Ignore", "Strict", "Warn"];
            let path = Path::root("fieldValidation");
            errors.push(FieldError::not_supported(&path, other, &known));
            FieldValidation::default()
        }
    }
}

/// Whether `dryRun` was asked for; `All` is the only value there is.
pub(crate) fn dry_run<'v>(
    values: impl Iterator<Item = &'v str>,
    errors: &mut Vec<FieldError>,
) -> bool {
    let mut dry = false;
    for value in values.filter(|value| !value.is_empty()) {
        if value != "All" {
            let path = Path::root("dryRun");
            errors.push(FieldError::not_supported(&path, value, &["All"]));
        }
        dry = true;
    }
    dry
}

/// Options that can be read, but not meant.
pub(crate) fn invalid_options(kind: &str, errors: &[FieldError]) -> Status {
    Status::invalid("meta.k8s.io", kind, "", errors)
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
            list("labelSelector=app%3Dweb&limit=500&resourceVersion=0&timeoutSeconds=30").unwrap();
        assert_eq!(options.label_selector.as_deref(), Some("app=web"));
        assert_eq!(
            (options.limit, options.resource_version),
            (Some(500), Some(0))
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
            "allowWatchBookmarks=maybe",
            "resourceVersion=-1",
        ] {
            assert!(list(query).is_err(), "{query}");
        }
    }

    #[test]
    fn options_of_writes() {
        let write = |query, writing| WriteOptions::read(&Query::parse(Some(query)), writing);
        for (query, writing, code, message) in [
            (
                "dryRun=Some",
                Writing::Create,
                422,
                "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"Some\": supported values: \"All\"",
            ),
            (
                "fieldValidation=Loose",
                Writing::Update,
                422,
                "UpdateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Loose\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
            ),
            (
                "force=true",
                Writing::Patch,
                422,
                "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
            ),
            (
                "force=1",
                Writing::Apply,
                422,
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ),
            (
                "fieldManager=a%0Ab",
                Writing::Create,
                422,
                "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Invalid value: \"a\\nb\": should only contain printable characters",
            ),
            (
                "force=perhaps&fieldManager=a",
                Writing::Apply,
                400,
                "invalid value \"perhaps\" for query parameter \"force\": must be a boolean",
            ),
        ] {
            let error = write(query, writing).unwrap_err();
            assert_eq!((error.code(), error.message()), (code, message), "{query}");
        }
        let options = write("dryRun=All&fieldValidation=Strict", Writing::Patch).unwrap();
        assert!(options.dry_run);
        assert_eq!(options.field_validation, FieldValidation::Strict);
    }
}
