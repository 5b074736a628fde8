//! A process's files for components: [`component`] has the functions of WASI 0.2, [`stream`] its streams, and [`asynchronous`]
//! is WASI 0.3. Those of WASI 0.1 are in [`preview1`](crate::preview1). What is behind all is [`Files`](vaquita_guest_fs::Files).

use std::hash::{DefaultHasher, Hash, Hasher};

use rustix::io::Errno;
use vaquita_guest_fs::{Entry, Open, OpenDir, Opened, Result, Stat};

use crate::budget::{Charge, Purse};

pub(crate) mod asynchronous;
mod component;
mod stream;

pub(crate) use component::add_to_linker;

/// How `open-at` is to open.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent, as the interface's flags"
)]
struct Opening {
    follow: bool,
    directory: bool,
    create: bool,
    exclusive: bool,
    truncate: bool,
    read: bool,
    write: bool,
    mutate_directory: bool,
    synchronous: bool,
}

async fn open(dir: &OpenDir, path: String, how: Opening) -> Result<Opened> {
    // Each write would have to wait for the disk: rather refused than not done.
    if how.synchronous {
        return Err(Errno::OPNOTSUPP);
    }
    let open = Open {
        write: how.write && !how.directory,
        create: how.create,
        exclusive: how.exclusive,
        truncate: how.truncate,
    };
    if how.directory && open.changes() {
        return Err(Errno::INVAL);
    }
    let readable = how.read || !open.write;
    match dir.open(path, how.follow, open, readable).await? {
        Opened::File(_) if how.directory => Err(Errno::NOTDIR),
        Opened::Dir(opened) if how.mutate_directory && !opened.is_writable() => Err(Errno::ROFS),
        opened => Ok(opened),
    }
}

/// Charges what a directory's entries take while they are read.
pub(crate) fn charge(entries: &[Entry], purse: &Purse) -> Result<Charge> {
    let each = entries.iter();
    let bytes: usize = each
        .map(|entry| entry.name.len() + size_of::<Entry>())
        .sum();
    purse.charge(bytes as u64).ok_or(Errno::NOMEM)
}

/// Two numbers by which something can be told from all else.
fn identity(stat: &Stat) -> (u64, u64) {
    let hash = |half: u8| {
        let mut hasher = DefaultHasher::new();
        (half, stat.device, stat.inode).hash(&mut hasher);
        hasher.finish()
    };
    (hash(0), hash(1))
}
