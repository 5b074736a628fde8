//! Golden conversations: what stock `kubectl` and `curl` say to a running server, and what they are told, word for word.
//!
//! Each page of `tests/conversations` is a story about one row of the API's surface, for people as well as for this test. In
//! it, a block ```` ```yaml NAME ```` is a file; a block ```` ```console ```` holds commands after `$ ` and below each what it
//! prints. `[..]` stands for anything within a line, a line `...` for any lines, and a last line `? N` for an exit code other
//! than 0. Commands run in a shell, in a directory of their own, with KUBECONFIG set; `$API` is the API's address in plain
//! HTTP, `$SERVER` the one in HTTPS.
//!
//! When something differs, the page as it would be true is written to `target/conversations`.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::harness::{Vaquita, run};

/// A command, and what it should print.
struct Exchange {
    command: String,
    expected: Vec<String>,
}

/// A page, cut at its exchanges.
enum Part {
    /// Text, kept as it is.
    Text(String),
    /// A file to be written.
    File { name: String, content: String },
    /// Commands.
    Talk(Vec<Exchange>),
}

fn parse(page: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```").filter(|info| !info.is_empty()) else {
            parts.push(Part::Text(line.to_owned()));
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match info.split_once(' ') {
            Some((_, name)) => parts.push(Part::File {
                name: name.to_owned(),
                content: block.join("\n") + "\n",
            }),
            None if info == "console" => parts.push(Part::Talk(talk(&block))),
            None => parts.push(Part::Text(format!("{line}\n{}\n```", block.join("\n")))),
        }
    }
    parts
}

fn talk(block: &[&str]) -> Vec<Exchange> {
    let mut exchanges: Vec<Exchange> = Vec::new();
    for line in block {
        match (
            line.strip_prefix("$ "),
            line.strip_prefix("> "),
            exchanges.last_mut(),
        ) {
            (Some(command), ..) => exchanges.push(Exchange {
                command: command.to_owned(),
                expected: Vec::new(),
            }),
            (None, Some(more), Some(last)) if last.expected.is_empty() => {
                last.command.push('\n');
                last.command.push_str(more);
            }
            (None, _, Some(last)) => last.expected.push((*line).to_owned()),
            (None, _, None) => panic!("output before any command: {line}"),
        }
    }
    exchanges
}

/// Whether a line is as expected.
fn line_matches(expected: &str, line: &str) -> bool {
    let mut pieces = expected.split("[..]");
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else {
        return rest.is_empty();
    };
    for piece in middle {
        let Some(at) = rest.find(piece) else {
            return false;
        };
        rest = &rest[at + piece.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

/// Whether all lines are as expected.
fn matches(expected: &[String], lines: &[&str]) -> bool {
    match (expected.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "..." => {
            (0..=lines.len()).any(|skipped| matches(rest, &lines[skipped..]))
        }
        (Some((first, rest)), Some((line, others))) => {
            line_matches(first, line) && matches(rest, others)
        }
        _ => false,
    }
}

fn play(name: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = root.join("tests/conversations").join(format!("{name}.md"));
    let page =
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut cluster = Vaquita::up_with(&["--insecure-port", "0"]);
    let plain = cluster.printed_line("insecure ");
    let dir = tempfile::tempdir().expect("a directory");
    let mut told = String::new();
    let mut differences = Vec::new();
    for part in parse(&page) {
        match part {
            Part::Text(text) => writeln!(told, "{text}").expect("text"),
            Part::File { name, content } => {
                fs::write(dir.path().join(&name), &content).expect("a file");
                writeln!(told, "```yaml {name}\n{content}```").expect("text");
            }
            Part::Talk(exchanges) => {
                writeln!(told, "```console").expect("text");
                for exchange in exchanges {
                    let answer = say(&cluster, &plain, dir.path(), &exchange.command);
                    let lines: Vec<&str> = answer.lines().collect();
                    let good = matches(&exchange.expected, &lines);
                    let shown = if good {
                        exchange.expected.join("\n")
                    } else {
                        lines.join("\n")
                    };
                    writeln!(told, "$ {}", exchange.command.replace('\n', "\n> ")).expect("text");
                    if !shown.is_empty() {
                        writeln!(told, "{shown}").expect("text");
                    }
                    if !good {
                        differences.push(format!(
                            "$ {}\n--- expected\n{}\n--- but\n{answer}",
                            exchange.command,
                            exchange.expected.join("\n")
                        ));
                    }
                }
                writeln!(told, "```").expect("text");
            }
        }
    }
    if !differences.is_empty() {
        let seen: PathBuf = root.join("target/conversations");
        fs::create_dir_all(&seen).expect("a directory");
        let seen = seen.join(format!("{name}.md"));
        fs::write(&seen, told).expect("a file");
        panic!("{}\n\nsee {}", differences.join("\n\n"), seen.display());
    }
}

/// Runs a command; gives what it prints, and its exit code if that is not 0.
fn say(cluster: &Vaquita, plain: &str, dir: &Path, command: &str) -> String {
    // Both streams in one, in the order in which they were written.
    let printed = run(Command::new("sh")
        .arg("-c")
        .arg(format!("exec 2>&1\n{command}"))
        .current_dir(dir)
        .env("KUBECONFIG", cluster.kubeconfig())
        .env("HOME", dir)
        .env("API", plain)
        .env("SERVER", &cluster.url)
        .env("COLUMNS", "120")
        .stdin(Stdio::null()));
    let mut text = String::new();
    for line in printed.stdout.lines() {
        writeln!(text, "{}", line.trim_end()).expect("text");
    }
    if let Some(code) = printed.status.code().filter(|code| *code != 0) {
        writeln!(text, "? {code}").expect("text");
    }
    text
}

macro_rules! conversations {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { play(&stringify!($name).replace('_', "-")); })*

        #[test]
        fn every_page_is_played() {
            let played: Vec<String> = vec![$(stringify!($name).replace('_', "-")),*];
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conversations");
            for entry in fs::read_dir(dir).expect("the pages") {
                let path = entry.expect("a page").path();
                let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
                assert!(played.contains(&name), "{name} is not played");
            }
        }
    };
}

conversations![
    access,
    bootstrap,
    custom_resources,
    deletion,
    discovery,
    encodings,
    explain,
    lists,
    objects,
    patches,
    subresources,
    tables,
    validation,
    version_and_health,
    watching,
];

#[test]
fn lines_match_with_gaps() {
    assert!(line_matches("a[..]c", "abc") && line_matches("a[..]", "a"));
    assert!(!line_matches("a[..]c", "ab") && !line_matches("ab", "abc"));
    assert!(line_matches("[..]b[..]", "abc"));
    let lines = ["a", "b", "c"];
    let expected = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(matches(&expected("a\n...\nc"), &lines));
    assert!(!matches(&expected("a\nc"), &lines));
}
