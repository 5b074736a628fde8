//! Many API calls at once, but only as many as have reason to succeed.

use futures::future::join_all;

/// Calls `work` `count` times: once, then twice at the same time, then four times, ... and stops after the first batch in
/// which one failed. A quota that is used up so costs one refused call and not hundreds.
///
/// Returns how many succeeded and the first error.
pub(crate) async fn slow_start<F, Fut, E>(count: usize, mut work: F) -> (usize, Result<(), E>)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<(), E>>,
{
    let mut succeeded = 0;
    let mut left = count;
    let mut batch = 1;
    while left > 0 {
        let size = batch.min(left);
        let results = join_all((0..size).map(|_| work())).await;
        succeeded += results.iter().filter(|result| result.is_ok()).count();
        if let Some(error) = results.into_iter().find_map(Result::err) {
            return (succeeded, Err(error));
        }
        left -= size;
        batch *= 2;
    }
    (succeeded, Ok(()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    async fn run(count: usize, failing_from: usize) -> (usize, usize, bool) {
        let calls = Cell::new(0);
        let (succeeded, result) = slow_start(count, || {
            let call = calls.get();
            calls.set(call + 1);
            async move {
                if call >= failing_from {
                    Err(call)
                } else {
                    Ok(())
                }
            }
        })
        .await;
        (calls.get(), succeeded, result.is_ok())
    }

    #[tokio::test]
    async fn batches_double_until_one_fails() {
        assert_eq!(run(0, usize::MAX).await, (0, 0, true));
        assert_eq!(run(10, usize::MAX).await, (10, 10, true));
        assert_eq!(run(500, 0).await, (1, 0, false));
        // 1 + 2 succeed, and of the next four the last two fail.
        assert_eq!(run(500, 5).await, (7, 5, false));
    }
}
