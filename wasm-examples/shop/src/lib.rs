//! A component of a Spin application. The last part of a request's path says what it is asked for; where that needs a word, it is the
//! request's body:
//!
//! - `told`: the headers that the host has set, one a line
//! - `variable`, `setting`: one of its variables, by Spin's interface and by WASI's
//! - `visits`: counts itself in the store `default`; `stores`: opens a store
//! - `bucket`: puts the word into the store `default` by WASI's interface, and tells the keys
//! - `file`: one of its files
//! - `fetch`: asks that address over HTTP, and tells the status; `connect`: opens a TCP connection

use std::{fmt::Debug, net::TcpStream};

use wasip2::http::{
    outgoing_handler,
    types::{Fields, OutgoingRequest, Scheme},
};
use web::{Request, Response};

#[allow(
    missing_docs,
    unsafe_code,
    unused,
    clippy::all,
    clippy::pedantic,
    reason = "it is generated; the packages say what everything is"
)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../src/runtime/wit-settings",
        world: "vaquita:settings/settings",
        generate_all,
    });
}

use bindings::{
    fermyon::spin::{key_value::Store, variables},
    wasi::{config0_2_0_rc_1::store as config, keyvalue::store as keyvalue},
};

web::serve!(shop);

#[expect(clippy::needless_pass_by_value, reason = "what `serve!` calls")]
fn shop(request: Request) -> Response {
    let word = request.body.as_deref().unwrap_or_default();
    let word = String::from_utf8_lossy(word);
    let asked = request.path.rsplit('/').next().unwrap_or_default();
    let answer = match asked {
        "told" => Ok(told(&request)),
        "variable" => variables::get(&word).map_err(shown),
        "setting" => setting(&word),
        "visits" => visits().map_err(shown),
        "stores" => Store::open(&word).map(|_| "open".to_owned()).map_err(shown),
        "bucket" => bucket(&word).map_err(shown),
        "file" => std::fs::read_to_string(&*word).map_err(shown),
        "fetch" => fetch(&word),
        "connect" => match TcpStream::connect(&*word) {
            Ok(_) => Ok("connected".to_owned()),
            Err(error) => Err(error.kind().to_string()),
        },
        _ => return Response::text(404, "nothing here\n"),
    };
    match answer {
        Ok(text) => Response::text(200, text),
        Err(text) => Response::text(500, text),
    }
}

fn shown(error: impl Debug) -> String {
    format!("{error:?}")
}

fn told(request: &Request) -> String {
    let headers = request.headers.iter();
    let own = headers.filter(|(name, _)| name.starts_with("spin-"));
    own.fold(String::new(), |told, (name, value)| {
        told + name + ": " + value + "\n"
    })
}

fn setting(name: &str) -> Result<String, String> {
    let value = config::get(name).map_err(shown)?;
    value.ok_or_else(|| "no such setting".to_owned())
}

fn visits() -> Result<String, bindings::fermyon::spin::key_value::Error> {
    let store = Store::open("default")?;
    let before = store.get("visits")?.unwrap_or_default();
    let before = String::from_utf8_lossy(&before).parse().unwrap_or(0_u64);
    let now = (before + 1).to_string();
    store.set("visits", now.as_bytes())?;
    Ok(now)
}

fn bucket(word: &str) -> Result<String, keyvalue::Error> {
    let bucket = keyvalue::open("default")?;
    bucket.set(word, b"x")?;
    let mut keys = bucket.list_keys(None)?.keys;
    keys.sort();
    Ok(keys.join(" "))
}

fn fetch(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("http://").ok_or("only http is asked")?;
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let request = OutgoingRequest::new(Fields::new());
    let refused = |()| "this is no address".to_owned();
    request.set_scheme(Some(&Scheme::Http)).map_err(refused)?;
    request.set_authority(Some(authority)).map_err(refused)?;
    request.set_path_with_query(Some(path)).map_err(refused)?;
    let coming = outgoing_handler::handle(request, None).map_err(shown)?;
    coming.subscribe().block();
    match coming.get() {
        Some(Ok(Ok(answer))) => Ok(answer.status().to_string()),
        Some(Ok(Err(error))) => Err(shown(error)),
        Some(Err(())) | None => Err("no answer".to_owned()),
    }
}
