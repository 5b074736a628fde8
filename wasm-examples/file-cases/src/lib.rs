//! What files must do, whichever version of WASI they are of: [`run`] tries it all in a directory. The program of this package does so
//! by WASI 0.2, `async-file-cases` by 0.3, and `core-cases` has the like for 0.1.

#![allow(async_fn_in_trait, reason = "the guests have one thread")]
#![allow(
    clippy::needless_pass_by_value,
    reason = "what is expected reads better as it is"
)]

use std::fmt::Debug;

/// What a call gives: errors by the names that they have in WASI.
pub type Answer<T> = Result<T, String>;

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file.
    File,
    /// A symbolic link.
    Link,
    /// Something else.
    Other,
}

/// What is known of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// How many names it has.
    pub links: u64,
    /// Its size.
    pub size: u64,
    /// When it was changed, in seconds and nanoseconds.
    pub modified: (i64, u32),
}

/// How something is opened.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are flags")]
pub struct How {
    /// Follow a link at the end of the path.
    pub follow: bool,
    /// Make it, if it is not there.
    pub create: bool,
    /// It must not be there.
    pub exclusive: bool,
    /// Empty it.
    pub truncate: bool,
    /// It must be a directory.
    pub directory: bool,
    /// To write to it.
    pub write: bool,
}

/// A file or directory of a version of WASI.
pub trait Node: Sized {
    /// Opens what is there.
    async fn open(&self, path: &str, how: How) -> Answer<Self>;
    /// Reads all from a place on.
    async fn read(&self, at: u64) -> Answer<Vec<u8>>;
    /// Writes to a place, or to the end.
    async fn write(&self, at: Option<u64>, data: &[u8]) -> Answer<()>;
    /// What is known of it.
    async fn stat(&self) -> Answer<Stat>;
    /// The same by a path, without following.
    async fn stat_at(&self, path: &str) -> Answer<Stat>;
    /// Makes it longer or shorter.
    async fn set_size(&self, size: u64) -> Answer<()>;
    /// Sets when it was changed; now, if no time is given.
    async fn set_modified(&self, path: &str, time: Option<(i64, u32)>) -> Answer<()>;
    /// All that is in a directory.
    async fn list(&self) -> Answer<Vec<(String, Kind)>>;
    /// Has it on the disk.
    async fn sync(&self) -> Answer<()>;
    /// Makes a directory.
    async fn make_dir(&self, path: &str) -> Answer<()>;
    /// Removes a directory.
    async fn remove_dir(&self, path: &str) -> Answer<()>;
    /// Removes anything else.
    async fn unlink(&self, path: &str) -> Answer<()>;
    /// Gives something another name.
    async fn rename(&self, path: &str, to: &str) -> Answer<()>;
    /// Gives something one more name.
    async fn link(&self, path: &str, to: &str) -> Answer<()>;
    /// Makes a symbolic link.
    async fn symlink(&self, target: &str, path: &str) -> Answer<()>;
    /// Where one leads.
    async fn read_link(&self, path: &str) -> Answer<String>;
    /// Whether both are the same.
    async fn is_same(&self, other: &Self) -> bool;
}

/// Tries everything. Gives a line for each case: its name and `ok`, or what went wrong.
pub async fn run<N: Node>(root: &N) -> Vec<String> {
    let results = [
        ("open", open(root).await),
        ("read and write", read_and_write(root).await),
        ("append", append(root).await),
        ("truncation", truncation(root).await),
        ("status", status(root).await),
        ("times", times(root).await),
        ("paths", paths(root).await),
        ("make and remove", make_and_remove(root).await),
        ("list", list(root).await),
        ("rename", rename(root).await),
        ("hard links", hard_links(root).await),
        ("symbolic links", symbolic_links(root).await),
        ("dangling", dangling(root).await),
        ("no way out", no_way_out(root).await),
        ("wrong kinds", wrong_kinds(root).await),
    ];
    let line = |(name, result): (&str, Answer<()>)| match result {
        Ok(()) => format!("{name}: ok"),
        Err(error) => format!("{name}: {error}"),
    };
    results.map(line).into()
}

const FOLLOW: How = How {
    follow: true,
    create: false,
    exclusive: false,
    truncate: false,
    directory: false,
    write: false,
};
const PLAIN: How = How {
    follow: false,
    ..FOLLOW
};
const WRITE: How = How {
    write: true,
    ..PLAIN
};
const MAKE: How = How {
    create: true,
    ..WRITE
};

fn expect<T: PartialEq + Debug>(what: &str, is: T, should: T) -> Answer<()> {
    if is == should {
        Ok(())
    } else {
        Err(format!("{what} is {is:?}, not {should:?}"))
    }
}

/// It must fail with one of these errors.
fn fails<T>(what: &str, result: Answer<T>, codes: &[&str]) -> Answer<()> {
    match result {
        Ok(_) => Err(format!("{what} succeeds")),
        Err(error) if codes.contains(&error.as_str()) => Ok(()),
        Err(error) => Err(format!("{what}: {error}, not {codes:?}")),
    }
}

async fn touch<N: Node>(root: &N, path: &str) -> Answer<()> {
    root.open(path, MAKE).await.map(drop)
}

async fn open<N: Node>(root: &N) -> Answer<()> {
    fails("nothing", root.open("none", PLAIN).await, &["NoEntry"])?;
    let new = How {
        exclusive: true,
        ..MAKE
    };
    root.open("file", new).await?;
    fails("again", root.open("file", new).await, &["Exist"])?;
    let directory = How {
        directory: true,
        ..PLAIN
    };
    let opened = root.open("file", directory).await;
    fails("a file as a directory", opened, &["NotDirectory"])?;
    root.make_dir("dir").await?;
    let dir = root.open("dir", directory).await?;
    expect("kind", dir.stat().await?.kind, Kind::Directory)?;
    let opened = root.open("dir", MAKE).await;
    fails("a directory as a file", opened, &["IsDirectory"])?;
    let itself = root.open(".", PLAIN).await?;
    expect("itself", itself.is_same(root).await, true)?;
    expect("another", dir.is_same(root).await, false)?;
    root.remove_dir("dir").await?;
    root.unlink("file").await
}

async fn read_and_write<N: Node>(root: &N) -> Answer<()> {
    let file = root.open("file", MAKE).await?;
    file.write(Some(0), b"0123456789").await?;
    expect("all", file.read(0).await?.as_slice(), b"0123456789")?;
    file.write(Some(4), b"abc").await?;
    expect("the end", file.read(3).await?.as_slice(), b"3abc789")?;
    expect("beyond", file.read(100).await?.len(), 0)?;
    file.write(Some(12), b"!").await?;
    expect("a hole", file.read(9).await?.as_slice(), b"9\0\0!")?;
    let long: Vec<u8> = (0..300_000_u32)
        .map(|at| (at / 1000).to_le_bytes()[0])
        .collect();
    file.write(Some(0), &long).await?;
    expect("much", file.read(0).await? == long, true)?;
    file.sync().await?;
    let reader = root.open("file", PLAIN).await?;
    let written = reader.write(Some(0), b"x").await;
    fails(
        "write to a reader",
        written,
        &["NotPermitted", "BadDescriptor"],
    )?;
    root.unlink("file").await
}

async fn append<N: Node>(root: &N) -> Answer<()> {
    let file = root.open("file", MAKE).await?;
    file.write(None, b"one").await?;
    file.write(Some(0), b"two").await?;
    file.write(None, b"three").await?;
    expect("all", file.read(0).await?.as_slice(), b"twothree")?;
    root.unlink("file").await
}

async fn truncation<N: Node>(root: &N) -> Answer<()> {
    let file = root.open("file", MAKE).await?;
    file.write(Some(0), b"0123456789").await?;
    file.set_size(4).await?;
    expect("size", file.stat().await?.size, 4)?;
    file.set_size(6).await?;
    expect("content", file.read(0).await?.as_slice(), b"0123\0\0")?;
    let empty = How {
        truncate: true,
        ..WRITE
    };
    let again = root.open("file", empty).await?;
    expect("size", again.stat().await?.size, 0)?;
    root.unlink("file").await
}

async fn status<N: Node>(root: &N) -> Answer<()> {
    let file = root.open("file", MAKE).await?;
    let stat = file.stat().await?;
    expect("kind", stat.kind, Kind::File)?;
    expect("size and links", (stat.size, stat.links), (0, 1))?;
    file.write(Some(0), &[1; 5]).await?;
    let later = root.stat_at("file").await?;
    expect("size", later.size, 5)?;
    expect("time", later.modified >= stat.modified, true)?;
    fails("nothing", root.stat_at("none").await, &["NoEntry"])?;
    root.unlink("file").await
}

async fn times<N: Node>(root: &N) -> Answer<()> {
    let file = root.open("file", MAKE).await?;
    let first = file.stat().await?.modified;
    let earlier = (first.0 - 100, 5_000);
    root.set_modified("file", Some(earlier)).await?;
    expect("modified", file.stat().await?.modified, earlier)?;
    root.set_modified("file", None).await?;
    expect("now", file.stat().await?.modified >= first, true)?;
    let set = root.set_modified("none", None).await;
    fails("nothing", set, &["NoEntry"])?;
    root.unlink("file").await
}

async fn paths<N: Node>(root: &N) -> Answer<()> {
    root.make_dir("dir").await?;
    root.make_dir("dir/nested").await?;
    touch(root, "dir/nested/file").await?;
    let absolute = root.open("/dir/nested/file", PLAIN).await;
    fails("absolute", absolute, &["NotPermitted"])?;
    let strange = "dir/.//nested/../../dir/nested/../nested///./file";
    root.open(strange, PLAIN).await?;
    let slash = root.open("dir/nested/file/", PLAIN).await;
    fails("a file with a slash", slash, &["NotDirectory", "NoEntry"])?;
    root.open("dir/nested//", PLAIN).await?;
    let below = root.open("dir/nested/file/below", PLAIN).await;
    fails("below a file", below, &["NotDirectory"])?;
    fails("nothing", root.open("", PLAIN).await, &["NoEntry"])?;
    let long = root.open(&"x".repeat(300), PLAIN).await;
    fails("a long name", long, &["NameTooLong"])?;
    root.unlink("dir/nested/file").await?;
    root.remove_dir("dir/nested").await?;
    root.remove_dir("dir").await
}

async fn make_and_remove<N: Node>(root: &N) -> Answer<()> {
    root.make_dir("dir").await?;
    fails("again", root.make_dir("dir").await, &["Exist"])?;
    fails("nowhere", root.make_dir("none/dir").await, &["NoEntry"])?;
    touch(root, "dir/file").await?;
    fails("full", root.remove_dir("dir").await, &["NotEmpty"])?;
    root.unlink("dir/file").await?;
    fails("unlink", root.unlink("dir").await, &["IsDirectory"])?;
    root.remove_dir("dir").await?;
    fails("gone", root.remove_dir("dir").await, &["NoEntry"])?;
    touch(root, "file").await?;
    fails("a file", root.remove_dir("file").await, &["NotDirectory"])?;
    fails("a slash", root.unlink("file/").await, &["NotDirectory"])?;
    root.unlink("file").await?;
    fails("gone", root.unlink("file").await, &["NoEntry"])
}

async fn list<N: Node>(root: &N) -> Answer<()> {
    root.make_dir("dir").await?;
    let dir = root.open("dir", PLAIN).await?;
    expect("nothing", dir.list().await?, Vec::new())?;
    dir.make_dir("a").await?;
    touch(&dir, "b").await?;
    dir.symlink("b", "c").await?;
    let mut listed = dir.list().await?;
    listed.sort_by(|one, other| one.0.cmp(&other.0));
    let all = [("a", Kind::Directory), ("b", Kind::File), ("c", Kind::Link)];
    let all = all.map(|(name, kind)| (name.to_owned(), kind));
    expect("all", listed, all.to_vec())?;
    dir.remove_dir("a").await?;
    dir.unlink("b").await?;
    dir.unlink("c").await?;
    for number in 0..200 {
        touch(&dir, &format!("file.{number}")).await?;
    }
    expect("many", dir.list().await?.len(), 200)?;
    for number in 0..200 {
        dir.unlink(&format!("file.{number}")).await?;
    }
    root.remove_dir("dir").await
}

async fn rename<N: Node>(root: &N) -> Answer<()> {
    root.make_dir("one").await?;
    root.rename("one", "other").await?;
    fails("gone", root.stat_at("one").await, &["NoEntry"])?;
    root.make_dir("one").await?;
    touch(root, "other/file").await?;
    fails("full", root.rename("one", "other").await, &["NotEmpty"])?;
    let result = root.rename("one", "other/file").await;
    fails("onto a file", result, &["NotDirectory"])?;
    let result = root.rename("other", "other/below").await;
    fails("into itself", result, &["Invalid"])?;
    root.rename("other/file", "file").await?;
    let result = root.rename("file", "other").await;
    fails("a file onto a directory", result, &["IsDirectory"])?;
    root.rename("other", "one").await?;
    fails("nothing", root.rename("none", "x").await, &["NoEntry"])?;
    root.remove_dir("one").await?;
    root.unlink("file").await
}

async fn hard_links<N: Node>(root: &N) -> Answer<()> {
    let file = root.open("file", MAKE).await?;
    root.link("file", "other").await?;
    expect("links", file.stat().await?.links, 2)?;
    let other = root.open("other", PLAIN).await?;
    expect("the same", other.is_same(&file).await, true)?;
    fails("again", root.link("file", "other").await, &["Exist"])?;
    fails("nothing", root.link("none", "x").await, &["NoEntry"])?;
    root.make_dir("dir").await?;
    let result = root.link("dir", "x").await;
    fails("a directory", result, &["NotPermitted", "Access"])?;
    root.remove_dir("dir").await?;
    root.unlink("file").await?;
    expect("links", other.stat().await?.links, 1)?;
    root.unlink("other").await
}

async fn symbolic_links<N: Node>(root: &N) -> Answer<()> {
    let file = root.open("file", MAKE).await?;
    root.symlink("file", "link").await?;
    expect("target", root.read_link("link").await?.as_str(), "file")?;
    fails("a file", root.read_link("file").await, &["Invalid"])?;
    expect("kind", root.stat_at("link").await?.kind, Kind::Link)?;
    fails("as it is", root.open("link", PLAIN).await, &["Loop"])?;
    let followed = root.open("link", FOLLOW).await?;
    expect("the same", followed.is_same(&file).await, true)?;
    fails("again", root.symlink("x", "link").await, &["Exist"])?;
    root.unlink("link").await?;
    root.symlink("loop", "loop").await?;
    fails("a loop", root.open("loop", FOLLOW).await, &["Loop"])?;
    root.unlink("loop").await?;
    root.symlink("none", "link").await?;
    fails("dangling", root.open("link", FOLLOW).await, &["NoEntry"])?;
    root.unlink("link").await?;
    root.unlink("file").await
}

/// What is open lives on without a name.
async fn dangling<N: Node>(root: &N) -> Answer<()> {
    let file = root.open("file", MAKE).await?;
    root.unlink("file").await?;
    file.write(Some(0), b"still").await?;
    expect("content", file.read(0).await?.as_slice(), b"still")?;
    root.make_dir("dir").await?;
    let dir = root.open("dir", PLAIN).await?;
    root.remove_dir("dir").await?;
    fails("in it", dir.make_dir("in it").await, &["NoEntry"])
}

async fn no_way_out<N: Node>(root: &N) -> Answer<()> {
    root.make_dir("dir").await?;
    touch(root, "file").await?;
    let dir = root.open("dir", PLAIN).await?;
    let denied = &["NotPermitted"];
    fails("up", dir.open("../file", PLAIN).await, denied)?;
    fails(
        "up and down",
        dir.stat_at("x/../../file").await,
        &["NotPermitted", "NoEntry"],
    )?;
    dir.symlink("../file", "link").await?;
    fails("a link", dir.open("link", FOLLOW).await, denied)?;
    let absolute = dir.symlink("/file", "absolute").await;
    if absolute.is_ok() {
        let opened = dir.open("absolute", FOLLOW).await;
        fails("an absolute link", opened, &["NotPermitted", "NoEntry"])?;
        dir.unlink("absolute").await?;
    }
    root.open("dir/link", FOLLOW).await?;
    fails("rename", dir.rename("link", "../link").await, denied)?;
    dir.unlink("link").await?;
    root.remove_dir("dir").await?;
    root.unlink("file").await
}

/// What can't be done with a file, or a directory.
async fn wrong_kinds<N: Node>(root: &N) -> Answer<()> {
    let bad = &["BadDescriptor", "IsDirectory"];
    fails("read", root.read(0).await, bad)?;
    fails("write", root.write(Some(0), b"x").await, bad)?;
    fails("size", root.set_size(0).await, bad)?;
    let file = root.open("file", MAKE).await?;
    let not = &["NotDirectory"];
    fails("list", file.list().await, not)?;
    fails("open", file.open("x", PLAIN).await, not)?;
    fails("make", file.make_dir("x").await, not)?;
    fails("stat", file.stat_at("x").await, not)?;
    root.unlink("file").await
}
