//! `/stats/summary`: the document that `kubelet/pkg/apis/stats/v1alpha1` describes. What is not known is absent.

use serde_json::{Value, json};

use super::{Cpu, NodeReading, PodReading, Reading};
use jiff::Timestamp;

pub(super) fn summary(node: &NodeReading, pods: &[PodReading]) -> Value {
    json!({ "node": of_node(node, pods), "pods": pods.iter().map(of_pod).collect::<Vec<_>>() })
}

fn of_node(node: &NodeReading, pods: &[PodReading]) -> Value {
    let time = node.own.time;
    let own = json!({
        "name": "kubelet",
        "startTime": seconds(node.own.started),
        "cpu": cpu(time, node.own.cpu),
        "memory": memory(&node.own),
    });
    let mut value = json!({
        "nodeName": node.name,
        "startTime": seconds(node.started),
        "systemContainers": [own],
        "cpu": cpu(time, node.cpu),
        "memory": {
            "time": seconds(time),
            "availableBytes": node.memory.available,
            "usageBytes": node.memory.usage,
            "workingSetBytes": node.memory.working_set,
            "rssBytes": node.memory.rss,
        },
        "swap": {"time": seconds(time), "swapUsageBytes": node.memory.swap},
    });
    let totals = pods.iter().filter_map(PodReading::total);
    let all = totals.reduce(|mut sum, pod| {
        sum.cpu.total += pod.cpu.total;
        sum.cpu.rate += pod.cpu.rate;
        sum.memory += pod.memory;
        sum
    });
    if let (Some(all), Some(containers)) = (all, value["systemContainers"].as_array_mut()) {
        containers.push(json!({
            "name": "pods",
            "startTime": seconds(node.started),
            "cpu": cpu(time, all.cpu),
            "memory": memory(&all),
        }));
    }
    if let Some(disk) = node.disk {
        value["fs"] = json!({
            "time": seconds(time),
            "availableBytes": disk.available,
            "capacityBytes": disk.total,
            "usedBytes": disk.total.saturating_sub(disk.available),
        });
    }
    value
}

fn of_pod(pod: &PodReading) -> Value {
    let containers: Vec<_> = pod
        .containers
        .iter()
        .map(|(name, reading)| {
            json!({
                "name": name,
                "startTime": seconds(reading.started),
                "cpu": cpu(reading.time, reading.cpu),
                "memory": memory(reading),
            })
        })
        .collect();
    let mut value = json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": pod.started.map(seconds),
        "containers": containers,
    });
    if let Some(total) = pod.total() {
        value["cpu"] = cpu(total.time, total.cpu);
        value["memory"] = memory(&total);
    }
    value
}

fn cpu(time: Timestamp, cpu: Cpu) -> Value {
    json!({
        "time": seconds(time),
        "usageNanoCores": cpu.rate,
        "usageCoreNanoSeconds": u64::try_from(cpu.total.as_nanos()).unwrap_or(u64::MAX),
    })
}

/// A module's memory has no pages that the kernel could take back, so that all measures of it are one.
fn memory(reading: &Reading) -> Value {
    json!({
        "time": seconds(reading.time),
        "usageBytes": reading.memory,
        "workingSetBytes": reading.memory,
        "rssBytes": reading.memory,
    })
}

/// Times in Kubernetes have whole seconds.
fn seconds(time: Timestamp) -> String {
    let whole = Timestamp::from_second(time.as_second()).unwrap_or(time);
    whole.to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stats::machine::Memory;

    #[test]
    fn it_has_the_shape_that_clients_read() {
        let time: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
        let reading = Reading {
            time,
            started: Timestamp::UNIX_EPOCH,
            cpu: Cpu {
                total: Duration::from_millis(1500),
                rate: 250_000_000,
            },
            memory: 65_536,
        };
        let node = NodeReading {
            name: "n".to_owned(),
            started: Timestamp::UNIX_EPOCH,
            cpu: reading.cpu,
            memory: Memory::default(),
            disk: None,
            own: reading,
        };
        let pod = PodReading {
            namespace: "ns".to_owned(),
            name: "p".to_owned(),
            uid: "u".to_owned(),
            started: Some(Timestamp::UNIX_EPOCH),
            containers: vec![("c".to_owned(), reading)],
        };
        let idle = PodReading {
            containers: vec![],
            ..pod.clone()
        };
        let summary = summary(&node, &[pod, idle]);
        assert_eq!(summary["node"]["nodeName"], "n");
        assert_eq!(summary["node"]["systemContainers"][1]["name"], "pods");
        let expected = json!({
            "podRef": {"name": "p", "namespace": "ns", "uid": "u"},
            "startTime": "1970-01-01T00:00:00Z",
            "containers": [{
                "name": "c",
                "startTime": "1970-01-01T00:00:00Z",
                "cpu": {"time": "2026-01-02T03:04:05Z", "usageNanoCores": 250_000_000, "usageCoreNanoSeconds": 1_500_000_000},
                "memory": {"time": "2026-01-02T03:04:05Z", "usageBytes": 65_536, "workingSetBytes": 65_536, "rssBytes": 65_536},
            }],
            "cpu": {"time": "2026-01-02T03:04:05Z", "usageNanoCores": 250_000_000, "usageCoreNanoSeconds": 1_500_000_000},
            "memory": {"time": "2026-01-02T03:04:05Z", "usageBytes": 65_536, "workingSetBytes": 65_536, "rssBytes": 65_536},
        });
        assert_eq!(summary["pods"][0], expected);
        assert_eq!(summary["pods"][1]["containers"], json!([]));
        assert!(summary["pods"][1].get("cpu").is_none());
    }
}
