//! The expressions of webhooks and policies: that they are there, and have names.

use std::collections::HashSet;

use k8s_openapi::api::admissionregistration::v1::{MatchCondition, ParamKind, Variable};

use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;

/// The most conditions that a webhook or policy may have.
const CONDITIONS_MAX: usize = 64;

/// What the expression language keeps for itself.
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// What must be true of a request.
pub(super) fn validate_conditions(
    conditions: Option<&[MatchCondition]>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let conditions = conditions.unwrap_or_default();
    if conditions.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(path, conditions.len(), CONDITIONS_MAX));
    }
    let mut seen = HashSet::new();
    for (at, condition) in conditions.iter().enumerate() {
        let path = path.index(at);
        if condition.expression.trim().is_empty() {
            errors.push(FieldError::required(&path.child("expression"), ""));
        }
        let (at, name) = (path.child("name"), condition.name.as_str());
        if name.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        invalid(&at, name, names::qualified_name(name), errors);
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at, name));
        }
    }
}

/// Expressions that others use by their names.
pub(super) fn validate_variables(
    variables: Option<&[Variable]>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (at, variable) in variables.unwrap_or_default().iter().enumerate() {
        let path = path.index(at);
        if variable.name.trim().is_empty() {
            let detail = "name is not specified";
            errors.push(FieldError::required(&path.child("name"), detail));
        } else if !is_identifier(&variable.name) {
            let detail = "name is not a valid CEL identifier";
            errors.push(FieldError::invalid(
                &path.child("name"),
                variable.name.as_str(),
                detail,
            ));
        }
        if variable.expression.trim().is_empty() {
            let detail = "expression is not specified";
            errors.push(FieldError::required(&path.child("expression"), detail));
        }
    }
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !RESERVED.contains(&name)
}

/// The kind of the objects that a policy takes its parameters from.
pub(super) fn validate_param_kind(kind: &ParamKind, path: &Path<'_>, errors: &mut Errors) {
    let version = kind.api_version.as_deref().unwrap_or_default();
    let at = path.child("apiVersion");
    let mut refuse = |value: &str, detail: String| {
        errors.push(FieldError::invalid(&at, value, detail));
    };
    match version.matches('/').count() {
        _ if version.is_empty() => errors.push(FieldError::required(&at, "")),
        0 | 1 => {
            let (group, number) = version.split_once('/').unwrap_or(("", version));
            let problems = names::dns1123_subdomain(group);
            if !group.is_empty() && !problems.is_empty() {
                refuse(group, problems.join(","));
            }
            let problems = names::dns1035_label(number);
            if number.is_empty() {
                refuse(version, "version must be specified".to_owned());
            } else if !problems.is_empty() {
                refuse(number, problems.join(","));
            }
        }
        _ => refuse(
            version,
            format!("unexpected GroupVersion string: {version}"),
        ),
    }
    let (at, name) = (path.child("kind"), kind.kind.as_deref().unwrap_or_default());
    let problems = names::dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else if !problems.is_empty() {
        let detail = format!(
            "may have mixed case, but should otherwise match: {}",
            problems.join(",")
        );
        errors.push(FieldError::invalid(&at, name, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(version: &str, kind: &str) -> Vec<String> {
        let mut errors = Errors::default();
        let kind = ParamKind {
            api_version: Some(version.to_owned()),
            kind: Some(kind.to_owned()),
        };
        validate_param_kind(&kind, &Path::root("k"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn knows_kinds_and_identifiers() {
        assert_eq!(kind("v1", "ConfigMap"), [""; 0]);
        assert_eq!(kind("example.com/v1", "Limit"), [""; 0]);
        assert_eq!(
            kind("a/b/c", ""),
            [
                "k.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                "k.kind: Required value"
            ]
        );
        assert_eq!(
            kind("a/", "X"),
            ["k.apiVersion: Invalid value: \"a/\": version must be specified"]
        );
        assert!(is_identifier("_a1"));
        for name in ["", "1a", "in", "a-b"] {
            assert!(!is_identifier(name), "{name}");
        }
    }
}
