//! The labels by which containers and networks on an engine are known to be ours.

use std::collections::HashMap;

/// Whose it is: an identifier of the node, which no other user of the engine has.
pub const OWNER: &str = "vaquita.dev/owner";
/// What it is: [`SANDBOX`], [`CONTAINER`] or [`VOLUME`].
pub const KIND: &str = "vaquita.dev/kind";
/// The unique identifier of its pod.
pub const POD_UID: &str = "vaquita.dev/pod.uid";
/// The namespace of its pod.
pub const POD_NAMESPACE: &str = "vaquita.dev/pod.namespace";
/// The name of its pod.
pub const POD_NAME: &str = "vaquita.dev/pod.name";
/// Its name in the pod.
pub const NAME: &str = "vaquita.dev/container.name";
/// How many containers of the name the pod had before it.
pub const ATTEMPT: &str = "vaquita.dev/container.attempt";

/// What holds the namespaces of a pod.
pub const SANDBOX: &str = "sandbox";
/// A volume of its pod, in memory.
pub const VOLUME: &str = "volume";
/// What runs in them.
pub const CONTAINER: &str = "container";

/// A filter of the Engine API for what has these labels.
pub(crate) fn filter(labels: &[(&str, &str)]) -> HashMap<String, Vec<String>> {
    let wanted = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    HashMap::from([("label".to_owned(), wanted)])
}
