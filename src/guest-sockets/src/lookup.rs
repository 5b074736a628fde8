//! `wasi:sockets/ip-name-lookup@0.2`: names of the pod's network.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use vaquita_net::ResolveError;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    Host, HostResolveAddressStream, ResolveAddressStream as Handle,
};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{DynPollable, Pollable, SocketResult, subscribe};

use super::unconnected::TheNetwork;
use super::{View, code_of_lookup, guest, host};

type Resolve = Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, ResolveError>> + Send>>;

/// Behind `resolve-address-stream`.
enum Lookup {
    Asking(Resolve),
    Answered(Result<std::vec::IntoIter<IpAddr>, ErrorCode>),
}

impl Lookup {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<&mut Result<std::vec::IntoIter<IpAddr>, ErrorCode>> {
        if let Self::Asking(resolve) = self {
            let answer = ready!(resolve.as_mut().poll(context));
            *self = Self::Answered(
                answer
                    .map(Vec::into_iter)
                    .map_err(|error| code_of_lookup(&error)),
            );
        }
        match self {
            Self::Answered(answer) => Poll::Ready(answer),
            Self::Asking(_) => Poll::Pending,
        }
    }
}

#[async_trait::async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        poll_fn(|context| self.poll(context).map(|_| ())).await;
    }
}

impl Host for View<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> SocketResult<Resource<Handle>> {
        self.table.get(&host::<TheNetwork, _>(&network))?;
        if !self.grants.may_look_up(&name) {
            return Err(ErrorCode::AccessDenied.into());
        }
        let network = self.network.clone();
        let lookup = Lookup::Asking(Box::pin(async move { network.resolve(&name).await }));
        Ok(guest(&self.table.push(lookup)?))
    }
}

impl HostResolveAddressStream for View<'_> {
    fn resolve_next_address(
        &mut self,
        lookup: Resource<Handle>,
    ) -> SocketResult<Option<IpAddress>> {
        let lookup: &mut Lookup = self.table.get_mut(&host(&lookup))?;
        match lookup.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Err(ErrorCode::WouldBlock.into()),
            Poll::Ready(Ok(addresses)) => Ok(addresses.next().map(IpAddress::from)),
            Poll::Ready(Err(code)) => Err((*code).into()),
        }
    }

    fn subscribe(&mut self, lookup: Resource<Handle>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, host::<Lookup, _>(&lookup))
    }

    fn drop(&mut self, lookup: Resource<Handle>) -> wasmtime::Result<()> {
        self.table.delete(host::<Lookup, _>(&lookup))?;
        Ok(())
    }
}
