//! Label selectors: equality (`a=b`, `a!=b`), sets (`a in (b,c)`, `a notin (b)`), existence (`a`, `!a`), order (`a>1`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as metav1;
use serde_json::{Map, Value};

use crate::names;

/// The longest selector that is parsed, in bytes.
const LIMIT: usize = 64 << 10;

/// What a selector looks labels up in.
pub trait Labels {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

/// A selector over labels. The default one matches everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSelector(Rule);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    Nothing,
    /// All must hold; sorted by key.
    All(Vec<Requirement>),
}

impl Default for LabelSelector {
    fn default() -> Self {
        Self::everything()
    }
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: BTreeSet<String>,
}

/// How a [`Requirement`] compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// The label's value is the one given.
    Equals,
    /// The label is absent or has another value.
    NotEquals,
    /// The label's value is among those given.
    In,
    /// The label is absent, or its value is not among those given.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The label's value is a whole number above the one given.
    GreaterThan,
    /// The label's value is a whole number below the one given.
    LessThan,
}

/// Why a text or object is no label selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelSelectorError {
    /// A requirement of the text makes no sense.
    #[error("unable to parse requirement: {0}")]
    Requirement(#[source] Box<LabelSelectorError>),
    /// Something else was expected in the text.
    #[error("found '{found}', expected: {expected}")]
    Unexpected {
        /// The token found, "" at the end.
        found: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// A key breaks the rules of qualified names.
    #[error("key: Invalid value: {key:?}: {problem}")]
    Key {
        /// The key.
        key: String,
        /// The rule.
        problem: String,
    },
    /// A value breaks the rules of label values.
    #[error("values[{index}][{key}]: Invalid value: {value:?}: {problem}")]
    Value {
        /// The key.
        key: String,
        /// Which of the values.
        index: usize,
        /// The value.
        value: String,
        /// The rule.
        problem: String,
    },
    /// The number of values does not suit the operator.
    #[error("values: Invalid value: {values:?}: {problem}")]
    Values {
        /// The values.
        values: Vec<String>,
        /// The rule.
        problem: &'static str,
    },
    /// An operator of a `metav1.LabelSelectorRequirement` that does not exist.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
    /// Longer than 64 KiB.
    #[error("label selector is too long")]
    TooLong,
}

impl Requirement {
    /// Checks and builds.
    pub fn new(
        key: impl Into<String>,
        operator: Operator,
        values: impl IntoIterator<Item = String>,
    ) -> Result<Self, LabelSelectorError> {
        let key = key.into();
        let values: Vec<String> = values.into_iter().collect();
        if let Some(problem) = names::qualified_name(&key).into_iter().next() {
            return Err(LabelSelectorError::Key { key, problem });
        }
        let wrong_count = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                Some("for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Equals | Operator::NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            Operator::GreaterThan | Operator::LessThan if values[0].parse::<i64>().is_err() => {
                Some("for 'Gt', 'Lt' operators, the value must be an integer")
            }
            _ => None,
        };
        if let Some(problem) = wrong_count {
            return Err(LabelSelectorError::Values { values, problem });
        }
        for (index, value) in values.iter().enumerate() {
            if let Some(problem) = names::label_value(value).into_iter().next() {
                let value = value.clone();
                return Err(LabelSelectorError::Value {
                    key,
                    index,
                    value,
                    problem,
                });
            }
        }
        Ok(Self {
            key,
            operator,
            values: values.into_iter().collect(),
        })
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The comparison.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values compared with.
    pub fn values(&self) -> &BTreeSet<String> {
        &self.values
    }

    /// Whether the labels fulfil it.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        let value = labels.label(&self.key);
        match self.operator {
            Operator::Equals | Operator::In => {
                value.is_some_and(|value| self.values.contains(value))
            }
            Operator::NotEquals | Operator::NotIn => {
                value.is_none_or(|value| !self.values.contains(value))
            }
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self
                .compare(value)
                .is_some_and(|(have, bound)| have > bound),
            Operator::LessThan => self
                .compare(value)
                .is_some_and(|(have, bound)| have < bound),
        }
    }

    fn compare(&self, value: Option<&str>) -> Option<(i64, i64)> {
        Some((value?.parse().ok()?, self.values.first()?.parse().ok()?))
    }
}

impl LabelSelector {
    /// Matches any labels.
    pub fn everything() -> Self {
        Self(Rule::All(Vec::new()))
    }

    /// Matches no labels: what an absent `metav1.LabelSelector` means.
    pub fn nothing() -> Self {
        Self(Rule::Nothing)
    }

    /// All of these must hold.
    pub fn all(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        let mut requirements: Vec<Requirement> = requirements.into_iter().collect();
        requirements.sort();
        Self(Rule::All(requirements))
    }

    /// Parses the `labelSelector` query parameter.
    pub fn parse(text: &str) -> Result<Self, LabelSelectorError> {
        if text.len() > LIMIT {
            return Err(LabelSelectorError::TooLong);
        }
        Parser { left: text }.selector()
    }

    /// A plain map of labels that must all be there with these values, as the `spec.selector` of a Service or a
    /// replication controller. The values are taken as they are. An empty map matches everything.
    pub fn from_map<'m>(labels: impl IntoIterator<Item = (&'m String, &'m String)>) -> Self {
        Self::all(labels.into_iter().map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: BTreeSet::from([value.clone()]),
        }))
    }

    /// Converts the object form. `None` matches nothing, an empty object everything.
    pub fn from_object(
        selector: Option<&metav1::LabelSelector>,
    ) -> Result<Self, LabelSelectorError> {
        let Some(selector) = selector else {
            return Ok(Self::nothing());
        };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, [value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(LabelSelectorError::Operator(other.to_owned())),
            };
            let values = expression.values.iter().flatten().cloned();
            requirements.push(Requirement::new(&expression.key, operator, values)?);
        }
        Ok(Self::all(requirements))
    }

    /// Whether the labels match.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        match &self.0 {
            Rule::Nothing => false,
            Rule::All(requirements) => requirements
                .iter()
                .all(|requirement| requirement.matches(labels)),
        }
    }

    /// Whether it matches any labels at all.
    pub fn is_everything(&self) -> bool {
        self.0 == Rule::All(Vec::new())
    }

    /// The conditions; none for the selectors of everything and of nothing.
    pub fn requirements(&self) -> &[Requirement] {
        match &self.0 {
            Rule::Nothing => &[],
            Rule::All(requirements) => requirements,
        }
    }
}

/// The query-string form. The selector of nothing has none, and prints as a pair of requirements that exclude each other.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rule::All(requirements) = &self.0 else {
            return f.write_str("nothing,!nothing");
        };
        for (at, requirement) in requirements.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let values = || {
            self.values
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(",")
        };
        match self.operator {
            Operator::Equals => write!(f, "{key}={}", values()),
            Operator::NotEquals => write!(f, "{key}!={}", values()),
            Operator::In => write!(f, "{key} in ({})", values()),
            Operator::NotIn => write!(f, "{key} notin ({})", values()),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{}", values()),
            Operator::LessThan => write!(f, "{key}<{}", values()),
        }
    }
}

/// Takes the text apart from the left. Words end at blanks and at the characters of operators.
struct Parser<'t> {
    left: &'t str,
}

impl<'t> Parser<'t> {
    fn selector(mut self) -> Result<LabelSelector, LabelSelectorError> {
        let mut requirements = Vec::new();
        self.skip_blanks();
        while !self.left.is_empty() {
            if self.left.starts_with(ENDS) && !self.left.starts_with('!') {
                return Err(self.unexpected("!, identifier, or 'end of string'"));
            }
            let requirement = self.requirement();
            requirements.push(
                requirement.map_err(|error| LabelSelectorError::Requirement(Box::new(error)))?,
            );
            if self.left.is_empty() {
                break;
            }
            self.expect(',', "',' or 'end of string'")?;
            if self.left.is_empty() {
                return Err(self.unexpected("identifier after ','"));
            }
        }
        Ok(LabelSelector::all(requirements))
    }

    fn requirement(&mut self) -> Result<Requirement, LabelSelectorError> {
        if self.eat("!") {
            let key = self.key()?;
            return Requirement::new(key, Operator::DoesNotExist, []);
        }
        let key = self.key()?;
        for (symbol, operator) in [
            ("==", Operator::Equals),
            ("=", Operator::Equals),
            ("!=", Operator::NotEquals),
            (">", Operator::GreaterThan),
            ("<", Operator::LessThan),
        ] {
            if self.eat(symbol) {
                // An absent value is the empty one: `a=` and `a=,b`.
                let value = self.word().to_owned();
                return Requirement::new(key, operator, [value]);
            }
        }
        match self.word() {
            "in" => Requirement::new(key, Operator::In, self.values()?),
            "notin" => Requirement::new(key, Operator::NotIn, self.values()?),
            "" if self.left.is_empty() || self.left.starts_with(',') => {
                Requirement::new(key, Operator::Exists, [])
            }
            "" => Err(self.unexpected(OPERATORS)),
            other => Err(LabelSelectorError::Unexpected {
                found: other.to_owned(),
                expected: OPERATORS,
            }),
        }
    }

    fn key(&mut self) -> Result<&'t str, LabelSelectorError> {
        match self.word() {
            "" => Err(self.unexpected("identifier")),
            word => Ok(word),
        }
    }

    /// `(a,b,)`: an empty place between commas, or between the parentheses, is the empty value.
    fn values(&mut self) -> Result<Vec<String>, LabelSelectorError> {
        self.expect('(', "'('")?;
        let mut values = Vec::new();
        loop {
            values.push(self.word().to_owned());
            if self.eat(")") {
                return Ok(values);
            }
            self.expect(',', "',' or ')'")?;
        }
    }

    fn skip_blanks(&mut self) {
        self.left = self.left.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    fn eat(&mut self, symbol: &str) -> bool {
        let Some(rest) = self.left.strip_prefix(symbol) else {
            return false;
        };
        self.left = rest;
        self.skip_blanks();
        true
    }

    fn expect(&mut self, symbol: char, expected: &'static str) -> Result<(), LabelSelectorError> {
        let mut buffer = [0; 4];
        if self.eat(symbol.encode_utf8(&mut buffer)) {
            Ok(())
        } else {
            Err(self.unexpected(expected))
        }
    }

    /// The next word, "" if a symbol or the end comes first.
    fn word(&mut self) -> &'t str {
        let end = self.left.find(ENDS).unwrap_or(self.left.len());
        let (word, rest) = self.left.split_at(end);
        self.left = rest;
        self.skip_blanks();
        word
    }

    fn unexpected(&mut self, expected: &'static str) -> LabelSelectorError {
        let found = match self.word() {
            "" => self.left.chars().take(1).collect(),
            word => word.to_owned(),
        };
        LabelSelectorError::Unexpected { found, expected }
    }
}

/// What ends a word.
const ENDS: [char; 12] = [
    ' ', '\t', '\r', '\n', '=', '!', '(', ')', ',', '>', '<', '\0',
];
const OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn matches_as_documented() {
        let have = labels(&[("app", "web"), ("tier", "front"), ("n", "5"), ("empty", "")]);
        let matching = [
            "",
            " ",
            "app=web",
            "app==web",
            "app = web",
            "app!=db",
            "other!=x",
            "app in (web,db)",
            "app in ( web )",
            "app notin (db)",
            "other notin (x)",
            "tier",
            "!other",
            "n>4",
            "n<6",
            "empty=",
            "empty in (,x)",
            "app=web,tier in (front, back),!other",
            "x.io/y notin (z)",
            "in!=x",
        ];
        for text in matching {
            assert!(LabelSelector::parse(text).unwrap().matches(&have), "{text}");
        }
        let others = [
            "app=db",
            "app!=web",
            "other",
            "!app",
            "n>5",
            "tier>1",
            "app notin (web)",
            "app=web,other",
            "other=",
        ];
        for text in others {
            assert!(
                !LabelSelector::parse(text).unwrap().matches(&have),
                "{text}"
            );
        }
        assert!(!LabelSelector::nothing().matches(&have));
        assert!(
            !LabelSelector::parse(&LabelSelector::nothing().to_string())
                .unwrap()
                .matches(&have)
        );
    }

    #[test]
    fn refuses_what_is_malformed() {
        let bad = [
            "a b",
            "a in",
            "a in b",
            "a in (b",
            "a in (b c)",
            "=a",
            "a,,b",
            "a,",
            ",",
            "a=b=c",
            "!",
            "a>x",
            "-a=b",
            "a=b/c",
            "(a)",
            "a=ä",
            "a===b",
        ];
        for text in bad {
            assert!(
                LabelSelector::parse(text).is_err(),
                "{text}: {:?}",
                LabelSelector::parse(text)
            );
        }
        assert_eq!(
            LabelSelector::parse(&"a".repeat(LIMIT + 1)),
            Err(LabelSelectorError::TooLong)
        );
    }

    #[test]
    fn converts_the_object_form() {
        assert_eq!(
            LabelSelector::from_object(None).unwrap(),
            LabelSelector::nothing()
        );
        let mut selector = metav1::LabelSelector::default();
        assert!(
            LabelSelector::from_object(Some(&selector))
                .unwrap()
                .is_everything()
        );
        selector.match_labels = Some(labels(&[("a", "b")]));
        selector.match_expressions = Some(vec![metav1::LabelSelectorRequirement {
            key: "c".to_owned(),
            operator: "NotIn".to_owned(),
            values: Some(vec!["e".to_owned(), "d".to_owned()]),
        }]);
        assert_eq!(
            LabelSelector::from_object(Some(&selector))
                .unwrap()
                .to_string(),
            "a=b,c notin (d,e)"
        );
    }

    fn requirement() -> impl Strategy<Value = Requirement> {
        let key = "([a-z]{1,3}\\.[a-z]{1,3}/)?[A-Za-z]{1,4}";
        let value = "([A-Za-z0-9]{1,3})?";
        prop_oneof![
            (key, value).prop_map(|(k, v)| Requirement::new(k, Operator::Equals, [v]).unwrap()),
            (key, value).prop_map(|(k, v)| Requirement::new(k, Operator::NotEquals, [v]).unwrap()),
            (key, prop::collection::vec(value, 1..4)).prop_map(|(k, v)| Requirement::new(
                k,
                Operator::In,
                v
            )
            .unwrap()),
            (key, prop::collection::vec(value, 1..4)).prop_map(|(k, v)| Requirement::new(
                k,
                Operator::NotIn,
                v
            )
            .unwrap()),
            key.prop_map(|k| Requirement::new(k, Operator::Exists, []).unwrap()),
            key.prop_map(|k| Requirement::new(k, Operator::DoesNotExist, []).unwrap()),
            (key, any::<u16>()).prop_map(|(k, n)| Requirement::new(
                k,
                Operator::LessThan,
                [n.to_string()]
            )
            .unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn printing_parses_back(requirements in prop::collection::vec(requirement(), 0..5)) {
            let selector = LabelSelector::all(requirements);
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
        }

        #[test]
        fn a_requirement_and_its_opposite_share_no_labels(
            values in prop::collection::vec("[ab]{1,2}", 1..3),
            have in prop::option::of("[ab]{1,2}"),
        ) {
            let have: BTreeMap<String, String> = have.map(|value| ("k".to_owned(), value)).into_iter().collect();
            let included = Requirement::new("k", Operator::In, values.clone()).unwrap();
            let excluded = Requirement::new("k", Operator::NotIn, values).unwrap();
            prop_assert_ne!(included.matches(&have), excluded.matches(&have));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[a!=<>(), in]{0,20}|.{0,20}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
            }
        }
    }
}
