//! Events for people: what became of a pod, and why. Written beside everything else, by few hands, so that they never
//! hold up what they tell of.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use crate::pod::PodKey;

/// How many events may wait to be written. Beyond that they are dropped.
const BACKLOG: usize = 16 * 1024;
/// How many are written at a time.
const HANDS: usize = 2;
/// The longest message, in bytes, as the API allows.
const MESSAGE_LIMIT: usize = 1024;

/// What is told of a pod.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) pod: PodKey,
    /// The name under which the scheduler was asked.
    pub(crate) scheduler: String,
    pub(crate) what: What,
    pub(crate) message: String,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Scheduled,
    FailedScheduling,
    Preempted,
}

impl What {
    /// Type, reason and action.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Scheduled => ("Normal", "Scheduled", "Binding"),
            Self::FailedScheduling => ("Warning", "FailedScheduling", "Scheduling"),
            Self::Preempted => ("Normal", "Preempted", "Preempting"),
        }
    }
}

/// Writes events in the background. Clones are cheap.
#[derive(Debug, Clone)]
pub(crate) struct Events(mpsc::Sender<News>);

impl Events {
    /// Starts the writers, which end with `shutdown`. Must be called within a tokio runtime.
    pub(crate) fn start(client: &Client, shutdown: &CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..HANDS {
            let (client, receiver) = (client.clone(), Arc::clone(&receiver));
            tokio::spawn(shutdown.clone().run_until_cancelled_owned(async move {
                while let Some(news) = { receiver.lock().await.recv().await } {
                    write(&client, news).await;
                }
            }));
        }
        Self(sender)
    }

    /// Tells, unless too much is waiting to be told.
    pub(crate) fn tell(&self, news: News) {
        if self.0.try_send(news).is_err() {
            tracing::debug!("event dropped: too many are waiting");
        }
    }
}

async fn write(client: &Client, news: News) {
    let namespace = news.pod.namespace.clone();
    let event = event(news, Timestamp::now());
    let events = Api::<Event>::namespaced(client.clone(), &namespace);
    if let Err(error) = events.create(&PostParams::default(), &event).await {
        tracing::debug!(%error, "cannot write an event");
    }
}

fn event(news: News, now: Timestamp) -> Event {
    let News {
        pod,
        scheduler,
        what,
        mut message,
    } = news;
    let (kind, reason, action) = what.words();
    message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}.", pod.name)),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some(kind.to_owned()),
        reason: Some(reason.to_owned()),
        action: Some(action.to_owned()),
        message: Some(message),
        source: Some(EventSource {
            component: Some(scheduler.clone()),
            host: None,
        }),
        reporting_component: Some(scheduler),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}
