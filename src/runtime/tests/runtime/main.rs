//! The runtime as its embedders see it. Guests are text, and as small as what they show.

mod http;
mod limits;
mod load;
mod network;
mod program;
mod support;
