//! `tar`, as far as `kubectl cp` uses it: `tar cf - PATH...` and `tar -xmf - -C DIR`.
//!
//! Archives are POSIX's ustar; long names are written as pax headers, and read from those of pax and of GNU. An archive
//! is not trusted: its paths lead only below the target, no header is longer than 1 MiB, and a file is copied in pieces.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
};

use crate::{Outcome, about};

const BLOCK: usize = 512;
/// The longest header of names, in bytes.
const LONGEST_HEADER: u64 = 1 << 20;
/// The deepest directory that is archived.
const DEEPEST: usize = 128;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Link,
}

/// What the arguments ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    creates: bool,
    extracts: bool,
    dir: PathBuf,
    paths: Vec<String>,
}

/// Creates an archive on standard output, or extracts one from standard input.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    let request = parse(arguments)?;
    if request.creates {
        let mut out = io::BufWriter::new(io::stdout().lock());
        for path in &request.paths {
            let full = request.dir.join(path);
            add(&mut out, &full, path.trim_start_matches('/'), 0)?;
        }
        let ended = out.write_all(&[0; 2 * BLOCK]).and_then(|()| out.flush());
        ended.map_err(about("stdout"))?;
    } else {
        extract(&mut io::stdin().lock(), &request.dir)?;
    }
    Ok(0)
}

fn parse(arguments: &[String]) -> Result<Request, String> {
    let mut request = Request::default();
    let mut rest = arguments.iter().enumerate();
    while let Some((index, argument)) = rest.next() {
        let letters = match argument.strip_prefix('-') {
            Some(letters) if !letters.is_empty() => letters,
            // The old way: `tar cf - PATH`.
            None if index == 0 => argument,
            _ => {
                request.paths.push(argument.clone());
                continue;
            }
        };
        if letters.starts_with('-') {
            // Owners and permissions, which there are none of.
            continue;
        }
        for letter in letters.chars() {
            match letter {
                'c' => request.creates = true,
                'x' => request.extracts = true,
                'm' | 'p' | 'v' | 'h' => {}
                'f' => {
                    if rest.next().is_none_or(|(_, file)| file != "-") {
                        return Err("only the archive - is known".to_owned());
                    }
                }
                'C' => request.dir = rest.next().ok_or("-C wants a directory")?.1.into(),
                other => return Err(format!("unknown option {other}")),
            }
        }
    }
    if request.creates == request.extracts {
        return Err("usage: tar c|x f - [-C DIR] [PATH...]".to_owned());
    }
    Ok(request)
}

/// Writes a file, or a directory and all below it.
fn add(out: &mut impl Write, path: &Path, name: &str, depth: usize) -> Result<(), String> {
    let said = path.display().to_string();
    let metadata = fs::symlink_metadata(path).map_err(about(&said))?;
    if metadata.is_symlink() {
        let target = fs::read_link(path).map_err(about(&said))?;
        let target = target.to_string_lossy();
        return header(out, name, Kind::Link, 0, &target).map_err(about("stdout"));
    }
    if metadata.is_dir() {
        if depth == DEEPEST {
            return Err(format!("{said}: too deep"));
        }
        let own = format!("{}/", name.trim_end_matches('/'));
        header(out, &own, Kind::Directory, 0, "").map_err(about("stdout"))?;
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(about(&said))? {
            names.push(entry.map_err(about(&said))?.file_name());
        }
        names.sort();
        for below in names {
            let below = below.to_string_lossy().into_owned();
            add(out, &path.join(&below), &format!("{own}{below}"), depth + 1)?;
        }
        return Ok(());
    }
    let file = fs::File::open(path).map_err(about(&said))?;
    let length = metadata.len();
    header(out, name, Kind::File, length, "").map_err(about("stdout"))?;
    // Exactly as long as the header says, whatever happens to the file meanwhile.
    let copied = io::copy(&mut file.take(length), out).map_err(about(&said))?;
    let missing = length - copied + padding(length);
    io::copy(&mut io::repeat(0).take(missing), out).map_err(about("stdout"))?;
    Ok(())
}

/// Zeros that fill the last block.
fn padding(length: u64) -> u64 {
    length.next_multiple_of(BLOCK as u64) - length
}

fn header(
    out: &mut impl Write,
    name: &str,
    kind: Kind,
    length: u64,
    target: &str,
) -> io::Result<()> {
    let mut records = String::new();
    if name.len() > 100 {
        records.push_str(&record("path", name));
    }
    if target.len() > 100 {
        records.push_str(&record("linkpath", target));
    }
    if !records.is_empty() {
        block(out, "pax", b'x', records.len() as u64, "")?;
        out.write_all(records.as_bytes())?;
        let fill = usize::try_from(padding(records.len() as u64)).unwrap_or(0);
        out.write_all(&[0; BLOCK][..fill])?;
    }
    let flag = match kind {
        Kind::File => b'0',
        Kind::Directory => b'5',
        Kind::Link => b'2',
    };
    block(out, name, flag, length, target)
}

/// A record of a pax header: `LENGTH KEY=VALUE`, where the length counts itself.
fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while length.to_string().len() + rest.len() != length {
        length = length.to_string().len() + rest.len();
    }
    format!("{length}{rest}")
}

fn block(out: &mut impl Write, name: &str, flag: u8, length: u64, target: &str) -> io::Result<()> {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(
        100,
        if flag == b'5' {
            b"0000755\0"
        } else {
            b"0000644\0"
        },
    );
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{length:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[flag]);
    put(157, &target.as_bytes()[..target.len().min(100)]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&block)
}

/// What the headers before an entry say about it.
#[derive(Default)]
struct Names {
    path: Option<String>,
    target: Option<String>,
}

/// Writes what the archive holds below `dir`.
fn extract(input: &mut impl Read, dir: &Path) -> Result<(), String> {
    let failed = about("archive");
    let mut names = Names::default();
    let mut links = Vec::new();
    loop {
        let mut head = [0; BLOCK];
        match input.read_exact(&mut head) {
            // Some archives end without saying so.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(failed(error)),
            Ok(()) if head.iter().all(|byte| *byte == 0) => break,
            Ok(()) => {}
        }
        let length = check(&head)?;
        let flag = head[156];
        if matches!(flag, b'x' | b'L' | b'K') {
            extend(&mut names, flag, &read(input, length)?)?;
            continue;
        }
        let found = std::mem::take(&mut names);
        let path = found.path.unwrap_or_else(|| path_of(&head));
        let Some(target) = below(dir, &path) else {
            return Err(format!("{path}: leads out of the target"));
        };
        match flag {
            b'0' | 0 => write_file(input, &target, length)?,
            b'5' => fs::create_dir_all(&target).map_err(about(&path))?,
            b'2' => {
                links.push((
                    target,
                    found.target.unwrap_or_else(|| text(&head[157..257])),
                ));
                skip(input, length + padding(length))?;
            }
            // Devices, hard links and whatever else: there are none here.
            _ => skip(input, length + padding(length))?,
        }
    }
    // Drained, so that who writes does not find the pipe closed.
    io::copy(input, &mut io::sink()).map_err(about("archive"))?;
    for (path, _) in links {
        eprintln!("tar: {}: links are not extracted", path.display());
    }
    Ok(())
}

/// Checks an entry's head, and returns the length of what follows.
fn check(head: &[u8; BLOCK]) -> Result<u64, String> {
    let sum = |range: std::ops::Range<usize>| {
        head[range].iter().map(|byte| u64::from(*byte)).sum::<u64>()
    };
    let expected = octal(&head[148..156]).ok_or("archive: bad checksum")?;
    if sum(0..148) + 8 * u64::from(b' ') + sum(156..BLOCK) != expected {
        return Err("archive: bad checksum".to_owned());
    }
    octal(&head[124..136]).ok_or_else(|| "archive: bad length".to_owned())
}

/// Octal digits, or, with the first bit set, a big-endian number.
fn octal(field: &[u8]) -> Option<u64> {
    if let [first, rest @ ..] = field
        && first & 0x80 != 0
    {
        let mut number = u64::from(first & 0x7f);
        for byte in rest {
            number = number.checked_mul(256)?.checked_add(u64::from(*byte))?;
        }
        return Some(number);
    }
    let text = text(field);
    let digits = text.trim();
    if digits.is_empty() {
        Some(0)
    } else {
        u64::from_str_radix(digits, 8).ok()
    }
}

/// What comes before the first zero.
fn text(field: &[u8]) -> String {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn path_of(head: &[u8; BLOCK]) -> String {
    let (name, prefix) = (text(&head[..100]), text(&head[345..500]));
    if &head[257..263] == b"ustar\0" && !prefix.is_empty() {
        format!("{prefix}/{name}")
    } else {
        name
    }
}

/// Reads a header that is as long as it says, and the rest of its last block.
fn read(input: &mut impl Read, length: u64) -> Result<Vec<u8>, String> {
    if length > LONGEST_HEADER {
        return Err("archive: a header is too long".to_owned());
    }
    let mut content = Vec::new();
    let count = input
        .take(length)
        .read_to_end(&mut content)
        .map_err(about("archive"))?;
    if count as u64 != length {
        return Err("archive: it ends too early".to_owned());
    }
    skip(input, padding(length))?;
    Ok(content)
}

fn extend(names: &mut Names, flag: u8, content: &[u8]) -> Result<(), String> {
    match flag {
        b'L' => names.path = Some(text(content)),
        b'K' => names.target = Some(text(content)),
        _ => {
            let mut rest = content;
            while !rest.is_empty() {
                let bad = || "archive: a bad pax header".to_owned();
                let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
                let length: usize = text(&rest[..space]).parse().map_err(|_| bad())?;
                let record = rest.get(space + 1..length).ok_or_else(bad)?;
                let record = String::from_utf8_lossy(record);
                match record.trim_end_matches('\n').split_once('=') {
                    Some(("path", value)) => names.path = Some(value.to_owned()),
                    Some(("linkpath", value)) => names.target = Some(value.to_owned()),
                    _ => {}
                }
                rest = &rest[length..];
            }
        }
    }
    Ok(())
}

fn skip(input: &mut impl Read, length: u64) -> Result<(), String> {
    let skipped = io::copy(&mut input.take(length), &mut io::sink()).map_err(about("archive"))?;
    if skipped == length {
        Ok(())
    } else {
        Err("archive: it ends too early".to_owned())
    }
}

/// Where an entry goes: `None` if that is not below the target.
fn below(dir: &Path, path: &str) -> Option<PathBuf> {
    let mut target = dir.to_owned();
    for part in Path::new(path.trim_start_matches('/')).components() {
        match part {
            Component::Normal(name) => target.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(target)
}

fn write_file(input: &mut impl Read, target: &Path, length: u64) -> Result<(), String> {
    let said = target.display().to_string();
    if let Some(parent) = target
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        fs::create_dir_all(parent).map_err(about(&said))?;
    }
    let mut file = fs::File::create(target).map_err(about(&said))?;
    let copied = io::copy(&mut input.take(length), &mut file).map_err(about(&said))?;
    if copied != length {
        return Err(format!("{said}: the archive ends too early"));
    }
    skip(input, padding(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(arguments: &[&str]) -> Vec<String> {
        arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect()
    }

    fn temporary(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("toolbox-tar-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn the_ways_in_which_kubectl_asks_are_understood() {
        let create = parse(&owned(&["cf", "-", "/data/x"])).unwrap();
        assert!(create.creates && create.paths == ["/data/x"]);
        let extract = parse(&owned(&[
            "--no-same-permissions",
            "--no-same-owner",
            "-xmf",
            "-",
            "-C",
            "/data",
        ]));
        let extract = extract.unwrap();
        assert!(extract.extracts && extract.dir == Path::new("/data") && extract.paths.is_empty());
        assert!(parse(&owned(&["-xf", "file.tar"])).is_err());
        assert!(parse(&owned(&["-f", "-"])).is_err());
    }

    #[test]
    fn what_is_archived_is_extracted() {
        let dir = temporary("both");
        let long = "long".repeat(40);
        fs::create_dir_all(dir.join("in").join(&long)).unwrap();
        fs::write(dir.join("in/a"), "x".repeat(1000)).unwrap();
        fs::write(dir.join("in").join(&long).join("b"), "").unwrap();
        let mut archive = Vec::new();
        add(&mut archive, &dir.join("in"), "in", 0).unwrap();
        archive.extend([0; 2 * BLOCK]);
        assert_eq!(archive.len() % BLOCK, 0);
        extract(&mut archive.as_slice(), &dir.join("out")).unwrap();
        assert_eq!(fs::read(dir.join("out/in/a")).unwrap().len(), 1000);
        assert!(dir.join("out/in").join(&long).join("b").is_file());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_hostile_archive_writes_nothing_outside() {
        let dir = temporary("hostile");
        for path in ["../x", "a/../../x"] {
            let mut archive = Vec::new();
            block(&mut archive, path, b'0', 0, "").unwrap();
            assert!(
                extract(&mut archive.as_slice(), &dir.join("in")).is_err(),
                "{path}"
            );
        }
        let mut archive = Vec::new();
        block(&mut archive, "/x", b'0', 0, "").unwrap();
        block(&mut archive, "link", b'2', 0, "/etc").unwrap();
        extract(&mut archive.as_slice(), &dir.join("in")).unwrap();
        assert!(dir.join("in/x").is_file() && !dir.join("in/link").exists());
        let mut archive = Vec::new();
        block(&mut archive, "x", b'x', u64::from(u32::MAX), "").unwrap();
        assert!(
            extract(&mut archive.as_slice(), &dir)
                .unwrap_err()
                .contains("too long")
        );
        let mut archive = Vec::new();
        block(&mut archive, "x", b'0', 5000, "").unwrap();
        assert!(
            extract(&mut archive.as_slice(), &dir)
                .unwrap_err()
                .contains("too early")
        );
        archive[0] = b'y';
        assert!(
            extract(&mut archive.as_slice(), &dir)
                .unwrap_err()
                .contains("checksum")
        );
        fs::remove_dir_all(dir).unwrap();
    }
}
