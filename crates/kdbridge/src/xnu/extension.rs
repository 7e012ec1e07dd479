//! An extension and the copy of it for gdb.

use std::ops::Range;
use std::path::PathBuf;

use super::{Places, copy};
use crate::discover::xnu::{self, Kext};
use crate::macho::{Files, Image, Index, MachFile, Segment, loaded_segments};
use crate::target::Memory;

/// An extension and the copy of it for gdb.
#[derive(Debug)]
pub struct Extension {
    /// What the kernel says of it.
    pub kext: Kext,
    /// What of it is in memory, by what its load commands say there; nothing if they cannot be read.
    pub segments: Vec<Segment>,
    /// The copy, if its files were found.
    pub elf: Option<PathBuf>,
    /// What that was made from.
    pub file: Option<PathBuf>,
    /// How far the extension lies above the addresses there.
    pub slide: Option<u64>,
    /// Where each segment of the copy is in memory, in the order of the file.
    pub places: Vec<u64>,
}

impl Extension {
    /// What is in memory of these, and copies of those whose files are in `places`; they are looked through
    /// once.
    #[must_use]
    pub fn all(memory: &mut dyn Memory, kexts: Vec<Kext>, places: Option<&Places>) -> Vec<Self> {
        let searched = places.filter(|_| !kexts.is_empty());
        let index = searched.map(|places| Index::of(&places.search));
        let one = |kext: Kext| {
            let files = index.as_ref().map(|index| index.files(kext.uuid));
            let elf = places.zip(files.as_ref());
            let elf = elf.and_then(|(places, files)| copy(files, kext.uuid, &places.cache).ok());
            Self::of(memory, kext, files.unwrap_or_default(), elf)
        };
        kexts.into_iter().map(one).collect()
    }

    fn of(memory: &mut dyn Memory, kext: Kext, files: Files, elf: Option<PathBuf>) -> Self {
        let segments = xnu::segments(memory, &kext).unwrap_or_default();
        let file = files.image.or(files.dwarf);
        let linked = file.as_ref().and_then(|path| MachFile::open(path).ok());
        let linked = linked.as_ref().map(MachFile::image);
        let slide = linked.and_then(Image::base);
        let slide = slide.map(|linked| kext.address.wrapping_sub(linked));
        let places = linked.map(|linked| places(linked, &segments, slide.unwrap_or_default()));
        Self {
            slide,
            places: places.unwrap_or_default(),
            file,
            elf,
            kext,
            segments,
        }
    }

    /// The memory that it takes.
    #[must_use]
    pub fn memory(&self) -> Vec<Range<u64>> {
        let range = |at: u64, size| at..at.saturating_add(size);
        if self.segments.is_empty() {
            return vec![range(self.kext.address, self.kext.size)];
        }
        let segments = self.segments.iter();
        segments.map(|it| range(it.address, it.size)).collect()
    }
}

/// Where the segments are that a file has linked to somewhere else: each where memory has one of its name,
/// and as far from there as the whole where it has none.
fn places(linked: &Image, there: &[Segment], slide: u64) -> Vec<u64> {
    let place = |segment: &Segment| {
        let there = there.iter().find(|it| it.name == segment.name);
        there.map_or(segment.address.wrapping_add(slide), |it| it.address)
    };
    loaded_segments(linked).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::macho::Kind;

    fn segments(named: &[(&str, u64)]) -> Vec<Segment> {
        let segment = |(name, address): &(&str, u64)| Segment {
            name: (*name).to_owned(),
            address: *address,
            size: 0x1000,
            offset: 0,
            file_size: 0,
            protection: 0,
            sections: Vec::new(),
        };
        named.iter().map(segment).collect()
    }

    #[test]
    fn segments_are_where_memory_has_those_of_their_names() {
        let linked = Image::of_segments(
            Kind::KEXT,
            segments(&[
                ("__TEXT", 0),
                ("__DATA", 0x1000),
                ("__LINKEDIT", 0x2000),
                ("__OTHER", 0x3000),
            ]),
        );
        let there = segments(&[("__DATA", 0x9000), ("__TEXT", 0x5000)]);
        assert_eq!(places(&linked, &there, 0x5000), [0x5000, 0x9000, 0x8000]);
        assert_eq!(places(&linked, &[], 0x5000), [0x5000, 0x6000, 0x8000]);
    }
}
