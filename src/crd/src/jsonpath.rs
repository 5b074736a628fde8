//! `JSONPath`, as columns of tables and scales use it: `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`.
//!
//! Names behind dots (a backslash escapes), quoted names and places in brackets, `*`, `..`, and filters that compare a
//! field with a constant (k8s.io/client-go `util/jsonpath`).

use serde_json::Value;

/// How many values a path may lead to.
const RESULTS: usize = 4096;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

/// Why a text is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    Descend,
    Filter {
        path: Vec<Step>,
        /// Without a comparison, the field has to be there.
        test: Option<(Operator, Value)>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Reads a path, which starts with a dot or a bracket.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        steps(text).map(Self)
    }

    /// The names on the way, if the path has nothing but names.
    pub fn names(&self) -> Option<Vec<String>> {
        let name = |step: &Step| match step {
            Step::Field(name) => Some(name.clone()),
            _ => None,
        };
        self.0.iter().map(name).collect()
    }

    /// The first value that the path leads to.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        follow(&self.0, value).into_iter().next()
    }
}

fn wrong(what: impl Into<String>) -> ParseError {
    ParseError(what.into())
}

fn steps(text: &str) -> Result<Vec<Step>, ParseError> {
    let mut steps = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        match c {
            '.' => {
                rest = &rest[1..];
                if let Some(tail) = rest.strip_prefix('.') {
                    steps.push(Step::Descend);
                    rest = tail;
                }
                let (name, tail) = field(rest);
                rest = tail;
                match name.as_str() {
                    "" => {}
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Field(name)),
                }
            }
            '[' => {
                let end = closing(rest).ok_or_else(|| wrong("unterminated array"))?;
                steps.push(bracket(rest[1..end].trim())?);
                rest = &rest[end + 1..];
            }
            c => return Err(wrong(format!("unrecognized character in action: {c:?}"))),
        }
        if steps.len() > 64 {
            return Err(wrong("the path is too long"));
        }
    }
    Ok(steps)
}

/// A name up to the next dot or bracket, and what comes after it.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '.' | '[' => return (name, &text[at..]),
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            c => name.push(c),
        }
    }
    (name, "")
}

/// Where the bracket that `text` begins with is closed.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0_usize, None);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                chars.next();
            }
            (Some(open), c) => quote = Some(open).filter(|open| *open != c),
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Result<Step, ParseError> {
    if text == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = unquoted(text) {
        return Ok(Step::Field(name));
    }
    if let Some(condition) = text
        .strip_prefix("?(")
        .and_then(|text| text.strip_suffix(')'))
    {
        return filter(condition.trim());
    }
    let number = |text: &str| -> Result<Option<i64>, ParseError> {
        if text.is_empty() {
            return Ok(None);
        }
        let parsed = text
            .parse()
            .map_err(|_| wrong(format!("array index {text} is invalid")))?;
        Ok(Some(parsed))
    };
    match text.split_once(':') {
        Some((from, to)) => Ok(Step::Slice(number(from)?, number(to)?)),
        None => match number(text)? {
            Some(index) => Ok(Step::Index(index)),
            None => Err(wrong("invalid array index")),
        },
    }
}

fn unquoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut name = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        name.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    Some(name)
}

fn filter(text: &str) -> Result<Step, ParseError> {
    const OPERATORS: [(&str, Operator); 6] = [
        ("==", Operator::Equal),
        ("!=", Operator::NotEqual),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ];
    let path = |text: &str| {
        let text = text.trim();
        steps(
            text.strip_prefix('@')
                .ok_or_else(|| wrong("a filter must start with @"))?,
        )
    };
    let found = OPERATORS
        .iter()
        .filter_map(|(sign, operator)| Some((text.find(sign)?, sign, *operator)))
        .min_by_key(|(at, sign, _)| (*at, std::cmp::Reverse(sign.len())));
    let Some((at, sign, operator)) = found else {
        return Ok(Step::Filter {
            path: path(text)?,
            test: None,
        });
    };
    let constant = text[at + sign.len()..].trim();
    let constant = match unquoted(constant) {
        Some(text) => Value::String(text),
        None => serde_json::from_str(constant)
            .ok()
            .filter(|value: &Value| !value.is_object() && !value.is_array())
            .ok_or_else(|| wrong(format!("unrecognized constant {constant}")))?,
    };
    Ok(Step::Filter {
        path: path(&text[..at])?,
        test: Some((operator, constant)),
    })
}

fn follow<'v>(path: &[Step], value: &'v Value) -> Vec<&'v Value> {
    let mut current = vec![value];
    for step in path {
        let mut next = Vec::new();
        for value in current {
            advance(step, value, &mut next);
            if next.len() > RESULTS {
                next.truncate(RESULTS);
                break;
            }
        }
        current = next;
    }
    current
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn advance<'v>(step: &Step, value: &'v Value, next: &mut Vec<&'v Value>) {
    match step {
        Step::Field(name) => next.extend(value.get(name)),
        Step::All => next.extend(children(value)),
        Step::Index(index) => {
            if let Some(items) = value.as_array() {
                next.extend(place(*index, items.len()).and_then(|at| items.get(at)));
            }
        }
        Step::Slice(from, to) => {
            if let Some(items) = value.as_array() {
                let bound = |at: Option<i64>, absent: usize| {
                    at.map_or(absent, |at| place(at, items.len()).unwrap_or(items.len()))
                };
                let range = bound(*from, 0)..bound(*to, items.len());
                next.extend(items.get(range).into_iter().flatten());
            }
        }
        Step::Descend => {
            let mut waiting = vec![value];
            while let Some(value) = waiting.pop() {
                if next.len() > RESULTS {
                    return;
                }
                next.push(value);
                waiting.extend(children(value).into_iter().rev());
            }
        }
        Step::Filter { path, test } => {
            let passes = |item: &&Value| {
                let found = follow(path, item).into_iter().next();
                match (found, test) {
                    (Some(found), Some((operator, constant))) => {
                        compare(found, *operator, constant)
                    }
                    (found, None) => found.is_some(),
                    (None, Some(_)) => false,
                }
            };
            next.extend(value.as_array().into_iter().flatten().filter(passes));
        }
    }
}

fn place(index: i64, len: usize) -> Option<usize> {
    if index >= 0 {
        return usize::try_from(index).ok();
    }
    len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)
}

fn compare(a: &Value, operator: Operator, b: &Value) -> bool {
    let order = match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Null, Value::Null) => Some(std::cmp::Ordering::Equal),
        _ => None,
    };
    match (operator, order) {
        (Operator::NotEqual, None) => true,
        (_, None) => false,
        (Operator::Equal, Some(order)) => order.is_eq(),
        (Operator::NotEqual, Some(order)) => order.is_ne(),
        (Operator::Less, Some(order)) => order.is_lt(),
        (Operator::LessOrEqual, Some(order)) => order.is_le(),
        (Operator::Greater, Some(order)) => order.is_gt(),
        (Operator::GreaterOrEqual, Some(order)) => order.is_ge(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn follows_paths() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "x"}},
            "spec": {"replicas": 3, "list": [{"n": 1, "t": "a"}, {"n": 2, "t": "b"}]},
        });
        for (path, want) in [
            (".spec.replicas", json!(3)),
            (r".metadata.annotations.a\.b/c", json!("x")),
            (".metadata.annotations['a.b/c']", json!("x")),
            (".spec.list[0].n", json!(1)),
            (".spec.list[-1].n", json!(2)),
            (".spec.list[*].n", json!(1)),
            (r#".spec.list[?(@.t=="b")].n"#, json!(2)),
            (".spec.list[?(@.n > 1)].t", json!("b")),
            (".spec.list[1:].t", json!("b")),
            ("..replicas", json!(3)),
        ] {
            let parsed = JsonPath::parse(path).unwrap();
            assert_eq!(parsed.first(&object), Some(&want), "{path}");
        }
        assert_eq!(JsonPath::parse(".a.b").unwrap().first(&object), None);
        for bad in ["a", ".a[", ".a[b]", ".a[?(b)]", ".a[?(@.b==[1])]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
