//! An XNU kernel, from end to end: a synthetic one, run by an interpreter.

mod bridge;
mod build;
mod command;
#[path = "../debugger/mod.rs"]
mod debugger;
mod front;
mod machine;
#[path = "../serving/mod.rs"]
mod serving;
#[path = "../transcripts/mod.rs"]
mod transcripts;

mod lab_articles;
mod lab_commands;
mod lab_convert;
mod lab_debuggers;
mod lab_discovery;
mod lab_extensions;
mod lab_files;
mod lab_kdp;
