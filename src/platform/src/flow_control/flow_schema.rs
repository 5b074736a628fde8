//! `FlowSchema`: which requests belong to a priority level.

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, FlowSchemaSpec};
use serde_json::{Value, json};

use super::{mandatory, rules, same, validate_condition_types};
use crate::checks::{keep_metadata, required};
use crate::{Here, stored};
use vaquita_api::Object;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Part, Resource};
use vaquita_api::table::Column;

const METHODS: [&str; 2] = ["ByNamespace", "ByUser"];
/// How late a schema may be asked, at the latest.
const PRECEDENCE_MAX: i32 = 10_000;
const PRECEDENCE: i32 = 1000;

pub(super) fn resource() -> Resource {
    stored::<FlowSchema>("flowschema", false).with_status()
}

impl Kind<Here> for FlowSchema {
    const GENERATION: bool = true;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("PriorityLevel", "Where the requests belong."),
        Column::string(
            "MatchingPrecedence",
            "Which schema is asked first: the one with the least.",
        ),
        Column::string("DistinguisherMethod", "What tells flows apart."),
        Column::AGE,
        Column::string("MissingPL", "Whether the priority level is not there."),
    ];

    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
        let spec = self.spec.get_or_insert_default();
        if spec.matching_precedence.unwrap_or_default() == 0 {
            spec.matching_precedence = Some(PRECEDENCE);
        }
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({}));
    }

    fn prepare_update(new: &mut Object, old: &Object, part: Part, _now: Timestamp) {
        if part == Part::Status {
            keep_metadata(new, old);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let (path, spec) = (Path::root("spec"), self.spec.clone().unwrap_or_default());
        validate_spec(name, &spec, &path, errors);
        if mandatory::flow_schema_spec(name).is_some_and(|fixed| !same(&spec, &fixed)) {
            let detail = format!("spec of '{name}' must equal the fixed value");
            errors.push(FieldError::invalid(&path, json!(spec), detail));
        }
    }

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        let status = self.status.iter();
        let conditions = status.flat_map(|status| status.conditions.iter().flatten());
        validate_condition_types(
            conditions.map(|condition| condition.type_.as_deref()),
            errors,
        );
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let method = spec.distinguisher_method.map(|method| method.type_);
        let status = self.status.iter();
        let mut conditions = status.flat_map(|status| status.conditions.iter().flatten());
        let dangling = conditions.find(|condition| condition.type_.as_deref() == Some("Dangling"));
        let missing = dangling.map(|condition| condition.status.clone().unwrap_or_default());
        vec![
            self.name_cell(),
            spec.priority_level_configuration.name.into(),
            spec.matching_precedence.unwrap_or_default().into(),
            method.unwrap_or_else(|| "<none>".to_owned()).into(),
            self.age_cell(now),
            missing.unwrap_or_else(|| "?".to_owned()).into(),
        ]
    }
}

fn validate_spec(name: &str, spec: &FlowSchemaSpec, path: &Path<'_>, errors: &mut Errors) {
    let precedence = spec.matching_precedence.unwrap_or_default();
    let at = path.child("matchingPrecedence");
    let mut refuse = |detail: String| errors.push(FieldError::invalid(&at, precedence, detail));
    if precedence <= 0 {
        refuse("must be a positive value".to_owned());
    }
    if precedence > PRECEDENCE_MAX {
        refuse(format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence == 1 && name != "exempt" {
        refuse("only the schema named 'exempt' may have matchingPrecedence 1".to_owned());
    }
    if let Some(method) = &spec.distinguisher_method
        && !METHODS.contains(&method.type_.as_str())
    {
        let at = path.child("distinguisherMethod");
        let at = at.child("type");
        errors.push(FieldError::not_supported(&at, json!(method), &METHODS));
    }
    let at = path.child("priorityLevelConfiguration");
    let (at, level) = (at.child("name"), &spec.priority_level_configuration.name);
    if level.is_empty() {
        errors.push(FieldError::required(&at, "must reference a priority level"));
    } else {
        required(level, names::dns1123_subdomain, &at, errors);
    }
    let at = path.child("rules");
    for (index, rule) in spec.rules.iter().flatten().enumerate() {
        rules::validate(rule, &at.index(index), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn schema(spec: Value) -> Value {
        json!({"metadata": {"name": "s"}, "spec": spec})
    }

    #[test]
    fn leads_to_a_level() {
        let spec = json!({"priorityLevelConfiguration": {"name": "low"}, "distinguisherMethod": {"type": "ByUser"}});
        let old = created(&resource(), schema(spec));
        assert_eq!(old["spec"]["matchingPrecedence"], 1000);
        assert_stable(&resource(), &old);
        let row = resource().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["s", "low", 1000, "ByUser", "0s", "?"])
        );
        let dangling = changed(&old, |schema| {
            schema["status"] = json!({"conditions": [{"type": "Dangling", "status": "False"}, {"type": "Dangling"}]});
        });
        assert_eq!(
            causes(updated(&resource(), &old, dangling, Part::Status)),
            ["status.conditions[1].type: Duplicate value: \"Dangling\""]
        );
    }

    #[test]
    fn has_its_place_in_the_order() {
        assert_eq!(
            refused(
                &resource(),
                schema(json!({"matchingPrecedence": 1, "distinguisherMethod": {"type": "ByMood"}}))
            ),
            [
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.distinguisherMethod.type: Unsupported value: {\"type\":\"ByMood\"}: supported values: \"ByNamespace\", \
                 \"ByUser\"",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            ]
        );
        let level = json!({"name": "low"});
        assert_eq!(
            refused(
                &resource(),
                schema(json!({"matchingPrecedence": 10_001, "priorityLevelConfiguration": level}))
            ),
            ["spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"]
        );
    }

    #[test]
    fn some_are_the_same_everywhere() {
        for schema in mandatory::flow_schemas() {
            let stored = created(&resource(), schema.clone());
            assert_stable(&resource(), &stored);
            let mut other = schema;
            other["spec"]["rules"] = json!([]);
            let errors = refused(&resource(), other);
            assert!(
                errors[0].ends_with("must equal the fixed value"),
                "{errors:?}"
            );
        }
    }
}
