//! Options of TCP sockets. The virtual network needs none of them; what was set can be read back, as programs expect.

use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;

const SECOND: u64 = 1_000_000_000;

/// The options and their values, those of Linux by default. Times are in nanoseconds, sizes in bytes.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) keep_alive: bool,
    pub(super) keep_alive_idle: u64,
    pub(super) keep_alive_interval: u64,
    pub(super) keep_alive_count: u32,
    pub(super) hop_limit: u8,
    pub(super) receive_buffer: u64,
    pub(super) send_buffer: u64,
    pub(super) backlog: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keep_alive: false,
            keep_alive_idle: 7200 * SECOND,
            keep_alive_interval: 75 * SECOND,
            keep_alive_count: 9,
            hop_limit: 64,
            receive_buffer: 64 << 10,
            send_buffer: 64 << 10,
            backlog: None,
        }
    }
}

/// Every one of them has a minimum of one.
pub(super) fn at_least_one<T: PartialEq + From<u8>>(value: T) -> Result<T, ErrorCode> {
    if value == T::from(0) {
        Err(ErrorCode::InvalidArgument)
    } else {
        Ok(value)
    }
}
