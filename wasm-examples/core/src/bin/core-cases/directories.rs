//! Paths and directories.

use crate::wasi::{self, Fd, How};
use crate::{Tried, done, expect, fails, file, plain, remove, remove_dir, touch};

/// An entry: its name, kind and inode, and where the one after it is.
type Entry = (String, u8, u64, u64);

/// Entries from a position on, as many as are whole in a buffer of that size; and whether that was the end.
fn entries(dir: Fd, room: usize, from: u64) -> Result<(Vec<Entry>, bool), String> {
    let told = done("list", wasi::read_dir(dir, room, from))?;
    let mut rest = told.as_slice();
    let mut entries = Vec::new();
    while let Some((head, more)) = rest.split_at_checked(24) {
        let number = |at: usize| {
            let bytes = head[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let length = usize::try_from(number(16) & 0xffff_ffff).expect("it is short");
        let Some((name, more)) = more.split_at_checked(length) else {
            break;
        };
        let name = String::from_utf8(name.to_vec()).map_err(|error| error.to_string())?;
        entries.push((name, head[20], number(8), number(0)));
        rest = more;
    }
    Ok((entries, told.len() < room))
}

/// The sorted names of all that is in a directory.
pub(crate) fn names(dir: Fd) -> Result<Vec<String>, String> {
    let (mut names, mut from) = (Vec::new(), 0);
    loop {
        let (some, is_end) = entries(dir, 512, from)?;
        if let Some((_, _, _, next)) = some.last() {
            from = *next;
        }
        names.extend(some.into_iter().map(|entry| entry.0));
        if is_end {
            names.sort();
            return Ok(names);
        }
    }
}

pub(crate) fn open(root: Fd) -> Tried {
    fails("nothing", plain(root, "none"), &[wasi::NOENT])?;
    let create = |create| How {
        create,
        rights: wasi::READ | wasi::WRITE,
        ..How::default()
    };
    let fd = done(
        "make",
        wasi::open(root, "file", create(wasi::CREATE | wasi::EXCLUSIVE)),
    )?;
    fails("below a file", plain(fd, "file"), &[wasi::NOTDIR])?;
    done("close", wasi::close(fd))?;
    let again = wasi::open(root, "file", create(wasi::CREATE | wasi::EXCLUSIVE));
    fails("make again", again, &[wasi::EXIST])?;
    let as_dir = How {
        create: wasi::DIRECTORY,
        ..How::default()
    };
    fails(
        "not a directory",
        wasi::open(root, "file", as_dir),
        &[wasi::NOTDIR],
    )?;
    fails("below", plain(root, "file/file"), &[wasi::NOTDIR])?;
    let both = wasi::open(root, "dir", create(wasi::CREATE | wasi::DIRECTORY));
    fails("make a directory", both, &[wasi::INVAL])?;
    done("make", wasi::make_dir(root, "dir"))?;
    let dir = done("a directory", wasi::open(root, "dir", as_dir))?;
    done("close", wasi::close(dir))?;
    let result = wasi::open(root, "dir", create(wasi::CREATE));
    fails("a directory as a file", result, &[wasi::ISDIR])?;
    let result = wasi::open(root, "dir", create(wasi::TRUNCATE));
    fails("a directory as a file", result, &[wasi::ISDIR])?;
    let itself = done("the directory itself", plain(root, "."))?;
    expect(
        "the same",
        done("stat", wasi::stat(itself))?.inode,
        done("stat", wasi::stat(root))?.inode,
    )?;
    done("close", wasi::close(itself))?;
    remove_dir(root, "dir")?;
    remove(root, "file")
}

pub(crate) fn open_a_lot(root: Fd) -> Tried {
    touch(root, "file")?;
    let first = done("open", plain(root, "file"))?;
    for _ in 0..2000 {
        done("close", wasi::close(first))?;
        expect(
            "the lowest number",
            done("open", plain(root, "file"))?,
            first,
        )?;
    }
    done("close", wasi::close(first))?;
    remove(root, "file")
}

pub(crate) fn paths(root: Fd) -> Tried {
    done("make", wasi::make_dir(root, "dir"))?;
    done("make", wasi::make_dir(root, "dir/nested"))?;
    touch(root, "dir/nested/file")?;
    fails("absolute", plain(root, "/dir/nested/file"), &[wasi::PERM])?;
    let strange = "dir/.//nested/../../dir/nested/../nested///./file";
    done(
        "close",
        wasi::close(done("a strange way", plain(root, strange))?),
    )?;
    let zero = plain(root, "dir/nested/file\0");
    fails("a zero", zero, &[wasi::INVAL])?;
    for slashes in ["dir/nested/file/", "dir/nested/file///"] {
        fails("a file", plain(root, slashes), &[wasi::NOTDIR, wasi::NOENT])?;
    }
    for slashes in ["dir/nested/", "dir/nested///"] {
        let dir = done("a directory", plain(root, slashes))?;
        done("close", wasi::close(dir))?;
    }
    let dir = done("a directory", plain(root, "dir"))?;
    fails("out of it", plain(dir, "../dir/nested/file"), &[wasi::PERM])?;
    fails("out of it", plain(dir, "nested/../.."), &[wasi::PERM])?;
    done("close", wasi::close(dir))?;
    fails("nothing", plain(root, ""), &[wasi::NOENT])?;
    let long = "x".repeat(300);
    fails("a long name", plain(root, &long), &[wasi::NAMETOOLONG])?;
    remove(root, "dir/nested/file")?;
    remove_dir(root, "dir/nested")?;
    remove_dir(root, "dir")
}

pub(crate) fn make_and_remove(root: Fd) -> Tried {
    done("make", wasi::make_dir(root, "dir/"))?;
    fails("make again", wasi::make_dir(root, "dir"), &[wasi::EXIST])?;
    fails("nowhere", wasi::make_dir(root, "none/dir"), &[wasi::NOENT])?;
    done("make", wasi::make_dir(root, "dir/nested"))?;
    fails(
        "not empty",
        wasi::remove_dir(root, "dir"),
        &[wasi::NOTEMPTY],
    )?;
    remove_dir(root, "dir/nested")?;
    for name in ["dir", "dir/"] {
        fails("unlink", wasi::unlink(root, name), &[wasi::ISDIR])?;
    }
    remove_dir(root, "dir/")?;
    fails(
        "remove again",
        wasi::remove_dir(root, "dir"),
        &[wasi::NOENT],
    )?;
    touch(root, "file")?;
    fails("a file", wasi::remove_dir(root, "file"), &[wasi::NOTDIR])?;
    fails("a file", wasi::remove_dir(root, "file/"), &[wasi::NOTDIR])?;
    fails("with a slash", wasi::unlink(root, "file/"), &[wasi::NOTDIR])?;
    fails("below", wasi::unlink(root, "file/file"), &[wasi::NOTDIR])?;
    remove(root, "file")?;
    fails("remove again", wasi::unlink(root, "file"), &[wasi::NOENT])
}

pub(crate) fn list(root: Fd) -> Tried {
    let is_dir = |entry: &Entry| entry.1 == wasi::A_DIRECTORY;
    let (mut empty, is_end) = entries(root, 256, 0)?;
    expect("at its end", is_end, true)?;
    empty.sort();
    expect("directories", empty.iter().all(is_dir), true)?;
    expect("itself", empty[0].2, done("stat", wasi::stat(root))?.inode)?;
    let fd = file(root, "Действие")?;
    let inode = done("stat", wasi::stat(fd))?.inode;
    done("close", wasi::close(fd))?;
    done("make", wasi::make_dir(root, "dir"))?;
    let (all, _) = entries(root, 256, 0)?;
    expect("entries", all.len(), 4)?;
    let found = all.iter().find(|entry| entry.0 == "Действие");
    let found = found.map(|entry| (entry.1, entry.2));
    expect("the file", found, Some((wasi::A_FILE, inode)))?;
    // From in between, and from behind the end.
    let (last, is_end) = entries(root, 256, all[2].3)?;
    expect("at its end", is_end, true)?;
    expect("the last", last, vec![all[3].clone()])?;
    expect("beyond", entries(root, 256, all[3].3 + 1)?.0.len(), 0)?;
    // However little room there is, it goes on with more.
    for room in 0..120 {
        entries(root, room, 0)?;
    }
    fails(
        "a file",
        wasi::read_dir(1, 64, 0),
        &[wasi::NOTDIR, wasi::BADF],
    )?;
    remove_dir(root, "dir")?;
    remove(root, "Действие")
}

pub(crate) fn list_a_lot(root: Fd) -> Tried {
    for number in 0..500 {
        touch(root, &format!("file.{number}"))?;
    }
    expect("entries", names(root)?.len(), 502)?;
    for number in 0..500 {
        remove(root, &format!("file.{number}"))?;
    }
    Ok(())
}

pub(crate) fn rename(root: Fd) -> Tried {
    let gone = |path: &str| fails(path, plain(root, path), &[wasi::NOENT]);
    done("make", wasi::make_dir(root, "source"))?;
    done("to nothing", wasi::rename(root, "source", "target"))?;
    gone("source")?;
    for (from, to) in [
        ("target/", "source"),
        ("source", "target/"),
        ("target/", "source/"),
    ] {
        done("with slashes", wasi::rename(root, from, to))?;
    }
    done("make", wasi::make_dir(root, "target"))?;
    done("to an empty one", wasi::rename(root, "source", "target"))?;
    gone("source")?;
    done("make", wasi::make_dir(root, "source"))?;
    touch(root, "target/file")?;
    let result = wasi::rename(root, "source", "target");
    fails("to a full one", result, &[wasi::NOTEMPTY])?;
    let result = wasi::rename(root, "source", "target/file");
    fails("to a file", result, &[wasi::NOTDIR])?;
    let result = wasi::rename(root, "target", "target/below");
    fails("into itself", result, &[wasi::INVAL])?;
    done("out of it", wasi::rename(root, "target/file", "file"))?;
    let result = wasi::rename(root, "file", "target");
    fails("a file to a directory", result, &[wasi::ISDIR])?;
    touch(root, "other")?;
    let inode = done("stat", wasi::stat_at(root, 0, "file"))?.inode;
    done("a file to another", wasi::rename(root, "file", "other"))?;
    gone("file")?;
    expect(
        "it",
        done("stat", wasi::stat_at(root, 0, "other"))?.inode,
        inode,
    )?;
    done("itself", wasi::rename(root, "other", "other"))?;
    fails(
        "nothing",
        wasi::rename(root, "none", "other"),
        &[wasi::NOENT],
    )?;
    remove(root, "other")?;
    remove_dir(root, "source")?;
    remove_dir(root, "target")
}
