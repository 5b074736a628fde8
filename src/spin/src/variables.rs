//! Variables of an application, and the texts of its components that mention them.
//!
//! An application declares variables, each with a default or without; whoever runs it may say otherwise. A component has
//! variables of its own, each a text in which `{{ name }}` stands for one of the application's.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A variable that an application declares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Variable {
    /// Its value, if nobody says otherwise; without one, somebody must.
    #[serde(default)]
    pub default: Option<String>,
}

/// Why variables have no values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VariableError {
    /// A name is none that a variable may have.
    #[error(
        "{0:?} is no name for a variable: lower-case letters, digits and single underscores between them, a letter first"
    )]
    Name(String),
    /// Nobody has said what a variable is.
    #[error(
        "the variable {name:?} of the Spin application has no value: set {provider} in the environment"
    )]
    NoValue {
        /// Its name.
        name: String,
        /// The variable of the environment that sets it.
        provider: String,
    },
    /// A text mentions a variable that the application does not declare.
    #[error("{text:?} mentions the variable {name:?}, which the Spin application does not declare")]
    Unknown {
        /// What it calls it.
        name: String,
        /// The text.
        text: String,
    },
    /// A text opens braces and does not close them.
    #[error("{0:?} has braces that are not closed")]
    Unclosed(String),
}

/// What the variable in the environment is called that a variable of the application has its value from.
pub fn provider_name(name: &str) -> String {
    format!("SPIN_VARIABLE_{}", name.to_ascii_uppercase())
}

/// The variables of an application with what they are.
#[derive(Debug, Clone, Default)]
pub struct Values(BTreeMap<String, Option<String>>);

impl Values {
    /// What `provided` says of the name that a variable has in the environment ([`provider_name`]), or else its default.
    pub fn of(
        declared: &BTreeMap<String, Variable>,
        provided: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let value = |(name, variable): (&String, &Variable)| {
            let value = provided(&provider_name(name)).or_else(|| variable.default.clone());
            (name.clone(), value)
        };
        Self(declared.iter().map(value).collect())
    }

    /// A text with values in the place of names.
    pub fn fill(&self, text: &str) -> Result<String, VariableError> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("{{") {
            filled.push_str(before);
            let Some((name, behind)) = behind.split_once("}}") else {
                return Err(VariableError::Unclosed(text.to_owned()));
            };
            filled.push_str(self.get(name.trim(), text)?);
            rest = behind;
        }
        filled.push_str(rest);
        Ok(filled)
    }

    fn get(&self, name: &str, text: &str) -> Result<&str, VariableError> {
        match self.0.get(name) {
            Some(Some(value)) => Ok(value),
            Some(None) => Err(VariableError::NoValue {
                name: name.to_owned(),
                provider: provider_name(name),
            }),
            None => Err(VariableError::Unknown {
                name: name.to_owned(),
                text: text.to_owned(),
            }),
        }
    }
}

/// Refuses what is no name.
pub(crate) fn check_name(name: &str) -> Result<(), VariableError> {
    let is_known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase());
    if begins && !name.ends_with('_') && !name.contains("__") && name.bytes().all(is_known) {
        return Ok(());
    }
    Err(VariableError::Name(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        let variable = |default: Option<&str>| Variable {
            default: default.map(str::to_owned),
        };
        let declared = BTreeMap::from([
            ("host".to_owned(), variable(Some("example.com"))),
            ("api_key".to_owned(), variable(None)),
            ("absent".to_owned(), variable(None)),
        ]);
        Values::of(&declared, |name| {
            (name == "SPIN_VARIABLE_API_KEY").then(|| "secret".to_owned())
        })
    }

    #[test]
    fn names_in_braces_become_values() {
        for (text, filled) in [
            ("", ""),
            ("as it is }}", "as it is }}"),
            (
                "https://{{ host }}:{{api_key}}/",
                "https://example.com:secret/",
            ),
            ("{{ host }}{{ host }}", "example.comexample.com"),
        ] {
            assert_eq!(values().fill(text).as_deref(), Ok(filled), "{text}");
        }
    }

    #[test]
    fn what_has_no_value_is_said() {
        let refused = |text: &str| values().fill(text).unwrap_err().to_string();
        assert!(refused("{{ absent }}").contains("SPIN_VARIABLE_ABSENT"));
        assert!(refused("{{ other }}").contains("does not declare"));
        assert!(refused("{{ host").contains("not closed"));
    }

    #[test]
    fn names_are_those_that_an_environment_can_have() {
        for name in ["a", "api_key", "a1_2"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "_a", "a_", "a__b", "1a", "A", "a-b", "ä"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
