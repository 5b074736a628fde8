//! CPU time of guests: who has used how much, who has used up what it may, and whose turn it is.
//!
//! A guest computes in time slices, at the end of which the engine has it yield (see [`Ticker`]). Each process
//! has an [`Account`], on which every slice of all its instances is charged. An account may have a limit, a quota for
//! each period of 100 ms: when that is used up, its guests are parked until the next period. When more guests want
//! to compute than there are threads, they take turns, of which each process gets its share by what it requests.
//!
//! [`Processors::drive`] is where it comes together: it wraps a guest's future.

mod account;
mod driven;
mod quota;
mod ticker;
mod turns;

pub use account::Account;
pub use driven::{Driven, yield_in_turns};
pub use ticker::{Clock, Running, Ticker};

use std::sync::Arc;
use std::time::Duration;

use turns::Turns;

/// What guests compute on.
#[derive(Clone, Debug)]
pub struct Processors {
    clock: Clock,
    turns: Arc<Turns>,
}

impl Processors {
    /// So many threads, on which a guest computes for the length of `slice` at a time.
    pub fn new(clock: Clock, threads: usize, slice: Duration) -> Self {
        Self {
            clock,
            turns: Arc::new(Turns::new(threads, slice)),
        }
    }

    /// `guest`, yielding in turns with others, at the expense of `account`.
    pub fn drive<F: Future>(&self, guest: F, account: &Arc<Account>) -> Driven<F> {
        Driven::new(guest, self.clone(), Arc::clone(account))
    }
}
