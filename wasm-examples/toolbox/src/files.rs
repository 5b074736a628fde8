//! Commands for files and directories.

use std::{
    fs,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use crate::{Outcome, about};

/// Copies files, or standard input, to standard output.
pub(crate) fn cat(arguments: &[String]) -> Outcome {
    let mut out = io::stdout().lock();
    if arguments.is_empty() {
        io::copy(&mut io::stdin().lock(), &mut out).map_err(about("stdin"))?;
    }
    for path in arguments {
        if path == "-" {
            io::copy(&mut io::stdin().lock(), &mut out).map_err(about("stdin"))?;
        } else {
            let mut file = fs::File::open(path).map_err(about(path))?;
            io::copy(&mut file, &mut out).map_err(about(path))?;
        }
    }
    out.flush().map_err(about("stdout"))?;
    Ok(0)
}

/// Lists directories; with `-l`, sizes and kinds as well, with `-a`, names that begin with a dot as well.
pub(crate) fn ls(arguments: &[String]) -> Outcome {
    let (flags, mut paths): (Vec<&String>, Vec<&String>) = arguments
        .iter()
        .partition(|argument| argument.starts_with('-'));
    let has = |letter| flags.iter().any(|flag| flag.contains(letter));
    let here = ".".to_owned();
    if paths.is_empty() {
        paths.push(&here);
    }
    let mut out = io::stdout().lock();
    let has_many = paths.len() > 1;
    for path in paths {
        let metadata = fs::metadata(path).map_err(about(path))?;
        let mut names = vec![path.clone()];
        if metadata.is_dir() {
            if has_many {
                writeln!(out, "{path}:").map_err(about("stdout"))?;
            }
            let entries = fs::read_dir(path).map_err(about(path))?;
            let listed: io::Result<Vec<String>> = entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect();
            names = listed.map_err(about(path))?;
            names.retain(|name| has('a') || !name.starts_with('.'));
            names.sort();
        }
        for name in names {
            let full = if metadata.is_dir() {
                Path::new(path).join(&name)
            } else {
                name.clone().into()
            };
            let line = if has('l') { long(&full, &name) } else { name };
            writeln!(out, "{line}").map_err(about("stdout"))?;
        }
    }
    Ok(0)
}

fn long(path: &Path, name: &str) -> String {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return format!("?            ? {name}");
    };
    if metadata.is_symlink() {
        let target = fs::read_link(path).unwrap_or_default();
        return format!("l {:>12} {name} -> {}", metadata.len(), target.display());
    }
    let kind = if metadata.is_dir() { 'd' } else { '-' };
    format!("{kind} {:>12} {name}", metadata.len())
}

/// Makes directories; with `-p`, those on the way as well.
pub(crate) fn mkdir(arguments: &[String]) -> Outcome {
    let has_parents = arguments.iter().any(|argument| argument == "-p");
    for path in arguments.iter().filter(|argument| *argument != "-p") {
        let made = if has_parents {
            fs::create_dir_all(path)
        } else {
            fs::create_dir(path)
        };
        made.map_err(about(path))?;
    }
    Ok(0)
}

/// Removes files; with `-r`, directories as well; with `-f`, does not mind what is not there.
pub(crate) fn rm(arguments: &[String]) -> Outcome {
    let (flags, paths): (Vec<&String>, Vec<&String>) = arguments
        .iter()
        .partition(|argument| argument.starts_with('-'));
    let has = |letter| flags.iter().any(|flag| flag.contains(letter));
    for path in paths {
        let removed = match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() && has('r') => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && has('f') => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(about(path))?;
    }
    Ok(0)
}

/// Prints a file from its Nth byte on: `tail -c+N FILE`, which `kubectl cp` goes on with after an interruption; or the
/// last ten lines, or `-n N` of them.
pub(crate) fn tail(arguments: &[String]) -> Outcome {
    let mut out = io::stdout().lock();
    let mut lines = 10;
    let mut rest = arguments.iter();
    let mut input: Box<dyn io::Read> = Box::new(io::stdin());
    while let Some(argument) = rest.next() {
        if let Some(from) = argument.strip_prefix("-c+") {
            let from: u64 = from.parse().map_err(|_| format!("{from:?} is no number"))?;
            let skipped = from.saturating_sub(1);
            if let Some(path) = rest.next() {
                let mut file = fs::File::open(path).map_err(about(path))?;
                file.seek(SeekFrom::Start(skipped)).map_err(about(path))?;
                input = Box::new(file);
            } else {
                io::copy(&mut input.by_ref().take(skipped), &mut io::sink())
                    .map_err(about("stdin"))?;
            }
            io::copy(&mut input, &mut out).map_err(about("stdout"))?;
            return Ok(0);
        } else if argument == "-n" {
            lines = rest
                .next()
                .and_then(|count| count.parse().ok())
                .ok_or("-n wants a number")?;
        } else {
            input = Box::new(fs::File::open(argument).map_err(about(argument))?);
        }
    }
    let mut text = Vec::new();
    input.read_to_end(&mut text).map_err(about("stdin"))?;
    let all: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    for line in &all[all.len().saturating_sub(lines)..] {
        out.write_all(line).map_err(about("stdout"))?;
    }
    Ok(0)
}

/// Whether a path is there (`-e`), a directory (`-d`), a file (`-f`), or not empty (`-s`).
pub(crate) fn test(arguments: &[String]) -> Outcome {
    let [operator, path] = arguments else {
        return Err("usage: test -d|-e|-f|-s PATH".to_owned());
    };
    let metadata = fs::metadata(path).ok();
    let holds = match operator.as_str() {
        "-e" => metadata.is_some(),
        "-d" => metadata.is_some_and(|metadata| metadata.is_dir()),
        "-f" => metadata.is_some_and(|metadata| metadata.is_file()),
        "-s" => metadata.is_some_and(|metadata| metadata.len() > 0),
        other => return Err(format!("unknown operator {other}")),
    };
    Ok(u8::from(!holds))
}

/// Counts lines, words and bytes.
pub(crate) fn wc(arguments: &[String]) -> Outcome {
    let count = |text: &[u8]| {
        let lines = text.split(|byte| *byte == b'\n').count().saturating_sub(1);
        let words = String::from_utf8_lossy(text).split_whitespace().count();
        format!("{lines} {words} {}", text.len())
    };
    if arguments.is_empty() {
        let mut text = Vec::new();
        io::stdin().read_to_end(&mut text).map_err(about("stdin"))?;
        println!("{}", count(&text));
    }
    for path in arguments {
        println!("{} {path}", count(&fs::read(path).map_err(about(path))?));
    }
    Ok(0)
}
