//! Named ports with a callback.
