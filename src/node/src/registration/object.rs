//! The Node object, from what is known of the machine. Pure.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerImage, Node, NodeAddress, NodeCondition, NodeStatus, NodeSystemInfo},
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
};
use vaquita_api::quantity::Format;
use vaquita_backends::image_id;
use vaquita_image::Image;
use vaquita_manifest::Capacity;

use crate::{eviction::Pressure, host};

/// Images that the status lists at most, as upstream's kubelet has it.
const MAX_IMAGES: usize = 50;

/// The type of the condition that is there only if somebody wants to know.
const KERNEL_NETWORK: &str = "KernelNetwork";

/// What does not change while the node runs.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) capacity: Capacity,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) info: NodeSystemInfo,
    /// What runs Linux images, with its version, if anything does.
    pub(crate) engine: Option<String>,
    /// By which device pods are reached by their addresses, or why not, if anybody wants that.
    pub(crate) kernel_network: Option<Result<String, String>>,
}

/// What is measured each time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measures {
    pub(crate) pressure: Pressure,
    pub(crate) disk: Option<host::Disk>,
    pub(crate) images: Vec<Image>,
    /// Why the engine does not answer, if there is one and it does not.
    pub(crate) engine_problem: Option<String>,
}

impl Machine {
    /// The object as it is first created.
    pub(crate) fn node(&self) -> Node {
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels()),
                ..ObjectMeta::default()
            },
            ..Node::default()
        }
    }

    /// The labels that the node cares for.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        let own = [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/os", host::operating_system()),
            ("kubernetes.io/arch", host::architecture()),
            // What the scheduler goes by when it looks for a node for an image.
            ("vaquita.dev/wasm", "true"),
            (
                "vaquita.dev/containers",
                if self.engine.is_some() {
                    "true"
                } else {
                    "false"
                },
            ),
        ];
        let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
        self.labels.clone().into_iter().chain(own).collect()
    }

    /// The status of this moment. Conditions of types that are others' are kept from `previous`.
    pub(crate) fn status(
        &self,
        measures: &Measures,
        previous: Option<&NodeStatus>,
        now: Timestamp,
    ) -> NodeStatus {
        let resources = Some(self.resources(measures));
        NodeStatus {
            addresses: Some(self.node_addresses()),
            allocatable: resources.clone(),
            capacity: resources,
            conditions: Some(self.conditions(measures, previous, now)),
            images: Some(images(&measures.images)),
            node_info: Some(self.info.clone()),
            ..NodeStatus::default()
        }
    }

    fn conditions(
        &self,
        measures: &Measures,
        previous: Option<&NodeStatus>,
        now: Timestamp,
    ) -> Vec<NodeCondition> {
        let mut findings = Vec::from(findings(measures));
        findings.push(containers(measures, self.engine.as_deref()));
        findings.extend(self.kernel_network.as_ref().map(kernel_network));
        conditions(&findings, previous, now)
    }

    fn node_addresses(&self) -> Vec<NodeAddress> {
        let address = |type_: &str, address: String| NodeAddress {
            type_: type_.to_owned(),
            address,
        };
        let internal = self
            .addresses
            .iter()
            .map(|ip| address("InternalIP", ip.to_string()));
        internal
            .chain([address("Hostname", self.name.clone())])
            .collect()
    }

    fn resources(&self, measures: &Measures) -> BTreeMap<String, Quantity> {
        let mut resources = BTreeMap::from([
            (
                "cpu".to_owned(),
                quantity(self.capacity.cpus.into(), Format::DecimalSi),
            ),
            (
                "memory".to_owned(),
                quantity(self.capacity.memory, Format::BinarySi),
            ),
            (
                "pods".to_owned(),
                quantity(self.capacity.pods.into(), Format::DecimalSi),
            ),
        ]);
        if let Some(disk) = measures.disk {
            resources.insert(
                "ephemeral-storage".to_owned(),
                quantity(disk.total, Format::BinarySi),
            );
        }
        resources
    }
}

/// In the canonical form, which is how the API server gives it back: a status must not differ from itself.
fn quantity(value: u64, format: Format) -> Quantity {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    Quantity(vaquita_api::quantity::Quantity::whole(value, format).to_string())
}

fn images(images: &[Image]) -> Vec<ContainerImage> {
    let describe = |image: &Image| ContainerImage {
        names: Some(vec![image_id(image), image.reference.clone()]),
        size_bytes: i64::try_from(image.size).ok(),
    };
    images.iter().take(MAX_IMAGES).map(describe).collect()
}

/// A condition without its times.
struct Finding {
    type_: &'static str,
    status: bool,
    reason: &'static str,
    message: Cow<'static, str>,
}

/// The conditions of this moment. Reasons and messages are upstream's.
fn findings(measures: &Measures) -> [Finding; 4] {
    let Pressure { memory, disk } = measures.pressure;
    let finding = |type_, status, [bad, good]: [(&'static str, &'static str); 2]| {
        let (reason, message) = if status { bad } else { good };
        Finding {
            type_,
            status,
            reason,
            message: message.into(),
        }
    };
    let ready = ("KubeletReady", "kubelet is posting ready status");
    [
        finding("MemoryPressure", memory, MEMORY),
        finding("DiskPressure", disk, DISK),
        // Modules are no processes of the machine's.
        finding("PIDPressure", false, PROCESSES),
        finding("Ready", true, [ready, ready]),
    ]
}

const MEMORY: [(&str, &str); 2] = [
    (
        "KubeletHasInsufficientMemory",
        "kubelet has insufficient memory available",
    ),
    (
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
    ),
];
const DISK: [(&str, &str); 2] = [
    ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
];
const PROCESSES: [(&str, &str); 2] = [
    (
        "KubeletHasInsufficientPID",
        "kubelet has insufficient PID available",
    ),
    (
        "KubeletHasSufficientPID",
        "kubelet has sufficient PID available",
    ),
];
/// Whether Linux images run here.
fn containers(measures: &Measures, engine: Option<&str>) -> Finding {
    let (status, reason, message) = match (engine, &measures.engine_problem) {
        (None, _) => (
            false,
            "NoEngine",
            "no Docker engine is in use: only Wasm images run here".to_owned(),
        ),
        (Some(_), Some(problem)) => (false, "EngineNotResponding", problem.clone()),
        (Some(engine), None) => (true, "EngineReady", format!("{engine} answers")),
    };
    Finding {
        type_: "ContainersReady",
        status,
        reason,
        message: message.into(),
    }
}

/// Whether the machine reaches pods by their addresses.
fn kernel_network(joined: &Result<String, String>) -> Finding {
    let (status, reason, message) = match joined {
        Ok(device) => (true, "DeviceReady", format!("{device} leads to pods")),
        Err(why) => (false, "NoDevice", why.clone()),
    };
    Finding {
        type_: KERNEL_NETWORK,
        status,
        reason,
        message: message.into(),
    }
}

fn conditions(
    findings: &[Finding],
    previous: Option<&NodeStatus>,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let previous = previous
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let others = previous.iter().filter(|old| {
        old.type_ != KERNEL_NETWORK && findings.iter().all(|new| new.type_ != old.type_)
    });
    let own = findings.iter().map(|finding| {
        let status = if finding.status { "True" } else { "False" };
        let unchanged = previous
            .iter()
            .find(|old| old.type_ == finding.type_ && old.status == status);
        NodeCondition {
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: unchanged
                .and_then(|old| old.last_transition_time.clone())
                .or(Some(Time(now))),
            message: Some(finding.message.to_string()),
            reason: Some(finding.reason.to_owned()),
            status: status.to_owned(),
            type_: finding.type_.to_owned(),
        }
    });
    others.cloned().chain(own).collect()
}

/// Whether two statuses say the same, times aside.
pub(crate) fn says_the_same(old: &NodeStatus, new: &NodeStatus) -> bool {
    let timeless = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
            condition.last_transition_time = None;
        }
        status
            .conditions
            .iter_mut()
            .for_each(|all| all.sort_by(|a, b| a.type_.cmp(&b.type_)));
        // Absent and empty are the same to the API.
        status.images = status.images.filter(|images| !images.is_empty());
        // What the node does not report is not compared.
        let reported = NodeStatus {
            addresses: status.addresses,
            allocatable: status.allocatable,
            capacity: status.capacity,
            conditions: status.conditions,
            images: status.images,
            node_info: status.node_info,
            ..NodeStatus::default()
        };
        serde_json::to_value(reported).ok()
    };
    timeless(old) == timeless(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            name: "n1".to_owned(),
            addresses: vec![IpAddr::from([10, 0, 0, 1])],
            capacity: Capacity {
                cpus: 4,
                memory: 8 << 30,
                pods: 100,
            },
            labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            info: host::system_info(),
            engine: None,
            kernel_network: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn condition<'a>(status: &'a NodeStatus, type_: &str) -> &'a NodeCondition {
        status
            .conditions
            .as_ref()
            .unwrap()
            .iter()
            .find(|one| one.type_ == type_)
            .unwrap()
    }

    #[test]
    fn the_object_says_what_the_machine_is() {
        let machine = machine();
        let labels = machine.node().metadata.labels.unwrap();
        assert_eq!(
            (
                labels["kubernetes.io/hostname"].as_str(),
                labels["zone"].as_str()
            ),
            ("n1", "a")
        );
        let status = machine.status(&Measures::default(), None, at(1));
        let capacity = status.capacity.unwrap();
        assert_eq!(
            (
                capacity["cpu"].0.as_str(),
                capacity["memory"].0.as_str(),
                capacity["pods"].0.as_str()
            ),
            ("4", "8Gi", "100")
        );
        let addresses: Vec<_> = status
            .addresses
            .unwrap()
            .into_iter()
            .map(|one| (one.type_, one.address))
            .collect();
        assert_eq!(
            addresses,
            [("InternalIP", "10.0.0.1"), ("Hostname", "n1")]
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
    }

    #[test]
    fn transitions_are_remembered_and_others_conditions_kept() {
        let machine = machine();
        let measures = Measures::default();
        let mut first = machine.status(&measures, None, at(1));
        first.conditions.as_mut().unwrap().push(NodeCondition {
            type_: "NetworkUnavailable".to_owned(),
            status: "False".to_owned(),
            ..NodeCondition::default()
        });
        let second = machine.status(&measures, Some(&first), at(60));
        assert_eq!(
            condition(&second, "Ready").last_transition_time,
            Some(Time(at(1)))
        );
        assert_eq!(
            condition(&second, "Ready").last_heartbeat_time,
            Some(Time(at(60)))
        );
        assert_eq!(condition(&second, "NetworkUnavailable").status, "False");
        assert!(says_the_same(&first, &second));

        let measures = Measures {
            pressure: Pressure {
                memory: true,
                disk: false,
            },
            ..Measures::default()
        };
        let third = machine.status(&measures, Some(&second), at(90));
        assert_eq!(condition(&third, "MemoryPressure").status, "True");
        assert_eq!(
            condition(&third, "MemoryPressure").last_transition_time,
            Some(Time(at(90)))
        );
        assert!(!says_the_same(&second, &third));
    }

    #[test]
    fn the_way_from_the_machine_is_told_of_if_it_is_wanted() {
        let mut machine = machine();
        machine.kernel_network = Some(Err("no permission".to_owned()));
        let status = machine.status(&Measures::default(), None, Timestamp::UNIX_EPOCH);
        let found = condition(&status, "KernelNetwork");
        assert_eq!(found.status, "False");
        assert_eq!(found.message.as_deref(), Some("no permission"));
        machine.kernel_network = Some(Ok("vaquita0".to_owned()));
        let status = machine.status(&Measures::default(), Some(&status), Timestamp::UNIX_EPOCH);
        assert_eq!(condition(&status, "KernelNetwork").status, "True");
        machine.kernel_network = None;
        let status = machine.status(&Measures::default(), Some(&status), Timestamp::UNIX_EPOCH);
        let mut conditions = status.conditions.iter().flatten();
        assert!(conditions.all(|found| found.type_ != "KernelNetwork"));
    }
}
