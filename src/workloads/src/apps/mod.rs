//! `apps/v1`: what keeps pods running.

mod controller_revision;
mod daemon_set;
mod deployment;
mod replica_set;
mod stateful_set;

use vaquita_api::registry::Resource;

pub(super) fn resources() -> Vec<Resource> {
    vec![
        controller_revision::resource(),
        daemon_set::resource(),
        deployment::resource(),
        replica_set::resource(),
        stateful_set::resource(),
    ]
}

/// What tests of these kinds start from.
#[cfg(test)]
mod testing {
    use serde_json::{Value, json};

    /// An object that selects the pods of its template.
    pub(super) fn web() -> Value {
        json!({
            "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "x"}]},
                },
            },
        })
    }

    /// What `check` finds after a change to the specification of [`web`].
    pub(super) fn after(
        change: impl FnOnce(&mut Value),
        check: impl FnOnce(Value) -> Vec<String>,
    ) -> Vec<String> {
        let mut object = web();
        change(&mut object["spec"]);
        check(object)
    }
}
