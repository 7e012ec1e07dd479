//! Names under which services are published.
