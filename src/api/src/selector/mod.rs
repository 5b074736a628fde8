//! Label and field selectors: parsing (query strings and `metav1.LabelSelector`), printing, matching.

mod field;
mod label;

pub use field::{FieldSelector, FieldSelectorError, FieldTerm};
pub use label::{LabelSelector, LabelSelectorError, Labels, Operator, Requirement};
