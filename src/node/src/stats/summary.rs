//! `/stats/summary`: the document that `kubelet/pkg/apis/stats/v1alpha1` describes. What is not known is absent.

use serde_json::{Value, json};

use super::{
    Cpu, NodeReading, PodReading, Reading,
    disk::{FileSystem, VolumeReading},
};
use jiff::Timestamp;
use vaquita_backends::Traffic;

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
    if node.fs.disk.is_some() {
        value["fs"] = file_system(time, node.fs, None);
    }
    if node.images.disk.is_some() {
        let images = file_system(time, node.images, None);
        value["runtime"] = json!({"imageFs": images, "containerFs": images});
    }
    value
}

/// A file system; and how much of it something has, if it is not about all of it.
fn file_system(time: Timestamp, system: FileSystem, used: Option<u64>) -> Value {
    let mut value = json!({"time": seconds(time)});
    if let Some(disk) = system.disk {
        value["availableBytes"] = disk.available.into();
        value["capacityBytes"] = disk.total.into();
        let all = disk.total.saturating_sub(disk.available);
        value["usedBytes"] = used.unwrap_or(all).into();
    }
    if let Some(inodes) = system.inodes {
        value["inodesFree"] = inodes.available.into();
        value["inodes"] = inodes.total.into();
        if used.is_none() {
            value["inodesUsed"] = inodes.total.saturating_sub(inodes.available).into();
        }
    }
    value
}

/// Of the only interface that a pod has, by the name that it has for others.
fn network(time: Timestamp, traffic: Traffic) -> Value {
    let one = json!({"name": "eth0", "rxBytes": traffic.received, "txBytes": traffic.sent});
    let mut value = one.clone();
    value["time"] = seconds(time).into();
    value["interfaces"] = json!([one]);
    value
}

fn of_pod(pod: &PodReading) -> Value {
    let containers: Vec<_> = pod
        .containers
        .iter()
        .map(|(name, reading)| {
            let mut value = json!({
                "name": name,
                "startTime": seconds(reading.started),
                "cpu": cpu(reading.time, reading.cpu),
                "memory": memory(reading),
            });
            if let Some((_, used)) = pod.disk.logs.iter().find(|(known, _)| known == name) {
                value["logs"] = file_system(reading.time, pod.disk.file_system, Some(*used));
            }
            value
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
        if let Some(traffic) = pod.traffic {
            value["network"] = network(total.time, traffic);
        }
        if pod.disk.file_system.disk.is_some() {
            let (time, disk) = (total.time, &pod.disk);
            value["ephemeral-storage"] = file_system(time, disk.file_system, Some(disk.total()));
            let volumes = disk.volumes.iter();
            let volumes: Vec<_> = volumes.map(|it| volume(time, pod, it)).collect();
            if !volumes.is_empty() {
                value["volume"] = volumes.into();
            }
        }
    }
    value
}

fn volume(time: Timestamp, pod: &PodReading, volume: &VolumeReading) -> Value {
    let mut value = json!({
        "name": volume.name,
        "time": seconds(time),
        "availableBytes": volume.available,
        "capacityBytes": volume.capacity,
        "usedBytes": volume.used,
    });
    if let Some(claim) = &volume.claim {
        value["pvcRef"] = json!({"name": claim, "namespace": pod.namespace});
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
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        host::Disk,
        stats::{disk::PodDisk, machine::Memory},
    };

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
            fs: FileSystem::default(),
            images: FileSystem::default(),
            own: reading,
        };
        let pod = PodReading {
            namespace: "ns".to_owned(),
            name: "p".to_owned(),
            uid: "u".to_owned(),
            started: Some(Timestamp::UNIX_EPOCH),
            containers: vec![("c".to_owned(), reading)],
            disk: Arc::default(),
            traffic: None,
        };
        let disk = Disk {
            total: 100,
            available: 60,
        };
        let stored = PodReading {
            traffic: Some(Traffic {
                received: 7,
                sent: 8,
            }),
            disk: Arc::new(PodDisk {
                logs: vec![("c".to_owned(), 10)],
                volumes: vec![VolumeReading {
                    name: "data".to_owned(),
                    used: 5,
                    capacity: 100,
                    available: 60,
                    claim: Some("mine".to_owned()),
                    is_ephemeral: false,
                }],
                file_system: FileSystem {
                    disk: Some(disk),
                    inodes: None,
                },
            }),
            ..pod.clone()
        };
        let idle = PodReading {
            containers: vec![],
            ..pod.clone()
        };
        let summary = summary(&node, &[pod, idle, stored]);
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
        let stored = &summary["pods"][2];
        let network = json!({
            "name": "eth0", "time": "2026-01-02T03:04:05Z", "rxBytes": 7, "txBytes": 8,
            "interfaces": [{"name": "eth0", "rxBytes": 7, "txBytes": 8}],
        });
        assert_eq!(stored["network"], network);
        assert_eq!(stored["containers"][0]["logs"]["usedBytes"], 10);
        assert_eq!(stored["ephemeral-storage"]["usedBytes"], 10);
        assert_eq!(stored["ephemeral-storage"]["capacityBytes"], 100);
        let volume = json!({
            "name": "data", "time": "2026-01-02T03:04:05Z", "availableBytes": 60, "capacityBytes": 100,
            "usedBytes": 5, "pvcRef": {"name": "mine", "namespace": "ns"},
        });
        assert_eq!(stored["volume"], json!([volume]));
    }
}
