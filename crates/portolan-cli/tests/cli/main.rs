//! The command as a user runs it: real processes, the real server, each test in a runtime
//! directory of its own.

mod bad_input;
mod confined;
mod control;
mod defaults;
mod demo;
mod domains;
mod fake;
mod jobs;
mod load;
mod log;
mod names;
mod pages;
mod parts;
mod report;
mod sandbox;
mod selftest;
mod service;
mod shared;
mod show;
mod trace;
mod world;
