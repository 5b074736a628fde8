//! `v1` Event, and in [`v1`] the same of the group `events.k8s.io`.

pub(super) mod v1;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;

use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names::{self, Problems};
use vaquita_api::registry::{Kind, Resource, SelectableField};
use vaquita_api::table::{self, Column};
use vaquita_api::validate::metadata::invalid;

/// The longest action, reason and reporting instance, in bytes.
const WORD_MAX: usize = 128;
/// The longest message, in bytes.
const MESSAGE_MAX: usize = 1024;

pub(super) fn resource() -> Resource {
    stored::<Event>("event", true).short(&["ev"])
}

impl Kind<Here> for Event {
    const CREATE_ON_UPDATE: bool = true;

    const NAME: fn(&str) -> Problems = names::path_segment;

    const SELECTABLE: &'static [SelectableField] = &[
        SelectableField::new("involvedObject.kind", &["involvedObject", "kind"], ""),
        SelectableField::new(
            "involvedObject.namespace",
            &["involvedObject", "namespace"],
            "",
        ),
        SelectableField::new("involvedObject.name", &["involvedObject", "name"], ""),
        SelectableField::new("involvedObject.uid", &["involvedObject", "uid"], ""),
        SelectableField::new(
            "involvedObject.apiVersion",
            &["involvedObject", "apiVersion"],
            "",
        ),
        SelectableField::new(
            "involvedObject.resourceVersion",
            &["involvedObject", "resourceVersion"],
            "",
        ),
        SelectableField::new(
            "involvedObject.fieldPath",
            &["involvedObject", "fieldPath"],
            "",
        ),
        SelectableField::new("reason", &["reason"], ""),
        SelectableField::new("reportingComponent", &["reportingComponent"], ""),
        SelectableField::new("source", &["source", "component"], ""),
        SelectableField::new("type", &["type"], ""),
    ];

    const COLUMNS: &'static [Column] = &[
        Column::string("Last Seen", "Time since it happened last."),
        Column::string("Type", "Normal or Warning."),
        Column::string("Reason", "Why it happened, in one word."),
        Column::string("Object", "What it is about."),
        Column::string("Subobject", "Which part of the object.").wide(),
        Column::string("Source", "Who reports it.").wide(),
        Column::string("Message", "What happened."),
        Column::string("First Seen", "Time since it happened first.").wide(),
        Column::string("Count", "How often it happened.").wide(),
        Column::NAME.wide(),
    ];

    fn apply_defaults(&mut self) {
        self.source.get_or_insert_default();
        self.reporting_component.get_or_insert_default();
        self.reporting_instance.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        validate_either(self, errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let event_time = self.event_time.as_ref().map(|time| time.0);
        let first = self
            .first_timestamp
            .as_ref()
            .map(|time| time.0)
            .or(event_time);
        let mut last = self.last_timestamp.as_ref().map(|time| time.0).or(first);
        let mut count = self.count.filter(|count| *count != 0).unwrap_or(1);
        if let Some(series) = &self.series {
            last = series.last_observed_time.as_ref().map(|time| time.0);
            count = series.count.unwrap_or_default();
        }
        let text = |text: &Option<String>| Value::from(text.clone().unwrap_or_default());
        vec![
            table::age(last, now).into(),
            text(&self.type_),
            text(&self.reason),
            self.target().into(),
            text(&self.involved_object.field_path),
            self.reporter().into(),
            self.message.as_deref().unwrap_or_default().trim().into(),
            table::age(first, now).into(),
            count.into(),
            self.name_cell(),
        ]
    }
}

/// What holds for events of both groups.
fn validate_either(event: &Event, errors: &mut Errors) {
    event.validate_namespace(errors);
    // Events of the newer sort, which have a time of their own, must say who acted and why.
    if event.event_time.is_some() {
        event.validate_report(errors);
    }
}

trait Details {
    fn target(&self) -> String;
    fn reporter(&self) -> String;
    fn validate_namespace(&self, errors: &mut Errors);
    fn validate_report(&self, errors: &mut Errors);
}

impl Details for Event {
    /// `pod/web-1`.
    fn target(&self) -> String {
        let kind = self
            .involved_object
            .kind
            .as_deref()
            .unwrap_or_default()
            .to_lowercase();
        match self.involved_object.name.as_deref() {
            None | Some("") => kind,
            Some(name) => format!("{kind}/{name}"),
        }
    }

    /// `kubelet, node-1`.
    fn reporter(&self) -> String {
        let source = self.source.as_ref();
        let either = |old: Option<&String>, new: Option<&String>| {
            old.filter(|text| !text.is_empty())
                .or(new)
                .cloned()
                .unwrap_or_default()
        };
        let component = either(
            source.and_then(|source| source.component.as_ref()),
            self.reporting_component.as_ref(),
        );
        let instance = either(
            source.and_then(|source| source.host.as_ref()),
            self.reporting_instance.as_ref(),
        );
        if instance.is_empty() {
            component
        } else {
            format!("{component}, {instance}")
        }
    }

    /// An event lives where its object lives; one about a cluster-scoped object in `default`.
    fn validate_namespace(&self, errors: &mut Errors) {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        let involved = self
            .involved_object
            .namespace
            .as_deref()
            .unwrap_or_default();
        let fits = match involved {
            "" => namespace == "default" || self.event_time.is_some() && namespace == "kube-system",
            involved => self.event_time.is_some() || namespace == involved,
        };
        if !fits {
            let path = Path::root("involvedObject");
            errors.push(FieldError::invalid(
                &path.child("namespace"),
                involved,
                "does not match event.namespace",
            ));
        }
    }

    fn validate_report(&self, errors: &mut Errors) {
        let controller = self.reporting_component.as_deref().unwrap_or_default();
        // Core calls this field `reportingComponent`; its errors don't.
        let path = Path::root("reportingController");
        if controller.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        invalid(&path, controller, names::qualified_name(controller), errors);
        for (field, value) in [
            ("reportingInstance", &self.reporting_instance),
            ("action", &self.action),
            ("reason", &self.reason),
        ] {
            let (path, value) = (Path::root(field), value.as_deref().unwrap_or_default());
            if value.is_empty() {
                errors.push(FieldError::required(&path, ""));
            } else if value.len() > WORD_MAX {
                let detail = format!("can have at most {WORD_MAX} characters");
                errors.push(FieldError::invalid(&path, "", detail));
            }
        }
        if self
            .message
            .as_ref()
            .is_some_and(|message| message.len() > MESSAGE_MAX)
        {
            let detail = format!("can have at most {MESSAGE_MAX} characters");
            errors.push(FieldError::invalid(&Path::root("message"), "", detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use vaquita_api::testing::{created, refused};

    #[test]
    fn prints_old_and_new_events() {
        let now = Timestamp::from_second(100).unwrap();
        let old = created(
            &resource(),
            json!({
                "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
                "firstTimestamp": "1970-01-01T00:00:10Z", "lastTimestamp": "1970-01-01T00:01:00Z", "count": 3,
                "type": "Normal", "reason": "Pulled", "message": " done\n", "source": {"component": "kubelet", "host": "n"},
            }),
        );
        assert_eq!(
            Value::from(resource().row(&old, now)),
            json!([
                "40s",
                "Normal",
                "Pulled",
                "pod/p",
                "",
                "kubelet, n",
                "done",
                "90s",
                3,
                "e"
            ])
        );
        let new = created(
            &resource(),
            json!({
                "metadata": {"name": "e"}, "involvedObject": {"kind": "Node"}, "eventTime": "1970-01-01T00:00:10.5Z",
                "type": "Normal", "reason": "Starting", "action": "Start", "reportingComponent": "x", "reportingInstance": "y",
            }),
        );
        assert_eq!(new["eventTime"], "1970-01-01T00:00:10.500000Z");
        assert_eq!(
            Value::from(resource().row(&new, now)),
            json!([
                "90s", "Normal", "Starting", "node", "", "x, y", "", "90s", 1, "e"
            ])
        );
    }

    #[test]
    fn refuses_events_far_from_their_object() {
        let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "other"}});
        assert_eq!(
            refused(&resource(), event),
            ["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"]
        );
    }
}
