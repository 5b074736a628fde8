//! What WASI 0.1's functions on files and paths are called and take. What they do is in [`files`] and [`paths`].

use wasmtime::Linker;
use wasmtime_wasi::p1::types::Errno;

use super::memory::Pointer;
use super::paths::{Change, HowOpen, Path};
use super::{Answer, MODULE, errno, files, paths, split};
use crate::state::CoreState;

/// Puts an asynchronous function in the place of the original: its name, its parameters, and what it answers given the
/// instance's descriptors and memory.
macro_rules! replace {
    ($linker:ident, $name:literal, ($($param:ident: $type:ty),*), |$descriptors:ident, $memory:ident| $answer:expr) => {
        $linker.func_wrap_async(MODULE, $name, |mut caller, ($($param,)*): ($($type,)*)| {
            Box::new(async move {
                let (memory, state) = split(&mut caller)?;
                #[allow(unused_mut, reason = "not every function writes")]
                let mut $memory = memory;
                let $descriptors = &state.descriptors;
                let answer: Answer = async { $answer }.await;
                Ok(errno(answer))
            })
        })?;
    };
}

/// Replaces the functions on files and paths, but for those that sockets have in common with them.
pub(super) fn add_to_linker(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    add_files(linker)?;
    add_about_files(linker)?;
    add_paths(linker)?;
    add_changes(linker)
}

fn add_files(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    replace!(linker, "fd_pread", (fd: i32, list: i32, count: i32, at: i64, read: i32), |descriptors, memory| {
        let at = u64::try_from(at).map_err(|_| Errno::Inval)?;
        let into = files::Buffers { list, count };
        let length = files::read(descriptors, &mut memory, fd, into, Some(at)).await?;
        memory.write_u32(Pointer::from(read), length)
    });
    replace!(linker, "fd_pwrite", (fd: i32, list: i32, count: i32, at: i64, written: i32), |descriptors, memory| {
        let at = u64::try_from(at).map_err(|_| Errno::Inval)?;
        let from = files::Buffers { list, count };
        let length = files::write(descriptors, &memory, fd, from, Some(at)).await?;
        memory.write_u32(Pointer::from(written), length)
    });
    replace!(linker, "fd_seek", (fd: i32, offset: i64, whence: i32, out: i32), |descriptors, memory| {
        let at = files::seek(descriptors, fd, offset, whence).await?;
        memory.write(Pointer::from(out), &at.to_le_bytes())
    });
    replace!(linker, "fd_tell", (fd: i32, out: i32), |descriptors, memory| {
        let at = files::seek(descriptors, fd, 0, 1).await?;
        memory.write(Pointer::from(out), &at.to_le_bytes())
    });
    replace!(linker, "fd_sync", (fd: i32), |descriptors, _memory| {
        files::sync(descriptors, fd, false).await
    });
    replace!(linker, "fd_datasync", (fd: i32), |descriptors, _memory| {
        files::sync(descriptors, fd, true).await
    });
    replace!(linker, "fd_advise", (fd: i32, _at: i64, _length: i64, advice: i32), |descriptors, _memory| {
        if !(0..=5).contains(&advice) {
            return Err(Errno::Inval);
        }
        files::seek(descriptors, fd, 0, 1).await.map(drop)
    });
    replace!(linker, "fd_allocate", (fd: i32, _at: i64, _length: i64), |descriptors, _memory| {
        files::seek(descriptors, fd, 0, 1).await?;
        Err(Errno::Notsup)
    });
    replace!(linker, "fd_renumber", (fd: i32, to: i32), |descriptors, _memory| {
        descriptors.lock().renumber(fd, to)
    });
    Ok(())
}

fn add_about_files(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    replace!(linker, "fd_filestat_set_size", (fd: i32, size: i64), |descriptors, _memory| {
        files::set_size(descriptors, fd, size).await
    });
    replace!(linker, "fd_filestat_set_times", (fd: i32, accessed: i64, modified: i64, flags: i32), |descriptors, _memory| {
        let times = files::times(accessed, modified, flags)?;
        files::set_times(descriptors, fd, times).await
    });
    // Rights were given up by WASI itself: they can't be taken away.
    replace!(linker, "fd_fdstat_set_rights", (_fd: i32, _rights: i64, _inheriting: i64), |_descriptors, _memory| {
        Err(Errno::Notsup)
    });
    replace!(linker, "fd_prestat_get", (fd: i32, out: i32), |descriptors, memory| {
        // 0 is a directory; nothing else has a number yet.
        let (tag, length) = match descriptors.lock().preopened(fd)? {
            Some(name) => (0, name.len()),
            None => (1, 0),
        };
        memory.write(Pointer::from(out), &[tag, 0, 0, 0])?;
        let length = u32::try_from(length).map_err(|_| Errno::Overflow)?;
        memory.write_u32(Pointer::from(out).element(1, 4)?, length)
    });
    replace!(linker, "fd_prestat_dir_name", (fd: i32, into: i32, room: i32), |descriptors, memory| {
        let name = descriptors.lock().preopened(fd)?.ok_or(Errno::Notdir)?;
        if name.len() > room.cast_unsigned() as usize {
            return Err(Errno::Nametoolong);
        }
        memory.write(Pointer::from(into), name.as_bytes())
    });
    replace!(linker, "fd_readdir", (fd: i32, into: i32, room: i32, from: i64, used: i32), |descriptors, memory| {
        let length = files::read_dir(descriptors, &mut memory, fd, (into, room), from).await?;
        memory.write_u32(Pointer::from(used), length)
    });
    Ok(())
}

fn add_paths(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    replace!(
        linker,
        "path_open",
        (fd: i32, lookup: i32, at: i32, length: i32, oflags: i32, rights: i64, _inheriting: i64, fdflags: i32, out: i32),
        |descriptors, memory| {
            let how = HowOpen { lookup, oflags, rights, fdflags };
            let opened = paths::open(descriptors, &memory, Path { fd, at, length }, how).await?;
            memory.write_u32(Pointer::from(out), opened)
        }
    );
    replace!(linker, "path_filestat_get", (fd: i32, lookup: i32, at: i32, length: i32, out: i32), |descriptors, memory| {
        paths::stat(descriptors, &mut memory, Path { fd, at, length }, lookup, out).await
    });
    replace!(
        linker,
        "path_filestat_set_times",
        (fd: i32, lookup: i32, at: i32, length: i32, accessed: i64, modified: i64, flags: i32),
        |descriptors, memory| {
            let times = files::times(accessed, modified, flags)?;
            paths::set_times(descriptors, &memory, Path { fd, at, length }, lookup, times).await
        }
    );
    replace!(
        linker,
        "path_readlink",
        (fd: i32, at: i32, length: i32, into: i32, room: i32, used: i32),
        |descriptors, memory| {
            let path = Path { fd, at, length };
            let length = paths::read_link(descriptors, &mut memory, path, (into, room)).await?;
            memory.write_u32(Pointer::from(used), length)
        }
    );
    Ok(())
}

fn add_changes(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    replace!(linker, "path_create_directory", (fd: i32, at: i32, length: i32), |descriptors, memory| {
        paths::change(descriptors, &memory, Path { fd, at, length }, Change::MakeDir).await
    });
    replace!(linker, "path_remove_directory", (fd: i32, at: i32, length: i32), |descriptors, memory| {
        paths::change(descriptors, &memory, Path { fd, at, length }, Change::RemoveDir).await
    });
    replace!(linker, "path_unlink_file", (fd: i32, at: i32, length: i32), |descriptors, memory| {
        paths::change(descriptors, &memory, Path { fd, at, length }, Change::RemoveFile).await
    });
    replace!(linker, "path_symlink", (target: i32, target_length: i32, fd: i32, at: i32, length: i32), |descriptors, memory| {
        let target = (target, target_length);
        paths::make_link(descriptors, &memory, target, Path { fd, at, length }).await
    });
    replace!(
        linker,
        "path_rename",
        (fd: i32, at: i32, length: i32, to_fd: i32, to_at: i32, to_length: i32),
        |descriptors, memory| {
            let to = Path { fd: to_fd, at: to_at, length: to_length };
            paths::rename(descriptors, &memory, Path { fd, at, length }, to).await
        }
    );
    replace!(
        linker,
        "path_link",
        (fd: i32, lookup: i32, at: i32, length: i32, to_fd: i32, to_at: i32, to_length: i32),
        |descriptors, memory| {
            let to = Path { fd: to_fd, at: to_at, length: to_length };
            paths::link(descriptors, &memory, lookup, Path { fd, at, length }, to).await
        }
    );
    Ok(())
}
