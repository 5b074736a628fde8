//! Vaquita.
fn main() {}
