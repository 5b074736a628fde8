//! What the server's processes use, as Linux tells it. Elsewhere nothing is told.

use std::{fs, time::Duration};

/// Linux counts CPU time in hundredths of a second for every program, whatever its own clock is.
const TICKS_PER_SECOND: u32 = 100;

/// What some processes have used and use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// CPU time since they began.
    pub(super) cpu: Duration,
    /// Resident memory.
    pub(super) resident_mib: f64,
}

impl Usage {
    /// `None` if there are no processes, or one of them cannot be looked at.
    pub(super) fn of(pids: &[u32]) -> Option<Self> {
        if pids.is_empty() {
            return None;
        }
        let mut usage = Self {
            cpu: Duration::ZERO,
            resident_mib: 0.0,
        };
        for pid in pids {
            usage.cpu += cpu_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
            usage.resident_mib +=
                resident_mib(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)?;
        }
        Some(usage)
    }
}

/// From `/proc/PID/stat`: user and system time are the 14th and 15th field. The second one may hold spaces, in brackets.
fn cpu_time(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs(1) * user.checked_add(system)? / TICKS_PER_SECOND)
}

/// From `/proc/PID/status`, where it is given in KiB.
fn resident_mib(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u32 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(f64::from(kib) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_user_and_system_time() {
        let stat = "77 (a (b) c) S 1 77 77 0 -1 4194560 9 0 0 0 150 25 0 0 20 0 9 0 1234 0 0";
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(1750)));
        assert_eq!(cpu_time("77 (a) S 1"), None);
    }

    #[test]
    fn resident_memory_is_in_mib() {
        assert_eq!(resident_mib("Name:\ta\nVmRSS:\t    2560 kB\n"), Some(2.5));
        assert_eq!(resident_mib("Name:\ta\n"), None);
    }

    #[test]
    fn no_processes_use_nothing() {
        assert_eq!(Usage::of(&[]), None);
    }
}
