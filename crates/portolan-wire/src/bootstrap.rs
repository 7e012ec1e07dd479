//! Requests to the bootstrap server and its answers.
