//! A synthetic XNU kernel and a kernel extension, from the C sources beside this file, by clang, lld
//! and dsymutil.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Where an x86-64 kernel is linked to.
pub(crate) const FILE_BASE: u64 = 0xffff_ff80_0020_0000;

/// Where lld begins a program.
const LINKED_BASE: u64 = 0x1_0000_0000;

const LC_SYMTAB: u32 = 0x2;
const LC_SEGMENT_64: u32 = 0x19;
const LC_UUID: u32 = 0x1b;
const LC_VERSION_MIN: u32 = 0x24;
const MH_KEXT_BUNDLE: u32 = 0xb;
const MH_NOUNDEFS: u32 = 0x1;

const HEADER_BYTES: usize = 32;

/// What was built, and where.
#[derive(Debug)]
pub(crate) struct Built {
    folder: TempDir,
}

impl Built {
    /// Builds everything, which takes half a second.
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let built = Self { folder };
        built.make("kernel", &["-e", "_kernel_bootstrap"], None);
        built.make("example", &["-bundle"], Some(MH_KEXT_BUNDLE));
        built
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn kernel(&self) -> PathBuf {
        self.folder().join("kernel")
    }

    pub(crate) fn kext(&self) -> PathBuf {
        self.folder().join("example")
    }

    /// The debug information of `kernel` or `example`.
    pub(crate) fn dwarf(&self, name: &str) -> PathBuf {
        let contents = format!("{name}.dSYM/Contents/Resources/DWARF/{name}");
        self.folder().join(contents)
    }

    fn make(&self, name: &str, link: &[&str], kind: Option<u32>) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/xnu/{name}.c"));
        let (object, program) = (format!("{name}.o"), name);
        #[rustfmt::skip]
        self.run("clang-19", &[
            "--target=x86_64-apple-macosx10.13", "-O0", "-g", "-ffreestanding", "-fno-stack-protector",
            "-fno-omit-frame-pointer", "-mno-red-zone", "-mno-sse", "-Wall", "-Werror", "-c", "-o", &object,
            source.to_str().expect("a path"),
        ]);
        let fixed = [
            "-arch",
            "x86_64",
            "-platform_version",
            "macos",
            "10.13",
            "10.13",
        ];
        let rest = ["-no_fixup_chains", "-o", program, &object];
        self.run("ld64.lld-19", &[&fixed, link, &rest].concat());
        let path = self.folder().join(name);
        let linked = fs::read(&path).expect("what was linked");
        fs::write(&path, rebase(&linked, kind)).expect("room");
        self.run("dsymutil-19", &[program]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        let output = command
            .args(arguments)
            .current_dir(self.folder())
            .output()
            .unwrap_or_else(|_| panic!("no {program}: run `cargo xtask kernel-lab`"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {said}");
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Adds `by` to the eight bytes at `at`.
fn shift(bytes: &mut [u8], at: usize, by: u64) {
    let value = u64_at(bytes, at).wrapping_add(by);
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Makes what lld links a kernel, or a kernel extension: lld knows no `-static` and no
/// `-image_base`.
fn rebase(linked: &[u8], kind: Option<u32>) -> Vec<u8> {
    let mut image = linked.to_vec();
    let (old, by) = match kind {
        None => (LINKED_BASE, FILE_BASE - LINKED_BASE),
        Some(_) => (0, 0),
    };
    let mut commands = Vec::new();
    let mut end = old;
    for (at, size, command) in load_commands(linked) {
        let keep = match command {
            LC_SEGMENT_64 if linked[at + 8..].starts_with(b"__PAGEZERO\0") => false,
            LC_SEGMENT_64 => {
                end = end.max(u64_at(linked, at + 24) + u64_at(linked, at + 32));
                shift_segment(&mut image, at, by);
                true
            }
            LC_SYMTAB => {
                shift_symbols(&mut image, at, old, by);
                true
            }
            LC_UUID | LC_VERSION_MIN => true,
            _ => false,
        };
        if keep {
            commands.push(image[at..at + size].to_vec());
        }
    }
    shift_pointers(&mut image, &data_of(linked), old..end, by);
    write_header(&mut image, &commands, kind);
    image
}

/// Offset, size and kind of each load command.
pub(crate) fn load_commands(image: &[u8]) -> Vec<(usize, usize, u32)> {
    let mut at = HEADER_BYTES;
    (0..u32_at(image, 16))
        .map(|_| {
            let size = u32_at(image, at + 4) as usize;
            let command = (at, size, u32_at(image, at));
            at += size;
            command
        })
        .collect()
}

/// Segment and sections move.
pub(crate) fn shift_segment(image: &mut [u8], at: usize, by: u64) {
    shift(image, at + 24, by);
    for section in 0..u32_at(image, at + 64) as usize {
        shift(image, at + 72 + section * 80 + 32, by);
    }
}

fn shift_symbols(image: &mut [u8], at: usize, old: u64, by: u64) {
    let (table, count) = (u32_at(image, at + 8) as usize, u32_at(image, at + 12));
    for entry in (0..count as usize).map(|index| table + index * 16) {
        let in_section = image[entry + 5] != 0;
        if in_section && u64_at(image, entry + 8) >= old {
            shift(image, entry + 8, by);
        }
    }
}

/// Offsets in the file of all words of `__DATA`.
pub(crate) fn data_of(image: &[u8]) -> Vec<usize> {
    let segments = load_commands(image)
        .into_iter()
        .filter(|it| it.2 == LC_SEGMENT_64);
    segments
        .filter(|&(at, ..)| image[at + 8..].starts_with(b"__DATA\0"))
        .flat_map(|(at, ..)| {
            let start = u64_at(image, at + 40) as usize;
            (start..start + u64_at(image, at + 48) as usize).step_by(8)
        })
        .collect()
}

/// In sources of our own every word that looks like a pointer is one.
pub(crate) fn shift_pointers(
    image: &mut [u8],
    words: &[usize],
    range: std::ops::Range<u64>,
    by: u64,
) {
    for &at in words {
        if range.contains(&u64_at(image, at)) && u64_at(image, at) != 0 {
            shift(image, at, by);
        }
    }
}

fn write_header(image: &mut [u8], commands: &[Vec<u8>], kind: Option<u32>) {
    let all = commands.concat();
    let before = u32_at(image, 20) as usize;
    image[HEADER_BYTES..HEADER_BYTES + before].fill(0);
    image[HEADER_BYTES..HEADER_BYTES + all.len()].copy_from_slice(&all);
    let mut put = |at: usize, value: u32| image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(16, commands.len() as u32);
    put(20, all.len() as u32);
    put(24, MH_NOUNDEFS);
    if let Some(kind) = kind {
        put(12, kind);
    }
}
