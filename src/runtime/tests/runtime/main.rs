//! The runtime as its embedders see it. Guests are text, and as small as what they show; where what matters is how languages' libraries
//! use the interfaces, they are those of `wasm-examples`.

mod asynchronous;
mod files;
mod hostile;
mod http;
mod ipc;
mod limits;
mod load;
mod network;
mod program;
mod requests;
mod settings;
mod sockets;
mod support;
mod threads;
mod wasi;
