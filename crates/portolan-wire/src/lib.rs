//! What Portolan's processes say to each other, as bytes: no sockets, no clocks, no rights.
//!
//! - [`name::ServiceName`], [`label::JobLabel`] and [`group::GroupId`] are checked once, where a
//!   name enters the program, and are carried as types from there on.
//! - [`code::BootstrapCode`] is the outcome of a bootstrap call, with the numbers and texts of
//!   Mach's bootstrap server.
//! - [`bootstrap`] encodes and decodes the requests to the bootstrap server and its answers,
//!   [`jobs`] what they say of jobs, [`sandbox`] what they say of confined programs, and [`failure`]
//!   why something was refused or did not start.
//! - [`defaults`] is the file in which the members of an application group keep their user defaults, and
//!   [`container`] where it is; [`object`] and [`group_socket`] are what else they share.
//! - [`instance`] is what the processes of one run of a program have in common.
//!
//! Everything that decodes takes bytes from a peer that may lie: it never panics, and it never
//! reserves memory for a length before it has seen that many bytes.

pub mod bootstrap;
pub mod bounded;
pub mod code;
pub mod container;
mod cursor;
pub mod defaults;
pub mod failure;
mod field;
pub mod group;
pub mod group_socket;
pub mod instance;
pub mod jobs;
pub mod label;
pub mod moved;
pub mod name;
pub mod object;
pub mod packet;
pub mod place;
pub mod port_id;
pub mod sandbox;
pub mod signal;
mod text;
