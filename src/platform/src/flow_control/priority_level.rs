//! `PriorityLevelConfiguration`: how many requests of a level run at once, and what becomes of the others.

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{
    ExemptPriorityLevelConfiguration, LimitResponse, LimitedPriorityLevelConfiguration,
    PriorityLevelConfiguration, PriorityLevelConfigurationSpec, QueuingConfiguration,
};
use serde_json::{Value, json};

use super::{mandatory, same, validate_condition_types};
use crate::checks::keep_metadata;
use crate::{Here, stored};
use vaquita_api::Object;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Part, Resource};
use vaquita_api::table::Column;

const EXEMPT: &str = "exempt";
const QUEUES_MAX: i32 = 10_000_000;
/// How many bits of a hash there are to choose queues with.
const HASH_BITS: f64 = 60.0;

pub(super) fn resource() -> Resource {
    stored::<PriorityLevelConfiguration>("prioritylevelconfiguration", false).with_status()
}

impl Kind<Here> for PriorityLevelConfiguration {
    const GENERATION: bool = true;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Type", "Whether the level is limited."),
        Column::string(
            "NominalConcurrencyShares",
            "The level's share of all places.",
        ),
        Column::string("Queues", "How many queues there are."),
        Column::string("HandSize", "Among how many of them each flow chooses."),
        Column::string(
            "QueueLengthLimit",
            "How many requests wait in each at most.",
        ),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
        let spec = self.spec.get_or_insert_default();
        if let Some(exempt) = &mut spec.exempt {
            exempt.nominal_concurrency_shares.get_or_insert(0);
            exempt.lendable_percent.get_or_insert(0);
        }
        let Some(limited) = &mut spec.limited else {
            return;
        };
        limited.nominal_concurrency_shares.get_or_insert(30);
        limited.lendable_percent.get_or_insert(0);
        let response = limited.limit_response.get_or_insert_default();
        if let Some(queuing) = &mut response.queuing {
            for (field, default) in [
                (&mut queuing.hand_size, 8),
                (&mut queuing.queues, 64),
                (&mut queuing.queue_length_limit, 50),
            ] {
                if field.unwrap_or_default() == 0 {
                    *field = Some(default);
                }
            }
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
        let Some(mut fixed) = mandatory::priority_level_spec(name) else {
            return;
        };
        let mut compared = spec.clone();
        let except = if name == EXEMPT {
            // How much of it is lent is for the cluster's owner to say.
            compared.exempt = None;
            fixed["exempt"] = Value::Null;
            " except the 'spec.exempt' field"
        } else {
            ""
        };
        if !same(&compared, &fixed) {
            let detail = format!("spec of '{name}'{except} must equal the fixed value");
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
        let limited = spec.limited.unwrap_or_default();
        let queuing = limited
            .limit_response
            .unwrap_or_default()
            .queuing
            .unwrap_or_default();
        let cell = |number: Option<i32>| number.map_or("<none>".into(), Value::from);
        vec![
            self.name_cell(),
            spec.type_.into(),
            cell(limited.nominal_concurrency_shares),
            cell(queuing.queues),
            cell(queuing.hand_size),
            cell(queuing.queue_length_limit),
            self.age_cell(now),
        ]
    }
}

fn validate_spec(
    name: &str,
    spec: &PriorityLevelConfigurationSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let (at_exempt, at_limited) = (path.child("exempt"), path.child("limited"));
    if (name == EXEMPT) != (spec.type_ == "Exempt") {
        let detail = "type must be 'Exempt' if and only if name is 'exempt'";
        errors.push(FieldError::invalid(
            &path.child("type"),
            spec.type_.as_str(),
            detail,
        ));
    }
    match spec.type_.as_str() {
        "Exempt" => {
            if spec.limited.is_some() {
                let detail = "must be nil if the type is not Limited";
                errors.push(FieldError::forbidden(&at_limited, detail));
            }
            if let Some(exempt) = &spec.exempt {
                validate_exempt(exempt, &at_exempt, errors);
            }
        }
        "Limited" => {
            if spec.exempt.is_some() {
                let detail = "must be nil if the type is Limited";
                errors.push(FieldError::forbidden(&at_exempt, detail));
            }
            if let Some(limited) = &spec.limited {
                validate_limited(limited, &at_limited, errors);
            } else {
                let detail = "must not be empty when type is Limited";
                errors.push(FieldError::required(&at_limited, detail));
            }
        }
        other => {
            let known = ["Exempt", "Limited"];
            errors.push(FieldError::not_supported(
                &path.child("type"),
                other,
                &known,
            ));
        }
    }
}

fn not_negative(value: Option<i32>, detail: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Some(value) = value.filter(|value| *value < 0) {
        errors.push(FieldError::invalid(path, value, detail));
    }
}

fn percent(value: Option<i32>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(value) = value.filter(|value| !(0..=100).contains(value)) {
        let detail = "must be between 0 and 100, inclusive";
        errors.push(FieldError::invalid(path, value, detail));
    }
}

fn validate_exempt(
    exempt: &ExemptPriorityLevelConfiguration,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    not_negative(
        exempt.nominal_concurrency_shares,
        "must be a non-negative integer",
        &path.child("nominalConcurrencyShares"),
        errors,
    );
    percent(
        exempt.lendable_percent,
        &path.child("lendablePercent"),
        errors,
    );
}

fn validate_limited(
    limited: &LimitedPriorityLevelConfiguration,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    not_negative(
        limited.nominal_concurrency_shares,
        "must be a non-negative integer",
        &path.child("nominalConcurrencyShares"),
        errors,
    );
    let response = limited.limit_response.clone().unwrap_or_default();
    validate_response(&response, &path.child("limitResponse"), errors);
    percent(
        limited.lendable_percent,
        &path.child("lendablePercent"),
        errors,
    );
    not_negative(
        limited.borrowing_limit_percent,
        "if specified, must be a non-negative integer",
        &path.child("borrowingLimitPercent"),
        errors,
    );
}

fn validate_response(response: &LimitResponse, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("queuing");
    match (response.type_.as_str(), &response.queuing) {
        ("Queue", Some(queuing)) => validate_queuing(queuing, &at, errors),
        ("Queue", None) => errors.push(FieldError::required(
            &at,
            "must not be empty if limited.limitResponse.type is Limited",
        )),
        ("Reject", Some(_)) => errors.push(FieldError::forbidden(
            &at,
            "must be nil if limited.limitResponse.type is not Limited",
        )),
        ("Reject", None) => {}
        (other, _) => errors.push(FieldError::not_supported(
            &path.child("type"),
            other,
            &["Queue", "Reject"],
        )),
    }
}

fn validate_queuing(queuing: &QueuingConfiguration, path: &Path<'_>, errors: &mut Errors) {
    let number = |value: Option<i32>| value.unwrap_or_default();
    let (queues, hand) = (number(queuing.queues), number(queuing.hand_size));
    let mut refuse = |field: &str, value: i32, detail: String| {
        errors.push(FieldError::invalid(&path.child(field), value, detail));
    };
    let positive = || "must be positive".to_owned();
    let limit = number(queuing.queue_length_limit);
    if limit <= 0 {
        refuse("queueLengthLimit", limit, positive());
    }
    if queues <= 0 {
        refuse("queues", queues, positive());
    } else if queues > QUEUES_MAX {
        refuse(
            "queues",
            queues,
            format!("must not be greater than {QUEUES_MAX}"),
        );
    }
    if hand <= 0 {
        refuse("handSize", hand, positive());
    } else if hand > queues {
        let detail = format!("should not be greater than queues ({queues})");
        refuse("handSize", hand, detail);
    } else if entropy_bits(queues, hand) > HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        refuse("handSize", hand, detail);
    }
}

/// How many bits it takes to deal a hand out of a deck.
fn entropy_bits(deck: i32, hand: i32) -> f64 {
    (f64::from(deck).log2() * f64::from(hand)).ceil()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::testing::{assert_stable, created, refused};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn level(name: &str, spec: Value) -> Value {
        json!({"metadata": {"name": name}, "spec": spec})
    }

    #[test]
    fn shares_places_and_queues() {
        let spec = json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}});
        let stored = created(&resource(), level("low", spec));
        assert_eq!(
            stored["spec"]["limited"],
            json!({
                "nominalConcurrencyShares": 30, "lendablePercent": 0,
                "limitResponse": {"type": "Queue", "queuing": {"handSize": 8, "queues": 64, "queueLengthLimit": 50}},
            })
        );
        assert_stable(&resource(), &stored);
        let row = resource().row(&stored, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!(["low", "Limited", 30, 64, 8, 50, "0s"])
        );
    }

    #[test]
    fn refuses_what_does_not_add_up() {
        let with = |limited: Value| {
            refused(
                &resource(),
                level("low", json!({"type": "Limited", "limited": limited})),
            )
        };
        let queue =
            |queuing: Value| with(json!({"limitResponse": {"type": "Queue", "queuing": queuing}}));
        assert_eq!(
            queue(json!({"queues": 4})),
            [
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: should not be greater than queues (4)"
            ]
        );
        assert_eq!(
            queue(json!({"queues": 1024, "handSize": 7})),
            [
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 7: required entropy bits of deckSize 1024 and \
                 handSize 7 should not be greater than 60"
            ]
        );
        assert_eq!(
            with(json!({"lendablePercent": 101, "limitResponse": {"type": "Wait"}})),
            [
                "spec.limited.limitResponse.type: Unsupported value: \"Wait\": supported values: \"Queue\", \"Reject\"",
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
            ]
        );
        assert_eq!(
            refused(&resource(), level("low", json!({"type": "Exempt"}))),
            [
                "spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'"
            ]
        );
    }

    #[test]
    fn some_are_the_same_everywhere() {
        for level in mandatory::priority_levels() {
            let stored = created(&resource(), level.clone());
            assert_stable(&resource(), &stored);
        }
        let lent = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 7, "lendablePercent": 50}});
        created(&resource(), level("exempt", lent));
        let other = json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}});
        let errors = refused(&resource(), level("catch-all", other));
        assert!(
            errors[0].ends_with("spec of 'catch-all' must equal the fixed value"),
            "{errors:?}"
        );
    }
}
