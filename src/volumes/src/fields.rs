//! What a pod says of itself: fields and resources, as variables and files can have them. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use kube::ResourceExt as _;
use vaquita_api::quantity::Quantity;

/// What the node has: the limit of a container that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Cores.
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
}

/// A field of `metadata` as a file has it; `None` for a path that is none.
pub fn metadata(pod: &Pod, path: &str) -> Option<String> {
    Some(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "metadata.labels" => lines(pod.labels()),
        "metadata.annotations" => lines(pod.annotations()),
        _ => {
            let (map, key) = path.strip_suffix("']")?.split_once("['")?;
            let map = match map {
                "metadata.labels" => pod.labels(),
                "metadata.annotations" => pod.annotations(),
                _ => return None,
            };
            map.get(key).cloned().unwrap_or_default()
        }
    })
}

/// `key="value"` in lines, ordered by key.
fn lines(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = map
        .iter()
        .map(|(key, value)| format!("{key}={}", quoted(value)))
        .collect();
    lines.join("\n")
}

/// As Go's `%q` prints it.
fn quoted(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    text.push('"');
    for letter in value.chars() {
        match letter {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{7}' => text.push_str("\\a"),
            '\u{8}' => text.push_str("\\b"),
            '\u{b}' => text.push_str("\\v"),
            '\u{c}' => text.push_str("\\f"),
            letter if letter.is_ascii_control() => {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\x{:02x}", u32::from(letter));
            }
            letter if letter.is_control() => {
                let _ = write!(text, "\\u{:04x}", u32::from(letter));
            }
            letter => text.push(letter),
        }
    }
    text.push('"');
    text
}

/// A limit or request in units of the divisor, rounded up. A limit that is not set is what the node has. `own` is the
/// container that asks, if a container does.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    field: &ResourceFieldSelector,
    machine: Machine,
) -> Option<i64> {
    let (which, resource) = field.resource.split_once('.')?;
    let named = field.container_name.as_deref();
    let container = match named.filter(|name| !name.is_empty()) {
        None => own?,
        Some(name) => find(pod, name)?,
    };
    let resources = container.resources.as_ref();
    let set = match which {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return None,
    };
    let set = set.and_then(|set| set.get(resource)?.0.parse::<Quantity>().ok());
    let value = match (set, which, resource) {
        (Some(set), _, "cpu" | "memory" | "ephemeral-storage") => set,
        (None, "limits", "cpu") => Quantity::milli(i64::from(machine.cpus) * 1000),
        (None, "limits", "memory") => machine.memory.to_string().parse().ok()?,
        (None, "requests", "cpu" | "memory" | "ephemeral-storage") => Quantity::ZERO,
        _ => return None,
    };
    let divisor = field
        .divisor
        .as_ref()
        .and_then(|divisor| divisor.0.parse::<Quantity>().ok());
    let divisor = divisor.filter(|divisor| !divisor.is_zero() && !divisor.is_negative());
    if resource == "cpu" {
        let divisor = divisor.map_or(1000, Quantity::milli_value);
        return Some(round_up(value.milli_value(), divisor));
    }
    Some(round_up(value.value(), divisor.map_or(1, Quantity::value)))
}

fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    let mut all = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    all.find(|container| container.name == name)
}

fn round_up(value: i64, divisor: i64) -> i64 {
    let divisor = divisor.max(1);
    value / divisor + i64::from(value % divisor > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MACHINE: Machine = Machine {
        cpus: 4,
        memory: 1 << 30,
    };

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u",
                "labels": {"b": "2", "a": "one \"x\""}, "annotations": {"k.io/x": "line\nbreak\u{1}"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "3Mi"}}}]},
        }))
        .unwrap()
    }

    #[test]
    fn maps_are_lines_of_quoted_values() {
        let field = |path| metadata(&pod(), path);
        assert_eq!(field("metadata.name").unwrap(), "p");
        assert_eq!(
            field("metadata.labels").unwrap(),
            "a=\"one \\\"x\\\"\"\nb=\"2\""
        );
        assert_eq!(
            field("metadata.annotations").unwrap(),
            "k.io/x=\"line\\nbreak\\x01\""
        );
        assert_eq!(field("metadata.labels['b']").unwrap(), "2");
        assert_eq!(field("metadata.labels['none']").unwrap(), "");
        assert_eq!(field("spec.nodeName"), None);
    }

    fn resource_of(field: &ResourceFieldSelector) -> Option<i64> {
        resource(&pod(), None, field, MACHINE)
    }

    #[test]
    fn resources_count_in_divisors_and_fall_back_to_the_machine() {
        let of = |resource: &str, divisor: &str| {
            let field = json!({"containerName": "c", "resource": resource, "divisor": divisor});
            let field = serde_json::from_value(field).unwrap();
            resource_of(&field)
        };
        assert_eq!(of("limits.cpu", "0"), Some(2));
        assert_eq!(of("limits.cpu", "1m"), Some(1500));
        assert_eq!(of("limits.memory", "1Mi"), Some(1024));
        assert_eq!(of("requests.memory", "1"), Some(3 << 20));
        assert_eq!(of("requests.cpu", "0"), Some(0));
        assert_eq!(of("limits.gpu", "0"), None);
        assert_eq!(of("x", "0"), None);
        let unnamed = serde_json::from_value(json!({"resource": "limits.cpu"})).unwrap();
        assert_eq!(resource_of(&unnamed), None);
    }
}
