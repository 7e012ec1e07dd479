//! Application groups.
