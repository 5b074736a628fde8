//! Field selectors: `spec.nodeName=a,status.phase!=Running`.

use std::fmt;

/// The longest selector that is parsed, in bytes.
const LIMIT: usize = 64 << 10;

/// A conjunction of comparisons of fields with values. The empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

/// `field=value` or `field!=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// The field's label, such as `metadata.name`.
    pub field: String,
    /// The value compared with.
    pub value: String,
    /// `!=` rather than `=`.
    pub negated: bool,
}

/// Why a text is no field selector, or none that a resource supports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldSelectorError {
    /// A term without `=`, `==` or `!=`, or a malformed escape.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Malformed {
        /// The whole.
        selector: String,
        /// The part.
        term: String,
    },
    /// The resource can't be selected by this field.
    #[error("field label not supported: {0}")]
    Unsupported(String),
    /// Longer than 64 KiB.
    #[error("field selector is too long")]
    TooLong,
}

impl FieldSelector {
    /// Parses the `fieldSelector` query parameter. In values `\`, `,` and `=` are escaped by `\`.
    pub fn parse(selector: &str) -> Result<Self, FieldSelectorError> {
        if selector.len() > LIMIT {
            return Err(FieldSelectorError::TooLong);
        }
        let mut terms = Vec::new();
        for term in split_terms(selector) {
            if term.is_empty() {
                continue;
            }
            let malformed = || FieldSelectorError::Malformed {
                selector: selector.to_owned(),
                term: term.to_owned(),
            };
            let (field, value, negated) = split_operator(term).ok_or_else(malformed)?;
            let value = unescape(value).ok_or_else(malformed)?;
            terms.push(FieldTerm {
                field: field.to_owned(),
                value,
                negated,
            });
        }
        Ok(Self { terms })
    }

    /// The comparisons.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// Whether it matches everything.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The one value that `field` must have, if the selector says so. With it a list becomes a lookup.
    pub fn requires(&self, field: &str) -> Option<&str> {
        let term = self
            .terms
            .iter()
            .find(|term| term.field == field && !term.negated)?;
        Some(&term.value)
    }

    /// Fails for the first field that `supported` does not hold.
    pub fn check(&self, supported: impl Fn(&str) -> bool) -> Result<(), FieldSelectorError> {
        match self.terms.iter().find(|term| !supported(&term.field)) {
            Some(term) => Err(FieldSelectorError::Unsupported(term.field.clone())),
            None => Ok(()),
        }
    }

    /// Whether the fields match; `get` gives a field's value, "" where there is none.
    pub fn matches<'v>(&self, get: impl Fn(&str) -> &'v str) -> bool {
        self.terms
            .iter()
            .all(|term| (get(&term.field) == term.value) != term.negated)
    }
}

/// Splits at unescaped commas.
fn split_terms(selector: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    selector.split(move |c| {
        let separates = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        separates
    })
}

fn split_operator(term: &str) -> Option<(&str, &str, bool)> {
    let mut escaped = false;
    for (at, c) in term.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        escaped = c == '\\';
        let rest = &term[at..];
        for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..at], value, negated));
            }
        }
    }
    None
}

/// Takes the escapes out; `None` for a stray backslash or an operator's character that should be escaped.
fn unescape(value: &str) -> Option<String> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            other => plain.push(other),
        }
    }
    Some(plain)
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, term) in self.terms.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            f.write_str(&term.field)?;
            f.write_str(if term.negated { "!=" } else { "=" })?;
            for c in term.value.chars() {
                if matches!(c, '\\' | ',' | '=') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_terms_and_escapes() {
        let selector = FieldSelector::parse(r"a=b,c!=d,e==f\,g\=\\,h=").unwrap();
        let terms: Vec<_> = selector
            .terms()
            .iter()
            .map(|t| (t.field.as_str(), t.value.as_str(), t.negated))
            .collect();
        assert_eq!(
            terms,
            [
                ("a", "b", false),
                ("c", "d", true),
                ("e", r"f,g=\", false),
                ("h", "", false)
            ]
        );
        assert_eq!(selector.requires("a"), Some("b"));
        assert_eq!(selector.requires("c"), None);
        assert!(FieldSelector::parse("").unwrap().is_everything());
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for bad in ["a", r"a=\x", r"a=\", "a=b=c"] {
            assert!(
                matches!(
                    FieldSelector::parse(bad),
                    Err(FieldSelectorError::Malformed { .. })
                ),
                "{bad}"
            );
        }
        let error = FieldSelector::parse("x=y")
            .unwrap()
            .check(|field| field == "metadata.name")
            .unwrap_err();
        assert_eq!(error.to_string(), "field label not supported: x");
    }

    proptest! {
        #[test]
        fn printing_parses_back(terms in prop::collection::vec(("[a-z.]{1,9}", ".{0,9}", any::<bool>()), 0..4)) {
            let selector = FieldSelector {
                terms: terms.into_iter().map(|(field, value, negated)| FieldTerm { field, value, negated }).collect(),
            };
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        }

        #[test]
        fn a_term_matches_its_value_and_its_negation_does_not(value in ".{0,9}") {
            let mut selector = FieldSelector { terms: vec![FieldTerm { field: "f".into(), value: value.clone(), negated: false }] };
            prop_assert!(selector.matches(|_| &value));
            selector.terms[0].negated = true;
            prop_assert!(!selector.matches(|_| &value));
        }
    }
}
