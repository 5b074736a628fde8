//! The commands: their names, how many arguments each takes, and what it answers.

use std::mem::take;

use resp::{Reply, Request};

use crate::store::{Store, StoreError, parse_integer};

/// How much of a client's own words an error repeats.
const MAX_QUOTED: usize = 128;

/// What a command comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This is the answer.
    Reply(Reply),
    /// This is the answer, and the last one.
    Quit(Reply),
}

/// Runs a request on the store.
pub(crate) fn run(mut request: Request, store: &mut Store) -> Outcome {
    let Some((name, arguments)) = request.split_first_mut() else {
        return Outcome::Reply(Reply::error("ERR empty request"));
    };
    let lower = name.to_ascii_lowercase();
    let done = match (lower.as_slice(), arguments) {
        (b"ping", []) => Ok(Reply::Simple("PONG".into())),
        (b"ping" | b"echo", [message]) => Ok(Reply::Bulk(take(message))),
        (b"quit", _) => return Outcome::Quit(Reply::OK),
        (b"get", [key]) => store
            .get(key)
            .map(|found| found.map_or(Reply::Nil, |bytes| Reply::Bulk(bytes.to_vec()))),
        (b"set", [key, value]) => store.set(take(key), take(value)).map(|()| Reply::OK),
        (b"set", [_, _, _, ..]) => Ok(Reply::error("ERR syntax error: SET takes no options here")),
        (b"del", keys @ [_, ..]) => Ok(count(keys.iter().filter(|key| store.delete(key)).count())),
        (b"incr", [key]) => store.increment(take(key)).map(Reply::Integer),
        (b"lpush", [key, elements @ ..]) if !elements.is_empty() => store
            .push_front(take(key), elements.iter_mut().map(take).collect())
            .map(count),
        (b"lrange", [key, start, stop]) => range(key, start, stop, store),
        (b"ping" | b"echo" | b"get" | b"set" | b"del" | b"incr" | b"lpush" | b"lrange", _) => {
            Ok(wrong_number(&lower))
        }
        (_, arguments) => Ok(unknown(name, arguments)),
    };
    Outcome::Reply(done.unwrap_or_else(refusal))
}

fn range(key: &[u8], start: &[u8], stop: &[u8], store: &Store) -> Result<Reply, StoreError> {
    let elements = store.range(key, parse_integer(start)?, parse_integer(stop)?)?;
    Ok(Reply::Array(
        elements.into_iter().map(Reply::Bulk).collect(),
    ))
}

fn count(number: usize) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

/// The texts are Redis' own where it has one: clients look for them.
fn refusal(error: StoreError) -> Reply {
    Reply::error(match error {
        StoreError::WrongType => {
            "WRONGTYPE Operation against a key holding the wrong kind of value"
        }
        StoreError::NotAnInteger => "ERR value is not an integer or out of range",
        StoreError::Overflow => "ERR increment or decrement would overflow",
        StoreError::Full => "OOM command not allowed when used memory > 'maxmemory'.",
        StoreError::ReplyTooLarge => "ERR the answer would be too large: ask for a smaller range",
    })
}

fn wrong_number(name: &[u8]) -> Reply {
    Reply::error(format!(
        "ERR wrong number of arguments for '{}' command",
        name.escape_ascii()
    ))
}

fn unknown(name: &[u8], arguments: &[Vec<u8>]) -> Reply {
    let mut text = format!(
        "ERR unknown command '{}', with args beginning with: ",
        quoted(name)
    );
    for argument in arguments {
        if text.len() > 2 * MAX_QUOTED {
            break;
        }
        text.extend(["'", &quoted(argument), "' "]);
    }
    Reply::error(text)
}

/// The beginning of a client's words, as text that is safe to send back and to log.
fn quoted(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(MAX_QUOTED)]
        .escape_ascii()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bounds;

    fn ask(store: &mut Store, line: &str) -> Reply {
        match run(
            line.split(' ')
                .map(|word| word.as_bytes().to_vec())
                .collect(),
            store,
        ) {
            Outcome::Reply(reply) => reply,
            Outcome::Quit(reply) => panic!("{line} ended the conversation with {reply:?}"),
        }
    }

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.as_bytes().to_vec())
    }

    #[test]
    fn each_command_answers_as_redis_does() {
        let mut store = Store::default();
        for (line, expected) in [
            ("PING", Reply::Simple("PONG".into())),
            ("ping hello", bulk("hello")),
            ("ECHO hello", bulk("hello")),
            ("GET a", Reply::Nil),
            ("SET a 1", Reply::OK),
            ("gEt a", bulk("1")),
            ("INCR a", Reply::Integer(2)),
            ("INCR fresh", Reply::Integer(1)),
            ("DEL a b fresh", Reply::Integer(2)),
            ("DEL a", Reply::Integer(0)),
            ("LPUSH l a b", Reply::Integer(2)),
            ("LPUSH l c", Reply::Integer(3)),
            (
                "LRANGE l 0 -1",
                Reply::Array(vec![bulk("c"), bulk("b"), bulk("a")]),
            ),
            ("LRANGE l 1 1", Reply::Array(vec![bulk("b")])),
            ("LRANGE absent 0 -1", Reply::Array(vec![])),
        ] {
            assert_eq!(ask(&mut store, line), expected, "{line}");
        }
        assert_eq!(
            run(vec![b"QUIT".to_vec()], &mut store),
            Outcome::Quit(Reply::OK)
        );
    }

    #[test]
    fn each_mistake_is_named() {
        let mut store = Store::new(Bounds {
            memory: 1000,
            ..Bounds::default()
        });
        ask(&mut store, "SET s text");
        ask(&mut store, "LPUSH l x");
        for (line, expected) in [
            ("GET", "ERR wrong number of arguments for 'get' command"),
            (
                "PING a b",
                "ERR wrong number of arguments for 'ping' command",
            ),
            ("SET a", "ERR wrong number of arguments for 'set' command"),
            ("DEL", "ERR wrong number of arguments for 'del' command"),
            (
                "LPUSH l",
                "ERR wrong number of arguments for 'lpush' command",
            ),
            (
                "LRANGE l 0",
                "ERR wrong number of arguments for 'lrange' command",
            ),
            (
                "SET a b EX 10",
                "ERR syntax error: SET takes no options here",
            ),
            (
                "GET l",
                "WRONGTYPE Operation against a key holding the wrong kind of value",
            ),
            (
                "LPUSH s x",
                "WRONGTYPE Operation against a key holding the wrong kind of value",
            ),
            ("INCR s", "ERR value is not an integer or out of range"),
            (
                "LRANGE l 0 end",
                "ERR value is not an integer or out of range",
            ),
            (
                "HGETALL h 1",
                "ERR unknown command 'HGETALL', with args beginning with: 'h' '1' ",
            ),
        ] {
            assert_eq!(
                ask(&mut store, line),
                Reply::Error(expected.into()),
                "{line}"
            );
        }
        let full = ask(&mut store, &format!("SET big {}", "x".repeat(1000)));
        assert!(matches!(full, Reply::Error(text) if text.starts_with("OOM ")));
    }

    #[test]
    fn an_error_repeats_little_and_only_what_is_safe() {
        let mut request = vec![vec![b'\n'; 10_000]];
        request.extend(vec![vec![0xff; 10_000]; 100]);
        let Outcome::Reply(Reply::Error(text)) = run(request, &mut Store::default()) else {
            panic!("no error")
        };
        assert!(
            text.len() < 2000 && text.is_ascii() && !text.contains('\n'),
            "{text}"
        );
    }
}
