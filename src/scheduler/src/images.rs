//! Images: who has them already, and what kind of node runs them.
//!
//! The scheduler cannot look into images. What it can know of the kind of an image it takes from, in this order:
//!
//! 1. the pod: an annotation or a runtime class that stands for WebAssembly, or a node selector that names its
//!    architecture;
//! 2. the nodes: one that was given an image of a kind that it cannot run says so in its annotation
//!    [`REFUSED_IMAGES`], and from then on no such pod goes to any node of that sort.
//!
//! As long as neither says anything, nodes that run both kinds are preferred, so that the first guess is right
//! wherever it can be.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};

use crate::selector::Labels;

/// The label of nodes that run WebAssembly: `true` or `false`; absent means `false`.
const WASM: &str = "vaquita.dev/wasm";
/// The label of nodes that run Linux containers: `true` or `false`; absent means `true` unless [`WASM`] is there.
const CONTAINERS: &str = "vaquita.dev/containers";
/// The annotation by which a node tells of images that it was given and cannot run: a JSON object of image names, as
/// pods have them, to their kinds, `wasm` or `linux`.
const REFUSED_IMAGES: &str = "vaquita.dev/refused-images";
/// How many refused images of one node are heard, and how long what it says may be: it is a node that says it.
const REFUSED_LIMIT: usize = 256;
const REFUSED_BYTES: usize = 64 * 1024;

/// Annotations by which people mark pods of WebAssembly for other runtimes.
const WASM_ANNOTATIONS: [&str; 2] = ["module.wasm.image/variant", "run.oci.handler"];
/// Runtime classes that stand for nothing but WebAssembly, by the beginnings of their names.
const WASM_CLASSES: [&str; 6] = ["wasm", "spin", "slight", "wws", "lunatic", "vaquita-wasm"];

/// What it takes to run an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageKind {
    /// A WebAssembly runtime.
    Wasm,
    /// A Linux container engine.
    Linux,
}

/// The kinds of images that a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Runs {
    pub(crate) wasm: bool,
    pub(crate) linux: bool,
}

impl Default for Runs {
    fn default() -> Self {
        Self {
            wasm: false,
            linux: true,
        }
    }
}

impl Runs {
    /// What a node with these labels runs. One that says nothing is like any other in the world: Linux.
    pub(crate) fn of(labels: &Labels) -> Self {
        let says = |label: &str| labels.get(label).map(|value| value == "true");
        let wasm = says(WASM).unwrap_or(false);
        Self {
            wasm,
            linux: says(CONTAINERS).unwrap_or(!wasm),
        }
    }

    /// Nothing but images of one kind.
    pub(crate) fn only(kind: ImageKind) -> Self {
        Self {
            wasm: kind == ImageKind::Wasm,
            linux: kind == ImageKind::Linux,
        }
    }

    /// Both.
    pub(crate) fn with(self, other: Self) -> Self {
        Self {
            wasm: self.wasm || other.wasm,
            linux: self.linux || other.linux,
        }
    }

    /// Whether it runs all that the other does.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.with(other) == self
    }

    pub(crate) fn both(self) -> bool {
        self.wasm && self.linux
    }
}

/// The images that a node has, with their sizes in bytes.
pub(crate) fn of_node(node: &Node) -> HashMap<String, i64> {
    let mut sizes = HashMap::new();
    let images = node
        .status
        .as_ref()
        .and_then(|status| status.images.as_ref());
    for image in images.into_iter().flatten() {
        for name in image.names.iter().flatten() {
            sizes.insert(name.clone(), image.size_bytes.unwrap_or(0));
        }
    }
    sizes
}

/// The images that a node says it cannot run, with their kinds.
pub(crate) fn refused_by(node: &Node) -> Vec<(String, ImageKind)> {
    let annotations = node.metadata.annotations.as_ref();
    let Some(text) = annotations.and_then(|it| it.get(REFUSED_IMAGES)) else {
        return Vec::new();
    };
    if text.len() > REFUSED_BYTES {
        return Vec::new();
    }
    let said: BTreeMap<String, String> = serde_json::from_str(text).unwrap_or_default();
    let known = |(image, kind): (String, String)| match kind.as_str() {
        "wasm" => Some((normal(&image), ImageKind::Wasm)),
        "linux" => Some((normal(&image), ImageKind::Linux)),
        _ => None,
    };
    said.into_iter()
        .filter_map(known)
        .take(REFUSED_LIMIT)
        .collect()
}

/// The images of all containers of a pod.
pub(crate) fn named_by(spec: &PodSpec) -> Vec<String> {
    let init = spec.init_containers.iter().flatten();
    let images = spec
        .containers
        .iter()
        .chain(init)
        .filter_map(|container| container.image.as_deref());
    images.map(normal).collect()
}

/// The name with a tag: `latest`, if it has neither tag nor digest.
fn normal(image: &str) -> String {
    let has_tag = image.rfind(':') > image.rfind('/') && image.contains(':');
    if has_tag || image.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// What kind of images a pod says that it has.
pub(crate) fn stated_by(pod: &Pod, spec: &PodSpec) -> Option<ImageKind> {
    let annotations = pod.metadata.annotations.as_ref();
    let annotated = annotations.is_some_and(|annotations| {
        WASM_ANNOTATIONS
            .iter()
            .filter_map(|name| Some((*name, annotations.get(*name)?)))
            .any(|(name, value)| name != "run.oci.handler" || value.starts_with("wasm"))
    });
    let class = spec.runtime_class_name.as_deref().unwrap_or_default();
    let selected = |wanted: fn(&str) -> bool| {
        let selector = spec.node_selector.as_ref();
        selector
            .and_then(|selector| selector.get("kubernetes.io/arch"))
            .is_some_and(|arch| wanted(arch))
    };
    let is_wasm = annotated
        || WASM_CLASSES.iter().any(|start| class.starts_with(start))
        || selected(|arch| arch.starts_with("wasm"));
    is_wasm.then_some(ImageKind::Wasm)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn a_node_that_says_nothing_runs_linux() {
        let runs = |pairs: &[(&str, &str)]| {
            let runs = Runs::of(&labels(pairs));
            (runs.wasm, runs.linux)
        };
        assert_eq!(runs(&[]), (false, true));
        assert_eq!(runs(&[(WASM, "true")]), (true, false));
        assert_eq!(runs(&[(WASM, "true"), (CONTAINERS, "true")]), (true, true));
        assert_eq!(
            runs(&[(WASM, "false"), (CONTAINERS, "false")]),
            (false, false)
        );
    }

    #[test]
    fn names_get_a_tag() {
        for (name, with_tag) in [
            ("web", "web:latest"),
            ("host:5000/web", "host:5000/web:latest"),
            ("host:5000/web:2", "host:5000/web:2"),
            ("web@sha256:00", "web@sha256:00"),
        ] {
            assert_eq!(normal(name), with_tag);
        }
    }

    #[test]
    fn pods_say_that_they_are_wasm_in_the_usual_ways() {
        let stated = |json| {
            let pod: Pod = serde_json::from_value(json).unwrap();
            stated_by(&pod, pod.spec.as_ref().unwrap())
        };
        let annotated = |name: &str, value: &str| json!({"metadata": {"annotations": {name: value}}, "spec": {"containers": []}});
        let wasm = Some(ImageKind::Wasm);
        assert_eq!(
            stated(annotated("module.wasm.image/variant", "compat-smart")),
            wasm
        );
        assert_eq!(stated(annotated("run.oci.handler", "wasm")), wasm);
        assert_eq!(stated(annotated("run.oci.handler", "krun")), None);
        let class = |name: &str| json!({"spec": {"containers": [], "runtimeClassName": name}});
        assert_eq!(stated(class("wasmtime-spin-v2")), wasm);
        assert_eq!(stated(class("crun")), None);
        assert_eq!(stated(json!({"spec": {"containers": []}})), None);
    }

    #[test]
    fn refusals_are_read_and_nonsense_is_not() {
        let refused = |text: &str| {
            refused_by(
                &serde_json::from_value(
                    json!({"metadata": {"annotations": {REFUSED_IMAGES: text}}}),
                )
                .unwrap(),
            )
        };
        assert_eq!(
            refused(r#"{"nginx":"linux","a:1":"wasm","b":"windows"}"#),
            [
                ("a:1".to_owned(), ImageKind::Wasm),
                ("nginx:latest".to_owned(), ImageKind::Linux),
            ]
        );
        assert!(refused("[").is_empty());
        assert!(refused(&"x".repeat(REFUSED_BYTES + 1)).is_empty());
    }
}
