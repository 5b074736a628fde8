//! `v1` `ComponentStatus`: how the parts of the control plane are. Deprecated for years, still read by dashboards.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ComponentStatus;
use serde_json::Value;

use crate::{Here, stored};
use vaquita_api::registry::{Kind, Resource, Verb};
use vaquita_api::table::Column;

pub(super) fn resource() -> Resource {
    stored::<ComponentStatus>("componentstatus", false)
        .short(&["cs"])
        .only(&[Verb::Get, Verb::List])
}

impl Kind<Here> for ComponentStatus {
    const DEPRECATION: Option<&'static str> = Some("v1 ComponentStatus is deprecated in v1.19+");

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Status", "Whether the component is well."),
        Column::string("Message", "What it says about that."),
        Column::string("Error", "What kept it from being asked."),
    ];

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        let healthy = self
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "Healthy");
        let status = match healthy {
            None => "Unknown",
            Some(condition) if condition.status == "True" => "Healthy",
            Some(_) => "Unhealthy",
        };
        let message = healthy.and_then(|condition| condition.message.clone());
        let error = healthy.and_then(|condition| condition.error.clone());
        vec![
            self.name_cell(),
            status.into(),
            message.unwrap_or_default().into(),
            error.unwrap_or_default().into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use vaquita_api::testing::object;

    #[test]
    fn prints_its_health() {
        let row = |conditions: Value| {
            let status = object(json!({"metadata": {"name": "etcd-0"}, "conditions": conditions}));
            Value::from(resource().row(&status, Timestamp::UNIX_EPOCH))
        };
        assert_eq!(
            row(json!([{"type": "Healthy", "status": "True", "message": "ok"}])),
            json!(["etcd-0", "Healthy", "ok", ""])
        );
        assert_eq!(
            row(json!([{"type": "Healthy", "status": "False", "error": "gone"}])),
            json!(["etcd-0", "Unhealthy", "", "gone"])
        );
        assert_eq!(row(json!([])), json!(["etcd-0", "Unknown", "", ""]));
    }
}
