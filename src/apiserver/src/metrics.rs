//! What `/metrics` tells, under the names that Kubernetes dashboards know.

use std::{
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::request::Verb;

/// Upper bounds of the request durations' buckets, in seconds.
const BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    resource: Arc<str>,
    code: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: &'static str,
    resource: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    resource: Arc<str>,
}

/// The server's counters. Resources are those that are served, so labels are bounded.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    objects: Family<ResourceLabels, Gauge<i64, AtomicI64>>,
    watchers: Family<ResourceLabels, Gauge<i64, AtomicI64>>,
    rejected: Counter,
    pub(crate) streams: Streams,
}

/// What is counted of exec, attach, port-forward and proxies. Clones count together.
#[derive(Clone, Default)]
pub(crate) struct Streams {
    open: Family<ResourceLabels, Gauge<i64, AtomicI64>>,
    rejected: Counter,
    idle: Counter,
}

impl Streams {
    fn new(registry: &mut Registry) -> Self {
        let streams = Self::default();
        registry.register(
            "apiserver_open_streams",
            "Open connections of exec, attach, port-forward and proxies, by resource",
            streams.open.clone(),
        );
        registry.register(
            "apiserver_rejected_streams",
            "Connections refused because too many were open",
            streams.rejected.clone(),
        );
        registry.register(
            "apiserver_idle_streams",
            "Connections ended because nothing came for too long",
            streams.idle.clone(),
        );
        streams
    }

    /// One of `resource`, such as `pods/exec`, begins; it ends when the guard is dropped.
    pub(crate) fn begin(&self, resource: Arc<str>) -> OpenGuard {
        let gauge = self.open.get_or_create(&ResourceLabels { resource });
        OpenGuard::count(gauge.clone())
    }

    /// One was refused because too many are open.
    pub(crate) fn rejected(&self) {
        self.rejected.inc();
    }

    /// One ended because nothing came for too long.
    pub(crate) fn idle(&self) {
        self.idle.inc();
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations =
            Family::<DurationLabels, Histogram, fn() -> Histogram>::new_with_constructor(|| {
                Histogram::new(BUCKETS)
            });
        let objects = Family::default();
        let watchers = Family::default();
        let rejected = Counter::default();
        registry.register(
            "apiserver_request",
            "Requests by verb, resource and status code",
            requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Time until the head of the answer, watches excepted",
            durations.clone(),
        );
        registry.register(
            "apiserver_resource_objects",
            "Objects by resource",
            objects.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Watches that are open, by resource",
            watchers.clone(),
        );
        registry.register(
            "apiserver_rejected_requests",
            "Requests refused because too many were in flight",
            rejected.clone(),
        );
        let streams = Streams::new(&mut registry);
        Self {
            registry,
            requests,
            durations,
            objects,
            watchers,
            rejected,
            streams,
        }
    }

    /// A request on `resource` was answered with `code`.
    pub(crate) fn answered(&self, verb: Verb, resource: &Arc<str>, code: u16, took: Duration) {
        let name = verb.as_str();
        self.requests
            .get_or_create(&RequestLabels {
                verb: name,
                resource: resource.clone(),
                code: code.into(),
            })
            .inc();
        if verb != Verb::Watch {
            self.durations
                .get_or_create(&DurationLabels {
                    verb: name,
                    resource: resource.clone(),
                })
                .observe(took.as_secs_f64());
        }
    }

    /// A request was refused because too many were in flight.
    pub(crate) fn rejected(&self) {
        self.rejected.inc();
    }

    /// A watch on `resource` begins; it ends when the guard is dropped.
    pub(crate) fn watcher(&self, resource: &Arc<str>) -> OpenGuard {
        let gauge = self
            .watchers
            .get_or_create(&ResourceLabels {
                resource: resource.clone(),
            })
            .clone();
        OpenGuard::count(gauge)
    }

    /// All of it in the text format, with the number of objects of each resource as they are now.
    pub(crate) fn render(&self, objects: impl Iterator<Item = (Arc<str>, usize)>) -> String {
        for (resource, count) in objects {
            let gauge = self.objects.get_or_create(&ResourceLabels { resource });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

/// Counts an open watch or connection until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenGuard(Gauge<i64, AtomicI64>);

impl OpenGuard {
    fn count(gauge: Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_show_in_the_text() {
        let metrics = Metrics::new();
        metrics.answered(
            Verb::Create,
            &"configmaps".into(),
            201,
            Duration::from_millis(2),
        );
        let guard = metrics.watcher(&"pods".into());
        let text = metrics.render([("pods".into(), 3)].into_iter());
        assert!(
            text.contains(
                r#"apiserver_request_total{verb="create",resource="configmaps",code="201"} 1"#
            ),
            "{text}"
        );
        assert!(
            text.contains(r#"apiserver_resource_objects{resource="pods"} 3"#),
            "{text}"
        );
        assert!(
            text.contains(r#"apiserver_longrunning_requests{resource="pods"} 1"#),
            "{text}"
        );
        drop(guard);
        assert!(
            metrics
                .render(std::iter::empty())
                .contains(r#"longrunning_requests{resource="pods"} 0"#)
        );
    }
}
