//! What WASI 0.1 must do with files, descriptors, clocks and random numbers, tried function by function in the directory that it is
//! given first. Prints a line for each case: its name and `ok`, or what went wrong.

#![allow(
    clippy::needless_pass_by_value,
    reason = "what is expected reads better as it is"
)]

use std::fmt::Debug;

use wasi::{Answer, Fd, How};

mod descriptors;
mod directories;
mod links;
mod others;
mod wasi;

/// What a case comes to.
type Tried = Result<(), String>;

/// A case, in a directory that is its own.
type Case = fn(Fd) -> Tried;

fn main() {
    let root = (3..100).find(|fd| wasi::prestat(*fd).is_ok());
    let cases: &[(&str, Case)] = &[
        ("random", others::random),
        ("clocks", others::clocks),
        ("standard streams", others::standard_streams),
        ("poll", others::poll),
        ("preopened", descriptors::preopened),
        ("read and write", descriptors::read_and_write),
        ("seek and tell", descriptors::seek_and_tell),
        ("append", descriptors::append),
        ("truncation", descriptors::truncation),
        ("status", descriptors::status),
        ("times", descriptors::times),
        ("renumber", descriptors::renumber),
        ("dangling", descriptors::dangling),
        (
            "refused on directories",
            descriptors::refused_on_directories,
        ),
        ("advice", descriptors::advice),
        ("open", directories::open),
        ("open a lot", directories::open_a_lot),
        ("paths", directories::paths),
        ("make and remove", directories::make_and_remove),
        ("list", directories::list),
        ("list a lot", directories::list_a_lot),
        ("rename", directories::rename),
        ("hard links", links::hard),
        ("symbolic links", links::symbolic),
        ("dangling links", links::dangling),
        ("loops", links::loops),
        ("no way out", links::no_way_out),
    ];
    for (name, case) in cases {
        let tried = root
            .ok_or_else(|| "there is no directory".to_owned())
            .and_then(|root| try_in(root, name, *case));
        match tried {
            Ok(()) => println!("{name}: ok"),
            Err(error) => println!("{name}: {error}"),
        }
    }
}

/// Tries a case in a directory of its own, of which it leaves nothing.
fn try_in(root: Fd, name: &str, case: Case) -> Tried {
    done("its directory", wasi::make_dir(root, name))?;
    let dir = done("its directory", plain(root, name))?;
    case(dir)?;
    is_empty(dir)?;
    done("its directory", wasi::close(dir))?;
    remove_dir(root, name)
}

fn is_empty(root: Fd) -> Tried {
    let listed = directories::names(root)?;
    expect(
        "what is left",
        listed,
        vec![".".to_owned(), "..".to_owned()],
    )
}

/// It must have succeeded.
fn done<T>(what: &str, answer: Answer<T>) -> Result<T, String> {
    answer.map_err(|errno| format!("{what}: error {errno}"))
}

/// It must have failed, in one of these ways.
fn fails<T>(what: &str, answer: Answer<T>, with: &[u16]) -> Tried {
    match answer {
        Ok(_) => Err(format!("{what} succeeds")),
        Err(errno) if with.contains(&errno) => Ok(()),
        Err(errno) => Err(format!("{what}: error {errno}, not {with:?}")),
    }
}

fn expect<T: PartialEq + Debug>(what: &str, is: T, should: T) -> Tried {
    if is == should {
        Ok(())
    } else {
        Err(format!("{what} is {is:?}, not {should:?}"))
    }
}

/// Opens a file to read and write, made if it is not there.
fn file(root: Fd, path: &str) -> Result<Fd, String> {
    let how = How {
        create: wasi::CREATE,
        rights: wasi::READ | wasi::WRITE,
        ..How::default()
    };
    done(path, wasi::open(root, path, how))
}

/// Makes a file.
fn touch(root: Fd, path: &str) -> Tried {
    done("close", wasi::close(file(root, path)?))
}

/// Opens what is there, with no rights in particular.
fn plain(root: Fd, path: &str) -> Answer<Fd> {
    wasi::open(root, path, How::default())
}

fn remove(root: Fd, path: &str) -> Tried {
    done(path, wasi::unlink(root, path))
}

fn remove_dir(root: Fd, path: &str) -> Tried {
    done(path, wasi::remove_dir(root, path))
}
