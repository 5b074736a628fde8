//! A guest's future, with everything about CPU time around its polls.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Sleep;
use wasmtime::{Store, StoreContextMut, UpdateDeadline};

use super::turns::{Asked, Place};
use super::{Account, Processors};

thread_local! {
    /// Whether the guest that is being polled on this thread has used up its slice.
    static SLICE_OVER: Cell<bool> = const { Cell::new(false) };
}

/// Has a guest give up its thread whenever the epoch advances. There it can be ended, too; as it is if `look`, which is had at
/// the end of each of its slices, finds an error.
pub fn yield_in_turns<T: 'static>(
    store: &mut Store<T>,
    mut look: impl FnMut(StoreContextMut<'_, T>) -> wasmtime::Result<()> + Send + Sync + 'static,
) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |store| {
        SLICE_OVER.set(true);
        look(store)?;
        Ok(UpdateDeadline::Yield(1))
    });
}

/// See [`Processors::drive`].
pub struct Driven<F> {
    guest: Pin<Box<F>>,
    processors: Processors,
    account: Arc<Account>,
    turn: Turn,
    /// Runs while the process is over its limit.
    parked: Option<Pin<Box<Sleep>>>,
}

/// Where a guest stands with [`Turns`](super::turns::Turns).
#[derive(Debug)]
enum Turn {
    /// It has none, and goes ahead without when it wakes.
    None,
    Waiting(Arc<Place>),
    /// It has one, and with it a need to compute.
    Had,
}

impl<F> Driven<F> {
    pub(super) fn new(guest: F, processors: Processors, account: Arc<Account>) -> Self {
        Self {
            guest: Box::pin(guest),
            processors,
            account,
            turn: Turn::None,
            parked: None,
        }
    }

    /// Gives back what it has of turns.
    fn step_back(&mut self) {
        let had = match std::mem::replace(&mut self.turn, Turn::None) {
            Turn::None => false,
            Turn::Waiting(place) => place.leave(),
            Turn::Had => true,
        };
        if had {
            self.processors.turns.release();
        }
    }

    /// Whether the process is within its limit; if not, `context` is woken when it is again.
    fn is_within_quota(&mut self, context: &mut Context<'_>) -> bool {
        let Some(quota) = self.account.quota() else {
            return true;
        };
        while let Some(until) = quota.exhausted_until(tokio::time::Instant::now()) {
            let sleep = match &mut self.parked {
                Some(sleep) => {
                    if sleep.deadline() != until {
                        sleep.as_mut().reset(until);
                    }
                    sleep
                }
                None => self
                    .parked
                    .insert(Box::pin(tokio::time::sleep_until(until))),
            };
            if sleep.as_mut().poll(context).is_pending() {
                return false;
            }
        }
        self.parked = None;
        true
    }

    /// Whether it may compute now; if not, `context` is woken when it may.
    fn may_run(&mut self, context: &mut Context<'_>) -> bool {
        if !self.is_within_quota(context) {
            self.step_back();
            return false;
        }
        match &self.turn {
            Turn::None if self.processors.turns.is_ahead(&self.account) => {
                let asked = self.processors.turns.ask(&self.account, context.waker());
                self.settle(asked, context)
            }
            Turn::Waiting(place) => {
                let has_turn = place.has_turn(context.waker());
                if has_turn {
                    self.turn = Turn::Had;
                }
                has_turn
            }
            Turn::None | Turn::Had => true,
        }
    }

    fn settle(&mut self, asked: Asked, context: &Context<'_>) -> bool {
        match asked {
            Asked::Granted => self.turn = Turn::Had,
            // The turn may have come already.
            Asked::Queued(place) if place.has_turn(context.waker()) => self.turn = Turn::Had,
            Asked::Queued(place) => {
                self.turn = Turn::Waiting(place);
                return false;
            }
        }
        true
    }

    /// Its slice is over, and it wants more.
    fn go_on(&mut self, context: &Context<'_>) {
        let turns = &self.processors.turns;
        let asked = match self.turn {
            Turn::Had => turns.renew(&self.account, context.waker()),
            Turn::None | Turn::Waiting(_) => turns.ask(&self.account, context.waker()),
        };
        self.settle(asked, context);
    }
}

impl<F: Future> Future for Driven<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if !this.may_run(context) {
            return Poll::Pending;
        }
        SLICE_OVER.set(false);
        let stopwatch = Stopwatch::start(matches!(this.turn, Turn::Had));
        let running = this.processors.clock.enter();
        let result = this.guest.as_mut().poll(context);
        drop(running);
        this.account.charge(stopwatch.elapsed());
        if result.is_pending() && SLICE_OVER.get() {
            this.go_on(context);
        } else {
            this.step_back();
        }
        result
    }
}

impl<F> Drop for Driven<F> {
    fn drop(&mut self) {
        self.step_back();
    }
}

impl<F> fmt::Debug for Driven<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driven")
            .field("turn", &self.turn)
            .finish_non_exhaustive()
    }
}

/// Measures what a poll takes. Reading the thread's CPU time is a system call, which would be a good part of a short
/// poll; and a short poll is rarely interrupted, so that its duration will do.
enum Stopwatch {
    Duration(Instant),
    Cpu(Duration),
}

impl Stopwatch {
    fn start(is_computing: bool) -> Self {
        if is_computing {
            Self::Cpu(thread_cpu())
        } else {
            Self::Duration(Instant::now())
        }
    }

    fn elapsed(&self) -> Duration {
        match self {
            Self::Duration(start) => start.elapsed(),
            Self::Cpu(start) => thread_cpu().saturating_sub(*start),
        }
    }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or_default(),
        time.tv_nsec.try_into().unwrap_or_default(),
    )
}
