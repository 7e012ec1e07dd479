//! ELF copies of Mach-O files.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use kdbridge::macho::{self, MachFile};
use kdbridge::symbols::ElfFile;

use crate::build::{Built, FILE_BASE};
use crate::machine;

/// Writes the copy of `kernel` or `example` beside it.
fn elf(built: &Built, name: &str) -> PathBuf {
    let image = MachFile::open(&built.folder().join(name)).expect("an image");
    let dwarf = MachFile::open(&built.dwarf(name)).expect("its debug information");
    let path = built.folder().join(format!("{name}.elf"));
    let mut file = BufWriter::new(File::create(&path).expect("room"));
    macho::to_elf(&image, &dwarf, &mut file).expect("a copy");
    path
}

fn gdb(path: &Path, commands: &[&str]) -> String {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch"]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let output = gdb.arg(path).output().expect("gdb");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8(text).expect("text")
}

#[test]
fn gdb_reads_names_lines_types_data_and_code_of_a_copy() {
    let built = Built::new();
    let path = elf(&built, "kernel");
    let said = gdb(
        &path,
        &[
            "info line forkproc",
            "ptype struct proc",
            "print kernproc.p_comm",
            "print &kernproc",
            "print *initproc.p_pptr",
            "x/i machine_idle",
            "info symbol kdp_ml_enter_debugger",
            "break cloneproc",
            "info files",
        ],
    );
    let at = |name: &str| machine::address(&built, name);
    for expected in [
        "kernel.c\" starts at address 0xffffff80002",
        "struct proc *p_pptr;",
        "$1 = \"kernel_task",
        &format!("(struct proc *) {:#x}", at("_kernproc")),
        "p_pid = 0, p_stat = 2",
        "machine_idle",
        "push   %rbp",
        "\nkdp_ml_enter_debugger in section .text",
        "Breakpoint 1 at 0xffffff80002",
        "is .text",
        "is .bss",
    ] {
        assert!(said.contains(expected), "no {expected:?} in\n{said}");
    }
    assert!(
        !said.contains("warning") && !said.contains("rror"),
        "{said}"
    );
}

#[test]
fn a_copy_is_what_other_readers_take_for_a_kernel() {
    let built = Built::new();
    let path = elf(&built, "kernel");
    let elf = ElfFile::open(&path).expect("an ELF file");
    let image = MachFile::open(&built.kernel()).expect("a kernel");
    let uuid = image.image().uuid.expect("a UUID");
    assert_eq!(elf.build_id().expect("a build-id").as_bytes(), uuid.0);
    assert_eq!(image.image().base(), Some(FILE_BASE));
    let readelf = Command::new("readelf").arg("-lW").arg(&path).output();
    let said = String::from_utf8(readelf.expect("readelf").stdout).expect("text");
    let load = said
        .lines()
        .find(|line| line.contains("LOAD"))
        .expect("a segment");
    assert!(load.contains(&format!("{FILE_BASE:#x}")), "{load}");
    for load in said.lines().filter(|line| line.contains("LOAD")) {
        let numbers = load
            .split_whitespace()
            .filter_map(|it| it.strip_prefix("0x"));
        let numbers: Vec<u64> = numbers
            .filter_map(|it| u64::from_str_radix(it, 16).ok())
            .collect();
        // What is mapped by pages stands at the same place of a page in the file.
        assert_eq!(numbers[0] % 4096, numbers[1] % 4096, "{load}");
    }
}

#[test]
fn an_extension_can_be_copied_too() {
    let built = Built::new();
    let path = elf(&built, "example");
    let said = gdb(&path, &["info line example_start", "print example_count"]);
    assert!(said.contains("example.c\" starts at address 0x"), "{said}");
    assert!(said.contains("$1 = 0"), "{said}");
}
