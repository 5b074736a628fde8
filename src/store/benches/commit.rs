//! How many writes a second are durable, and how long one takes: `cargo bench -p vaquita-store`.
//!
//! The file is made in the directory given as the first argument, or in the one for temporary files; an fsync there
//! decides over the figures of few writers.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use vaquita_store::{Expect, Options, Range, Redb, Store, Write};

const VALUE_BYTES: usize = 1024;

fn main() {
    // Cargo adds flags of its own.
    let dir = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let dir = dir.map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(dir).expect("a directory for the database");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("threads");
    runtime.block_on(async {
        let store = Redb::open(dir.path().join("store.redb"), Options::default()).expect("open");
        let store: Arc<dyn Store> = Arc::new(store);
        println!(
            "{:>8} {:>9} {:>10} {:>10} {:>10}",
            "writers", "kind", "writes/s", "p50 us", "p99 us"
        );
        for (writers, each) in [(1, 500), (16, 500), (64, 500), (256, 200)] {
            measure(&store, "create", writers, each, Expect::Absent).await;
            measure(&store, "update", writers, each, Expect::Anything).await;
        }
        reads(&*store).await;
        // Beside the removal of everything that was compacted.
        measure(&store, "update", 64, 500, Expect::Anything).await;
        measure(&store, "update", 1, 500, Expect::Anything).await;
        store.close().await;
    });
    let size = std::fs::metadata(dir.path().join("store.redb")).map_or(0, |file| file.len());
    println!("file: {} MiB, resident: {} MiB", size >> 20, resident_mib());
}

async fn measure(store: &Arc<dyn Store>, kind: &str, writers: usize, each: usize, expect: Expect) {
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (store, value) = (store.clone(), value.clone());
            tokio::spawn(async move {
                let mut took = Vec::with_capacity(each);
                for number in 0..each {
                    let key =
                        format!("/registry/core/configmaps/bench-{writers}/{writer}-{number}");
                    let before = Instant::now();
                    store
                        .commit(Write::put(key, value.clone(), expect))
                        .await
                        .expect("commit");
                    took.push(before.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took: Vec<Duration> = Vec::new();
    for task in tasks {
        took.extend(task.await.expect("a writer"));
    }
    let per_second = per_second(took.len(), start.elapsed());
    took.sort();
    let (p50, p99) = (
        took[took.len() / 2].as_micros(),
        took[took.len() * 99 / 100].as_micros(),
    );
    println!("{writers:>8} {kind:>9} {per_second:>10.0} {p50:>10} {p99:>10}");
}

async fn reads(store: &dyn Store) {
    let start = Instant::now();
    let page = store
        .range(Range::prefix("/registry/"))
        .await
        .expect("range");
    println!(
        "range of {}: {:.1} ms",
        page.items.len(),
        start.elapsed().as_secs_f64() * 1000.0
    );
    let start = Instant::now();
    for kv in &page.items {
        store.get(&kv.key, None).await.expect("get");
    }
    println!(
        "get: {:.0} per second",
        per_second(page.items.len(), start.elapsed())
    );
    let start = Instant::now();
    store.compact(store.revision()).await.expect("compact");
    println!("compact: {:.1} ms", start.elapsed().as_secs_f64() * 1000.0);
}

fn per_second(count: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took.as_secs_f64()
}

/// Memory of this process, as Linux tells it.
fn resident_mib() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok());
    pages.map_or(0, |pages| (pages * 4096) >> 20)
}
