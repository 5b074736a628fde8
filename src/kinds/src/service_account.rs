//! `v1` `ServiceAccount`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::Value;

use crate::{Here, stored};
use vaquita_api::registry::{Kind, Resource, Verb};
use vaquita_api::table::Column;

pub(super) fn resource() -> Resource {
    stored::<ServiceAccount>("serviceaccount", true)
        .short(&["sa"])
        .sub(
            "token",
            ("authentication.k8s.io", "v1", "TokenRequest"),
            &[Verb::Create],
        )
}

impl Kind<Here> for ServiceAccount {
    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Secrets", "How many secrets the account may use."),
        Column::AGE,
    ];

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let secrets = self.secrets.as_ref().map_or(0, Vec::len);
        vec![self.name_cell(), secrets.into(), self.age_cell(now)]
    }
}
