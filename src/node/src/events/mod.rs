//! Events: what happened to an object, for people.
//!
//! [`Recorder::record`] never waits. What is recorded goes through a bounded queue to one task, which joins
//! repetitions into a count ([`correlate`]) and writes the rest. Events are best effort, as upstream's are: when the API
//! server is slower than what happens, some are lost.

mod correlate;

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use correlate::{Correlator, Series};

/// Occurrences that wait to be written; further ones are lost.
const QUEUE: usize = 4096;
/// Occurrences that are looked at together, so that repetitions among them cost one write.
const BATCH: usize = 256;
/// Writes under way at a time.
const CONCURRENT: usize = 16;
/// The longest message, in bytes: the API's limit.
const LONGEST_MESSAGE: usize = 1024;
const COMPONENT: &str = "kubelet";

/// Whether something is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub(crate) struct Occurrence {
    pub(crate) about: Arc<ObjectReference>,
    pub(crate) severity: Severity,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) at: Timestamp,
}

/// Takes note of what happens. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Occurrence>,
}

/// The other end of recorders: writes events.
pub(crate) struct EventWriter {
    client: Client,
    node: String,
    queue: mpsc::Receiver<Occurrence>,
    correlator: Correlator,
}

/// A recorder, and what has to run so that events are written.
pub(crate) fn channel(client: Client, node: String) -> (Recorder, EventWriter) {
    let (recorder, queue) = Recorder::new();
    (
        recorder,
        EventWriter {
            client,
            node,
            queue,
            correlator: Correlator::default(),
        },
    )
}

impl Recorder {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Occurrence>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self { queue: sender }, receiver)
    }

    pub(crate) fn normal(
        &self,
        about: &Arc<ObjectReference>,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.record(about, Severity::Normal, reason, message.into());
    }

    pub(crate) fn warning(
        &self,
        about: &Arc<ObjectReference>,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.record(about, Severity::Warning, reason, message.into());
    }

    fn record(
        &self,
        about: &Arc<ObjectReference>,
        severity: Severity,
        reason: &'static str,
        mut message: String,
    ) {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        let occurrence = Occurrence {
            about: about.clone(),
            severity,
            reason,
            message,
            at: Timestamp::now(),
        };
        if self.queue.try_send(occurrence).is_err() {
            tracing::debug!(
                reason,
                object = about.name,
                "an event is lost: too many wait to be written"
            );
        }
    }
}

impl EventWriter {
    /// Writes until told to stop, or until all recorders are gone.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let received = tokio::select! {
                received = self.queue.recv_many(&mut batch, BATCH) => received,
                () = shutdown.cancelled() => return,
            };
            if received == 0 {
                return;
            }
            let writes = self.correlator.correlate(batch.drain(..));
            let (client, node) = (&self.client, self.node.as_str());
            let write = |series: Series| async move {
                if let Err(error) = write(client, node, &series).await {
                    tracing::debug!(reason = series.last.reason, %error, "an event is lost");
                }
            };
            stream::iter(writes)
                .for_each_concurrent(CONCURRENT, write)
                .await;
        }
    }
}

async fn write(client: &Client, node: &str, series: &Series) -> kube::Result<()> {
    let event = event(node, series);
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    if series.is_known {
        let patch = Patch::Merge(json!({
            "count": event.count,
            "lastTimestamp": event.last_timestamp,
            "message": event.message,
        }));
        match events
            .patch(&series.name, &PatchParams::default(), &patch)
            .await
        {
            // It has expired since.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            written => return written.map(drop),
        }
    }
    events
        .create(&PostParams::default(), &event)
        .await
        .map(drop)
}

fn event(node: &str, series: &Series) -> Event {
    let last = &series.last;
    // Events about what is in no namespace are in this one.
    let namespace = last
        .about
        .namespace
        .clone()
        .unwrap_or_else(|| "default".to_owned());
    Event {
        metadata: ObjectMeta {
            name: Some(series.name.clone()),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference::clone(&last.about),
        reason: Some(last.reason.to_owned()),
        message: Some(last.message.clone()),
        type_: Some(last.severity.as_str().to_owned()),
        count: Some(i32::try_from(series.count).unwrap_or(i32::MAX)),
        first_timestamp: Some(Time(series.first)),
        last_timestamp: Some(Time(last.at)),
        source: Some(EventSource {
            component: Some(COMPONENT.to_owned()),
            host: Some(node.to_owned()),
        }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_a_bound_that_does_not_split_characters() {
        let (recorder, mut queue) = Recorder::new();
        recorder.normal(&Arc::default(), "Tested", "é".repeat(1000));
        let occurrence = queue.try_recv().unwrap();
        assert_eq!(occurrence.message.len(), LONGEST_MESSAGE);
        recorder.warning(&Arc::default(), "Tested", format!("x{}", "é".repeat(1000)));
        assert_eq!(queue.try_recv().unwrap().message.len(), LONGEST_MESSAGE - 1);
    }

    #[test]
    fn a_full_queue_loses_events_rather_than_time() {
        let (recorder, mut queue) = Recorder::new();
        for _ in 0..QUEUE + 10 {
            recorder.normal(&Arc::default(), "Tested", "");
        }
        let mut received = 0;
        while queue.try_recv().is_ok() {
            received += 1;
        }
        assert_eq!(received, QUEUE);
    }
}
