//! A disk that remembers what was synced and what was not, and that can fail.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use redb::StorageBackend;

use crate::{Options, Redb, disk::OpenFailure};

/// The bytes of a sector: a write of several may survive a crash in part.
const SECTOR: usize = 512;

/// A file on a machine that may lose its power at any moment. Clones are the same file.
#[derive(Debug, Clone, Default)]
pub(super) struct FakeDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What is on the platter.
    durable: Vec<u8>,
    /// What programs see.
    current: Vec<u8>,
    /// What was done since the last sync.
    unsynced: Vec<Change>,
    /// Changes and syncs so far.
    steps: usize,
    /// From which step on everything fails.
    fails_from: Option<usize>,
}

#[derive(Debug, Clone)]
enum Change {
    Length(usize),
    Write(usize, Vec<u8>),
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Length(length) => file.resize(*length, 0),
            Self::Write(offset, data) => {
                let end = offset + data.len();
                // The change of the length may have been lost.
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[*offset..end].copy_from_slice(data);
            }
        }
    }

    /// The change, sector by sector.
    fn sectors(&self) -> Vec<Self> {
        match self {
            Self::Length(_) => vec![self.clone()],
            Self::Write(offset, data) => {
                let sectors = data.chunks(SECTOR).enumerate();
                sectors
                    .map(|(index, data)| Self::Write(offset + index * SECTOR, data.to_vec()))
                    .collect()
            }
        }
    }
}

impl FakeDisk {
    /// A disk that holds an empty database.
    pub(super) fn new() -> Self {
        let disk = Self::default();
        drop(disk.open(Options::default()).unwrap());
        Self::with(disk.bytes())
    }

    /// A disk that holds `bytes`.
    pub(super) fn with(bytes: Vec<u8>) -> Self {
        let state = State {
            durable: bytes.clone(),
            current: bytes,
            ..State::default()
        };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn open(&self, options: Options) -> Result<Redb, OpenFailure> {
        let disk = self.clone();
        Redb::start(
            move |builder| Ok(builder.create_with_backend(disk.clone())?),
            options,
            Duration::ZERO,
        )
    }

    /// What programs see.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.state().current.clone()
    }

    /// How many changes and syncs there were.
    pub(super) fn steps(&self) -> usize {
        self.state().steps
    }

    /// Lets everything fail from this step on.
    pub(super) fn fail_from(&self, step: usize) {
        self.state().fails_from = Some(step);
    }

    /// Lets everything work again.
    pub(super) fn repair(&self) {
        self.state().fails_from = None;
    }

    /// The disk after a loss of power: of what was not synced, `survives` decides for each sector whether it is there.
    pub(super) fn crash(&self, mut survives: impl FnMut() -> bool) -> Self {
        let state = self.state();
        let mut file = state.durable.clone();
        for change in state.unsynced.iter().flat_map(Change::sectors) {
            if survives() {
                change.apply(&mut file);
            }
        }
        Self::with(file)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    fn step(&mut self) -> io::Result<()> {
        self.check()?;
        self.steps += 1;
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        match self.fails_from {
            Some(step) if self.steps >= step => Err(io::Error::other("the disk is broken")),
            Some(_) | None => Ok(()),
        }
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        self.step()?;
        change.apply(&mut self.current);
        self.unsynced.push(change);
        Ok(())
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("tests are small")
}

impl StorageBackend for FakeDisk {
    fn len(&self) -> io::Result<u64> {
        let state = self.state();
        state.check()?;
        Ok(state.current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        state.check()?;
        let start = index(offset);
        let bytes = state
            .current
            .get(start..start + out.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.state().change(Change::Length(index(length)))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.durable = state.current.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.state()
            .change(Change::Write(index(offset), data.to_vec()))
    }
}
