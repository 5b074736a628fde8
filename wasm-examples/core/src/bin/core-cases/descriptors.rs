//! What can be done with an open file or directory.

use crate::wasi::{self, Fd, How};
use crate::{Tried, done, expect, fails, file, plain, remove, remove_dir, touch};

pub(crate) fn preopened(dir: Fd) -> Tried {
    fails("one that it opened", wasi::prestat(dir), &[wasi::BADF])?;
    let root = dir - 1;
    let length = done("name's length", wasi::prestat(root))?;
    let name = done("name", wasi::prestat_name(root, length))?;
    expect("name", name.as_slice(), b"/")?;
    let longer = done("room to spare", wasi::prestat_name(root, length + 1))?;
    expect("name", &longer[..length], b"/")?;
    let result = wasi::prestat_name(root, 0);
    fails("no room", result, &[wasi::NAMETOOLONG])?;
    expect(
        "kind",
        done("status", wasi::fdstat(root))?.kind,
        wasi::A_DIRECTORY,
    )?;
    let fd = file(root, "file")?;
    fails("a file", wasi::prestat(fd), &[wasi::BADF])?;
    done("close", wasi::close(fd))?;
    fails("close again", wasi::close(fd), &[wasi::BADF])?;
    fails("no such number", wasi::close(u32::MAX), &[wasi::BADF])?;
    remove(root, "file")
}

pub(crate) fn read_and_write(root: Fd) -> Tried {
    let fd = file(root, "file")?;
    let written = done("write", wasi::write(fd, &[b"012", b"", b"3456789"], None))?;
    expect("written", written, 10)?;
    expect(
        "at the end",
        done("read", wasi::read(fd, &[4], None))?.len(),
        0,
    )?;
    done("seek", wasi::seek(fd, 0, 0))?;
    let read = done("read", wasi::read(fd, &[1, 0, 3, 100], None))?;
    expect("read", read.as_slice(), b"0123456789")?;
    // Elsewhere, which moves nothing.
    let read = done("pread", wasi::read(fd, &[2, 2], Some(3)))?;
    expect("read", read.as_slice(), b"3456")?;
    expect(
        "beyond",
        done("pread", wasi::read(fd, &[2], Some(100)))?.len(),
        0,
    )?;
    expect(
        "written",
        done("pwrite", wasi::write(fd, &[b"abc"], Some(4)))?,
        3,
    )?;
    expect("where", done("tell", wasi::tell(fd))?, 10)?;
    let read = done("pread", wasi::read(fd, &[100], Some(0)))?;
    expect("read", read.as_slice(), b"0123abc789")?;
    // A hole is zeroes.
    expect(
        "written",
        done("pwrite", wasi::write(fd, &[b"!"], Some(12)))?,
        1,
    )?;
    let read = done("pread", wasi::read(fd, &[100], Some(9)))?;
    expect("read", read.as_slice(), b"9\0\0!")?;
    done("sync", wasi::sync(fd))?;
    done("datasync", wasi::datasync(fd))?;
    done("close", wasi::close(fd))?;
    fails("closed", wasi::read(fd, &[1], None), &[wasi::BADF])?;
    let rights = |rights| How {
        rights,
        ..How::default()
    };
    let reader = done("open", wasi::open(root, "file", rights(wasi::READ)))?;
    let result = wasi::write(reader, &[b"x"], None);
    fails("write to a reader", result, &[wasi::BADF, wasi::PERM])?;
    done("close", wasi::close(reader))?;
    let writer = done("open", wasi::open(root, "file", rights(wasi::WRITE)))?;
    let result = wasi::read(writer, &[1], None);
    fails("read from a writer", result, &[wasi::BADF, wasi::PERM])?;
    done("close", wasi::close(writer))?;
    remove(root, "file")
}

pub(crate) fn seek_and_tell(root: Fd) -> Tried {
    let fd = file(root, "file")?;
    expect("first", done("tell", wasi::tell(fd))?, 0)?;
    done("write", wasi::write(fd, &[&[0; 100]], None))?;
    expect("written", done("tell", wasi::tell(fd))?, 100)?;
    for (offset, whence, to) in [
        (-50, 1, 50),
        (0, 0, 0),
        (1000, 1, 1000),
        (-1, 2, 99),
        (7, 2, 107),
    ] {
        expect("where", done("seek", wasi::seek(fd, offset, whence))?, to)?;
        expect("where", done("tell", wasi::tell(fd))?, to)?;
    }
    fails("before it", wasi::seek(fd, -2000, 1), &[wasi::INVAL])?;
    fails("in no way", wasi::seek(fd, 0, 9), &[wasi::INVAL])?;
    expect("where", done("tell", wasi::tell(fd))?, 107)?;
    done("close", wasi::close(fd))?;
    remove(root, "file")
}

pub(crate) fn append(root: Fd) -> Tried {
    let how = How {
        create: wasi::CREATE,
        rights: wasi::READ | wasi::WRITE,
        flags: wasi::APPEND,
        ..How::default()
    };
    let fd = done("open", wasi::open(root, "file", how))?;
    let flags = done("status", wasi::fdstat(fd))?.flags;
    expect("flags", flags & wasi::APPEND, wasi::APPEND)?;
    done("write", wasi::write(fd, &[b"one"], None))?;
    expect("where", done("tell", wasi::tell(fd))?, 3)?;
    done("seek", wasi::seek(fd, 0, 0))?;
    done("write", wasi::write(fd, &[b"two"], None))?;
    let read = done("read", wasi::read(fd, &[100], Some(0)))?;
    expect("both", read.as_slice(), b"onetwo")?;
    done("no more", wasi::set_flags(fd, 0))?;
    expect("flags", done("status", wasi::fdstat(fd))?.flags, 0)?;
    done("seek", wasi::seek(fd, 0, 0))?;
    done("write", wasi::write(fd, &[b"ten"], None))?;
    let read = done("read", wasi::read(fd, &[100], Some(0)))?;
    expect("over it", read.as_slice(), b"tentwo")?;
    done("close", wasi::close(fd))?;
    for flags in [wasi::SYNC, wasi::DSYNC] {
        let result = wasi::open(root, "file", How { flags, ..how });
        fails("each write on the disk", result, &[wasi::NOTSUP])?;
    }
    remove(root, "file")
}

pub(crate) fn truncation(root: Fd) -> Tried {
    let fd = file(root, "file")?;
    done("write", wasi::write(fd, &[b"0123456789"], None))?;
    done("shorter", wasi::set_size(fd, 4))?;
    expect("size", done("stat", wasi::stat(fd))?.size, 4)?;
    done("longer", wasi::set_size(fd, 6))?;
    let read = done("read", wasi::read(fd, &[100], Some(0)))?;
    expect("content", read.as_slice(), b"0123\0\0")?;
    fails("too long", wasi::set_size(fd, u64::MAX), &[wasi::INVAL, 22])?;
    done("close", wasi::close(fd))?;
    let how = How {
        create: wasi::TRUNCATE,
        rights: wasi::READ | wasi::WRITE,
        ..How::default()
    };
    let fd = done("open", wasi::open(root, "file", how))?;
    expect("size", done("stat", wasi::stat(fd))?.size, 0)?;
    done("close", wasi::close(fd))?;
    remove(root, "file")
}

pub(crate) fn status(root: Fd) -> Tried {
    let fd = file(root, "file")?;
    expect("kind", done("status", wasi::fdstat(fd))?.kind, wasi::A_FILE)?;
    let stat = done("stat", wasi::stat(fd))?;
    expect("kind", stat.kind, wasi::A_FILE)?;
    expect("size and links", (stat.size, stat.links), (0, 1))?;
    done("write", wasi::write(fd, &[&[1; 5]], None))?;
    let later = done("stat", wasi::stat(fd))?;
    expect(
        "the same",
        (later.device, later.inode),
        (stat.device, stat.inode),
    )?;
    expect("size", later.size, 5)?;
    expect("time", later.modified >= stat.modified, true)?;
    let by_path = done("by path", wasi::stat_at(root, 0, "file"))?;
    expect("the same", by_path.inode, later.inode)?;
    expect("the size", by_path.size, 5)?;
    fails("nothing", wasi::stat_at(root, 0, "none"), &[wasi::NOENT])?;
    fails("nothing", wasi::stat(u32::MAX), &[wasi::BADF])?;
    done("close", wasi::close(fd))?;
    remove(root, "file")
}

/// `fstflags`
const ACCESSED: u16 = 1;
const ACCESSED_NOW: u16 = 2;
const MODIFIED: u16 = 4;
const MODIFIED_NOW: u16 = 8;

pub(crate) fn times(root: Fd) -> Tried {
    let fd = file(root, "file")?;
    let first = done("stat", wasi::stat(fd))?;
    let earlier = first.modified - 2_000_000_000;
    done("modified", wasi::set_times(fd, 0, earlier, MODIFIED))?;
    let stat = done("stat", wasi::stat(fd))?;
    expect("modified", stat.modified, earlier)?;
    done("accessed", wasi::set_times(fd, 5_000, 0, ACCESSED))?;
    let stat = done("stat", wasi::stat(fd))?;
    expect("both", (stat.accessed, stat.modified), (5_000, earlier))?;
    done(
        "now",
        wasi::set_times(fd, 0, 0, ACCESSED_NOW | MODIFIED_NOW),
    )?;
    let stat = done("stat", wasi::stat(fd))?;
    expect("accessed", stat.accessed >= first.modified, true)?;
    expect("modified", stat.modified >= first.modified, true)?;
    for both in [ACCESSED | ACCESSED_NOW, MODIFIED | MODIFIED_NOW] {
        fails("both", wasi::set_times(fd, 1, 1, both), &[wasi::INVAL])?;
        let result = wasi::set_times_at(root, "file", 1, both);
        fails("both", result, &[wasi::INVAL])?;
    }
    let unchanged = done("stat", wasi::stat(fd))?;
    expect("modified", unchanged.modified, stat.modified)?;
    done(
        "by path",
        wasi::set_times_at(root, "file", earlier, MODIFIED),
    )?;
    expect("modified", done("stat", wasi::stat(fd))?.modified, earlier)?;
    let result = wasi::set_times_at(root, "none", 1, MODIFIED);
    fails("nothing", result, &[wasi::NOENT])?;
    done("close", wasi::close(fd))?;
    remove(root, "file")
}

pub(crate) fn renumber(root: Fd) -> Tried {
    let one = file(root, "one")?;
    let other = file(root, "other")?;
    done("write", wasi::write(one, &[b"x"], None))?;
    done("renumber", wasi::renumber(one, other))?;
    fails("gone", wasi::close(one), &[wasi::BADF])?;
    expect("size", done("stat", wasi::stat(other))?.size, 1)?;
    done("itself", wasi::renumber(other, other))?;
    expect("size", done("stat", wasi::stat(other))?.size, 1)?;
    for nowhere in [127, u32::MAX] {
        fails("nowhere", wasi::renumber(other, nowhere), &[wasi::BADF])?;
        fails("nothing", wasi::renumber(nowhere, other), &[wasi::BADF])?;
    }
    // Nothing is left open by it.
    let mut current = other;
    for _ in 0..2000 {
        let next = done("open", plain(root, "one"))?;
        done("renumber", wasi::renumber(current, next))?;
        current = next;
    }
    done("close", wasi::close(current))?;
    remove(root, "one")?;
    remove(root, "other")
}

/// What is open lives on without a name.
pub(crate) fn dangling(root: Fd) -> Tried {
    let fd = file(root, "file")?;
    remove(root, "file")?;
    done("write", wasi::write(fd, &[b"still"], None))?;
    let read = done("read", wasi::read(fd, &[100], Some(0)))?;
    expect("content", read.as_slice(), b"still")?;
    touch(root, "file")?;
    expect(
        "another",
        done("stat", wasi::stat_at(root, 0, "file"))?.size,
        0,
    )?;
    done("close", wasi::close(fd))?;
    remove(root, "file")?;
    done("make", wasi::make_dir(root, "dir"))?;
    let dir = done("open", plain(root, "dir"))?;
    remove_dir(root, "dir")?;
    let result = wasi::make_dir(dir, "in it");
    fails("in a removed directory", result, &[wasi::NOENT])?;
    done("close", wasi::close(dir))
}

pub(crate) fn refused_on_directories(root: Fd) -> Tried {
    let bad = &[wasi::BADF];
    fails("read", wasi::read(root, &[1], None), bad)?;
    fails("pread", wasi::read(root, &[1], Some(0)), bad)?;
    fails("write", wasi::write(root, &[b"x"], None), bad)?;
    fails("pwrite", wasi::write(root, &[b"x"], Some(0)), bad)?;
    for whence in 0..3 {
        fails("seek", wasi::seek(root, 0, whence), bad)?;
    }
    fails("tell", wasi::tell(root), bad)?;
    fails("advise", wasi::advise(root, 4), bad)?;
    fails("allocate", wasi::allocate(root, 0), bad)?;
    fails("sync", wasi::sync(root), bad)?;
    fails("datasync", wasi::datasync(root), bad)?;
    fails("flags", wasi::set_flags(root, wasi::NONBLOCK), bad)?;
    fails("size", wasi::set_size(root, 0), bad)
}

pub(crate) fn advice(root: Fd) -> Tried {
    let fd = file(root, "file")?;
    for advice in 0..=5 {
        done("advise", wasi::advise(fd, advice))?;
    }
    fails("nonsense", wasi::advise(fd, 77), &[wasi::INVAL])?;
    // Neither WASI nor most of its hosts promise the space.
    fails("allocate", wasi::allocate(fd, 100), &[wasi::NOTSUP])?;
    expect("size", done("stat", wasi::stat(fd))?.size, 0)?;
    done("close", wasi::close(fd))?;
    remove(root, "file")
}
