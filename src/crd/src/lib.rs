//! Custom resources: structural schemas, pruning, defaulting, validation with CEL.
