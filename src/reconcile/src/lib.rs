//! What reconcile loops are made of.
//!
//! A controller watches a few kinds through shared [`informer`]s, puts the names of objects that need a look into a
//! [`queue`], and brings them closer to what they should be, one look at a time ([`drive`]). All of it goes through a
//! [`kube::Client`]: a controller runs inside of a Vaquita cluster and beside any other Kubernetes API server alike.
//!
//! [`lead`] has only one of several processes do all that. A [`Context`] is what every controller is given; [`meta`], [`pods`], [`scale`] and [`served`] answer what all of them ask.

mod backoff;
mod context;
pub mod drive;
pub mod informer;
mod key;
pub mod lead;
pub mod meta;
pub mod pods;
pub mod queue;
mod record;
pub mod scale;
pub mod served;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use crate::{
    backoff::Backoff,
    context::{Clock, Context, NodeLoss, Options, SecretToken, SigningAuthority, TokenSigner},
    key::ObjectKey,
    record::Recorder,
};
