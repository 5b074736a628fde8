//! The laws of the memory pipe: what goes in comes out, in order, once, within the bound; who waits is woken.

use std::{
    sync::atomic::AtomicBool,
    task::{Wake, Waker},
};

use proptest::prelude::*;

use super::*;

fn account() -> Arc<Account> {
    Arc::new(Account::new(usize::MAX))
}

fn connect(capacity: usize) -> (End, End) {
    pair(capacity, &account(), &account())
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
    result.unwrap_err().kind()
}

/// The bytes of a direction are a known sequence, so that any loss, doubling or exchange shows.
#[derive(Clone, Copy, Default)]
struct Sequence(u64);

impl Sequence {
    fn next(&mut self, length: usize) -> Vec<u8> {
        let bytes = (self.0..)
            .take(length)
            .map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
            .collect();
        self.0 += length as u64;
        bytes
    }
}

/// A task that notes whether it was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Flag {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

fn poll(end: &End, poll: impl FnOnce(&End, &Context<'_>) -> Poll<()>) -> Option<Arc<Flag>> {
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(flag.clone());
    poll(end, &Context::from_waker(&waker))
        .is_pending()
        .then_some(flag)
}

#[derive(Clone, Debug)]
enum Op {
    Write { length: usize, copy: bool },
    Read { max: usize, copy: bool },
    Finish,
    Deafen,
    Reset,
    PollRead,
    PollWrite,
}

fn op() -> impl Strategy<Value = Op> {
    // Around every size at which the pipe changes its ways.
    let length = prop_oneof![0..20usize, 500..530usize, 4090..4100usize, 1..30_000usize];
    prop_oneof![
        20 => (length.clone(), any::<bool>()).prop_map(|(length, copy)| Op::Write { length, copy }),
        20 => (length, any::<bool>()).prop_map(|(max, copy)| Op::Read { max, copy }),
        5 => Just(Op::PollRead),
        5 => Just(Op::PollWrite),
        1 => Just(Op::Finish),
        1 => Just(Op::Deafen),
        1 => Just(Op::Reset),
    ]
}

/// One direction as it ought to be: bytes in flight are a stretch of the sequence.
struct Model {
    capacity: usize,
    written: Sequence,
    read: Sequence,
    phase: Phase,
    reader: Option<Arc<Flag>>,
    writer: Option<Arc<Flag>>,
}

impl Model {
    fn len(&self) -> usize {
        usize::try_from(self.written.0 - self.read.0).unwrap()
    }

    fn write(&mut self, end: &End, length: usize, copy: bool) {
        let data = self.written.clone().next(length);
        let result = if copy {
            end.write_from(&data)
        } else {
            let mut bytes = Bytes::from(data);
            let result = end.write(&mut bytes);
            assert_eq!(
                bytes.len(),
                length - result.as_ref().unwrap_or(&0),
                "what was not written is kept"
            );
            result
        };
        let room = self.capacity - self.len();
        match self.phase {
            Phase::Finished | Phase::Deaf => assert_eq!(kind(result), io::ErrorKind::BrokenPipe),
            Phase::Reset => assert_eq!(kind(result), io::ErrorKind::ConnectionReset),
            Phase::Open if length > 0 && room == 0 => {
                assert_eq!(kind(result), io::ErrorKind::WouldBlock);
            }
            Phase::Open => {
                let written = result.unwrap();
                assert_eq!(written, length.min(room));
                self.written.next(written);
                if written > 0 {
                    self.expect_woken(true, false);
                }
            }
        }
    }

    fn read(&mut self, end: &End, max: usize, copy: bool) {
        let available = self.len();
        let result = if copy {
            let mut buffer = vec![0; max];
            end.read_into(&mut buffer).map(|length| {
                assert!(
                    length == max.min(available),
                    "a copying read takes all there is"
                );
                buffer.truncate(length);
                buffer
            })
        } else {
            end.read(max).map(|bytes| bytes.to_vec())
        };
        if max == 0 {
            assert_eq!(result.unwrap(), b"");
        } else if available > 0 {
            let read = result.unwrap();
            assert!((1..=max.min(available)).contains(&read.len()));
            assert_eq!(read, self.read.next(read.len()));
            if self.len() <= self.capacity / 2 {
                self.expect_woken(false, true);
            }
        } else {
            match self.phase {
                Phase::Open => assert_eq!(kind(result), io::ErrorKind::WouldBlock),
                Phase::Finished | Phase::Deaf => assert_eq!(result.unwrap(), b""),
                Phase::Reset => assert_eq!(kind(result), io::ErrorKind::ConnectionReset),
            }
        }
    }

    fn enter(&mut self, phase: Phase) {
        let changes = match phase {
            Phase::Open => false,
            Phase::Finished | Phase::Deaf => self.phase == Phase::Open,
            Phase::Reset => self.phase != Phase::Reset,
        };
        if phase == Phase::Deaf {
            self.read = self.written;
        }
        if changes {
            self.phase = phase;
            self.expect_woken(true, true);
        }
    }

    fn expect_woken(&mut self, reader: bool, writer: bool) {
        if reader && let Some(flag) = self.reader.take() {
            assert!(flag.is_set(), "a waiting reader was not woken");
        }
        if writer && let Some(flag) = self.writer.take() {
            assert!(flag.is_set(), "a waiting writer was not woken");
        }
    }

    fn apply(&mut self, from: &End, to: &End, op: &Op) {
        match *op {
            Op::Write { length, copy } => self.write(from, length, copy),
            Op::Read { max, copy } => self.read(to, max, copy),
            Op::Finish => {
                from.shutdown_write();
                self.enter(Phase::Finished);
            }
            Op::Deafen => {
                to.shutdown_read();
                self.enter(Phase::Deaf);
            }
            Op::Reset => {}
            Op::PollRead => {
                let pending = poll(to, End::poll_read_ready);
                assert_eq!(
                    pending.is_some(),
                    self.len() == 0 && self.phase == Phase::Open
                );
                self.reader = pending.or(self.reader.take());
            }
            Op::PollWrite => {
                let pending = poll(from, End::poll_write_ready);
                assert_eq!(
                    pending.is_some(),
                    self.len() == self.capacity && self.phase == Phase::Open
                );
                self.writer = pending.or(self.writer.take());
            }
        }
    }
}

proptest! {
    #[test]
    fn behaves_as_its_model(
        capacity in prop_oneof![1..10usize, 500..600usize, 4000..5000usize, Just(65_536usize)],
        ops in prop::collection::vec((any::<bool>(), op()), 1..300),
    ) {
        let accounts = [account(), account()];
        let (a, b) = pair(capacity, &accounts[0], &accounts[1]);
        let model = || Model {
            capacity,
            written: Sequence::default(),
            read: Sequence::default(),
            phase: Phase::Open,
            reader: None,
            writer: None,
        };
        let mut models = [model(), model()];
        for (forward, op) in &ops {
            if matches!(op, Op::Reset) {
                a.connection().reset();
                for model in &mut models {
 model.enter(Phase::Reset);
}
            }
            if *forward {
                models[0].apply(&a, &b, op);
            } else {
                models[1].apply(&b, &a, op);
            }
            for (model, account) in models.iter().zip(&accounts) {
                prop_assert_eq!(account.unread(), model.len());
            }
        }
        drop((a, b));
        prop_assert_eq!([accounts[0].unread(), accounts[1].unread()], [0, 0]);
    }
}

#[test]
fn large_chunks_pass_without_a_copy() {
    let (a, b) = connect(65_536);
    let chunk = Bytes::from(vec![7; 10_000]);
    a.write(&mut chunk.clone()).unwrap();
    let got = b.read(usize::MAX).unwrap();
    assert_eq!(got.as_ptr(), chunk.as_ptr());
    assert_eq!(got.len(), chunk.len());
}

#[test]
fn a_small_slice_does_not_hold_on_to_a_large_buffer() {
    let (a, b) = connect(65_536);
    let large = Bytes::from(vec![7; 1 << 20]);
    a.write(&mut large.slice(..100)).unwrap();
    assert!(large.is_unique());
    assert_eq!(b.read(usize::MAX).unwrap().len(), 100);
}

#[test]
fn tiny_writes_are_gathered() {
    let (a, b) = connect(65_536);
    for byte in 0..65_536u32 {
        let byte = Bytes::copy_from_slice(&[(byte % 251) as u8]);
        assert_eq!(a.write(&mut byte.clone()).unwrap(), 1);
    }
    assert_eq!(kind(a.write_from(b"x")), io::ErrorKind::WouldBlock);
    assert!(lock(&a.outgoing().state).chunks.len() <= 65_536 / GATHERED);
    let mut expected = 0..65_536u32;
    while !expected.is_empty() {
        for byte in b.read(3000).unwrap() {
            assert_eq!(u32::from(byte), expected.next().unwrap() % 251);
        }
    }
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let (a, b) = connect(65_536);
    for size in [10, 3000, 4000, 50_000] {
        a.write_from(&vec![1; size]).unwrap();
        let mut buffer = vec![0; size];
        assert_eq!(b.read_into(&mut buffer).unwrap(), size);
        let state = lock(&a.outgoing().state);
        assert!(state.tail.capacity() <= KEPT && state.chunks.is_empty());
    }
}

#[test]
fn the_end_follows_the_data() {
    let (a, b) = connect(100);
    a.write_from(b"last words").unwrap();
    drop(a);
    assert_eq!(kind(b.write_from(b"?")), io::ErrorKind::BrokenPipe);
    assert_eq!(b.read(4).unwrap(), "last");
    assert_eq!(b.read(100).unwrap(), " words");
    assert_eq!(b.read(100).unwrap(), "");
    assert_eq!(b.read(100).unwrap(), "");
}

#[test]
fn half_closed_the_other_half_goes_on() {
    let (a, b) = connect(100);
    a.write_from(b"request").unwrap();
    a.shutdown_write();
    a.shutdown_write();
    assert_eq!(kind(a.write_from(b"more")), io::ErrorKind::BrokenPipe);
    assert_eq!(b.read(100).unwrap(), "request");
    assert_eq!(b.read(100).unwrap(), "");
    b.write_from(b"answer").unwrap();
    assert_eq!(a.read(100).unwrap(), "answer");
    assert_eq!(kind(a.read(100)), io::ErrorKind::WouldBlock);
}

#[test]
fn dropping_unread_data_resets() {
    let (a, b) = connect(100);
    a.write_from(b"unheard").unwrap();
    b.write_from(b"said before").unwrap();
    let waiting = poll(&a, |a, cx| {
        a.incoming().poll(cx, |_| false, |state| &mut state.readers)
    })
    .unwrap();
    drop(b);
    assert!(waiting.is_set());
    assert_eq!(a.read(100).unwrap(), "said before");
    assert_eq!(kind(a.read(100)), io::ErrorKind::ConnectionReset);
    assert_eq!(kind(a.write_from(b"?")), io::ErrorKind::ConnectionReset);
    assert_eq!(kind(a.room()), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_deaf_reader_breaks_the_pipe() {
    let (a, b) = connect(4);
    a.write_from(b"full").unwrap();
    let waiting = poll(&a, End::poll_write_ready).unwrap();
    b.shutdown_read();
    assert!(waiting.is_set());
    assert_eq!(kind(a.write_from(b"?")), io::ErrorKind::BrokenPipe);
    assert_eq!(b.read(100).unwrap(), "");
    b.write_from(b"bye").unwrap();
    drop(b);
    assert_eq!(a.read(100).unwrap(), "bye");
    assert_eq!(a.read(100).unwrap(), "");
}

#[test]
fn all_tasks_that_wait_are_woken() {
    let (a, b) = connect(100);
    let waiting: Vec<_> = (0..3)
        .map(|_| poll(&b, End::poll_read_ready).unwrap())
        .collect();
    a.write_from(b"x").unwrap();
    assert!(waiting.iter().all(|flag| flag.is_set()));
}

#[test]
fn above_its_limit_a_pod_goes_on_slowly() {
    let pressed = Arc::new(Account::new(50_000));
    let ends: Vec<_> = (0..20)
        .map(|_| pair(65_536, &pressed, &account()))
        .collect();
    let fill = |end: &End| {
        let mut written = 0;
        while let Ok(length) = end.write_from(&[0; 1000]) {
            written += length;
        }
        written
    };
    let written: Vec<_> = ends.iter().map(|(end, _)| fill(end)).collect();
    assert!(written[0] > 50_000);
    assert_eq!(written[1..], [UNDER_PRESSURE; 19]);
    assert!(pressed.unread() <= 50_000 + 1000 + 20 * UNDER_PRESSURE);
    // Under pressure still, each connection that is read takes more.
    assert_eq!(ends[7].1.read_into(&mut [0; 4096]).unwrap(), 4096);
    assert_eq!(fill(&ends[7].0), UNDER_PRESSURE);
    // Nor does it come too late for who waits.
    let waiting = poll(&ends[7].0, End::poll_write_ready).unwrap();
    assert_eq!(ends[7].1.read_into(&mut [0; 1]).unwrap(), 1);
    assert!(waiting.is_set());
}

#[test]
fn bytes_survive_two_threads() {
    for (capacity, total) in [
        (1, 5000),
        (100, 100_000),
        (4096, 1 << 20),
        (65_536, 1 << 20),
    ] {
        let (a, b) = connect(capacity);
        std::thread::scope(|scope| {
            scope.spawn(move || talk(&a, total, capacity as u64));
            scope.spawn(move || talk(&b, total, capacity as u64 + 1));
        });
    }
}

/// Sends and receives `total` bytes of the sequence at once, in pieces that depend on `seed`, then closes.
fn talk(end: &End, total: usize, mut seed: u64) {
    let (mut sent, mut received) = (Sequence::default(), Sequence::default());
    let mut random = move |below: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        1 + usize::try_from(seed >> 33).unwrap() % below
    };
    let mut ended = false;
    let mut step = |cx: &mut Context<'_>| -> Poll<()> {
        loop {
            let mut moved = false;
            let left = total - usize::try_from(sent.0).unwrap();
            if left > 0 {
                let data = sent.clone().next(random(20_000).min(left));
                let result = if random(2) == 1 {
                    end.write_from(&data)
                } else {
                    end.write(&mut Bytes::from(data))
                };
                match result {
                    Ok(length) => drop(sent.next(length)),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
                moved |= sent.0 + left as u64 > total as u64;
                if sent.0 == total as u64 {
                    end.shutdown_write();
                }
            }
            match end.read(random(20_000)) {
                Ok(data) if data.is_empty() => {
                    assert_eq!(received.0, total as u64);
                    ended = true;
                    if sent.0 == total as u64 {
                        return Poll::Ready(());
                    }
                }
                Ok(data) => {
                    assert_eq!(received.next(data.len()), data);
                    moved = true;
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            let sending = sent.0 < total as u64;
            let stuck = !moved
                && (ended || end.poll_read_ready(cx).is_pending())
                && (!sending || end.poll_write_ready(cx).is_pending());
            if stuck {
                return Poll::Pending;
            }
        }
    };
    futures::executor::block_on(std::future::poll_fn(|cx| step(cx)));
}

/// Has so much, and no more.
#[derive(Debug)]
struct Purse(AtomicUsize);

impl Payer for Purse {
    fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        self.0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::SeqCst);
    }
}

#[test]
fn what_is_not_read_yet_is_paid_for() {
    let purse = Arc::new(Purse(AtomicUsize::new(100)));
    let left = || purse.0.load(Ordering::SeqCst);
    let (near, far) = connect(1000);
    // Nobody paid for these.
    near.write_from(&[0; 50]).unwrap();
    near.charge_to(purse.clone());
    near.write_from(&[1; 60]).unwrap();
    assert_eq!(left(), 40);
    assert_eq!(kind(near.write_from(&[2; 41])), io::ErrorKind::OutOfMemory);
    assert_eq!(far.read_into(&mut [0; 60]).unwrap(), 60);
    assert_eq!(left(), 50, "the first were not paid for");
    far.write_from(&[3; 500]).unwrap();
    assert_eq!(left(), 50, "the other direction is another's");
    far.shutdown_read();
    assert_eq!(left(), 100);

    let (near, far) = connect(1000);
    near.charge_to(purse.clone());
    near.write_from(&[4; 100]).unwrap();
    drop(near);
    assert_eq!(left(), 0, "it can be read still");
    drop(far);
    assert_eq!(left(), 100);
}
