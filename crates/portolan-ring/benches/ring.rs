//! Times of the ring.
fn main() {}
