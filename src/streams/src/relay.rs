//! Passing an upgraded connection on, byte by byte, without looking into it.

use std::{io, sync::Mutex, sync::PoisonError, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::Instant,
};

use crate::spdy::{LINGER, drain};

/// Bytes that are held for each direction.
const BUFFER: usize = 32 << 10;

/// Why a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// One of the two hung up.
    HungUp,
    /// Neither said anything for too long.
    Idle,
}

/// How one direction ended.
enum Stopped {
    /// Its source said that there is no more.
    Finished,
    /// Its source failed.
    Source,
    /// Its target takes no more.
    Target,
}

/// Copies both ways between `client` and `backend` until both have ended, one of them fails, or nothing has come from
/// either for `idle`.
///
/// The end of one direction is passed on while the other goes on. When the backend is done, what the client still sends
/// is read for a moment: closing a socket with something unread would take away from the client what it has not read.
pub async fn relay<C, B>(client: C, backend: B, idle: Duration) -> Ending
where
    C: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let clock = Clock(Mutex::new(Instant::now()));
    let both = both_ways(client, backend, &clock);
    tokio::select! {
        () = both => Ending::HungUp,
        () = clock.idle(idle) => Ending::Idle,
    }
}

async fn both_ways<C, B>(client: C, backend: B, clock: &Clock)
where
    C: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_backend, mut to_backend) = tokio::io::split(backend);
    let up = async {
        let stopped = pass(&mut from_client, &mut to_backend, clock).await;
        if matches!(stopped, Stopped::Target) {
            let _ = drain(&mut from_client).await;
        }
        stopped
    };
    let down = pass(&mut from_backend, &mut to_client, clock);
    tokio::pin!(up, down);
    tokio::select! {
        stopped = &mut up => {
            if !matches!(stopped, Stopped::Source) {
                down.await;
            }
        }
        stopped = &mut down => {
            if !matches!(stopped, Stopped::Target) {
                let _ = tokio::time::timeout(LINGER, up).await;
            }
        }
    }
}

async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    clock: &Clock,
) -> Stopped {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(_) => {
                let _ = to.shutdown().await;
                return Stopped::Source;
            }
        };
        clock.touch();
        if write(to, &buffer[..count]).await.is_err() {
            return Stopped::Target;
        }
        clock.touch();
    }
    match to.shutdown().await {
        Ok(()) => Stopped::Finished,
        Err(_) => Stopped::Target,
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), data: &[u8]) -> io::Result<()> {
    to.write_all(data).await?;
    to.flush().await
}

/// When something came last.
struct Clock(Mutex<Instant>);

impl Clock {
    fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn idle(&self, limit: Duration) {
        loop {
            let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let deadline = last + limit;
            if deadline <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn pair() -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<Ending>) {
        let ((client, near), (far, backend)) = (duplex(64), duplex(64));
        let relaying = tokio::spawn(relay(near, far, HOUR));
        (client, backend, relaying)
    }

    #[tokio::test(start_paused = true)]
    async fn halves_end_one_by_one() {
        let (mut client, mut backend, relaying) = pair();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        backend.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        tokio::time::sleep(HOUR / 2).await;
        backend.write_all(b"answer").await.unwrap();
        drop(backend);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        assert_eq!(relaying.await.unwrap(), Ending::HungUp);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_is_done_does_not_wait_for_the_client() {
        let (mut client, mut backend, relaying) = pair();
        backend.write_all(b"bye").await.unwrap();
        drop(backend);
        // More than fits anywhere: it is read, and forgotten.
        let _ = client.write_all(&[7; 4096]).await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "bye");
        assert_eq!(relaying.await.unwrap(), Ending::HungUp);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends() {
        let (mut client, _backend, relaying) = pair();
        let begin = Instant::now();
        tokio::time::sleep(HOUR / 2).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(relaying.await.unwrap(), Ending::Idle);
        assert!(begin.elapsed() >= HOUR * 3 / 2);
    }
}
