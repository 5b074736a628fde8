//! `metav1.Table`: what `kubectl get` prints.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{Object, meta};

/// A column of a kind's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: Cow<'static, str>,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub ty: Cow<'static, str>,
    /// `name` marks the column that tells objects apart; else "".
    pub format: Cow<'static, str>,
    /// For people.
    pub description: Cow<'static, str>,
    /// 0 shows it always, more only with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// The `Name` column, which comes first for every kind.
    pub const NAME: Self = Self {
        name: Cow::Borrowed("Name"),
        ty: Cow::Borrowed("string"),
        format: Cow::Borrowed("name"),
        description: Cow::Borrowed("The object's name, unique among its kind and namespace."),
        priority: 0,
    };
    /// The `Age` column.
    pub const AGE: Self = Self::string("Age", "Time since the object was created.");

    const fn plain(name: &'static str, ty: &'static str, description: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            ty: Cow::Borrowed(ty),
            format: Cow::Borrowed(""),
            description: Cow::Borrowed(description),
            priority: 0,
        }
    }

    /// A column of text.
    pub const fn string(name: &'static str, description: &'static str) -> Self {
        Self::plain(name, "string", description)
    }

    /// A column of `true` and `false`.
    pub const fn boolean(name: &'static str, description: &'static str) -> Self {
        Self::plain(name, "boolean", description)
    }

    /// A column of times.
    pub const fn date(name: &'static str, description: &'static str) -> Self {
        Self::plain(name, "date", description)
    }

    /// A column of whole numbers.
    pub const fn integer(name: &'static str, description: &'static str) -> Self {
        Self::plain(name, "integer", description)
    }

    /// The same column, shown with `-o wide` only.
    #[must_use]
    pub const fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }

    fn to_value(&self) -> Value {
        json!({
            "name": self.name, "type": self.ty, "format": self.format, "description": self.description,
            "priority": self.priority,
        })
    }
}

/// What a row carries besides its cells (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The object's metadata, as `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter; `None` for a value that does not exist.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// `columnDefinitions`.
pub fn definitions(columns: &[Column]) -> Value {
    columns.iter().map(Column::to_value).collect()
}

/// An object of these fields. Unlike `json!` it takes the values over as they are, without a copy.
fn assembled<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(
        fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

/// One row. `object` must be complete: with `apiVersion`, `kind` and `resourceVersion`.
pub fn row(cells: Vec<Value>, object: &Object, include: IncludeObject) -> Value {
    let whole = match include {
        IncludeObject::None => return assembled([("cells", cells.into())]),
        IncludeObject::Metadata => partial(object),
        IncludeObject::Object => Value::Object(object.clone()),
    };
    assembled([("cells", cells.into()), ("object", whole)])
}

/// The object's metadata alone, as a `meta.k8s.io/v1` `PartialObjectMetadata`.
pub fn partial(object: &Object) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// A whole table of `meta.k8s.io/v1`. `metadata` is the list's (or, for a single object, holds its `resourceVersion`);
/// `columns` is left empty in the later events of a watch.
pub fn table(metadata: Value, columns: &[Column], rows: Vec<Value>) -> Value {
    assembled([
        ("kind", "Table".into()),
        ("apiVersion", "meta.k8s.io/v1".into()),
        ("metadata", metadata),
        ("columnDefinitions", definitions(columns)),
        ("rows", rows.into()),
    ])
}

/// How long ago `since` was, as the `AGE` column has it; `<unknown>` where there is no time.
pub fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    match since {
        Some(since) => human_duration(now.as_second() - since.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// The age of an object by its creation time.
pub fn age_of(object: &Object, now: Timestamp) -> Value {
    Value::String(age(meta::creation_timestamp(object), now))
}

/// A duration in the two largest units that matter: `12s`, `5m30s`, `45m`, `2h5m`, `3d4h`, `40d`, `3y20d`.
///
/// Clocks differ, so up to two seconds in the future count as `0s`; what lies further ahead is `<invalid>`.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let pair = |large: i64, large_unit: &str, small: i64, small_unit: &str| {
        let (whole, rest) = (seconds / large, seconds % large / small);
        if rest == 0 {
            format!("{whole}{large_unit}")
        } else {
            format!("{whole}{large_unit}{rest}{small_unit}")
        }
    };
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => pair(MINUTE, "m", 1, "s"),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => pair(HOUR, "h", MINUTE, "m"),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => pair(DAY, "d", HOUR, "h"),
        691_200..63_072_000 => format!("{}d", seconds / DAY),
        63_072_000..252_288_000 => pair(YEAR, "y", DAY, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_durations_as_kubectl_does() {
        let cases = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (10_860, "3h1m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (63_071_999, "729d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (300_000_000, "9y"),
        ];
        for (seconds, want) in cases {
            assert_eq!(human_duration(seconds), want, "{seconds}");
        }
    }

    #[test]
    fn rows_carry_what_was_asked_for() {
        let Value::Object(object) = json!({"kind": "X", "metadata": {"name": "a"}, "spec": {}})
        else {
            unreachable!()
        };
        assert_eq!(
            row(vec![json!("a")], &object, IncludeObject::None),
            json!({"cells": ["a"]})
        );
        let metadata = row(vec![], &object, IncludeObject::Metadata);
        assert_eq!(
            metadata["object"],
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "a"}})
        );
        assert_eq!(
            row(vec![], &object, IncludeObject::Object)["object"],
            Value::Object(object)
        );
    }
}
