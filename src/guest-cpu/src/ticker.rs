//! Time slices: guests yield when the engine's epoch advances, and a thread advances it while any guest runs.
//!
//! The thread is asleep as long as no guest computes, so that an idle machine stays idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

/// Ticks without any guest before the thread goes to sleep: waking it costs a guest microseconds.
const IDLE_TICKS: u32 = 64;

/// Advances the epoch. When it is dropped, it goes on only until the guests that run then have yielded.
#[derive(Debug)]
pub struct Ticker {
    clock: Clock,
}

#[derive(Debug, Default)]
struct Shared {
    /// Guests being polled right now.
    running: AtomicUsize,
    parked: AtomicBool,
    stopped: AtomicBool,
}

impl Ticker {
    /// Starts a thread that calls `tick` every `slice`.
    pub fn start(slice: Duration, tick: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new()
            .name("vaquita-ticker".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run(slice, &tick)
            })?;
        let thread = thread.thread().clone();
        Ok(Self {
            clock: Clock { shared, thread },
        })
    }

    /// A handle by which guests say when they run.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.clock.shared.stopped.store(true, Ordering::SeqCst);
        self.clock.thread.unpark();
    }
}

impl Shared {
    fn run(&self, slice: Duration, tick: &dyn Fn()) {
        let mut idle = 0;
        loop {
            if self.running.load(Ordering::SeqCst) > 0 {
                idle = 0;
            } else if self.stopped.load(Ordering::SeqCst) {
                return;
            } else {
                idle += 1;
            }
            if idle > IDLE_TICKS {
                self.sleep_until_needed();
                idle = 0;
            }
            std::thread::sleep(slice);
            tick();
        }
    }

    /// The order matters: whoever needs the thread first says so, then looks whether it is parked. Of that look and the
    /// one here, at least one sees the other side.
    fn sleep_until_needed(&self) {
        self.parked.store(true, Ordering::SeqCst);
        if self.running.load(Ordering::SeqCst) == 0 && !self.stopped.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.parked.store(false, Ordering::SeqCst);
    }
}

/// By which a guest says that it runs.
#[derive(Clone, Debug)]
pub struct Clock {
    shared: Arc<Shared>,
    thread: Thread,
}

impl Clock {
    /// The epoch advances as long as the result lives.
    pub fn enter(&self) -> Running<'_> {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.parked.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running {
            shared: &self.shared,
        }
    }
}

/// See [`Clock::enter`].
pub struct Running<'a> {
    shared: &'a Shared,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.shared.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn it_sleeps_when_idle_and_wakes_for_a_guest() {
        let (sender, ticks) = mpsc::channel();
        let ticker = Ticker::start(Duration::from_micros(10), move || {
            let _ = sender.send(());
        })
        .expect("a thread");
        while !ticker.clock.shared.parked.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        while ticks.try_recv().is_ok() {}

        let clock = ticker.clock();
        let running = clock.enter();
        ticks.recv().expect("a tick for the guest");
        drop(running);
        drop(ticker);
        // It ends when the thread does, for the ticks come from there alone.
        ticks.iter().for_each(drop);
    }
}
