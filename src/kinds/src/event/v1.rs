//! `events.k8s.io/v1` Event: the core events under other names, and with stricter rules.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::events::v1::Event;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{Here, stored};
use vaquita_api::Object;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Convert, Kind, Resource, SelectableField, Storage};
use vaquita_api::status::Status;
use vaquita_api::table::Column;

pub(crate) fn resource() -> Resource {
    stored::<Event>("event", true)
        .short(&["ev"])
        .kept(Storage::Shared {
            with: ("", "v1", "events"),
            convert: Arc::new(Renamed),
        })
}

/// The fields that have other names in core events: this group's name, then core's.
const NAMES: [(&str, &str); 7] = [
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedSource", "source"),
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
];

/// Between the two names of each field. Neither form can say anything that the other can't.
struct Renamed;

fn rename(
    object: &mut Object,
    api_version: &str,
    names: impl Iterator<Item = (&'static str, &'static str)>,
) {
    for (from, to) in names {
        if let Some(value) = object.remove(from) {
            object.insert(to.to_owned(), value);
        }
    }
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), "Event".into());
}

impl Convert for Renamed {
    fn from_stored(&self, mut object: Object) -> Result<Object, Status> {
        let names = NAMES.iter().map(|(here, core)| (*core, *here));
        rename(&mut object, "events.k8s.io/v1", names);
        // Core events may leave these two out, which are numbers and times here.
        if let Some(Value::Object(series)) = object.get_mut("series") {
            series.entry("count").or_insert_with(|| json!(0));
            let never = || json!("0001-01-01T00:00:00.000000Z");
            series.entry("lastObservedTime").or_insert_with(never);
        }
        Ok(object)
    }

    fn to_stored(&self, mut object: Object) -> Result<Object, Status> {
        rename(&mut object, "v1", NAMES.into_iter());
        object.entry("involvedObject").or_insert_with(|| json!({}));
        Ok(object)
    }
}

impl Kind<Here> for Event {
    const CREATE_ON_UPDATE: bool = true;

    const SELECTABLE: &'static [SelectableField] = &[
        SelectableField::new("reason", &["reason"], ""),
        SelectableField::new("regarding.apiVersion", &["regarding", "apiVersion"], ""),
        SelectableField::new("regarding.fieldPath", &["regarding", "fieldPath"], ""),
        SelectableField::new("regarding.kind", &["regarding", "kind"], ""),
        SelectableField::new("regarding.name", &["regarding", "name"], ""),
        SelectableField::new("regarding.namespace", &["regarding", "namespace"], ""),
        SelectableField::new(
            "regarding.resourceVersion",
            &["regarding", "resourceVersion"],
            "",
        ),
        SelectableField::new("regarding.uid", &["regarding", "uid"], ""),
        SelectableField::new("reportingController", &["reportingController"], ""),
        SelectableField::new("type", &["type"], ""),
    ];

    const COLUMNS: &'static [Column] = <core::Event as Kind<Here>>::COLUMNS;

    fn apply_defaults(&mut self) {
        self.deprecated_source.get_or_insert_default();
        self.regarding.get_or_insert_default();
        self.reporting_controller.get_or_insert_default();
        self.reporting_instance.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        super::validate_either(&as_core(self), errors);
        validate_series(self, errors);
        if self.event_time.is_none() {
            errors.push(FieldError::required(&Path::root("eventTime"), ""));
        }
        let kind = self.type_.as_deref().unwrap_or_default();
        if !matches!(kind, "Normal" | "Warning") {
            let detail = format!("has invalid value: {kind}");
            errors.push(FieldError::invalid(&Path::root("type"), "", detail));
        }
        let source = self.deprecated_source.clone().unwrap_or_default();
        let has = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        for (field, set) in [
            ("firstTimestamp", self.deprecated_first_timestamp.is_some()),
            ("lastTimestamp", self.deprecated_last_timestamp.is_some()),
            ("count", self.deprecated_count.unwrap_or_default() != 0),
            ("source", has(&source.component) || has(&source.host)),
        ] {
            if set {
                let path = Path::root(field);
                errors.push(FieldError::invalid(&path, "", "needs to be unset"));
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        super::validate_either(&as_core(self), errors);
        if self.series != old.series {
            validate_series(self, errors);
        }
        fixed("involvedObject", &self.regarding, &old.regarding, errors);
        fixed("reason", &self.reason, &old.reason, errors);
        fixed("message", &self.note, &old.note, errors);
        fixed(
            "source",
            &self.deprecated_source,
            &old.deprecated_source,
            errors,
        );
        fixed(
            "firstTimestamp",
            &self.deprecated_first_timestamp,
            &old.deprecated_first_timestamp,
            errors,
        );
        fixed(
            "lastTimestamp",
            &self.deprecated_last_timestamp,
            &old.deprecated_last_timestamp,
            errors,
        );
        fixed(
            "count",
            &self.deprecated_count,
            &old.deprecated_count,
            errors,
        );
        fixed("type", &self.type_, &old.type_, errors);
        fixed("eventTime", &self.event_time, &old.event_time, errors);
        fixed("action", &self.action, &old.action, errors);
        fixed("related", &self.related, &old.related, errors);
        fixed(
            "reportingController",
            &self.reporting_controller,
            &old.reporting_controller,
            errors,
        );
        fixed(
            "reportingInstance",
            &self.reporting_instance,
            &old.reporting_instance,
            errors,
        );
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        as_core(self).row(now)
    }
}

/// A field that is decided when the event is created. Errors name it as core events do, here as upstream.
fn fixed<T: PartialEq + Serialize>(field: &str, new: &T, old: &T, errors: &mut Errors) {
    if new != old {
        let value = serde_json::to_value(new).unwrap_or_default();
        errors.push(FieldError::invalid(
            &Path::root(field),
            value,
            "field is immutable",
        ));
    }
}

fn validate_series(event: &Event, errors: &mut Errors) {
    let Some(series) = &event.series else { return };
    if series.count < 2 {
        let path = Path::root("series.count");
        errors.push(FieldError::invalid(&path, "", "should be at least 2"));
    }
    // Year 1 is how a time that was never set is written.
    if series.last_observed_time.0.strftime("%Y").to_string() == "0001" {
        let path = Path::root("series.lastObservedTime");
        errors.push(FieldError::required(&path, ""));
    }
}

/// The same event as core has it.
fn as_core(event: &Event) -> core::Event {
    let event = event.clone();
    core::Event {
        action: event.action,
        count: event.deprecated_count,
        event_time: event.event_time,
        first_timestamp: event.deprecated_first_timestamp,
        involved_object: event.regarding.unwrap_or_default(),
        last_timestamp: event.deprecated_last_timestamp,
        message: event.note,
        metadata: event.metadata,
        reason: event.reason,
        related: event.related,
        reporting_component: event.reporting_controller,
        reporting_instance: event.reporting_instance,
        series: event.series.map(|series| core::EventSeries {
            count: Some(series.count),
            last_observed_time: Some(series.last_observed_time),
        }),
        source: event.deprecated_source,
        type_: event.type_,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{causes, changed, created, refused, updated};

    fn event() -> Value {
        json!({
            "metadata": {"name": "e"}, "eventTime": "1970-01-01T00:00:10.5Z", "type": "Normal",
            "reason": "Started", "action": "Start", "note": "it runs",
            "reportingController": "example.com/c", "reportingInstance": "c-1",
            "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        })
    }

    #[test]
    fn is_a_core_event_under_other_names() {
        let event = created(&resource(), event());
        let stored = Renamed.to_stored(event.clone()).unwrap();
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(stored["message"], "it runs");
        assert_eq!(stored["involvedObject"]["name"], "p");
        assert_eq!(stored["reportingComponent"], "example.com/c");
        let core = super::super::resource().decode(Value::Object(stored.clone()));
        assert_eq!(core.unwrap().unknown, [""; 0]);
        assert_eq!(Renamed.from_stored(stored).unwrap(), event);
        let row = resource().row(&event, Timestamp::from_second(20).unwrap());
        assert_eq!(
            Value::from(row[..4].to_vec()),
            json!(["10s", "Normal", "Started", "pod/p"])
        );
    }

    #[test]
    fn shows_old_events_too() {
        let stored = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "count": 3, "series": {},
            "involvedObject": {"kind": "Pod"}, "source": {"component": "kubelet"},
        });
        let shown = Renamed.from_stored(vaquita_api::testing::object(stored));
        let shown = resource().decode(Value::Object(shown.unwrap())).unwrap();
        assert_eq!(shown.object["deprecatedCount"], 3);
        assert_eq!(
            shown.object["deprecatedSource"],
            json!({"component": "kubelet"})
        );
        assert_eq!(shown.unknown, [""; 0]);
    }

    #[test]
    fn is_stricter_than_core() {
        let with = |field: &str, value: Value| {
            let mut event = event();
            event[field] = value;
            refused(&resource(), event)
        };
        assert_eq!(
            with("eventTime", Value::Null)[0],
            "eventTime: Required value"
        );
        assert_eq!(
            with("type", json!("Odd")),
            ["type: Invalid value: \"\": has invalid value: Odd"]
        );
        assert_eq!(
            with("deprecatedCount", json!(1)),
            ["count: Invalid value: \"\": needs to be unset"]
        );
        assert_eq!(
            with(
                "series",
                json!({"count": 1, "lastObservedTime": "2020-01-01T00:00:00Z"})
            ),
            ["series.count: Invalid value: \"\": should be at least 2"]
        );
        assert_eq!(
            with("reportingController", json!(""))[0],
            "reportingController: Required value"
        );
        let old = created(&resource(), event());
        let other = changed(&old, |event| event["note"] = "it walks".into());
        assert_eq!(
            causes(updated(&resource(), &old, other, Part::Main)),
            ["message: Invalid value: \"it walks\": field is immutable"]
        );
    }
}
