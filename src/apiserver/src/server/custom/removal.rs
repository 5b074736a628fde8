//! The end of a definition: first its objects go, with the finalizers that they have, then the definition itself.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use vaquita_api::meta;
use vaquita_crd::naming::{self, Termination};

use super::{Definition, definitions};
use crate::server::{
    Server,
    catalog::Served,
    delete::{Deletion, delete_one},
    update::modify_at,
};

/// How often the objects that are left are looked at, should nothing be heard of them.
const CHECK: Duration = Duration::from_secs(5);

/// Deletes all objects of the kind, waits until they are gone, and lets the definition go. Gives its name.
pub(super) async fn remove(server: Arc<Server>, definition: Definition) -> String {
    let name = definition.name().to_owned();
    let outcome = if naming::is_true(&definition.typed, "Established") {
        note(&server, &definition, &Termination::InProgress).await;
        empty(&server, &definition).await;
        Termination::Completed
    } else {
        Termination::NeverEstablished
    };
    // Somebody may write to the definition just now; it is tried until it is gone.
    while !note(&server, &definition, &outcome).await {
        tokio::time::sleep(CHECK).await;
    }
    name
}

/// Deletes objects until there are none.
async fn empty(server: &Server, definition: &Definition) {
    loop {
        let Some(served) = server.stored(definition.group(), definition.plural()) else {
            return;
        };
        let changed = served.collection.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if let Err(why) = delete_all(server, &served).await {
            note(server, definition, &Termination::Failed(why)).await;
        }
        let left = served.collection.len();
        if left == 0 {
            return;
        }
        note(server, definition, &Termination::Waiting(left)).await;
        let _ = tokio::time::timeout(CHECK, changed).await;
    }
}

/// Deletes every object that is not being deleted yet.
async fn delete_all(server: &Server, served: &Served) -> Result<(), String> {
    let deletion = Deletion::new(DeleteOptions::default()).map_err(|status| status.to_string())?;
    let snapshot = served.collection.snapshot();
    let mut problem = Ok(());
    for entry in snapshot.range(served.collection.prefix(), None) {
        let marked = entry
            .value()
            .is_ok_and(|object| meta::deletion_timestamp(&object).is_some());
        if marked {
            continue;
        }
        let shown = match served.show(entry) {
            Ok(shown) => shown.into_owned(),
            Err(status) => {
                problem = Err(status.to_string());
                continue;
            }
        };
        if let Err(status) = delete_one(server, served, shown, &deletion).await {
            problem = Err(status.to_string());
        }
    }
    problem
}

/// Says in the definition how far it is. Whether that could be done; there is nothing to do for one that is gone.
async fn note(server: &Server, definition: &Definition, termination: &Termination) -> bool {
    let Some(served) = definitions(server) else {
        return true;
    };
    let uid = meta::uid(&definition.object);
    let (key, name) = (&definition.entry.key, definition.name());
    let written = modify_at(server, &served, key, name, false, |object| {
        if meta::uid(object) == uid {
            naming::terminate(object, termination, Timestamp::now());
        }
        Ok(())
    });
    match written.await {
        Ok(_) => true,
        Err(status) => status.code() == 404,
    }
}
