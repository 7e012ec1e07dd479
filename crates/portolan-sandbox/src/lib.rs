//! Entitlements, application groups, and what they allow.
//!
//! [`Entitlements`] are what a program's author asks for, in Apple's keys; [`sandbox_check`]
//! decides one operation on one name by them. Both are pure: they do not ask the kernel, and who
//! a caller is has been established before. [`document`] reads the formats that files are in.
//!
//! What locks a program in is made of the same entitlements: a [`profile`], with the [`filter`] of
//! its system calls, is handed to the program `portolan-launch` ([`launch`]), which confines itself and becomes
//! the program. [`probe`] tells how strong the walls are that this machine can build, and
//! [`selftest`] tries them.

mod calls;
mod check;
pub mod decision;
pub mod document;
mod entitlements;
pub mod filter;
mod key;
pub mod launch;
mod limit;
pub mod places;
pub mod probe;
pub mod profile;
mod regular;
pub mod report;
pub mod selftest;
pub mod trace;

pub use check::{Filter, Identity, Operation, Verdict, Violation, sandbox_check};
pub use document::Position;
pub use entitlements::{
    Entitlements, EntitlementsError, ExceptedPath, ExceptedPathError, FileError, Folder,
    Ineffective, Reading,
};
pub use key::Reason;
pub use limit::Limit;
