//! A program as WASI 0.1 had them: prints its arguments, its environment, the time and a random number, and exits.

use std::{
    collections::hash_map::RandomState,
    env,
    hash::BuildHasher as _,
    io::{self, Read as _},
    time::{Instant, SystemTime},
};

fn main() {
    let started = Instant::now();
    for (index, argument) in env::args().enumerate() {
        println!("argument {index}: {argument}");
    }
    for (name, value) in env::vars() {
        println!("environment {name}={value}");
    }
    let mut input = String::new();
    if io::stdin()
        .read_to_string(&mut input)
        .is_ok_and(|length| length > 0)
    {
        println!("input {}", input.trim_end());
    }
    if let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        println!("seconds since 1970: {}", now.as_secs());
    }
    println!("random: {}", RandomState::new().hash_one(0));
    eprintln!("took {:?}", started.elapsed());
}
