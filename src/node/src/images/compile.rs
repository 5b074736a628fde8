//! Images are compiled when they come, however they come, before a pod needs them; after an upgrade all that are there, in the
//! background.
//!
//! The result goes to the runtime's cache on disk. A container that starts meanwhile waits for the same compilation instead of
//! beginning one of its own.

use std::{collections::HashSet, future::Future, time::Duration};

use futures::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;
use vaquita_image::{Digest, Image};

use super::Images;

/// How many are compiled at a time. Each uses several cores by itself.
const AT_A_TIME: usize = 2;
/// What is there at the start can wait until the node has begun its pods.
const SETTLE: Duration = Duration::from_secs(5);

/// Prepares each image by `prepare`, once, until the node ends. What fails then is told to whoever starts it.
pub(crate) async fn run<F>(
    images: Images,
    prepare: impl Fn(Image) -> F,
    shutdown: CancellationToken,
) where
    F: Future<Output = ()>,
{
    let work = async {
        let mut changes = images.changes();
        let mut prepared = HashSet::new();
        let mut first = true;
        loop {
            if first {
                // Images that come now are not to wait for it.
                let _ = tokio::time::timeout(SETTLE, changes.changed()).await;
                first = false;
            } else if changes.changed().await.is_err() {
                return;
            }
            let there = images.list().await;
            let next = unprepared(&mut prepared, there);
            stream::iter(next)
                .map(&prepare)
                .buffer_unordered(AT_A_TIME)
                .collect::<()>()
                .await;
        }
    };
    shutdown.run_until_cancelled(work).await;
}

/// The images of Wasm that were not prepared yet.
fn unprepared(prepared: &mut HashSet<Digest>, there: Vec<Image>) -> Vec<Image> {
    let digests: HashSet<_> = there.iter().map(|image| image.digest.clone()).collect();
    prepared.retain(|digest| digests.contains(digest));
    let wasm = there.into_iter().filter(|image| image.kind.is_wasm());
    wasm.filter(|image| prepared.insert(image.digest.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use vaquita_image::{ImageStore, Registries};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_image_is_prepared_once_when_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        let module = |name: &str| {
            wat::parse_str(format!("(module (export \"{name}\" (func 0)) (func))")).unwrap()
        };
        store.load("old:v1", &module("old")).unwrap();
        let images = Images::new(store.clone(), Registries::default());
        let (stop, done) = (
            CancellationToken::new(),
            Arc::<Mutex<Vec<String>>>::default(),
        );
        let note = {
            let done = done.clone();
            move |image: Image| {
                done.lock().unwrap().push(image.reference);
                std::future::ready(())
            }
        };
        let work = tokio::spawn(run(images.clone(), note, stop.clone()));
        let watching = tokio::spawn(images.clone().watch(stop.clone()));
        let prepared = || done.lock().unwrap().len();
        while prepared() < 1 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        store.load("new:v1", &module("new")).unwrap();
        store.tag("new:v1", "new:v2").unwrap();
        while prepared() < 2 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        store.remove("old:v1").unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(prepared(), 2);
        stop.cancel();
        work.await.unwrap();
        watching.await.unwrap();
    }
}
