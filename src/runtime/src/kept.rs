//! What the host keeps behind an instance's handles, on its process's account.
//!
//! Handles are made in many places, most of which are not ours. So nobody asks before a handle is made: the tables are looked through
//! whenever the instance's time slice is over, and what is in them is charged then. In one slice, an instance can't make more than
//! it can compute in it; and if that is too much, it has had its last. What can be large in a single call (bodies, what waits in
//! connections, messages) is charged when it is made.

use std::any::Any;

use http::HeaderMap;
use wasmtime::component::ResourceTable;
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi_http::FieldMap;
use wasmtime_wasi_http::p2::types::{
    HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse,
};

use crate::budget::Share;
use crate::state::{CoreState, State};

/// The most handles (streams, sockets, pollables, header maps, ...) that an instance may hold, and the most streams, futures and
/// tasks of WASI 0.3.
pub(crate) const MOST_HANDLES: usize = 64 << 10;

/// What a handle takes: its place in two tables, and what is small enough behind it.
const HANDLE: u64 = 256;
/// What is kept for a stream, a future or a task of WASI 0.3.
const CONCURRENT: u64 = 512;
/// What is kept for a field of a header map beside its name and value.
const FIELD: usize = 64;

/// The handles that are looked at for each slice, on average. With more, they are looked at less often.
const LOOKED_AT: usize = 4096;

/// State of an instance on whose account something is kept.
pub(crate) trait Keeps: 'static {
    /// How many handles there are, and what is behind them in bytes.
    fn kept(&mut self) -> (usize, u64);
    fn share(&mut self) -> &mut Share;
}

impl Keeps for State {
    fn kept(&mut self) -> (usize, u64) {
        look(&mut self.table)
    }

    fn share(&mut self) -> &mut Share {
        &mut self.share
    }
}

/// Descriptors are charged when they are opened; there is nothing else.
impl Keeps for CoreState {
    fn kept(&mut self) -> (usize, u64) {
        (0, 0)
    }

    fn share(&mut self) -> &mut Share {
        &mut self.share
    }
}

/// Has an instance take turns with others, and what is kept for it charged at the end of each of its slices. With too much, it ends.
pub(crate) fn yield_in_turns<T: Keeps>(store: &mut Store<T>) {
    let mut look = Look::default();
    vaquita_guest_cpu::yield_in_turns(store, move |store| look.charge(store));
}

/// Looks through one instance's handles.
#[derive(Debug, Default)]
struct Look {
    /// Slices until the next one.
    wait: usize,
}

impl Look {
    /// Charges what is kept for an instance; fails if that is more than there may be.
    fn charge<T: Keeps>(&mut self, mut store: StoreContextMut<'_, T>) -> wasmtime::Result<()> {
        if let Some(less) = self.wait.checked_sub(1) {
            self.wait = less;
            return Ok(());
        }
        let concurrent = store.concurrent_resource_table();
        let concurrent = concurrent.map_or(0, |table| table.iter_mut().count());
        let state = store.data_mut();
        let (handles, bytes) = state.kept();
        self.wait = (handles + concurrent) / LOOKED_AT;
        if state.share().keep(bytes + concurrent as u64 * CONCURRENT) {
            Ok(())
        } else {
            Err(wasmtime::Error::msg(
                "out of memory: too much is kept behind its handles",
            ))
        }
    }
}

fn look(table: &mut ResourceTable) -> (usize, u64) {
    let mut handles = 0;
    let mut bytes = 0;
    for entry in table.iter_mut() {
        handles += 1;
        bytes += HANDLE + behind(entry);
    }
    (handles, bytes)
}

/// What is behind a handle beyond what is behind any. Of requests and answers of WASI 0.3 only their fields are known, as long as
/// they are on their own.
fn behind(entry: &dyn Any) -> u64 {
    if let Some(map) = entry.downcast_ref::<FieldMap>() {
        fields(map)
    } else if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
        let target = [&request.authority, &request.path_with_query];
        let target = target.into_iter().flatten().map(String::len).sum::<usize>();
        fields(&request.headers) + target as u64
    } else if let Some(response) = entry.downcast_ref::<HostOutgoingResponse>() {
        fields(&response.headers)
    } else if let Some(response) = entry.downcast_ref::<HostIncomingResponse>() {
        fields(&response.headers)
    } else {
        0
    }
}

fn fields(map: &HeaderMap) -> u64 {
    let each = map.iter();
    let sizes = each.map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    sizes.sum::<usize>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_is_behind_handles_is_counted() {
        let mut table = ResourceTable::new();
        assert_eq!(look(&mut table), (0, 0));
        let socket = table.push("a socket, say").expect("room");
        assert_eq!(look(&mut table), (1, HANDLE));
        table.push(FieldMap::default()).expect("room");
        let response = HostIncomingResponse {
            status: 200,
            headers: FieldMap::default(),
            body: None,
        };
        table.push(response).expect("room");
        assert_eq!(look(&mut table), (3, 3 * HANDLE));
        table.delete(socket).expect("there");
        assert_eq!(look(&mut table), (2, 2 * HANDLE));
    }

    #[test]
    fn fields_count_by_their_names_and_values() {
        let mut map = HeaderMap::new();
        assert_eq!(fields(&map), 0);
        map.append("name", HeaderValue::from_static("value"));
        map.append("name", HeaderValue::from_static("another"));
        assert_eq!(fields(&map), (4 + 5 + 4 + 7 + 2 * FIELD) as u64);
    }
}
