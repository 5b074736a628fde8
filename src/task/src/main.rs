//! Builds the guests and runs the project's two everyday commands.
fn main() {}
