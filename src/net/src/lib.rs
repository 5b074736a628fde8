//! The virtual network of a node.
