//! Modules as a debugger is told of them.

use std::ops::Range;

use super::Module;
use crate::serve::Parts;
use crate::symbols::ElfFile;
use crate::symbols::bytes::Bytes;

/// Where no memory can be, for sections that the kernel has dropped. A section without an address is put by
/// GDB where the one before it is, and its names with it.
const NOWHERE: u64 = 0x8000_0000_0000_0000;

/// Where GDB must put each section of a module's file that takes up memory, in the order of the file.
#[must_use]
pub fn library_addresses(module: &Module, elf: &ElfFile) -> Vec<u64> {
    let placement = module.placement(elf);
    let loaded = elf.sections().iter().enumerate();
    let loaded = loaded.filter(|(_, section)| section.is_loaded());
    let addresses = loaded.map(|(number, _)| match placement.of(number) {
        0 => NOWHERE,
        address => address,
    });
    addresses.collect()
}

/// A module's file with all sections at 0, if it has some elsewhere, as linkers leave them. GDB takes that as
/// their places then, and takes one section's variables for another's.
#[must_use]
pub(super) fn without_addresses(elf: &ElfFile) -> Option<Vec<u8>> {
    const ADDRESS: Range<usize> = 16..24;
    let mut sections = elf.sections().iter();
    if sections.all(|it| it.address == 0) {
        return None;
    }
    let mut bytes = std::fs::read(elf.path()).ok()?;
    let table = usize::try_from(bytes.as_slice().u64(40)?).ok()?;
    let size = usize::from(bytes.as_slice().u16(58)?).max(ADDRESS.end);
    let headers = bytes.get_mut(table..)?.chunks_exact_mut(size);
    for header in headers.take(elf.sections().len()) {
        header.get_mut(ADDRESS)?.fill(0);
    }
    Some(bytes)
}

/// The memory of those sections that the kernel has not dropped.
#[must_use]
pub fn library_memory(module: &Module, elf: &ElfFile) -> Vec<Range<u64>> {
    let placement = module.placement(elf);
    let sections = elf.sections().iter().enumerate();
    let sections = sections.map(|(number, section)| (placement.of(number), section.size));
    let loaded = sections.filter(|(at, _)| *at != 0);
    loaded
        .map(|(at, size)| at..at.saturating_add(size))
        .collect()
}

/// GDB's list of libraries, of files and the addresses of their parts.
#[must_use]
pub fn library_list<'a>(libraries: impl IntoIterator<Item = (&'a str, &'a Parts)>) -> String {
    let mut text = "<library-list>".to_owned();
    for (path, parts) in libraries {
        text.push_str("<library name=\"");
        text.extend(path.chars().map(escaped));
        text.push_str("\">");
        let (part, addresses) = match parts {
            Parts::Sections(addresses) => ("section", addresses),
            Parts::Segments(addresses) => ("segment", addresses),
        };
        for address in addresses {
            text.push_str(&format!("<{part} address=\"{address:#x}\"/>"));
        }
        text.push_str("</library>");
    }
    text + "</library-list>"
}

fn escaped(character: char) -> String {
    match character {
        '<' => "&lt;".to_owned(),
        '&' => "&amp;".to_owned(),
        '"' => "&quot;".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::testing::Elf;

    #[test]
    fn every_loaded_section_has_an_address_in_the_order_of_the_file() {
        let file = Elf::new()
            .section(".text", 1, 0, &[0; 8])
            .loaded(4)
            .section(".comment", 1, 0, &[0; 8])
            .section(".init.text", 1, 0, &[0; 8])
            .loaded(4)
            .section(".data", 1, 0, &[0; 8])
            .loaded(1)
            .write();
        let elf = ElfFile::open(file.path()).unwrap();
        let sections = [(".data", 0x2000), (".text", 0x1000), (".comment", 0x3000)];
        let module = Module {
            name: "m".into(),
            at: 0,
            base: 0x1000,
            size: 0x2000,
            others: Vec::new(),
            live: true,
            sections: sections.map(|(name, at)| (name.to_owned(), at)).into(),
            orc: None,
        };
        assert_eq!(library_addresses(&module, &elf), [0x1000, NOWHERE, 0x2000]);
        let memory = [0x1000..0x1008, 0x2000..0x2008];
        assert_eq!(library_memory(&module, &elf), memory);
    }

    #[test]
    fn a_file_whose_sections_have_addresses_is_copied_without_them() {
        let file = |data| {
            let elf = Elf::new()
                .section(".text", 1, 0, &[0x90; 8])
                .loaded(4)
                .section(".data", 1, data, &[7; 8])
                .loaded(1);
            elf.write()
        };
        let placed = file(0xd8);
        let copy = without_addresses(&ElfFile::open(placed.path()).unwrap()).unwrap();
        let copy = Elf::file(&copy);
        let copy = ElfFile::open(copy.path()).unwrap();
        assert!(copy.sections().iter().all(|it| it.address == 0));
        assert_eq!(copy.bytes(&copy.sections()[2]).unwrap(), [7; 8]);
        let plain = file(0);
        assert_eq!(
            without_addresses(&ElfFile::open(plain.path()).unwrap()),
            None
        );
    }

    #[test]
    fn a_list_as_gdb_reads_it() {
        let parts = [Parts::Sections(vec![0x10, 0]), Parts::Segments(vec![0x20])];
        let list = library_list(["/a<&\"b.ko", "/c"].into_iter().zip(&parts));
        let first = r#"<library name="/a&lt;&amp;&quot;b.ko"><section address="0x10"/>"#;
        let rest = r#"<section address="0x0"/></library><library name="/c"><segment address="0x20"/></library>"#;
        assert_eq!(list, format!("<library-list>{first}{rest}</library-list>"));
        assert_eq!(library_list([]), "<library-list></library-list>");
    }
}
