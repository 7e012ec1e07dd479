//! What entitlements grant works, in each tier that this machine has, and grants no more.
//!
//! If the tests are root's, the programs are run as `nobody`; else as the user of the tests.

mod files;
mod programs;
mod site;
