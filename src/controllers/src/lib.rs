//! Reconcile loops that keep what users declared.
