//! Whose turn it is when more guests want to compute than there are threads.
//!
//! A guest that was asleep computes at once, for the rest of a slice. Only one that goes on after that needs a turn, of which there
//! are as many as threads. So the threads' own queues stay short, and whoever answers a request or an event waits for
//! a slice or so, not for every endless loop on the machine.
//!
//! Turns go to the process with the lowest level (see [`Account`]), and within a process to whoever has waited longest.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::account::{Account, nanoseconds};

/// By how many slices of its own a process may be ahead of those that wait, and still compute without a turn on waking.
const AHEAD: u64 = 20;

#[derive(Debug)]
pub(super) struct Turns {
    queue: Mutex<Queue>,
    /// Whether anybody waits.
    contended: AtomicBool,
    /// The level of the last process that was given a turn before others that waited.
    floor: AtomicU64,
    /// Nanoseconds.
    slice: u64,
}

#[derive(Debug, Default)]
struct Queue {
    /// Turns that nobody has.
    free: usize,
    /// By level and, to tell them apart, the account's place in memory.
    processes: BTreeMap<(u64, usize), Line>,
    /// The level under which a process waits.
    levels: HashMap<usize, u64>,
}

/// The guests of one process that wait.
#[derive(Debug)]
struct Line {
    account: Arc<Account>,
    guests: VecDeque<Arc<Place>>,
}

/// A guest's place in the queue.
#[derive(Debug)]
pub(super) struct Place {
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Waiting(Waker),
    Granted,
    /// It does not want a turn any more.
    Gone,
}

/// What came of asking for a turn.
#[derive(Debug)]
pub(super) enum Asked {
    Granted,
    Queued(Arc<Place>),
}

impl Turns {
    pub(super) fn new(threads: usize, slice: Duration) -> Self {
        Self {
            queue: Mutex::new(Queue {
                free: threads.max(1),
                ..Queue::default()
            }),
            contended: AtomicBool::new(false),
            floor: AtomicU64::new(0),
            slice: nanoseconds(slice),
        }
    }

    pub(super) fn is_contended(&self) -> bool {
        self.contended.load(Ordering::Relaxed)
    }

    /// Whether a process has had so much more than others that it must wait even on waking.
    pub(super) fn is_ahead(&self, account: &Account) -> bool {
        self.is_contended() && {
            let floor = self.floor.load(Ordering::Relaxed);
            let ahead = account.weighted(AHEAD.saturating_mul(self.slice));
            account.level() > floor.saturating_add(ahead)
        }
    }

    /// A turn for a guest of that process, or a place in the queue that wakes it once it has one.
    pub(super) fn ask(&self, account: &Arc<Account>, waker: &Waker) -> Asked {
        let mut queue = self.lock();
        if queue.free > 0 {
            queue.free -= 1;
            return Asked::Granted;
        }
        Asked::Queued(self.enqueue(&mut queue, account, waker))
    }

    /// As [`ask`](Self::ask), for a guest that has a turn, which the next one gets if there is any.
    pub(super) fn renew(&self, account: &Arc<Account>, waker: &Waker) -> Asked {
        if !self.is_contended() {
            return Asked::Granted;
        }
        let (place, next) = {
            let mut queue = self.lock();
            if queue.processes.is_empty() {
                return Asked::Granted;
            }
            let place = self.enqueue(&mut queue, account, waker);
            (place, self.next(&mut queue))
        };
        // It may be its own.
        next.into_iter().for_each(Waker::wake);
        Asked::Queued(place)
    }

    /// Takes a turn back.
    pub(super) fn release(&self) {
        let next = self.next(&mut self.lock());
        next.into_iter().for_each(Waker::wake);
    }

    fn enqueue(&self, queue: &mut Queue, account: &Arc<Account>, waker: &Waker) -> Arc<Place> {
        let place = Arc::new(Place {
            state: Mutex::new(State::Waiting(waker.clone())),
        });
        let id = Arc::as_ptr(account).addr();
        let level = match queue.levels.get(&id) {
            Some(level) => *level,
            None => account.lift(self.floor.load(Ordering::Relaxed)),
        };
        queue.levels.insert(id, level);
        let line = queue.processes.entry((level, id)).or_insert_with(|| Line {
            account: Arc::clone(account),
            guests: VecDeque::new(),
        });
        line.guests.push_back(Arc::clone(&place));
        self.contended.store(true, Ordering::Relaxed);
        place
    }

    /// Gives the turn that has become free to the next guest, who is to be woken; or keeps it.
    fn next(&self, queue: &mut Queue) -> Option<Waker> {
        while let Some(((level, id), mut line)) = queue.processes.pop_first() {
            let next =
                std::iter::from_fn(|| line.guests.pop_front()).find_map(|place| place.grant());
            if line.guests.is_empty() {
                queue.levels.remove(&id);
            } else {
                // Its slice is charged when it is over. Until then, it must not look as if it had not been given.
                let given = line.account.weighted(self.slice);
                let level = level.saturating_add(if next.is_some() { given } else { 0 });
                let level = level.max(line.account.level());
                queue.levels.insert(id, level);
                queue.processes.insert((level, id), line);
            }
            if queue.processes.is_empty() {
                self.contended.store(false, Ordering::Relaxed);
            }
            if next.is_some() {
                self.floor.fetch_max(level, Ordering::Relaxed);
                return next;
            }
        }
        queue.free += 1;
        None
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Whether the turn has come; if not, `waker` is told when it does.
    pub(super) fn has_turn(&self, waker: &Waker) -> bool {
        let mut state = self.lock();
        match &mut *state {
            State::Waiting(known) => {
                known.clone_from(waker);
                false
            }
            State::Granted => true,
            State::Gone => false,
        }
    }

    /// Leaves the queue. True if the turn had come, which is now the caller's to give back.
    pub(super) fn leave(&self) -> bool {
        matches!(
            std::mem::replace(&mut *self.lock(), State::Gone),
            State::Granted
        )
    }

    fn grant(&self) -> Option<Waker> {
        let mut state = self.lock();
        let State::Waiting(waker) = std::mem::replace(&mut *state, State::Granted) else {
            *state = State::Gone;
            return None;
        };
        Some(waker)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLICE: Duration = Duration::from_millis(1);

    fn account(request: u32) -> Arc<Account> {
        Account::new(None, Some(request))
    }

    fn queued(asked: Asked) -> Arc<Place> {
        match asked {
            Asked::Queued(place) => place,
            Asked::Granted => panic!("there was a turn"),
        }
    }

    /// One thread, and these processes with so many guests each, all of which compute without end. How many slices
    /// each process gets of so many.
    fn share(processes: &[(u32, usize)], slices: usize) -> Vec<usize> {
        let turns = Turns::new(1, SLICE);
        let accounts: Vec<_> = processes
            .iter()
            .map(|(request, _)| account(*request))
            .collect();
        let outsider = account(1000);
        assert!(matches!(
            turns.ask(&outsider, Waker::noop()),
            Asked::Granted
        ));
        let mut waiting: Vec<(usize, Arc<Place>)> = Vec::new();
        for (process, (_, guests)) in processes.iter().enumerate() {
            for _ in 0..*guests {
                waiting.push((
                    process,
                    queued(turns.ask(&accounts[process], Waker::noop())),
                ));
            }
        }
        turns.release();
        let mut got = vec![0; processes.len()];
        for _ in 0..slices {
            let mut granted = waiting
                .iter()
                .enumerate()
                .filter(|(_, (_, place))| place.has_turn(Waker::noop()));
            let (index, (process, _)) = granted.next().expect("somebody has the turn");
            assert!(granted.next().is_none(), "there is one turn only");
            let process = *process;
            got[process] += 1;
            accounts[process].charge(SLICE);
            let again = match turns.renew(&accounts[process], Waker::noop()) {
                Asked::Queued(place) => place,
                Asked::Granted => continue,
            };
            waiting[index].1 = again;
        }
        got
    }

    #[test]
    fn processes_share_by_what_they_request_whatever_the_number_of_their_guests() {
        assert_eq!(share(&[(1000, 1)], 10), [10]);
        for guests in [[1, 1], [1, 100], [100, 1]] {
            let got = share(&[(1000, guests[0]), (1000, guests[1])], 1000);
            assert!(
                got.iter().all(|got| (490..=510).contains(got)),
                "{guests:?}: {got:?}"
            );
        }
        let got = share(&[(3000, 10), (1000, 10)], 1000);
        assert!((740..=760).contains(&got[0]), "{got:?}");
        let got = share(&[(1000, 1), (0, 1000)], 1002);
        assert!((1..=4).contains(&got[1]), "nobody starves: {got:?}");
    }

    #[test]
    fn a_turn_goes_on_when_its_holder_is_gone() {
        let turns = Turns::new(1, SLICE);
        let account = account(100);
        assert!(matches!(turns.ask(&account, Waker::noop()), Asked::Granted));
        let first = queued(turns.ask(&account, Waker::noop()));
        let second = queued(turns.ask(&account, Waker::noop()));
        assert!(turns.is_contended());
        assert!(!first.leave(), "it had none yet");
        turns.release();
        assert!(second.has_turn(Waker::noop()));
        assert!(!turns.is_contended());
        assert!(second.leave(), "its turn is to be given back");
        turns.release();
        assert!(matches!(turns.ask(&account, Waker::noop()), Asked::Granted));
    }

    #[test]
    fn whoever_has_had_much_waits_even_on_waking() {
        let turns = Turns::new(1, SLICE);
        let (greedy, modest) = (account(1000), account(1000));
        greedy.charge(Duration::from_secs(1));
        assert!(!turns.is_ahead(&greedy), "nobody waits");
        assert!(matches!(turns.ask(&modest, Waker::noop()), Asked::Granted));
        let _place = queued(turns.ask(&modest, Waker::noop()));
        assert!(turns.is_ahead(&greedy));
        assert!(!turns.is_ahead(&modest));
    }
}
