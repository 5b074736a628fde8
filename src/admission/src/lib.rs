//! What is done to a write between its validation rules and the store: an ordered chain of small plugins.
