//! An XNU kernel, from end to end: a synthetic one, run by an interpreter.

mod build;
mod front;
mod machine;

mod lab_convert;
mod lab_discovery;
mod lab_files;
mod lab_kdp;
