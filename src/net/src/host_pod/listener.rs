//! A listening socket of the host.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use socket2::Socket;
use tokio::net::{TcpListener, TcpStream};

use super::{Entry, Open};
use crate::{NetError, Stream, host::Waiters, sync::lock};

/// Tokio remembers one waiting task; here, any number of them may wait.
pub(crate) struct HostListener {
    local: SocketAddr,
    state: Mutex<State>,
    waiters: Arc<Waiters>,
    entry: Entry,
}

struct State {
    /// None: closed.
    socket: Option<TcpListener>,
    /// Accepted to see whether there is one.
    ready: VecDeque<(TcpStream, SocketAddr)>,
}

impl HostListener {
    pub(super) fn open(
        socket: Socket,
        local: SocketAddr,
        entry: Entry,
    ) -> Result<Arc<Self>, NetError> {
        let socket = TcpListener::from_std(socket.into())?;
        let state = State {
            socket: Some(socket),
            ready: VecDeque::new(),
        };
        let listener = Arc::new(Self {
            local,
            state: Mutex::new(state),
            waiters: Arc::default(),
            entry,
        });
        let weak = Arc::downgrade(&listener);
        let pod = listener.entry.pod.clone();
        pod.becomes(&listener.entry, Open::Listener(weak))?;
        Ok(listener)
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn pending(&self) -> usize {
        lock(&self.state).ready.len()
    }

    pub(crate) fn poll_accept(
        &self,
        cx: &Context<'_>,
    ) -> Poll<Result<(Stream, SocketAddr), NetError>> {
        self.waiters.add(cx);
        match self.try_accept() {
            Ok(Some(accepted)) => Poll::Ready(Ok(accepted)),
            Ok(None) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    pub(crate) fn poll_accept_ready(&self, cx: &Context<'_>) -> Poll<()> {
        self.waiters.add(cx);
        let mut state = lock(&self.state);
        if !state.ready.is_empty() {
            return Poll::Ready(());
        }
        match self.accept(&mut state) {
            Ok(Some(accepted)) => {
                state.ready.push_back(accepted);
                Poll::Ready(())
            }
            Ok(None) => Poll::Pending,
            Err(_) => Poll::Ready(()),
        }
    }

    pub(crate) fn try_accept(&self) -> Result<Option<(Stream, SocketAddr)>, NetError> {
        let mut state = lock(&self.state);
        let accepted = match state.ready.pop_front() {
            Some(accepted) => Some(accepted),
            None => self.accept(&mut state)?,
        };
        drop(state);
        let open = |(socket, peer)| Ok((self.entry.pod.accepted(socket, peer)?, peer));
        accepted.map(open).transpose()
    }

    /// Accepts if a connection waits. If none does, whoever waits is woken when one has come.
    fn accept(&self, state: &mut State) -> Result<Option<(TcpStream, SocketAddr)>, NetError> {
        let Some(socket) = &state.socket else {
            return Err(NetError::Closed);
        };
        let waker = Waker::from(self.waiters.clone());
        let mut cx = Context::from_waker(&waker);
        loop {
            match socket.poll_accept(&mut cx) {
                Poll::Ready(Ok(accepted)) => return Ok(Some(accepted)),
                // Only the one is lost that was about to be accepted.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Poll::Ready(Err(error)) => return Err(NetError::Host(error)),
                Poll::Pending => return Ok(None),
            }
        }
    }

    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        let socket = state.socket.take();
        let ready = std::mem::take(&mut state.ready);
        drop(state);
        drop((socket, ready));
        std::task::Wake::wake(self.waiters.clone());
    }
}
