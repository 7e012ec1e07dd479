//! The `kdbridge` command.

fn main() {}
