//! What a connection's streams are for.

pub(crate) mod exec;
pub(crate) mod forward;

#[cfg(test)]
mod tests;
