//! A revisioned key-value store over bytes, with interchangeable backends.
