//! Network namespaces of the kernel: a pod whose sockets are made in one is where a container is that is in it.
//!
//! A socket belongs to the namespace that the thread was in which made it, for good, whoever uses it. So one thread is
//! enough: it enters a namespace, makes a socket there, and leaves again.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::Path,
    sync::{
        Arc, LazyLock,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
};

use socket2::{Domain, Socket, Type};

/// A network namespace of the kernel, kept as long as somebody has this. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NetworkNamespace(Arc<File>);

impl NetworkNamespace {
    /// The one that a file stands for: `/proc/PID/ns/net`, or where somebody has mounted it.
    ///
    /// Errors: also if nothing can be made in it, since this process may not enter it (that takes `CAP_SYS_ADMIN`) or the
    /// file stands for something else.
    pub fn open(path: &Path) -> io::Result<Self> {
        let namespace = Self(Arc::new(File::open(path)?));
        namespace.socket(Domain::IPV4, Type::DGRAM)?;
        Ok(namespace)
    }

    /// Makes a socket in it.
    pub(crate) fn socket(&self, domain: Domain, kind: Type) -> io::Result<Socket> {
        let (answer, answered) = sync_channel(1);
        let order = Order {
            namespace: self.0.clone(),
            domain,
            kind,
            answer,
        };
        let gone = || io::Error::other("the thread that makes sockets has ended");
        let maker = MAKER.as_ref().map_err(|_| gone())?;
        maker.send(order).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }
}

struct Order {
    namespace: Arc<File>,
    domain: Domain,
    kind: Type,
    answer: SyncSender<io::Result<Socket>>,
}

/// The way to the thread that makes sockets, which begins when the first one is wanted.
static MAKER: LazyLock<io::Result<Sender<Order>>> = LazyLock::new(|| {
    let home = File::open("/proc/thread-self/ns/net")?;
    let (sender, orders) = channel();
    std::thread::Builder::new()
        .name("vaquita-sockets".to_owned())
        .spawn(move || make(&orders, &home))?;
    Ok(sender)
});

fn make(orders: &Receiver<Order>, home: &File) {
    for order in orders {
        let Order {
            namespace,
            domain,
            kind,
            answer,
        } = order;
        let made = enter(namespace.as_fd()).and_then(|()| Socket::new(domain, kind, None));
        // Not to keep it alive when nobody else does. If it fails, the next order enters another one in any case.
        if let Err(error) = enter(home.as_fd()) {
            tracing::warn!(%error, "cannot leave a pod's network namespace");
        }
        // Whoever is gone does not want it any more.
        let _ = answer.send(made);
    }
}

/// Moves the calling thread into a network namespace.
#[expect(unsafe_code, reason = "the standard library does not know namespaces")]
fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the call takes two numbers, and the borrow keeps the first one open.
    let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    if entered == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_network_namespace_is_refused() {
        let absent = NetworkNamespace::open(Path::new("/nowhere/net")).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        assert!(NetworkNamespace::open(Path::new("/proc/self/ns/uts")).is_err());
        assert!(NetworkNamespace::open(Path::new("/dev/null")).is_err());
    }
}
