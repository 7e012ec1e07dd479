//! The files about a kernel, and what a debugger is told of them.

use std::fs;
use std::time::Duration;

use kdbridge::discover::xnu::{self, Hints, Kernel};
use kdbridge::macho::{SearchError, Uuid};
use kdbridge::xnu::{FilesError, Places, Symbols};

use crate::build::Built;
use crate::machine::{self, Machine};

const SLIDE: u64 = 0xf60_0000;

fn found(machine: &mut Machine) -> Kernel {
    xnu::find(machine, Hints::default()).expect("a kernel")
}

fn places(built: &Built) -> Places {
    Places {
        search: vec![built.folder().to_owned()],
        cache: built.folder().join("cache/copies"),
    }
}

#[test]
fn a_kernel_is_copied_once_and_its_names_are_where_it_lies() {
    let built = Built::new();
    let mut machine = Machine::new(&built, SLIDE, true);
    let kernel = found(&mut machine);
    let symbols = Symbols::of(&kernel, &places(&built)).expect("files");
    assert_eq!(symbols.slide, SLIDE);
    let forkproc = machine::address(&built, "_forkproc") + SLIDE;
    assert_eq!(symbols.address("_forkproc"), Some(forkproc));
    let before = fs::metadata(&symbols.elf).expect("a copy");
    assert!(before.len() > 4096);
    let again = Symbols::of(&kernel, &places(&built)).expect("files");
    let after = fs::metadata(&again.elf).expect("a copy");
    assert_eq!(
        before.modified().expect("a time"),
        after.modified().expect("a time")
    );
    let left = fs::read_dir(built.folder().join("cache/copies")).expect("a folder");
    assert_eq!(left.count(), 1);
}

#[test]
fn looking_in_is_told_by_the_names() {
    let built = Built::new();
    let mut machine = Machine::new(&built, SLIDE, true);
    let kernel = found(&mut machine);
    let symbols = Symbols::of(&kernel, &places(&built)).expect("files");
    let every = Duration::from_millis(250);
    let reentry = symbols.reentry(every).expect("it can");
    let at = |name: &str| machine::address(&built, name) + SLIDE;
    assert_eq!(reentry.deadline, at("_kdp_reentry_deadline"));
    assert_eq!(reentry.handler.start, at("_kdp_ml_enter_debugger"));
    assert!(reentry.handler.end - reentry.handler.start <= 16);
}

#[test]
fn extensions_are_copied_with_where_they_lie() {
    let built = Built::new();
    let mut machine = Machine::new(&built, SLIDE, true);
    let kernel = found(&mut machine);
    let places = places(&built);
    let symbols = Symbols::of(&kernel, &places).expect("files");
    let extensions = symbols.extensions(&mut machine, &places).expect("a list");
    let [extension] = extensions.as_slice() else {
        panic!("{extensions:?}")
    };
    assert_eq!(extension.kext.name, "com.example.counter");
    assert_eq!(extension.segments[0].address, extension.kext.address);
    assert!(extension.elf.as_ref().expect("a copy").exists());
}

#[test]
fn k09_without_a_file_of_the_kernel_its_uuid_is_named() {
    let built = Built::new();
    let mut machine = Machine::new(&built, SLIDE, true);
    let kernel = found(&mut machine);
    let mut places = places(&built);
    places.search = Vec::new();
    let error = Symbols::of(&kernel, &places).expect_err("no file");
    assert!(matches!(error, FilesError::None(uuid) if uuid == kernel.uuid));
    places.search = vec![built.kext()];
    let error = Symbols::of(&kernel, &places).expect_err("another one");
    let FilesError::Search(SearchError::Mismatch {
        file, kernel: of, ..
    }) = error
    else {
        panic!("{error}")
    };
    let other = machine::uuid(&fs::read(built.kext()).expect("an extension"));
    assert_eq!(file.map(|uuid: Uuid| uuid.to_string()), Some(other));
    assert_eq!(of, kernel.uuid);
}
