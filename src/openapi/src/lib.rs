//! OpenAPI v3 and v2 documents of whatever is served.
