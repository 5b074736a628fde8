//! `scheduling.k8s.io/v1` `PriorityClass`.

use jiff::Timestamp;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;

/// The highest priority that users may give; what is above is the system's.
const USER_MAX: i32 = 1_000_000_000;
const SYSTEM_PREFIX: &str = "system-";
/// The classes that every cluster has, with their values.
const SYSTEM_CLASSES: [(&str, i32); 2] = [
    ("system-cluster-critical", 2 * USER_MAX),
    ("system-node-critical", 2 * USER_MAX + 1000),
];
const POLICIES: [&str; 2] = ["Never", "PreemptLowerPriority"];

pub(super) fn resource() -> Resource {
    stored::<PriorityClass>("priorityclass", false).short(&["pc"])
}

impl Kind<Here> for PriorityClass {
    const GENERATION: bool = true;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::integer("Value", "The priority of pods of this class."),
        Column::boolean(
            "Global-Default",
            "Whether pods without a class get this one.",
        ),
        Column::AGE,
        Column::string(
            "PreemptionPolicy",
            "Whether pods of this class may push others out.",
        ),
    ];

    fn apply_defaults(&mut self) {
        self.value.get_or_insert(0);
        self.preemption_policy
            .get_or_insert_with(|| "PreemptLowerPriority".to_owned());
    }

    fn validate(&self, errors: &mut Errors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let value = self.value.unwrap_or_default();
        if name.starts_with(SYSTEM_PREFIX) {
            if let Err(why) = self.is_known(name) {
                let detail = format!(
                    "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {why}"
                );
                errors.push(FieldError::forbidden(
                    &Path::root("metadata").child("name"),
                    detail,
                ));
            }
        } else if value > USER_MAX {
            let detail = format!("maximum allowed value of a user defined priority is {USER_MAX}");
            errors.push(FieldError::forbidden(&Path::root("value"), detail));
        }
        if let Some(policy) = self
            .preemption_policy
            .as_deref()
            .filter(|policy| !POLICIES.contains(policy))
        {
            errors.push(FieldError::not_supported(
                &Path::root("preemptionPolicy"),
                policy,
                &POLICIES,
            ));
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        const FIXED: &str = "may not be changed in an update.";
        if self.value != old.value {
            errors.push(FieldError::forbidden(&Path::root("value"), FIXED));
        }
        if self.preemption_policy != old.preemption_policy {
            let policy = self.preemption_policy.clone().unwrap_or_default();
            errors.push(FieldError::invalid(
                &Path::root("preemptionPolicy"),
                policy,
                "field is immutable",
            ));
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            self.name_cell(),
            self.value.unwrap_or_default().into(),
            self.global_default.unwrap_or_default().into(),
            self.age_cell(now),
            self.preemption_policy.clone().unwrap_or_default().into(),
        ]
    }
}

trait System {
    fn is_known(&self, name: &str) -> Result<(), String>;
}

impl System for PriorityClass {
    /// Whether it is one of those that every cluster has, as every cluster has it.
    fn is_known(&self, name: &str) -> Result<(), String> {
        let known = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name);
        let Some((_, value)) = known else {
            return Err(format!("{name} is not a known system priority class"));
        };
        if self.value != Some(*value) {
            return Err(format!("value of {name} PriorityClass must be {value}"));
        }
        if self.global_default == Some(true) {
            return Err(format!(
                "globalDefault of {name} PriorityClass must be false"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{causes, changed, created, refused, updated};

    #[test]
    fn is_decided_once() {
        let old = created(
            &resource(),
            json!({"metadata": {"name": "high"}, "value": 7, "globalDefault": false}),
        );
        assert_eq!(old["preemptionPolicy"], "PreemptLowerPriority");
        assert!(!old.contains_key("globalDefault"));
        let row = resource().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["high", 7, false, "0s", "PreemptLowerPriority"])
        );
        let raised = changed(&old, |class| class["value"] = 8.into());
        assert_eq!(
            causes(updated(&resource(), &old, raised, Part::Main)),
            ["value: Forbidden: may not be changed in an update."]
        );
        assert_eq!(
            refused(
                &resource(),
                json!({"metadata": {"name": "x"}, "value": USER_MAX + 1})
            )
            .len(),
            1
        );
        assert_eq!(
            refused(
                &resource(),
                json!({"metadata": {"name": "system-x"}, "value": 1})
            )
            .len(),
            1
        );
    }
}
