//! Outcomes of bootstrap calls.
