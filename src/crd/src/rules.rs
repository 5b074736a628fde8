//! The rules of a schema (`x-kubernetes-validations`): compiled once, and run for each object that is written.
//!
//! A [`RuleSet`] has the form of the schema, as far as there are rules in it. A rule sees the value of its place as `self`
//! and, when an object is replaced and the old value can be told, that as `oldSelf`.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::ValidationRule;
use serde_json::Value;
use vaquita_api::field::{Errors, FieldError, Path};

use crate::cel::{self, BUDGET, CompileError, Fault, Input, Outcome, Program, Scope, Ty};
use crate::structural::{Additional, ListType, Node, validate::Before};

/// The longest message that an expression may make, in bytes.
const MESSAGE_LIMIT: usize = 5 * 1024;

/// The rules of one place of a schema, and of those below it.
#[derive(Debug, Default)]
pub struct RuleSet {
    rules: Vec<Rule>,
    /// The name of the place's type, which messages show as its value.
    type_name: &'static str,
    properties: BTreeMap<String, RuleSet>,
    additional: Option<Box<RuleSet>>,
    items: Option<Box<RuleSet>>,
    list: ListType,
    atomic_map: bool,
}

/// One rule, compiled.
#[derive(Debug)]
pub(crate) struct Rule {
    source: ValidationRule,
    pub(crate) program: Result<Program, CompileError>,
    pub(crate) message: Option<Result<Program, CompileError>>,
}

impl Rule {
    /// Compiles a rule of a place with this type.
    pub(crate) fn compile(source: &ValidationRule, ty: &Ty) -> Self {
        let optional = source.optional_old_self == Some(true);
        let old = if optional {
            Ty::Optional(ty.clone().into())
        } else {
            ty.clone()
        };
        let scope = Scope::default()
            .with("self", ty.clone())
            .with("oldSelf", old);
        let message = source.message_expression.as_deref().map(str::trim);
        Self {
            program: Program::compile(&source.rule, &scope),
            message: message
                .filter(|expression| !expression.is_empty())
                .map(|expression| Program::compile(expression, &scope)),
            source: source.clone(),
        }
    }

    /// Whether it compares the new value with the old one.
    pub(crate) fn uses_old(&self) -> bool {
        let uses = |program: &Program| program.uses("oldSelf");
        self.program.as_ref().is_ok_and(uses)
    }

    fn optional(&self) -> bool {
        self.source.optional_old_self == Some(true)
    }

    /// What messages call the rule.
    fn name(&self) -> &str {
        let message = self.source.message.as_deref().unwrap_or_default();
        if message.is_empty() {
            self.source.rule.trim()
        } else {
            message.trim()
        }
    }
}

impl RuleSet {
    /// Compiles all rules of a schema; `is_resource` says whether it is that of a whole object.
    pub fn compile(node: &Node, is_resource: bool) -> Self {
        if !node.has_rules() {
            return Self::default();
        }
        cel::deep(|| Self::of(node, is_resource)).unwrap_or_default()
    }

    fn of(node: &Node, is_resource: bool) -> Self {
        let ty = (!node.rules.is_empty())
            .then(|| Ty::of(node, is_resource))
            .flatten();
        let rules = node.rules.iter();
        let below = |node: &Node| node.has_rules().then(|| Self::of(node, node.embedded));
        Self {
            rules: ty
                .map(|ty| rules.map(|rule| Rule::compile(rule, &ty)).collect())
                .unwrap_or_default(),
            type_name: node.ty.map_or("", |ty| ty.as_str()),
            properties: node
                .properties
                .iter()
                .filter_map(|(name, property)| Some((name.clone(), below(property)?)))
                .collect(),
            additional: match &node.additional {
                Some(Additional::Of(node)) => below(node).map(Box::new),
                _ => None,
            },
            items: node
                .items
                .as_deref()
                .and_then(|items| below(items).map(Box::new)),
            list: node.list.clone(),
            atomic_map: node.atomic_map,
        }
    }

    /// Whether there are no rules at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
            && self.properties.is_empty()
            && self.additional.is_none()
            && self.items.is_none()
    }

    /// Runs all rules on an object, or a part of one; `old` is what it replaces.
    pub fn validate(
        &self,
        value: &Value,
        old: Option<&Value>,
        at: Option<&Path<'_>>,
        errors: &mut Errors,
    ) {
        let mut run = Run {
            budget: BUDGET,
            errors,
        };
        // That the budget is used up is an error by itself.
        let _ = run.place(self, value, old, at);
    }
}

/// No further rules are run.
struct Exhausted;

struct Run<'e> {
    budget: u64,
    errors: &'e mut Errors,
}

impl Run<'_> {
    fn place(
        &mut self,
        set: &RuleSet,
        value: &Value,
        old: Option<&Value>,
        at: Option<&Path<'_>>,
    ) -> Result<(), Exhausted> {
        if value.is_null() {
            return Ok(());
        }
        for rule in &set.rules {
            self.rule(set, rule, value, old, at)?;
        }
        match value {
            Value::Object(map) => {
                let old = old.filter(|_| !set.atomic_map);
                for (name, value) in map {
                    let old = old.and_then(|old| old.get(name));
                    if let Some(below) = set.properties.get(name) {
                        self.place(below, value, old, Some(&Path::below(at, name)))?;
                    } else if let Some(below) = &set.additional {
                        let path = at.map(|at| at.key(name));
                        self.place(below, value, old, path.as_ref())?;
                    }
                }
            }
            Value::Array(items) => {
                let Some(below) = &set.items else {
                    return Ok(());
                };
                let before = Before::of(&set.list, old);
                for (index, value) in items.iter().enumerate() {
                    let path = at.map(|at| at.index(index));
                    self.place(below, value, before.find(value), path.as_ref())?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn rule(
        &mut self,
        set: &RuleSet,
        rule: &Rule,
        value: &Value,
        old: Option<&Value>,
        at: Option<&Path<'_>>,
    ) -> Result<(), Exhausted> {
        let nowhere = Path::root("<nil>");
        let path = at.copied().unwrap_or(nowhere);
        let fail = |run: &mut Self, detail: String| {
            run.errors
                .push(FieldError::invalid(&path, set.type_name, detail));
        };
        let program = match &rule.program {
            Ok(program) => program,
            Err(error) => {
                fail(self, format!("rule compile error: {error}"));
                return Ok(());
            }
        };
        if rule.uses_old() && old.is_none() && !rule.optional() {
            return Ok(());
        }
        // What has been good enough before does not stand in the way of other changes.
        if !rule.uses_old() && old == Some(value) {
            return Ok(());
        }
        if self.budget == 0 {
            self.out_of_budget(set, &path);
            return Err(Exhausted);
        }
        let inputs = inputs(rule, value, old);
        let detail = match program.evaluate(&inputs, &mut self.budget) {
            Ok(Outcome::Bool(true)) => return Ok(()),
            Ok(_) => self.message(set, rule, &inputs, &path)?,
            Err(fault @ Fault::TooExpensive) if self.budget > 0 => {
                fail(
                    self,
                    format!(
                        "'{fault}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                        rule.name()
                    ),
                );
                return Err(Exhausted);
            }
            Err(Fault::TooExpensive) => {
                self.out_of_budget(set, &path);
                return Err(Exhausted);
            }
            Err(fault @ Fault::NoSuchOverload) => {
                fail(
                    self,
                    format!(
                        "'{fault}': call arguments did not match a supported operator, function or macro signature \
                         for rule: {}",
                        rule.name()
                    ),
                );
                return Ok(());
            }
            Err(fault) => {
                fail(self, format!("{fault} evaluating rule: {}", rule.name()));
                return Ok(());
            }
        };
        self.errors.push(broken(set, rule, at, detail));
        Ok(())
    }

    fn out_of_budget(&mut self, set: &RuleSet, path: &Path<'_>) {
        const DETAIL: &str = "validation failed due to running out of cost budget, no further validation rules will be run";
        self.errors
            .push(FieldError::invalid(path, set.type_name, DETAIL));
    }

    /// What is said about a broken rule.
    fn message(
        &mut self,
        set: &RuleSet,
        rule: &Rule,
        inputs: &[Input<'_>],
        path: &Path<'_>,
    ) -> Result<String, Exhausted> {
        if let Some(Ok(program)) = &rule.message {
            match program.evaluate(inputs, &mut self.budget) {
                Ok(Outcome::Text(text)) => {
                    let text = text.trim();
                    if !text.is_empty() && text.len() <= MESSAGE_LIMIT && !text.contains('\n') {
                        return Ok(text.to_owned());
                    }
                }
                Err(Fault::TooExpensive) => {
                    let detail = "messageExpression evaluation failed due to running out of cost budget, no further \
                                  validation rules will be run";
                    self.errors
                        .push(FieldError::invalid(path, set.type_name, detail));
                    return Err(Exhausted);
                }
                // The rule is broken all the same; its plain message has to do.
                _ => {}
            }
        }
        let message = rule.source.message.as_deref().unwrap_or_default();
        Ok(if message.is_empty() {
            format!("failed rule: {}", rule.name())
        } else {
            message.trim().to_owned()
        })
    }
}

fn inputs<'v>(rule: &Rule, value: &'v Value, old: Option<&'v Value>) -> [Input<'v>; 2] {
    let old = match old {
        old if rule.optional() => Input::Optional(old),
        Some(old) => Input::Value(old),
        None => Input::Absent,
    };
    [Input::Value(value), old]
}

/// The error of a broken rule, of the sort and at the place that the rule asks for.
fn broken(set: &RuleSet, rule: &Rule, at: Option<&Path<'_>>, detail: String) -> FieldError {
    let below = rule.source.field_path.as_deref().unwrap_or_default().trim();
    let below = normalised(below);
    let path = match (at, below.as_str()) {
        (None, "") => Path::root("<nil>"),
        (Some(at), "") => *at,
        (at, below) => Path::below(at, below),
    };
    match rule.source.reason.as_deref() {
        Some("FieldValueForbidden") => FieldError::forbidden(&path, detail),
        Some("FieldValueRequired") => FieldError::required(&path, detail),
        Some("FieldValueDuplicate") => FieldError::duplicate(&path, set.type_name),
        _ => FieldError::invalid(&path, set.type_name, detail),
    }
}

/// A rule's field path as it is printed: without the dot that it begins with, keys of maps without quotes.
fn normalised(path: &str) -> String {
    let path = path.strip_prefix('.').unwrap_or(path);
    path.replace("['", "[").replace("']", "]")
}
