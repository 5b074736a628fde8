//! What every backend must do, run on each of them.

mod contract;

use std::sync::Arc;

use crate::{Expect, Store, Write};

/// A fresh store.
struct Fixture {
    store: Arc<dyn Store>,
}

impl Fixture {
    fn memory() -> Self {
        Self {
            store: Arc::new(crate::memory()),
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
