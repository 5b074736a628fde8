//! What a container uses, as the kernel counts it. Read from the files of its control group: asking the engine takes it a
//! second each time.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where control groups are.
const ROOT: &str = "/sys/fs/cgroup";

/// What a container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since its start.
    pub cpu: Duration,
    /// Bytes of memory that it cannot do without: what can be read again from disk does not count.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// The control groups of a container.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    cpu: PathBuf,
    memory: PathBuf,
    pids: PathBuf,
}

impl Groups {
    /// Those of a process on this machine; `None` if it is none.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let listed = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Some(Self {
            cpu: group(&listed, "cpuacct")?,
            memory: group(&listed, "memory")?,
            pids: group(&listed, "pids")?,
        })
    }

    /// What is used now; `None` once the container has ended.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let cpu = number(&self.cpu, "cpuacct.usage").map(Duration::from_nanos);
        let cpu =
            cpu.or_else(|| entry(&self.cpu, "cpu.stat", "usage_usec").map(Duration::from_micros));
        let memory = number(&self.memory, "memory.usage_in_bytes").map(|all| {
            all.saturating_sub(
                entry(&self.memory, "memory.stat", "total_inactive_file").unwrap_or(0),
            )
        });
        let memory = memory.or_else(|| {
            let all = number(&self.memory, "memory.current")?;
            let inactive = entry(&self.memory, "memory.stat", "inactive_file").unwrap_or(0);
            Some(all.saturating_sub(inactive))
        });
        Some(Usage {
            cpu: cpu?,
            memory: memory?,
            pids: number(&self.pids, "pids.current").unwrap_or(0),
        })
    }
}

/// The directory of a controller's group, of version 1 or else of the only one that version 2 has.
fn group(listed: &str, controller: &str) -> Option<PathBuf> {
    let mut unified = None;
    for line in listed.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        if controllers.split(',').any(|name| name == controller) {
            let root = Path::new(ROOT);
            // Some machines have them together: `cpu,cpuacct`.
            let dirs = [root.join(controller), root.join(controllers)];
            return dirs
                .iter()
                .map(|dir| dir.join(path))
                .find(|dir| dir.is_dir());
        }
        if controllers.is_empty() {
            unified = Some(Path::new(ROOT).join(path));
        }
    }
    unified
}

fn number(group: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(group.join(file))
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn entry(group: &Path, file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(group.join(file)).ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_group_of_version_2_is_every_controllers() {
        let listed = "0::/docker/abc\n";
        assert_eq!(
            group(listed, "memory"),
            Some("/sys/fs/cgroup/docker/abc".into())
        );
        assert_eq!(group("", "memory"), None);
        assert_eq!(group("garbage", "memory"), None);
    }

    #[test]
    fn both_versions_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let groups = Groups {
            cpu: dir.path().into(),
            memory: dir.path().into(),
            pids: dir.path().into(),
        };
        assert_eq!(groups.usage(), None);
        write("cpu.stat", "usage_usec 5\nuser_usec 3\n");
        write("memory.current", "100\n");
        write(
            "memory.stat",
            "anon 1\ninactive_file 40\ntotal_inactive_file 30\n",
        );
        write("pids.current", "3\n");
        let usage = groups.usage().unwrap();
        assert_eq!(
            (usage.cpu, usage.memory, usage.pids),
            (Duration::from_micros(5), 60, 3)
        );
        write("cpuacct.usage", "7\n");
        write("memory.usage_in_bytes", "90\n");
        let usage = groups.usage().unwrap();
        assert_eq!((usage.cpu, usage.memory), (Duration::from_nanos(7), 60));
    }
}
