//! What the machine is and has. Every figure has an answer: where the system does not tell, a cautious one.

use std::{fs, path::Path};

use k8s_openapi::api::core::v1::NodeSystemInfo;

/// Claimed where the system does not say how much memory there is.
const UNKNOWN_MEMORY: u64 = 1 << 30;

/// The version of the kubelet's behaviour that the node follows, with the node's own.
const KUBELET_VERSION: &str = concat!("v1.36.0+vaquita.", env!("CARGO_PKG_VERSION"));
const RUNTIME_VERSION: &str = concat!("vaquita://", env!("CARGO_PKG_VERSION"));

/// Cores that this process may use.
pub(crate) fn cpus() -> u32 {
    std::thread::available_parallelism()
        .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

/// Bytes of memory that this process may use: the machine's, or the control group's limit if that is less.
pub(crate) fn memory_total() -> u64 {
    let machine = meminfo("MemTotal").unwrap_or(UNKNOWN_MEMORY);
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse().ok());
    machine.min(group.unwrap_or(u64::MAX))
}

/// Bytes of memory that are left, if the system says it.
pub(crate) fn memory_available() -> Option<u64> {
    meminfo("MemAvailable")
}

fn meminfo(field: &str) -> Option<u64> {
    parse_meminfo(&fs::read_to_string("/proc/meminfo").ok()?, field)
}

/// A line is `MemTotal:       16384 kB`.
pub(crate) fn parse_meminfo(text: &str, field: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kilobytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Size and free bytes of the file system that a directory is on.
pub(crate) fn disk(dir: &Path) -> Option<Disk> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(Disk {
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
        available: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

/// The inodes of the file system that a directory is on, and those that are free.
pub(crate) fn inodes(dir: &Path) -> Option<Disk> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(Disk {
        total: stat.f_files,
        available: stat.f_favail,
    })
}

/// A file system, in bytes or inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) total: u64,
    pub(crate) available: u64,
}

/// As Go names them, which is how Kubernetes does.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// As Go names them.
pub(crate) fn operating_system() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

/// `status.nodeInfo`.
pub(crate) fn system_info() -> NodeSystemInfo {
    let machine_id = read_line("/etc/machine-id").unwrap_or_default();
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: read_line("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
        container_runtime_version: RUNTIME_VERSION.to_owned(),
        kernel_version: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.to_owned(),
        system_uuid: read_line("/sys/class/dmi/id/product_uuid")
            .unwrap_or_else(|| machine_id.clone()),
        machine_id,
        operating_system: operating_system().to_owned(),
        os_image: os_image(),
        swap: None,
    }
}

fn os_image() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(
        || operating_system().to_owned(),
        |name| name.trim_matches(['"', '\'']).to_owned(),
    )
}

fn read_line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_figures_are_read_in_kilobytes() {
        let text = "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:    8192 kB\nHugePages_Total:       0\n";
        assert_eq!(parse_meminfo(text, "MemTotal"), Some(16 << 20));
        assert_eq!(parse_meminfo(text, "MemAvailable"), Some(8 << 20));
        assert_eq!(parse_meminfo(text, "HugePages_Total"), None);
        assert_eq!(parse_meminfo(text, "Mem"), None);
    }

    #[test]
    fn the_machine_answers() {
        assert!(cpus() > 0 && memory_total() > 0);
        assert!(disk(Path::new("/")).is_some_and(|disk| disk.total >= disk.available));
        let info = system_info();
        assert!(info.kubelet_version.starts_with("v1.36.") && !info.kernel_version.is_empty());
    }
}
