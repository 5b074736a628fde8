//! Conversion by a webhook: an object is sent to whoever declared the kind, and comes back as one of another version
//! (`ConversionReview` of `apiextensions.k8s.io`).
//!
//! Objects are converted wherever they are read, which is not a place to wait in. So the exchange runs on a runtime of its
//! own, the reading thread tells its runtime that it will be gone for a while, and what has been converted once is kept by
//! its revision: a list that is read twice asks once.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak, mpsc},
    time::Duration,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, WebhookClientConfig,
};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};
use vaquita_api::{Object, meta, status::Status};
use vaquita_crd::Convert;

use super::reach;
use crate::server::Server;

/// How long a webhook may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How many converted objects are kept for each kind.
const KEPT: usize = 4096;
/// How many objects are sent in one review.
const BATCH: usize = 500;

/// The runtime on which webhooks are asked.
static RUNTIME: LazyLock<Option<Runtime>> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("conversion")
        .enable_all()
        .build();
    runtime
        .inspect_err(|error| tracing::error!(%error, "no webhook can be asked"))
        .ok()
});

/// An object at a revision, in a version.
type Key = (String, String, String);

/// What has been converted, the oldest first.
#[derive(Default)]
struct Kept {
    objects: HashMap<Key, Object>,
    order: VecDeque<Key>,
}

impl Kept {
    fn add(&mut self, key: Key, object: Object) {
        if self.objects.insert(key.clone(), object).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > KEPT {
            if let Some(oldest) = self.order.pop_front() {
                self.objects.remove(&oldest);
            }
        }
    }
}

/// The webhook of a definition.
pub(super) struct Webhook {
    server: Weak<Server>,
    config: WebhookClientConfig,
    review: &'static str,
    kept: Mutex<Kept>,
}

impl Webhook {
    /// The webhook that a definition names, if it converts by one.
    pub(super) fn of(
        server: &Arc<Server>,
        definition: &CustomResourceDefinition,
    ) -> Option<Arc<dyn Convert>> {
        let conversion = definition.spec.conversion.as_ref()?;
        let webhook = conversion.webhook.as_ref()?;
        let config = webhook.client_config.clone()?;
        let known = webhook
            .conversion_review_versions
            .iter()
            .find_map(|version| match version.as_str() {
                "v1" => Some("v1"),
                "v1beta1" => Some("v1beta1"),
                _ => None,
            });
        Some(Arc::new(Self {
            server: Arc::downgrade(server),
            config,
            review: known.filter(|_| conversion.strategy == "Webhook")?,
            kept: Mutex::default(),
        }))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the webhook and waits for its answer, off the caller's runtime.
    fn ask(&self, review: Value) -> Result<Value, String> {
        let (Some(server), Some(runtime)) = (self.server.upgrade(), RUNTIME.as_ref()) else {
            return Err("the server is shutting down".to_owned());
        };
        let (sender, receiver) = mpsc::channel();
        let config = self.config.clone();
        runtime.spawn(async move {
            let call = reach::post(&server, &config, &review);
            let answer = tokio::time::timeout(DEADLINE, call).await;
            let late =
                || "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
            // Whoever asked may have given up.
            let _ = sender.send(answer.unwrap_or_else(|_| Err(late().to_owned())));
        });
        let wait = || {
            let answer = receiver.recv_timeout(DEADLINE + Duration::from_secs(1));
            answer.unwrap_or_else(|_| Err("no answer".to_owned()))
        };
        match Handle::try_current().map(|handle| handle.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
            _ => wait(),
        }
    }

    /// The objects in another version, in the same order.
    fn converted(&self, objects: &[&Object], api_version: &str) -> Result<Vec<Value>, String> {
        let uid = uuid::Uuid::new_v4().to_string();
        let review = json!({
            "apiVersion": format!("apiextensions.k8s.io/{}", self.review),
            "kind": "ConversionReview",
            "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": objects},
        });
        let expected = review["apiVersion"].clone();
        let mut answer = self.ask(review)?;
        // The older review never asked for these to be right.
        if self.review == "v1" {
            if answer["apiVersion"] != expected || answer["kind"] != "ConversionReview" {
                return Err(format!(
                    "expected webhook response of {}, Kind=ConversionReview, got {}, Kind={}",
                    expected.as_str().unwrap_or_default(),
                    answer["apiVersion"].as_str().unwrap_or_default(),
                    answer["kind"].as_str().unwrap_or_default(),
                ));
            }
            let got = answer["response"]["uid"].as_str().unwrap_or_default();
            if answer["response"].is_object() && got != uid {
                return Err(format!("expected response.uid={uid:?}, got {got:?}"));
            }
        }
        let response = &mut answer["response"];
        if !response.is_object() {
            return Err("no response provided".to_owned());
        }
        let status = response["result"]["status"].as_str().unwrap_or_default();
        if status != "Success" {
            return Err(match response["result"]["message"].as_str() {
                Some(message) if !message.is_empty() => message.to_owned(),
                _ => format!("response.result.status was '{status}', not 'Success'"),
            });
        }
        let converted = match response["convertedObjects"].take() {
            Value::Array(converted) => converted,
            _ => Vec::new(),
        };
        if converted.len() != objects.len() {
            return Err(format!(
                "returned {} objects, expected {}",
                converted.len(),
                objects.len()
            ));
        }
        Ok(converted)
    }

    fn one(&self, object: &Object, api_version: &str) -> Result<Object, String> {
        let converted = self.converted(&[object], api_version)?;
        match converted.into_iter().next() {
            Some(Value::Object(object)) => Ok(object),
            _ => Err("returned something that is no object".to_owned()),
        }
    }
}

/// Under which a converted object is kept: `None` for one that is not stored, and may be another the next time.
fn key_of(object: &Object, api_version: &str) -> Option<Key> {
    let revision = meta::resource_version(object);
    (!revision.is_empty()).then(|| {
        let uid = meta::uid(object).to_owned();
        (uid, revision.to_owned(), api_version.to_owned())
    })
}

impl Convert for Webhook {
    fn convert(&self, object: &Object, api_version: &str) -> Result<Object, Status> {
        let key = key_of(object, api_version);
        if let Some(known) = key
            .as_ref()
            .and_then(|key| self.kept().objects.get(key).cloned())
        {
            return Ok(known);
        }
        let converted = self.one(object, api_version).map_err(|why| {
            let text = |field: &str| {
                object
                    .get(field)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            let (from, kind) = (text("apiVersion"), text("kind"));
            Status::internal(format!(
                "conversion webhook for {from}, Kind={kind} failed: {why}"
            ))
        })?;
        if let Some(key) = key {
            self.kept().add(key, converted.clone());
        }
        Ok(converted)
    }
    fn foresight(&self) -> usize {
        KEPT
    }

    fn foresee(&self, objects: Vec<Object>, api_version: &str) {
        let unknown: Vec<(Key, &Object)> = {
            let kept = self.kept();
            let keyed = objects
                .iter()
                .filter_map(|object| Some((key_of(object, api_version)?, object)));
            keyed
                .filter(|(key, _)| !kept.objects.contains_key(key))
                .collect()
        };
        for batch in unknown.chunks(BATCH) {
            let asked: Vec<&Object> = batch.iter().map(|(_, object)| *object).collect();
            // What fails here fails again for each, and is told then.
            let Ok(converted) = self.converted(&asked, api_version) else {
                return;
            };
            let mut kept = self.kept();
            for ((key, _), object) in batch.iter().zip(converted) {
                if let Value::Object(object) = object {
                    kept.add(key.clone(), object);
                }
            }
        }
    }
}
