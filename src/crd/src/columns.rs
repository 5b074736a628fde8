//! The table of a custom kind: its name, and whatever columns its definition declares.

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;
use serde_json::Value;
use vaquita_api::table::{self, Column};
use vaquita_api::{Object, meta};

use crate::jsonpath::JsonPath;

/// The columns, and where their cells come from.
#[derive(Debug)]
pub(crate) struct Columns {
    columns: Vec<Column>,
    cells: Vec<Cell>,
}

#[derive(Debug)]
enum Cell {
    Name,
    Age,
    Of {
        path: JsonPath,
        ty: String,
    },
    /// The path can't be read, which a definition does not have.
    Nothing,
}

impl Columns {
    pub(crate) fn new(declared: &[CustomResourceColumnDefinition]) -> Self {
        if declared.is_empty() {
            let age = Column::date("Age", "Time since the object was created.");
            return Self {
                columns: vec![Column::NAME, age],
                cells: vec![Cell::Name, Cell::Age],
            };
        }
        let column = |column: &CustomResourceColumnDefinition| Column {
            name: column.name.clone().into(),
            ty: column.type_.clone().into(),
            format: column.format.clone().unwrap_or_default().into(),
            description: column
                .description
                .clone()
                .filter(|text| !text.is_empty())
                .unwrap_or_else(|| {
                    format!(
                        "Custom resource definition column (in JSONPath format): {}",
                        column.json_path
                    )
                })
                .into(),
            priority: column.priority.unwrap_or_default(),
        };
        let cell =
            |column: &CustomResourceColumnDefinition| match JsonPath::parse(&column.json_path) {
                Ok(path) => Cell::Of {
                    path,
                    ty: column.type_.clone(),
                },
                Err(_) => Cell::Nothing,
            };
        Self {
            columns: std::iter::once(Column::NAME)
                .chain(declared.iter().map(column))
                .collect(),
            cells: std::iter::once(Cell::Name)
                .chain(declared.iter().map(cell))
                .collect(),
        }
    }

    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }

    pub(crate) fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        let mut whole = None;
        let cell = |cell: &Cell| match cell {
            Cell::Name => meta::name(object).into(),
            Cell::Age => table::age_of(object, now),
            Cell::Nothing => Value::Null,
            Cell::Of { path, ty } => {
                let whole = whole.get_or_insert_with(|| Value::Object(object.clone()));
                path.first(whole)
                    .map_or(Value::Null, |value| shown(value, ty, now))
            }
        };
        self.cells.iter().map(cell).collect()
    }
}

/// A value as a cell of a type; `null` where it is of another.
fn shown(value: &Value, ty: &str, now: Timestamp) -> Value {
    match (ty, value) {
        (_, Value::Null) => Value::Null,
        ("string", Value::String(text)) => text.clone().into(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(number)) => {
            #[allow(clippy::cast_possible_truncation, reason = "as upstream cuts it")]
            let whole = number
                .as_i64()
                .or_else(|| number.as_f64().map(|float| float as i64));
            whole.map_or(Value::Null, Value::from)
        }
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse() {
            Ok(time) => table::age(Some(time), now).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}
