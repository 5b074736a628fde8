//! What every backend must do, run on each of them.

mod contract;
mod crash;
mod disk;
mod model;

use std::sync::Arc;

use tempfile::TempDir;

use crate::{Expect, Options, Redb, Store, Write};

/// A fresh store.
struct Fixture {
    store: Arc<dyn Store>,
    _dir: Option<TempDir>,
}

impl Fixture {
    fn memory() -> Self {
        Self {
            store: Arc::new(crate::memory()),
            _dir: None,
        }
    }

    fn redb() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Little memory for events, so that history is read from disk too.
        let options = Options {
            recent_bytes: 16 * 1024,
            ..Options::default()
        };
        let store = Redb::open(dir.path().join("store.redb"), options).unwrap();
        Self {
            store: Arc::new(store),
            _dir: Some(dir),
        }
    }

    fn store(&self) -> &dyn Store {
        &*self.store
    }

    fn shared(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// Writes until a watcher that has stood still can only go on from history.
    async fn outrun_watchers(&self) {
        for _ in 0..100 {
            self.store
                .commit(Write::put("noise", vec![0; 1024], Expect::Anything))
                .await
                .unwrap();
        }
    }
}
