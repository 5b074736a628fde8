//! One client's conversation with the store.

use resp::{Limits, Reply, RequestDecoder};

use crate::{
    commands::{self, Outcome},
    store::Store,
};

/// With this much waiting to be sent, a client is served no further until it has read.
const MAX_WAITING: usize = 256 * 1024;

/// One client's conversation: requests come in as bytes, answers wait to be sent as bytes. It does no I/O.
#[derive(Debug)]
pub struct Session {
    decoder: RequestDecoder,
    waiting: Vec<u8>,
    sent: usize,
    closing: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            decoder: RequestDecoder::new(Limits::default()),
            waiting: Vec::new(),
            sent: 0,
            closing: false,
        }
    }
}

impl Session {
    /// Takes what the client sent, and answers all that is complete.
    pub fn receive(&mut self, bytes: &[u8], store: &mut Store) {
        self.decoder.feed(bytes);
        self.proceed(store);
    }

    /// Goes on with requests that have arrived but had to wait for the client to read earlier answers.
    pub fn proceed(&mut self, store: &mut Store) {
        while self.is_open() {
            match self.decoder.next_request() {
                Ok(Some(request)) => match commands::run(request, store) {
                    Outcome::Reply(reply) => reply.encode(&mut self.waiting),
                    Outcome::Quit(reply) => self.end(&reply),
                },
                Ok(None) => return,
                Err(error) => self.end(&Reply::error(format!("ERR {error}"))),
            }
        }
    }

    /// Says one last thing to the client.
    pub fn end(&mut self, reply: &Reply) {
        reply.encode(&mut self.waiting);
        self.closing = true;
    }

    /// Whether to read from the client. If not, it must first read itself.
    pub fn is_open(&self) -> bool {
        !self.closing && self.outgoing().len() < MAX_WAITING
    }

    /// What waits to be sent.
    pub fn outgoing(&self) -> &[u8] {
        &self.waiting[self.sent..]
    }

    /// Notes that so many bytes of [`Session::outgoing`] have been sent.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.waiting.len() {
            self.waiting.clear();
            // A large answer was an exception: the next one need not be.
            self.waiting.shrink_to(MAX_WAITING);
            self.sent = 0;
        }
    }

    /// Whether everything has been said and sent.
    pub fn is_over(&self) -> bool {
        self.closing && self.outgoing().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use resp::encode_request;

    use super::*;

    #[test]
    fn pipelined_requests_are_answered_in_order() {
        let (mut session, mut store) = (Session::default(), Store::default());
        session.receive(b"SET a 1\r\n*2\r\n$4\r\nINCR\r\n$1\r\na\r\nGE", &mut store);
        assert_eq!(session.outgoing(), b"+OK\r\n:2\r\n");
        session.sent(3);
        session.receive(b"T a\r\nNONSENSE\r\n", &mut store);
        assert_eq!(
            session.outgoing(),
            b"\r\n:2\r\n$1\r\n2\r\n-ERR unknown command 'NONSENSE', with args beginning with: \r\n"
        );
        assert!(session.is_open() && !session.is_over());
    }

    #[test]
    fn a_protocol_error_is_told_and_is_the_end() {
        let (mut session, mut store) = (Session::default(), Store::default());
        session.receive(b"PING\r\n*1\r\n!\r\nPING\r\n", &mut store);
        assert_eq!(
            session.outgoing(),
            b"+PONG\r\n-ERR Protocol error: expected '$', got '!'\r\n"
        );
        assert!(!session.is_open() && !session.is_over());
        session.sent(session.outgoing().len());
        assert!(session.is_over());
        session.receive(b"PING\r\n", &mut store);
        assert!(session.is_over(), "nothing comes after the end");
    }

    #[test]
    fn a_client_that_does_not_read_is_not_served() {
        let (mut session, mut store) = (Session::default(), Store::default());
        let echo = encode_request(&[b"ECHO", &[b'x'; 1000]]);
        let mut asked = 0;
        while session.is_open() {
            session.receive(&echo.repeat(100), &mut store);
            asked += 100;
        }
        assert!(session.outgoing().len() < MAX_WAITING + 2000);
        // As it reads, the rest is answered: nothing that was asked is lost.
        let mut read = Vec::new();
        while !session.outgoing().is_empty() {
            let piece = session.outgoing()[..session.outgoing().len().min(10_000)].to_vec();
            session.sent(piece.len());
            read.extend(piece);
            session.proceed(&mut store);
        }
        assert_eq!(
            read.windows(6)
                .filter(|window| window == b"$1000\r")
                .count(),
            asked
        );
    }
}
