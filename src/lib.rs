//! Vaquita.
