//! The guestbook's front end: pages and a small JSON interface over HTTP, the entries in a Redis server.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | the page: a form and the newest entries |
//! | `POST /` | takes the form's field `entry`, then sends the browser back to the page |
//! | `GET /lrange/guestbook` | the newest entries as a JSON array of strings |
//! | `POST /lpush/guestbook` | takes the body as an entry, and answers as `/lrange/guestbook` does |
//! | `GET /healthz` | `ok`, whether the Redis server is there or not |
//!
//! `REDIS_ADDRESS` says where the Redis server is, `redis:6379` by default: the Service of that name.

mod form;
mod json;
mod page;
mod redis;

use redis::Redis;
use web::{Request, Response};

/// The list that holds the entries, newest first, and the number of visits.
const ENTRIES: &str = "guestbook";
const VISITS: &str = "guestbook:visits";
/// How many entries are shown.
const SHOWN: usize = 100;
/// The longest entry, in characters.
const MAX_ENTRY: usize = 500;

web::serve!(handle);

#[expect(clippy::needless_pass_by_value, reason = "what `serve!` calls")]
fn handle(request: Request) -> Response {
    let address = std::env::var("REDIS_ADDRESS").unwrap_or_else(|_| "redis:6379".to_owned());
    route(&request, &address)
}

fn route(request: &Request, address: &str) -> Response {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET" | "HEAD", "/") => show(address),
        ("POST", "/") => {
            let entry = request
                .body
                .as_deref()
                .and_then(|body| form::field(body, "entry"));
            match add(entry, address) {
                Ok(_) => Response::text(303, "").header("location", "/"),
                Err(refused) => refused,
            }
        }
        ("GET" | "HEAD", "/lrange/guestbook") => match entries(address) {
            Ok(entries) => as_json(&entries),
            Err(refused) => refused,
        },
        ("POST", "/lpush/guestbook") => {
            let entry = request
                .body
                .as_ref()
                .map(|body| String::from_utf8_lossy(body).into_owned());
            match add(entry, address) {
                Ok(entries) => as_json(&entries),
                Err(refused) => refused,
            }
        }
        ("GET" | "HEAD", "/healthz") => Response::text(200, "ok\n"),
        (_, "/") => wrong_method("GET, HEAD, POST"),
        (_, "/lrange/guestbook" | "/healthz") => wrong_method("GET, HEAD"),
        (_, "/lpush/guestbook") => wrong_method("POST"),
        _ => Response::text(404, "there is nothing here\n"),
    }
}

fn show(address: &str) -> Response {
    let asked = Redis::connect(address)
        .and_then(|mut redis| Ok((redis.increment(VISITS)?, redis.newest(ENTRIES, SHOWN)?)));
    match asked {
        Ok((visits, entries)) => Response::new(
            200,
            "text/html; charset=utf-8",
            page::render(&entries, visits, &web::hostname()),
        )
        .header("cache-control", "no-store"),
        Err(error) => unavailable(address, &error),
    }
}

fn entries(address: &str) -> Result<Vec<String>, Response> {
    Redis::connect(address)
        .and_then(|mut redis| redis.newest(ENTRIES, SHOWN))
        .map_err(|error| unavailable(address, &error))
}

/// Adds an entry and gives the newest ones.
fn add(entry: Option<String>, address: &str) -> Result<Vec<String>, Response> {
    let entry = entry.unwrap_or_default();
    let entry = entry.trim();
    match entry.chars().count() {
        0 => {
            return Err(Response::text(
                400,
                "an entry is some text in the field `entry`\n",
            ));
        }
        1..=MAX_ENTRY => {}
        _ => {
            return Err(Response::text(
                413,
                format!("an entry has at most {MAX_ENTRY} characters\n"),
            ));
        }
    }
    Redis::connect(address)
        .and_then(|mut redis| {
            redis.push(ENTRIES, entry)?;
            redis.newest(ENTRIES, SHOWN)
        })
        .map_err(|error| unavailable(address, &error))
}

fn as_json(entries: &[String]) -> Response {
    Response::new(200, "application/json", json::array(entries)).header("cache-control", "no-store")
}

fn unavailable(address: &str, error: &redis::Error) -> Response {
    eprintln!("guestbook: {address}: {error}");
    Response::text(
        503,
        format!("the guestbook's store at {address} does not answer: {error}\n"),
    )
}

fn wrong_method(allowed: &str) -> Response {
    Response::text(405, format!("only {allowed}\n")).header("allow", allowed)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use resp::{Limits, Reply, RequestDecoder};

    use super::*;

    /// A server for one connection that answers with `replies`. Gives its address and, when it ends, what was asked.
    fn server(replies: Vec<Reply>) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let asked = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let (mut decoder, mut asked, mut buffer) = (
                RequestDecoder::new(Limits::default()),
                Vec::new(),
                [0; 1024],
            );
            let mut replies = replies.into_iter();
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                decoder.feed(&buffer[..length]);
                while let Some(request) = decoder.next_request().expect("a request") {
                    asked.push(
                        request
                            .iter()
                            .map(|word| String::from_utf8_lossy(word))
                            .collect::<Vec<_>>()
                            .join(" "),
                    );
                    let mut bytes = Vec::new();
                    replies.next().expect("a reply").encode(&mut bytes);
                    stream.write_all(&bytes).expect("a client");
                }
            }
            asked
        });
        (address, asked)
    }

    fn list(entries: &[&str]) -> Reply {
        Reply::Array(
            entries
                .iter()
                .map(|entry| Reply::Bulk(entry.as_bytes().to_vec()))
                .collect(),
        )
    }

    fn request(method: &str, path: &str, body: &str) -> Request {
        Request {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Some(body.as_bytes().to_vec()),
        }
    }

    fn text(response: &Response) -> String {
        String::from_utf8(response.body.clone()).expect("text")
    }

    #[test]
    fn the_page_shows_entries_and_counts_visits() {
        let (address, asked) = server(vec![Reply::Integer(7), list(&["<b>new</b>", "old"])]);
        let response = route(&request("GET", "/", ""), &address);
        assert_eq!(response.status, 200);
        let page = text(&response);
        assert!(
            page.contains("&lt;b&gt;new&lt;/b&gt;") && page.contains("old") && page.contains('7'),
            "{page}"
        );
        assert_eq!(
            asked.join().expect("asked"),
            ["INCR guestbook:visits", "LRANGE guestbook 0 99"]
        );
    }

    #[test]
    fn a_form_is_taken_and_the_browser_sent_back() {
        let (address, asked) = server(vec![Reply::Integer(1), list(&["a b&c"])]);
        let response = route(&request("POST", "/", "x=1&entry=+a+b%26c+"), &address);
        assert_eq!(
            (response.status, response.headers.last()),
            (303, Some(&("location", "/".to_owned())))
        );
        assert_eq!(
            asked.join().expect("asked"),
            ["LPUSH guestbook a b&c", "LRANGE guestbook 0 99"]
        );
    }

    #[test]
    fn the_json_interface_answers_with_the_entries() {
        let (address, _) = server(vec![list(&["a \"b\"", "c"])]);
        assert_eq!(
            text(&route(&request("GET", "/lrange/guestbook", ""), &address)),
            "[\"a \\\"b\\\"\",\"c\"]\n"
        );
        let (address, _) = server(vec![Reply::Integer(1), list(&["new"])]);
        assert_eq!(
            text(&route(
                &request("POST", "/lpush/guestbook", "new"),
                &address
            )),
            "[\"new\"]\n"
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let nowhere = "127.0.0.1:1";
        let status = |method: &str, path: &str, body: &str| {
            route(&request(method, path, body), nowhere).status
        };
        assert_eq!(status("POST", "/", "entry=+"), 400);
        assert_eq!(status("POST", "/", "no form"), 400);
        assert_eq!(
            status("POST", "/lpush/guestbook", &"ä".repeat(MAX_ENTRY + 1)),
            413
        );
        assert_eq!(status("PUT", "/", ""), 405);
        assert_eq!(status("GET", "/elsewhere", ""), 404);
        assert_eq!(status("GET", "/", ""), 503);
        assert_eq!(status("GET", "/healthz", ""), 200);
        let (address, _) = server(vec![Reply::error("WRONGTYPE no list")]);
        let refused = route(&request("GET", "/lrange/guestbook", ""), &address);
        assert!(
            refused.status == 503 && text(&refused).contains("WRONGTYPE"),
            "{}",
            text(&refused)
        );
    }
}
