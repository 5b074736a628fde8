//! Where in an object something is wrong, and what: [`Path`], [`FieldError`] and the list that validation fills.

use std::fmt;

use serde_json::Value;

use crate::status::StatusCause;

/// A place inside an object, printed as `spec.containers[0].ports[1].name` or `metadata.labels[key]`.
///
/// A path is a chain of borrowed links on the stack, so that walking a healthy object allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The path of a top-level field.
    pub fn root(field: &'a str) -> Self {
        Self {
            parent: None,
            segment: Segment::Field(field),
        }
    }

    /// `parent.field`, or the top-level field where there is no parent.
    #[must_use]
    pub fn below(parent: Option<&'a Path<'a>>, field: &'a str) -> Self {
        Self {
            parent,
            segment: Segment::Field(field),
        }
    }

    /// `self.field`. The field may itself hold dots.
    #[must_use]
    pub fn child(&'a self, field: &'a str) -> Path<'a> {
        Path {
            parent: Some(self),
            segment: Segment::Field(field),
        }
    }

    /// `self[index]`, an element of a list.
    #[must_use]
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path {
            parent: Some(self),
            segment: Segment::Index(index),
        }
    }

    /// `self[key]`, an entry of a map.
    #[must_use]
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path {
            parent: Some(self),
            segment: Segment::Key(key),
        }
    }
}

/// How many bytes of a path's text are told where there may be many of them.
const TOLD_MAX: usize = 512;

impl Path<'_> {
    /// The text, of which the end is left out if it is very long: keys come from outside, and may be as long as a body.
    pub(crate) fn bounded(&self) -> String {
        struct Bounded(String);

        impl fmt::Write for Bounded {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                let room = TOLD_MAX - self.0.len();
                if text.len() <= room {
                    self.0.push_str(text);
                    return Ok(());
                }
                self.0.push_str(&text[..text.floor_char_boundary(room)]);
                Err(fmt::Error)
            }
        }

        let mut text = Bounded(String::new());
        match fmt::write(&mut text, format_args!("{self}")) {
            Ok(()) => text.0,
            Err(_) => text.0 + "...",
        }
    }

    /// The path without list indices: `spec.containers.ports`.
    pub(crate) fn without_indices(&self) -> String {
        let mut text = match self.parent {
            Some(parent) => parent.without_indices(),
            None => String::new(),
        };
        if let Segment::Field(name) | Segment::Key(name) = self.segment {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(name);
        }
        text
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.segment {
            Segment::Field(name) if self.parent.is_none() => f.write_str(name),
            Segment::Field(name) => write!(f, ".{name}"),
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What sort of mistake a [`FieldError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The value names something that is not there.
    NotFound,
    /// A value must be given.
    Required,
    /// The value must be unique and is not.
    Duplicate,
    /// The value is malformed or out of range.
    Invalid,
    /// The value is of another JSON type than the field.
    TypeInvalid,
    /// The value is not one of an enumeration.
    NotSupported,
    /// The value may not be given, or not be changed, here.
    Forbidden,
    /// The value has too many bytes.
    TooLong,
    /// The list has too many items.
    TooMany,
}

impl ErrorKind {
    fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
        }
    }
}

/// One mistake in one field. Prints as `spec.replicas: Invalid value: -1: must be greater than or equal to 0`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    kind: ErrorKind,
    field: String,
    /// The offending value as the message shows it; `None` where the message shows none.
    value: Option<Value>,
    detail: String,
}

impl FieldError {
    fn new(
        kind: ErrorKind,
        path: &Path<'_>,
        value: Option<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            field: path.to_string(),
            value,
            detail: detail.into(),
        }
    }

    /// A missing value. `detail` may be empty.
    pub fn required(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Required, path, None, detail)
    }

    /// A malformed value.
    pub fn invalid(path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, path, Some(value.into()), detail)
    }

    /// Parts that do not go together. The whole is not repeated; the detail names what is at odds.
    pub fn inconsistent(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, path, None, detail)
    }

    /// A value of another JSON type than the field.
    pub fn type_invalid(
        path: &Path<'_>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(ErrorKind::TypeInvalid, path, Some(value.into()), detail)
    }

    /// A value outside an enumeration. Upstream lists the supported values of built-in kinds sorted.
    pub fn not_supported(path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let mut names = supported.to_vec();
        names.sort_unstable();
        Self::not_listed(path, value, &names)
    }

    /// The same, with the supported values in the order in which somebody declared them.
    pub fn not_listed(path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|name| format!("{name:?}")).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        Self::new(ErrorKind::NotSupported, path, Some(value.into()), detail)
    }

    /// A value that occurs twice.
    pub fn duplicate(path: &Path<'_>, value: impl Into<Value>) -> Self {
        Self::new(ErrorKind::Duplicate, path, Some(value.into()), "")
    }

    /// A value that may not be given or changed.
    pub fn forbidden(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Forbidden, path, None, detail)
    }

    /// A name that refers to nothing.
    pub fn not_found(path: &Path<'_>, value: impl Into<Value>) -> Self {
        Self::new(ErrorKind::NotFound, path, Some(value.into()), "")
    }

    /// A value of more than `max` bytes. The value itself is not repeated: it may be huge.
    pub fn too_long(path: &Path<'_>, max: usize) -> Self {
        Self::new(
            ErrorKind::TooLong,
            path,
            None,
            format!("may not be more than {max} bytes"),
        )
    }

    /// A list of `actual` items where `max` are allowed.
    pub fn too_many(path: &Path<'_>, actual: usize, max: usize) -> Self {
        let plural = if max == 1 { "" } else { "s" };
        let detail = format!("must have at most {max} item{plural}");
        Self::new(ErrorKind::TooMany, path, Some(actual.into()), detail)
    }

    /// The same mistake with something more to say about it.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// What sort of mistake it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The field's path.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The message without the field: `Invalid value: -1: must be ...`.
    pub fn body(&self) -> String {
        let mut text = self.kind.title().to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(&shown(value));
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    /// As it stands in `Status.details.causes`.
    pub fn cause(&self) -> StatusCause {
        StatusCause {
            reason: self.kind.reason().to_owned(),
            message: self.body(),
            field: self.field.clone(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

/// What validation has found: mistakes, and what is allowed but most likely not meant. At most [`Errors::LIMIT`] of each:
/// enough for anybody to mend, and no way to have an answer made that is larger than what was asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Errors {
    mistakes: Vec<FieldError>,
    warnings: Vec<String>,
}

impl Errors {
    /// How many mistakes, and how many warnings, are kept; what comes after is left out.
    pub const LIMIT: usize = 256;

    /// Adds a mistake, unless there are too many already.
    pub fn push(&mut self, error: FieldError) {
        if self.mistakes.len() < Self::LIMIT {
            self.mistakes.push(error);
        }
    }

    /// Adds a warning about the field at `path`, unless there are too many already. The object is valid with it.
    pub fn warn(&mut self, path: &Path<'_>, text: impl fmt::Display) {
        self.remark(format!("{path}: {text}"));
    }

    /// Adds a warning that names what it is about itself.
    pub fn remark(&mut self, text: impl Into<String>) {
        if self.warnings.len() < Self::LIMIT {
            self.warnings.push(text.into());
        }
    }

    /// The warnings, each with the field that it is about.
    pub fn into_warnings(self) -> Vec<String> {
        self.warnings
    }
}

impl Extend<FieldError> for Errors {
    fn extend<I: IntoIterator<Item = FieldError>>(&mut self, errors: I) {
        errors.into_iter().for_each(|error| self.push(error));
    }
}

impl std::ops::Deref for Errors {
    type Target = [FieldError];

    fn deref(&self) -> &[FieldError] {
        &self.mistakes
    }
}

/// The longest value that a message repeats, in bytes: an error must not become as large as the request was.
const SHOWN_LIMIT: usize = 4096;

fn shown(value: &Value) -> String {
    let mut text = match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    };
    if text.len() > SHOWN_LIMIT {
        let mut end = SHOWN_LIMIT;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_paths_and_errors_as_upstream_does() {
        let spec = Path::root("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        let name = first.child("name");
        assert_eq!(name.to_string(), "spec.containers[0].name");
        assert_eq!(
            FieldError::duplicate(&name, "a").to_string(),
            r#"spec.containers[0].name: Duplicate value: "a""#
        );
        assert_eq!(
            FieldError::not_supported(&name, "x", &["b", "a"]).to_string(),
            r#"spec.containers[0].name: Unsupported value: "x": supported values: "a", "b""#
        );
        assert_eq!(
            FieldError::too_long(&name, 5).to_string(),
            "spec.containers[0].name: Too long: may not be more than 5 bytes"
        );
        assert_eq!(spec.key("k").to_string(), "spec[k]");
    }

    #[test]
    fn keeps_errors_within_bounds() {
        let mut errors = Errors::default();
        errors.extend((0..1000).map(|n| FieldError::duplicate(&Path::root("x"), n)));
        assert_eq!(errors.len(), Errors::LIMIT);
    }

    #[test]
    fn does_not_repeat_a_huge_value() {
        let error = FieldError::invalid(&Path::root("spec"), "ä".repeat(1 << 20), "");
        assert!(error.to_string().len() < 2 * SHOWN_LIMIT);
    }
}
