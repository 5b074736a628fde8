//! Gives memory back when there is nothing to do.
//!
//! Start-up and bursts of work leave two things resident that nobody needs afterwards: freed memory, which the allocator
//! gives back only while somebody allocates, and those pages of the program itself that only they ran. Once the process
//! has been busy and then quiet for a while, [`keep_small`] gives both back. What is needed after all comes back page by page,
//! from the page cache, in microseconds.

use std::{fs, io, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval};

/// How often the process looks at itself.
const EVERY: Duration = Duration::from_secs(5);

/// Less CPU time than this in [`EVERY`] is quiet: an idle cluster takes a tenth of it.
const QUIET: Duration = Duration::from_millis(50);

/// So often in a row it has to be quiet.
const ROUNDS: u32 = 2;

/// Whether it is time to give memory back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// There was work since memory was given back, and then so many quiet rounds.
    Worked { quiet: u32 },
    /// Nothing to gain until there was work.
    Trimmed,
}

impl Watch {
    /// After another round, which took so much CPU time. `true`: give memory back now.
    fn round(self, used: Duration) -> (Self, bool) {
        match self {
            _ if used >= QUIET => (Self::Worked { quiet: 0 }, false),
            Self::Worked { quiet } if quiet + 1 >= ROUNDS => (Self::Trimmed, true),
            Self::Worked { quiet } => (Self::Worked { quiet: quiet + 1 }, false),
            Self::Trimmed => (Self::Trimmed, false),
        }
    }
}

/// Never returns. Drop it to end it.
pub(super) async fn keep_small() {
    let mut timer = interval(EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut watch, mut last) = (Watch::Worked { quiet: 0 }, cpu_time());
    loop {
        timer.tick().await;
        let now = cpu_time();
        let (next, trim_now) = watch.round(now.saturating_sub(last));
        (watch, last) = (next, now);
        if trim_now {
            trim();
            // What giving back costs is not work.
            last = cpu_time();
        }
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or_default(),
        time.tv_nsec.try_into().unwrap_or_default(),
    )
}

#[allow(
    unsafe_code,
    reason = "the allocator and the kernel are told by calls that Rust cannot check"
)]
fn trim() {
    // SAFETY: it frees only what nobody holds, and may be called by any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
    if let Some((start, length)) = program_text() {
        // SAFETY: the range is the program's executable code, as the kernel lists it: mapped from its file, never written to, and
        // mapped as long as the process lives. A page that is let go is read again from that file when it is used.
        let done = unsafe { libc::madvise(start as *mut _, length, libc::MADV_DONTNEED) };
        if done != 0 {
            let error = io::Error::last_os_error();
            tracing::debug!(%error, "the program's own pages are kept");
        }
    }
}

/// Start and length of the mapping that holds this very function. `None` where the kernel does not tell.
fn program_text() -> Option<(usize, usize)> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    mapping_of(&maps, program_text as *const () as usize)
}

/// The mapping of an address if it is code of a file.
fn mapping_of(maps: &str, address: usize) -> Option<(usize, usize)> {
    maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
        let is_code = fields.next()? == "r-xp";
        let file = fields.nth(3)?;
        ((start..end).contains(&address) && is_code && file.starts_with('/'))
            .then(|| (start, end - start))
    })
}

fn hexadecimal(text: &str) -> Option<usize> {
    usize::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_work_and_quiet() {
        let (busy, calm) = (Duration::from_millis(80), Duration::from_millis(3));
        let mut watch = Watch::Worked { quiet: 0 };
        let rounds = [
            (busy, false),
            (calm, false),
            (busy, false),
            (calm, false),
            (calm, true),
            (calm, false),
            (calm, false),
            (busy, false),
            (calm, false),
            (calm, true),
        ];
        for (number, (used, expected)) in rounds.into_iter().enumerate() {
            let (next, trims) = watch.round(used);
            assert_eq!(trims, expected, "round {number}");
            watch = next;
        }
    }

    #[test]
    fn only_code_of_a_file_is_let_go() {
        let maps = "\
1000-3000 r--p 00000000 fe:00 77 /bin/vaquita
3000-9000 r-xp 00002000 fe:00 77 /bin/vaquita
9000-a000 rw-p 00008000 fe:00 77 /bin/vaquita
b000-c000 r-xp 00000000 00:00 0
d000-e000 r-xp 00000000 00:00 0 [vdso]
";
        assert_eq!(mapping_of(maps, 0x3000), Some((0x3000, 0x6000)));
        for elsewhere in [0x1000, 0x9000, 0xb000, 0xd000, 0xe000] {
            assert_eq!(mapping_of(maps, elsewhere), None, "{elsewhere:x}");
        }
    }

    #[test]
    fn the_program_finds_its_own_code_and_runs_on_without_it() {
        let (start, length) = program_text().unwrap();
        assert!((start..start + length).contains(&(trim as *const () as usize)));
        trim();
        assert!(program_text().is_some());
    }
}
