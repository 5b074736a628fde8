//! Threads as Rust's library has them: they share memory, wait for each other, and print. Takes how many there are to be.

use std::env;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Barrier, Mutex, mpsc};
use std::thread;

fn main() {
    let threads = env::args()
        .nth(1)
        .and_then(|count| count.parse().ok())
        .unwrap_or(4);
    let (counted, together) = (AtomicU32::new(0), Barrier::new(threads));
    let locked = Mutex::new(0);
    let (done, finished) = mpsc::channel();
    thread::scope(|scope| {
        for number in 0..threads {
            let done = done.clone();
            let (counted, together, locked) = (&counted, &together, &locked);
            scope.spawn(move || {
                together.wait();
                for _ in 0..1000 {
                    counted.fetch_add(1, Ordering::Relaxed);
                    *locked.lock().expect("not poisoned") += 1;
                }
                println!("thread {number} is done");
                done.send(number).expect("somebody listens");
            });
        }
    });
    drop(done);
    assert_eq!(finished.iter().count(), threads);
    let counted = counted.into_inner();
    assert_eq!(locked.into_inner().expect("not poisoned"), counted);
    println!("counted to {counted}");
}
