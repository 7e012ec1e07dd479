//! Finding the kernel, its files and its extensions.

use std::fs;
use std::time::{Duration, Instant};

use kdbridge::discover::xnu::{self, Hints, KextError, Method, NotFound};
use kdbridge::macho::{self, MachFile, SearchError, Uuid};
use kdbridge::target::{Cpu, Memory, Target, TargetError};

use crate::build::{Built, FILE_BASE};
use crate::machine::{self, Machine};

/// Counts reads, and hides a stretch of memory.
struct Watched<'a> {
    machine: &'a mut Machine,
    reads: usize,
    hidden: std::ops::Range<u64>,
}

impl<'a> Watched<'a> {
    fn new(machine: &'a mut Machine) -> Self {
        Self {
            machine,
            reads: 0,
            hidden: 0..0,
        }
    }
}

impl Memory for Watched<'_> {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), TargetError> {
        self.reads += 1;
        if self.hidden.contains(&at) {
            return Err(TargetError::Unreadable(at));
        }
        self.machine.read(at, into)
    }
}

const LOW_GLOBALS: std::ops::Range<u64> = 0xffff_ff80_0000_0000..0xffff_ff80_0010_0000;

#[test]
fn k17_an_xnu_kernel_is_found_at_every_slide() {
    let built = Built::new();
    for turn in 0..50u64 {
        let slide = (turn * 37 % 128) << 21;
        let mut machine = Machine::new(&built, slide, true);
        let uuid: Uuid = machine.uuid.parse().expect("a UUID");
        let pc = machine.registers(Cpu(0)).expect("registers").rip;
        let banner = machine.banner();
        let hints = [
            (Hints::default(), Method::LowGlobals),
            (
                Hints {
                    banner: Some(banner.as_bytes()),
                    pc: None,
                },
                Method::Banner,
            ),
            (
                Hints {
                    banner: None,
                    pc: Some(pc),
                },
                Method::NearPc,
            ),
        ];
        for (hints, method) in hints {
            let mut memory = Watched::new(&mut machine);
            if method == Method::NearPc {
                memory.hidden = LOW_GLOBALS;
            }
            let start = Instant::now();
            let kernel = xnu::find(&mut memory, hints).expect("a kernel");
            assert!(start.elapsed() < Duration::from_millis(50));
            assert!(memory.reads <= 600, "{}", memory.reads);
            assert_eq!((kernel.base, kernel.uuid), (FILE_BASE + slide, uuid));
            let unslid = slide == 0 && method == Method::NearPc;
            assert_eq!(kernel.method, if unslid { Method::Unslid } else { method });
            let file = MachFile::open(&built.kernel()).expect("a kernel");
            assert_eq!(kernel.slide(file.image()), slide);
            if method != Method::NearPc {
                assert!(kernel.version.starts_with("Darwin Kernel Version 24.6.0"));
            }
        }
    }
}

/// A kernel executes far behind its header too.
#[test]
fn k17_a_header_far_before_the_program_counter_takes_few_reads() {
    let built = Built::new();
    let mut machine = Machine::new(&built, 0xf60_0000, true);
    let mut memory = Watched::new(&mut machine);
    memory.hidden = LOW_GLOBALS;
    let hints = Hints {
        banner: None,
        pc: Some(FILE_BASE + 0xf60_0000 + (31 << 20)),
    };
    let kernel = xnu::find(&mut memory, hints).expect("a kernel");
    assert_eq!(kernel.base, FILE_BASE + 0xf60_0000);
    assert!(memory.reads <= 100, "{}", memory.reads);
}

#[test]
fn a_kernel_that_is_nowhere_is_not_found() {
    let built = Built::new();
    let mut machine = Machine::new(&built, 0xf60_0000, true);
    let mut memory = Watched::new(&mut machine);
    memory.hidden = LOW_GLOBALS;
    let hints = Hints {
        banner: None,
        pc: Some(0xffff_ff92_0000_0100),
    };
    assert!(matches!(
        xnu::find(&mut memory, hints),
        Err(NotFound::Nowhere)
    ));
}

#[test]
fn a_kernel_that_says_it_is_another_is_refused() {
    let built = Built::new();
    let mut machine = Machine::new(&built, 0xf60_0000, true);
    let uuid = machine.uuid.clone();
    let banner = b"Darwin; UUID=00000000-0000-0000-0000-000000000001; stext=0xffffff800f800000";
    let hints = Hints {
        banner: Some(banner),
        pc: None,
    };
    let error = xnu::find(&mut machine, hints)
        .expect_err("another one")
        .to_string();
    assert!(
        error.contains(&uuid) && error.contains("-000000000001"),
        "{error}"
    );
}

#[test]
fn k09_a_file_for_another_kernel_is_refused_with_both_uuids() {
    let built = Built::new();
    let kernel = MachFile::open(&built.kernel()).expect("a kernel");
    let uuid = kernel.image().uuid.expect("a UUID");
    for path in [
        built.kernel(),
        built.dwarf("kernel"),
        built.folder().join("kernel.dSYM"),
    ] {
        macho::open_matching(&path, uuid).expect("the same");
    }
    let kext = MachFile::open(&built.kext()).expect("an extension");
    let other = kext.image().uuid.expect("a UUID");
    let error = macho::open_matching(&built.kext(), uuid).expect_err("another one");
    assert!(matches!(error, SearchError::Mismatch { .. }));
    let text = error.to_string();
    assert!(
        text.contains(&uuid.to_string()) && text.contains(&other.to_string()),
        "{text}"
    );
}

#[test]
fn files_are_found_by_their_uuid_below_folders() {
    let built = Built::new();
    let uuid = MachFile::open(&built.kext())
        .expect("an extension")
        .image()
        .uuid;
    let found = macho::find(&[built.folder().to_owned()], uuid.expect("a UUID"));
    assert_eq!(found.image, Some(built.kext()));
    assert_eq!(found.dwarf, Some(built.dwarf("example")));
    let nothing = macho::find(&[built.folder().to_owned()], Uuid([0; 16]));
    assert_eq!((nothing.image, nothing.dwarf), (None, None));
}

#[test]
fn extensions_are_listed_with_where_their_segments_are() {
    let built = Built::new();
    let mut machine = Machine::new(&built, 0xf60_0000, true);
    let pointer = machine::address(&built, "_gLoadedKextSummaries") + machine.slide;
    let kexts = xnu::kexts(&mut machine, pointer).expect("a list");
    let [kext] = kexts.as_slice() else {
        panic!("{kexts:?}")
    };
    let file = fs::read(built.kext()).expect("an extension");
    assert_eq!(
        (kext.name.as_str(), kext.load_tag),
        ("com.example.counter", 1)
    );
    assert_eq!(kext.uuid.to_string(), machine::uuid(&file));
    let segments = xnu::segments(&mut machine, kext).expect("segments");
    let text = segments
        .iter()
        .find(|segment| segment.name == "__TEXT")
        .expect("text");
    assert_eq!(text.address, kext.address);
    assert!(segments.iter().all(|segment| segment.name != "__LINKEDIT"));
}

#[test]
fn a_list_of_extensions_that_lies_is_refused() {
    let built = Built::new();
    let mut machine = Machine::new(&built, 0xf60_0000, true);
    let pointer = machine::address(&built, "_gLoadedKextSummaries") + machine.slide;
    let list = machine::address(&built, "_loaded_kext_summaries") + machine.slide;
    for (at, value) in [(0, 129), (4, 8), (4, 5000), (8, 10_001), (8, u32::MAX)] {
        let mut before = [0; 4];
        machine.read(list + at, &mut before).expect("memory");
        machine
            .write(list + at, &u32::to_le_bytes(value))
            .expect("memory");
        let error = xnu::kexts(&mut machine, pointer).expect_err("a lie");
        assert!(matches!(error, KextError::Unknown(..)), "{error}");
        machine.write(list + at, &before).expect("memory");
    }
    machine.write(pointer, &[0; 8]).expect("memory");
    assert!(matches!(
        xnu::kexts(&mut machine, pointer),
        Err(KextError::Updating)
    ));
}
