//! Links of both kinds.

use crate::wasi::{self, Fd, How};
use crate::{Tried, done, expect, fails, plain, remove, remove_dir, touch};

const FOLLOWING: How = How {
    lookup: wasi::FOLLOW,
    create: 0,
    rights: 0,
    flags: 0,
};

pub(crate) fn hard(root: Fd) -> Tried {
    touch(root, "file")?;
    done("link", wasi::link(root, 0, "file", "other"))?;
    let (one, other) = (
        done("stat", wasi::stat_at(root, 0, "file"))?,
        done("stat", wasi::stat_at(root, 0, "other"))?,
    );
    expect("the same", (one.inode, one.links), (other.inode, 2))?;
    fails(
        "again",
        wasi::link(root, 0, "file", "other"),
        &[wasi::EXIST],
    )?;
    fails(
        "nothing",
        wasi::link(root, 0, "none", "third"),
        &[wasi::NOENT],
    )?;
    let result = wasi::link(root, wasi::FOLLOW, "file", "third");
    fails("following", result, &[wasi::INVAL])?;
    let result = wasi::link(root, 0, "file", "third/");
    fails("with a slash", result, &[wasi::NOENT])?;
    done("make", wasi::make_dir(root, "dir"))?;
    let result = wasi::link(root, 0, "dir", "third");
    fails("a directory", result, &[wasi::PERM, 2])?;
    let result = wasi::link(root, 0, "file", "dir");
    fails("onto a directory", result, &[wasi::EXIST])?;
    remove_dir(root, "dir")?;
    remove(root, "file")?;
    expect(
        "links",
        done("stat", wasi::stat_at(root, 0, "other"))?.links,
        1,
    )?;
    remove(root, "other")
}

pub(crate) fn symbolic(root: Fd) -> Tried {
    touch(root, "file")?;
    done("link", wasi::symlink("file", root, "link"))?;
    let target = done("target", wasi::read_link(root, "link", 100))?;
    expect("target", target.as_slice(), b"file")?;
    let cut = done("target", wasi::read_link(root, "link", 2))?;
    expect("target", cut.as_slice(), b"fi")?;
    fails("a file", wasi::read_link(root, "file", 9), &[wasi::INVAL])?;
    let link = done("stat", wasi::stat_at(root, 0, "link"))?;
    expect("kind", (link.kind, link.size), (wasi::A_LINK, 4))?;
    let file = done("stat", wasi::stat_at(root, wasi::FOLLOW, "link"))?;
    expect("kind", file.kind, wasi::A_FILE)?;
    fails("as it is", plain(root, "link"), &[wasi::LOOP])?;
    let fd = done("what it leads to", wasi::open(root, "link", FOLLOWING))?;
    expect("the file", done("stat", wasi::stat(fd))?.inode, file.inode)?;
    done("close", wasi::close(fd))?;
    fails("again", wasi::symlink("file", root, "link"), &[wasi::EXIST])?;
    remove(root, "link")?;
    done("make", wasi::make_dir(root, "dir"))?;
    for (path, error) in [
        ("dir", wasi::EXIST),
        ("dir/", wasi::EXIST),
        ("file", wasi::EXIST),
    ] {
        fails(path, wasi::symlink("file", root, path), &[error])?;
    }
    let result = wasi::symlink("file", root, "file/");
    fails("file/", result, &[wasi::NOTDIR])?;
    touch(root, "dir/file")?;
    done("link", wasi::symlink("dir", root, "link"))?;
    let fd = done("through it", plain(root, "link/file"))?;
    done("close", wasi::close(fd))?;
    let as_dir = How {
        create: wasi::DIRECTORY,
        ..How::default()
    };
    let result = wasi::open(root, "link", as_dir);
    fails("as it is", result, &[wasi::LOOP, wasi::NOTDIR])?;
    let result = wasi::remove_dir(root, "link");
    fails("remove as a directory", result, &[wasi::NOTDIR])?;
    remove(root, "link")?;
    remove(root, "dir/file")?;
    remove_dir(root, "dir")?;
    remove(root, "file")
}

pub(crate) fn dangling(root: Fd) -> Tried {
    let result = wasi::symlink("none", root, "link/");
    fails("with a slash", result, &[wasi::NOENT])?;
    done("link", wasi::symlink("none", root, "link"))?;
    fails("as it is", plain(root, "link"), &[wasi::LOOP, wasi::NOENT])?;
    let result = wasi::open(root, "link", FOLLOWING);
    fails("what it leads to", result, &[wasi::NOENT])?;
    let result = wasi::stat_at(root, wasi::FOLLOW, "link");
    fails("what it leads to", result, &[wasi::NOENT])?;
    done("as it is", wasi::stat_at(root, 0, "link"))?;
    done("rename", wasi::rename(root, "link", "other"))?;
    // What is made is what it leads to.
    let how = How {
        create: wasi::CREATE,
        rights: wasi::WRITE,
        ..FOLLOWING
    };
    let fd = done("make", wasi::open(root, "other", how))?;
    done("close", wasi::close(fd))?;
    remove(root, "none")?;
    remove(root, "other")
}

pub(crate) fn loops(root: Fd) -> Tried {
    done("link", wasi::symlink("itself", root, "itself"))?;
    fails("as it is", plain(root, "itself"), &[wasi::LOOP])?;
    let result = wasi::open(root, "itself", FOLLOWING);
    fails("followed", result, &[wasi::LOOP])?;
    fails("below", plain(root, "itself/file"), &[wasi::LOOP])?;
    remove(root, "itself")
}

/// Links lead nowhere outside.
pub(crate) fn no_way_out(root: Fd) -> Tried {
    done("make", wasi::make_dir(root, "dir"))?;
    touch(root, "file")?;
    let dir = done("open", plain(root, "dir"))?;
    done("link", wasi::symlink("../file", dir, "link"))?;
    let result = wasi::open(dir, "link", FOLLOWING);
    fails("out of its directory", result, &[wasi::PERM])?;
    let fd = done("within the root", wasi::open(root, "dir/link", FOLLOWING))?;
    done("close", wasi::close(fd))?;
    remove(root, "dir/link")?;
    done("close", wasi::close(dir))?;
    remove_dir(root, "dir")?;
    remove(root, "file")
}
