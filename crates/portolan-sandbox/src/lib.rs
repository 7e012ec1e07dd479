//! Entitlements, application groups, and what they allow.
//!
//! [`Entitlements`] are what a program's author asks for, in Apple's keys; [`sandbox_check`]
//! decides one operation on one name by them. Both are pure: nothing here asks the kernel, and who
//! a caller is has been established before. [`document`] reads the formats that files are in.

mod check;
pub mod document;
mod entitlements;
pub mod filter;
mod key;

pub use check::{Filter, Identity, Operation, Verdict, Violation, sandbox_check};
pub use document::Position;
pub use entitlements::{Entitlements, EntitlementsError, FileError};
