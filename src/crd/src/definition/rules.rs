//! What the rules of a schema must be like.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrBool, ValidationRule,
};
use serde_json::Value;
use vaquita_api::field::{Errors, FieldError, Path};

use crate::cel::{self, Ty};
use crate::rules::Rule;
use crate::structural::{Node, items};

/// How many rules a schema may have.
const RULES: usize = 2000;
/// The sorts of mistakes that a rule may report.
const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];

/// Finds mistakes that can be seen without looking at the expressions.
pub(super) fn texts(schema: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("x-kubernetes-validations");
    for (index, rule) in schema.x_kubernetes_validations.iter().flatten().enumerate() {
        one(schema, rule, &list.index(index), errors);
    }
}

fn one(schema: &JSONSchemaProps, rule: &ValidationRule, path: &Path<'_>, errors: &mut Errors) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (message, expression) = (text(&rule.message), text(&rule.message_expression));
    let lines = |text: &str| text.contains(['\n', '\r']);
    let trimmed = message.trim();
    if rule.rule.trim().is_empty() {
        errors.push(FieldError::required(
            &path.child("rule"),
            "rule is not specified",
        ));
    } else if !message.is_empty() && trimmed.is_empty() {
        errors.push(FieldError::invalid(
            &path.child("message"),
            message.as_str(),
            "message must be non-empty if specified",
        ));
    } else if lines(trimmed) {
        errors.push(FieldError::invalid(
            &path.child("message"),
            message.as_str(),
            "message must not contain line breaks",
        ));
    } else if lines(rule.rule.trim()) && trimmed.is_empty() {
        errors.push(FieldError::required(
            &path.child("message"),
            "message must be specified if rule contains line breaks",
        ));
    }
    if !expression.is_empty() && expression.trim().is_empty() {
        errors.push(FieldError::required(
            &path.child("messageExpression"),
            "messageExpression must be non-empty if specified",
        ));
    }
    if let Some(reason) = rule
        .reason
        .as_deref()
        .filter(|reason| !REASONS.contains(reason))
    {
        errors.push(FieldError::not_supported(
            &path.child("reason"),
            reason,
            &REASONS,
        ));
    }
    let field = text(&rule.field_path);
    if field.is_empty() {
        return;
    }
    let mut wrong = |detail: &str| {
        errors.push(FieldError::invalid(
            &path.child("fieldPath"),
            field.as_str(),
            detail,
        ));
    };
    if field.trim().is_empty() {
        wrong("fieldPath must be non-empty if specified");
    }
    if lines(&field) {
        wrong("fieldPath must not contain line breaks");
    }
    if !leads_somewhere(field.trim(), &Node::compile(schema)) {
        wrong("fieldPath must be a valid path");
    }
}

/// Whether a path of names and quoted keys leads to a place of the schema.
fn leads_somewhere(path: &str, root: &Node) -> bool {
    let Ok(parsed) = crate::jsonpath::JsonPath::parse(path) else {
        return false;
    };
    parsed.names().is_some_and(|names| {
        names
            .iter()
            .try_fold(root, |node, name| node.property(name))
            .is_some()
    })
}

/// Finds expressions that can't be compiled. The schema is sound otherwise.
pub(super) fn validate(
    schema: &JSONSchemaProps,
    node: &Node,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if !node.has_rules() {
        return;
    }
    if count(node) > RULES {
        let detail = format!("a schema may have no more than {RULES} validation rules");
        errors.push(FieldError::forbidden(path, detail));
        return;
    }
    let mut found = Vec::new();
    let root = path.to_string();
    let done = cel::deep(|| {
        let place = Place {
            is_resource: true,
            uncorrelated: None,
        };
        expressions(schema, node, &Path::root(&root), &place, &mut found);
    });
    errors.extend(found);
    if done.is_none() {
        errors.push(FieldError::invalid(
            path,
            "",
            "the validation rules can't be compiled",
        ));
    }
}

fn count(node: &Node) -> usize {
    node.rules.len() + node.children().map(count).sum::<usize>()
}

/// What is known about a place from those above it.
struct Place {
    is_resource: bool,
    /// The first place above of which the old and the new value can't be matched.
    uncorrelated: Option<String>,
}

fn expressions(
    schema: &JSONSchemaProps,
    node: &Node,
    path: &Path<'_>,
    place: &Place,
    errors: &mut Vec<FieldError>,
) {
    if !node.has_rules() || errors.len() >= Errors::LIMIT {
        return;
    }
    own(node, path, place, errors);
    let properties = path.child("properties");
    let atomic = node.atomic_map;
    for (name, property) in schema.properties.iter().flatten() {
        if let Some(node) = node.properties.get(name) {
            let place = place.below(node.embedded, atomic, path);
            expressions(property, node, &properties.key(name), &place, errors);
        }
    }
    if let (Some(JSONSchemaPropsOrBool::Schema(schema)), Some(node)) = (
        &schema.additional_properties,
        // An additional property may have any name.
        node.property("").filter(|_| node.properties.is_empty()),
    ) {
        let place = place.below(node.embedded, atomic, path);
        let at = path.child("additionalProperties");
        expressions(schema, node, &at, &place, errors);
    }
    if let (Some(schema), Some(items)) = (items(schema), &node.items) {
        let no_keys = !matches!(node.list, crate::structural::ListType::Map(_));
        let place = place.below(items.embedded, no_keys, path);
        expressions(schema, items, &path.child("items"), &place, errors);
    }
}

impl Place {
    fn below(&self, is_resource: bool, uncorrelated: bool, path: &Path<'_>) -> Self {
        let here = || uncorrelated.then(|| path.to_string());
        Self {
            is_resource,
            uncorrelated: self.uncorrelated.clone().or_else(here),
        }
    }
}

/// The rules of one place.
fn own(node: &Node, path: &Path<'_>, place: &Place, errors: &mut Vec<FieldError>) {
    if node.rules.is_empty() {
        return;
    }
    let list = path.child("x-kubernetes-validations");
    let Some(ty) = Ty::of(node, place.is_resource) else {
        const DETAIL: &str = "rules are not supported where the type is not known";
        errors.push(FieldError::forbidden(&list, DETAIL));
        return;
    };
    for (index, rule) in node.rules.iter().enumerate() {
        let at = list.index(index);
        let compiled = Rule::compile(rule, &ty);
        let shown = || serde_json::to_value(rule).unwrap_or(Value::Null);
        let wrong = match &compiled.program {
            Err(error) => Some(error.to_string()),
            Ok(program) if !matches!(program.ty(), Ty::Bool | Ty::Dyn) => {
                Some("cel expression must evaluate to a bool".to_owned())
            }
            Ok(_) => None,
        };
        if let Some(detail) = wrong {
            errors.push(FieldError::invalid(&at.child("rule"), shown(), detail));
        }
        let wrong = match &compiled.message {
            Some(Err(error)) => Some(format!("messageExpression {error}")),
            Some(Ok(program)) if !matches!(program.ty(), Ty::Str | Ty::Dyn) => {
                Some("messageExpression must evaluate to a string".to_owned())
            }
            _ => None,
        };
        if let Some(detail) = wrong {
            let at = at.child("messageExpression");
            errors.push(FieldError::invalid(&at, shown(), detail));
        }
        if compiled.uses_old() {
            if let Some(above) = &place.uncorrelated {
                let detail = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {above}"
                );
                errors.push(FieldError::invalid(
                    &at.child("rule"),
                    rule.rule.as_str(),
                    detail,
                ));
            }
        } else if let Some(set) = rule.optional_old_self {
            const DETAIL: &str = "may not be set if oldSelf is not used in rule";
            errors.push(FieldError::invalid(
                &at.child("optionalOldSelf"),
                set,
                DETAIL,
            ));
        }
    }
}
