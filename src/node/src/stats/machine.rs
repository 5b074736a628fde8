//! What the machine and this process use, as the kernel tells it.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use super::{Cpu, NodeReading, Rate, Reading, disk::FileSystem};

/// The unit of `/proc/stat`, on every architecture that there is.
const TICKS_PER_SECOND: u64 = 100;

/// Reads the machine. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    /// On the file system that the node's data are on.
    dir: PathBuf,
    /// Where images are.
    images: PathBuf,
    started: Timestamp,
    cpu: Rate,
    own_cpu: Rate,
}

/// The machine's memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) available: u64,
    /// All that is not free.
    pub(super) usage: u64,
    /// That of it which could not be had for other uses.
    pub(super) working_set: u64,
    pub(super) rss: u64,
    pub(super) swap: u64,
}

impl Machine {
    /// The node of that name, whose data and images are in these directories.
    pub(crate) fn new(name: String, dir: PathBuf, images: PathBuf) -> Self {
        Self {
            inner: Arc::new(Inner {
                name,
                dir,
                images,
                started: Timestamp::now(),
                cpu: Rate::new(all_cpus()),
                own_cpu: Rate::new(own_cpu()),
            }),
        }
    }

    pub(super) fn read(&self) -> NodeReading {
        let (now, cpu, own) = (Instant::now(), all_cpus(), own_cpu());
        let inner = &self.inner;
        NodeReading {
            cpu: Cpu {
                total: cpu,
                rate: inner.cpu.per_second(now, cpu),
            },
            memory: memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            fs: FileSystem::of(&inner.dir),
            images: FileSystem::of(&inner.images),
            own: Reading {
                cpu: Cpu {
                    total: own,
                    rate: inner.own_cpu.per_second(now, own),
                },
                memory: own_memory(),
                ..self.unread().own
            },
            ..self.unread()
        }
    }

    /// What is known without reading anything.
    pub(super) fn unread(&self) -> NodeReading {
        let inner = &self.inner;
        let none = Cpu {
            total: Duration::ZERO,
            rate: 0,
        };
        NodeReading {
            name: inner.name.clone(),
            started: inner.started,
            cpu: none,
            memory: Memory::default(),
            fs: FileSystem::default(),
            images: FileSystem::default(),
            own: Reading {
                time: Timestamp::now(),
                started: inner.started,
                cpu: none,
                memory: 0,
            },
        }
    }
}

fn all_cpus() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    busy(&stat).unwrap_or_default()
}

/// The first line is `cpu  user nice system idle iowait irq softirq steal ...`, in ticks.
fn busy(stat: &str) -> Option<Duration> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = fields
        .split_ascii_whitespace()
        .take(8)
        .map_while(|field| field.parse().ok())
        .collect();
    let idle = |at: &usize| matches!(at, 3 | 4);
    let busy: u64 = ticks
        .iter()
        .enumerate()
        .filter(|(at, _)| !idle(at))
        .map(|(_, ticks)| *ticks)
        .fold(0, u64::saturating_add);
    Some(Duration::from_millis(
        busy.saturating_mul(1000 / TICKS_PER_SECOND),
    ))
}

fn memory(meminfo: &str) -> Memory {
    let field = |name| crate::host::parse_meminfo(meminfo, name).unwrap_or_default();
    let (total, available) = (field("MemTotal"), field("MemAvailable"));
    Memory {
        available,
        usage: total.saturating_sub(field("MemFree")),
        working_set: total.saturating_sub(available),
        rss: field("AnonPages"),
        swap: field("SwapTotal").saturating_sub(field("SwapFree")),
    }
}

fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or_default(),
        time.tv_nsec.try_into().unwrap_or_default(),
    )
}

/// `/proc/self/statm` is `size resident shared ...`, in pages.
fn own_memory() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    let size = u64::try_from(rustix::param::page_size()).unwrap_or_default();
    pages.unwrap_or_default().saturating_mul(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_used() {
        let stat = "cpu  100 10 50 9999 888 5 5 30 7 7\ncpu0 1 1 1 1\n";
        assert_eq!(busy(stat), Some(Duration::from_secs(2)));
        assert_eq!(busy(""), None);
    }

    #[test]
    fn what_the_kernel_could_take_back_is_no_part_of_the_working_set() {
        let text = "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 600 kB\nAnonPages: 300 kB\n";
        let memory = memory(text);
        assert_eq!(memory.usage, 900 << 10);
        assert_eq!(memory.working_set, 400 << 10);
        assert_eq!(
            (memory.available, memory.rss, memory.swap),
            (600 << 10, 300 << 10, 0)
        );
    }

    #[test]
    fn the_machine_answers() {
        let machine = Machine::new("n".to_owned(), PathBuf::from("/"), PathBuf::from("/"));
        let reading = machine.read();
        assert!(reading.own.memory > 0 && reading.own.cpu.total > Duration::ZERO);
        assert!(reading.memory.working_set > 0 && reading.fs.disk.is_some());
    }
}
