//! Random numbers, clocks, polls, and the standard streams.

use crate::wasi::{self, Event, Fd, How, Subscription};
use crate::{Tried, done, expect, fails, file, remove};

pub(crate) fn random(_root: Fd) -> Tried {
    let bytes = done("a big buffer", wasi::random(1 << 20))?;
    let mut seen = [false; 256];
    for byte in bytes {
        seen[usize::from(byte)] = true;
    }
    expect("every byte", seen.iter().all(|seen| *seen), true)?;
    done("an empty one", wasi::random(0)).map(drop)
}

pub(crate) fn clocks(_root: Fd) -> Tried {
    let wall = done("the time", wasi::time(0))?;
    expect("past 2020", wall > 1_577_836_800_000_000_000, true)?;
    let mut last = done("the other one", wasi::time(1))?;
    for _ in 0..100 {
        done("yield", wasi::yield_now())?;
        let now = done("the other one", wasi::time(1))?;
        expect("forward", now >= last, true)?;
        last = now;
    }
    Ok(())
}

pub(crate) fn standard_streams(_root: Fd) -> Tried {
    for fd in 0..=2 {
        done("status", wasi::fdstat(fd))?;
        done("what it is", wasi::stat(fd))?;
        fails("seek", wasi::seek(fd, 0, 1), &[wasi::SPIPE])?;
        fails("tell", wasi::tell(fd), &[wasi::SPIPE])?;
        fails(
            "list",
            wasi::read_dir(fd, 64, 0),
            &[wasi::NOTDIR, wasi::BADF],
        )?;
        fails("prestat", wasi::prestat(fd), &[wasi::BADF, wasi::NOTSUP])?;
        fails(
            "open",
            crate::plain(fd, "file"),
            &[wasi::NOTDIR, wasi::BADF],
        )?;
    }
    expect("written", done("write", wasi::write(2, &[], None))?, 0)?;
    done("itself", wasi::renumber(0, 0))
}

const CLOCK: u8 = 0;
const FD_READ: u8 = 1;
const FD_WRITE: u8 = 2;

fn on(data: u64, kind: u8, of: u64) -> Subscription {
    Subscription {
        data,
        kind,
        of,
        ..Subscription::default()
    }
}

pub(crate) fn poll(root: Fd) -> Tried {
    fails("nothing", wasi::poll(&[]), &[wasi::INVAL])?;
    for clock in [0, 1] {
        let mut sleep = on(7, CLOCK, clock);
        sleep.timeout = 5_000_000;
        let before = done("time", wasi::time(1))?;
        let events = done("sleep", wasi::poll(&[sleep]))?;
        let after = done("time", wasi::time(1))?;
        expect("slept", after - before >= 5_000_000, true)?;
        expect("events", told(&events), vec![(7, 0, CLOCK)])?;
    }
    let fd = file(root, "file")?;
    done("write", wasi::write(fd, &[b"x"], None))?;
    let events = wasi::poll(&[on(1, FD_READ, fd.into()), on(2, FD_WRITE, fd.into())]);
    let events = done("a file", events)?;
    expect(
        "events",
        told(&events),
        vec![(1, 0, FD_READ), (2, 0, FD_WRITE)],
    )?;
    let output = done("output", wasi::poll(&[on(3, FD_WRITE, 1)]))?;
    expect("events", told(&output), vec![(3, 0, FD_WRITE)])?;
    let nothing = [on(1, FD_READ, u32::MAX.into())];
    match wasi::poll(&nothing) {
        Err(wasi::BADF) => {}
        Ok(events) => expect("events", told(&events), vec![(1, wasi::BADF, FD_READ)])?,
        Err(errno) => return Err(format!("no descriptor: error {errno}")),
    }
    // At once, if the time is over already.
    let mut past = on(9, CLOCK, 1);
    past.flags = 1;
    expect(
        "events",
        told(&done("past", wasi::poll(&[past]))?),
        vec![(9, 0, CLOCK)],
    )?;
    done("close", wasi::close(fd))?;
    let how = How {
        flags: wasi::NONBLOCK,
        rights: wasi::READ,
        ..How::default()
    };
    let fd = done("without waiting", wasi::open(root, "file", how))?;
    expect(
        "read",
        done("read", wasi::read(fd, &[8], None))?,
        b"x".to_vec(),
    )?;
    done("close", wasi::close(fd))?;
    remove(root, "file")
}

fn told(events: &[Event]) -> Vec<(u64, u16, u8)> {
    let mut told: Vec<_> = events
        .iter()
        .map(|event| (event.data, event.error, event.kind))
        .collect();
    told.sort_unstable();
    told
}
