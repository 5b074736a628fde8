//! A process's files for WASI 0.2: [`component`] has the functions, [`stream`] the streams. Those of WASI 0.1 are in
//! [`preview1`](crate::preview1). What is behind both is [`Files`](vaquita_guest_fs::Files).

mod component;
mod stream;

pub(crate) use component::add_to_linker;
