//! Sections that are compressed, as compilers and linkers do it with debug information if they are asked to.

use std::io::Read;

use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;
use ruzstd::decoding::StreamingDecoder;

use super::bytes::Bytes;
use super::elf::{ElfError, MOST_BYTES};

/// What stands in front: the kind, nothing, the size, and the alignment.
const HEADER: usize = 24;
const ZLIB: u32 = 1;
const ZSTD: u32 = 2;

/// What was compressed to `section`. Room is only made for what comes out, and for no more than `section` says.
///
/// # Errors
///
/// [`ElfError`] if it is compressed in a way that is not known, or is not as long as it says.
pub(super) fn decompressed(section: &[u8]) -> Result<Vec<u8>, ElfError> {
    let kind = section.u32(0).ok_or(ElfError::Short)?;
    let size = section.u64(8).filter(|&size| size <= MOST_BYTES);
    let size = size.ok_or(ElfError::Short)?;
    let packed = section.get(HEADER..).ok_or(ElfError::Short)?;
    let bytes = match kind {
        ZLIB => decompress_to_vec_zlib_with_limit(packed, size as usize).ok(),
        ZSTD => zstd(packed, size),
        other => return Err(ElfError::Compression(other)),
    };
    let bytes = bytes.filter(|it| it.len() as u64 == size);
    bytes.ok_or(ElfError::Short)
}

fn zstd(mut packed: &[u8], size: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    // There may be several frames, one behind the other.
    while !packed.is_empty() {
        let left = size.saturating_sub(bytes.len() as u64);
        let frame = StreamingDecoder::new(&mut packed).ok()?;
        // One more than may be left, so that what is too long is seen.
        frame.take(left + 1).read_to_end(&mut bytes).ok()?;
        if bytes.len() as u64 > size {
            return None;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use miniz_oxide::deflate::compress_to_vec_zlib;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    use tempfile::TempDir;

    use super::*;
    use crate::symbols::{Cache, DebugInfo, ElfFile, Placement, SymbolTable};
    use crate::types::Types;

    fn section(kind: u32, size: u64, packed: &[u8]) -> Vec<u8> {
        let mut bytes = [kind, 0].map(u32::to_le_bytes).concat();
        bytes.extend([size, 1].map(u64::to_le_bytes).concat());
        bytes.extend(packed);
        bytes
    }

    fn text() -> Vec<u8> {
        b"what compilers say of programs repeats itself. ".repeat(300)
    }

    fn packed() -> [(u32, Vec<u8>); 2] {
        let text = text();
        let zstd = compress_to_vec(text.as_slice(), CompressionLevel::Fastest);
        [(ZLIB, compress_to_vec_zlib(&text, 6)), (ZSTD, zstd)]
    }

    #[test]
    fn what_was_compressed_comes_out() {
        for (kind, packed) in packed() {
            let size = text().len() as u64;
            assert_eq!(decompressed(&section(kind, size, &packed)).unwrap(), text());
        }
    }

    #[test]
    fn several_frames_are_one_section() {
        let [_, (_, frame)] = packed();
        let size = text().len() as u64 * 2;
        let two = decompressed(&section(ZSTD, size, &frame.repeat(2))).unwrap();
        assert_eq!(two, text().repeat(2));
    }

    #[test]
    fn a_size_that_lies_is_refused() {
        let size = text().len() as u64;
        for (kind, packed) in packed() {
            for lie in [
                0,
                1,
                size - 1,
                size + 1,
                MOST_BYTES,
                MOST_BYTES + 1,
                u64::MAX,
            ] {
                let error = decompressed(&section(kind, lie, &packed)).unwrap_err();
                assert!(matches!(error, ElfError::Short), "{kind}, {lie}: {error}");
            }
        }
        let error = decompressed(&section(7, 1, b"x")).unwrap_err();
        assert!(matches!(error, ElfError::Compression(7)), "{error}");
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_survived() {
        let size = text().len() as u64;
        for (kind, packed) in packed() {
            let whole = section(kind, size, &packed);
            for end in 0..whole.len() {
                assert!(
                    decompressed(&whole[..end]).is_err(),
                    "{kind}, cut after {end}"
                );
            }
            for at in 0..whole.len() {
                let mut changed = whole.clone();
                changed[at] ^= 0x55;
                drop(decompressed(&changed));
            }
        }
    }

    const PROGRAM: &str = "
        int counter = 3;
        static inline __attribute__((always_inline)) int twice(int it) {
            counter++;
            return it * 2;
        }
        __attribute__((noinline)) int work(int it) {
            return twice(it) + counter;
        }
        int main(void) {
            return work(1);
        }
    ";

    fn run(program: &str, arguments: &[&str], output: &Path) {
        let mut command = Command::new(program);
        let output = command.args(arguments).arg(output).output().unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {output:?}"
        );
    }

    /// The program as compilers leave it: as it is, with zlib and with zstd.
    fn compiled(folder: &TempDir, linked: bool) -> [PathBuf; 3] {
        let path = |name: &str| folder.path().join(name);
        let [source, plain] = ["a.c", "plain"].map(path);
        std::fs::write(&source, PROGRAM).unwrap();
        let source = source.to_str().unwrap();
        let kind: &[&str] = if linked { &[] } else { &["-c"] };
        let compile = [&["-g", "-O1", source], kind].concat();
        run(
            "cc",
            &[&compile, ["-gz=none", "-o"].as_slice()].concat(),
            &plain,
        );
        run(
            "cc",
            &[&compile, ["-gz=zlib", "-o"].as_slice()].concat(),
            &path("zlib"),
        );
        let compress = ["--compress-debug-sections=zstd", plain.to_str().unwrap()];
        run("objcopy", &compress, &path("zstd"));
        [plain, path("zlib"), path("zstd")]
    }

    fn is_compressed(elf: &ElfFile) -> bool {
        elf.sections()
            .iter()
            .any(|it| it.name == ".debug_info" && it.is_compressed())
    }

    #[test]
    fn a_program_with_compressed_debug_information_is_known_as_well() {
        let folder = TempDir::new().unwrap();
        let known = compiled(&folder, true).map(|path| {
            let elf = ElfFile::open(&path).unwrap();
            assert_eq!(is_compressed(&elf), !path.ends_with("plain"), "{path:?}");
            let symbols = SymbolTable::of_file(&elf).unwrap();
            let at = |name: &str| symbols.by_name(name).unwrap().address;
            let mut debug = DebugInfo::open(elf, &Cache::none()).unwrap();
            let mut types = Types::default();
            let counter = debug.variable("counter", at("counter"), &mut types);
            let counter = types.get(counter.unwrap().unwrap());
            let frames: Vec<_> = (0..16).map(|it| debug.frames(at("work") + it)).collect();
            (counter, frames)
        });
        let functions = known[0].1.iter().flatten();
        let functions: Vec<_> = functions.filter_map(|it| it.function.as_deref()).collect();
        assert!(functions.contains(&"work") && functions.contains(&"twice"));
        assert_eq!(known[0], known[1]);
        assert_eq!(known[0], known[2]);
    }

    #[test]
    fn a_module_with_compressed_debug_information_is_known_as_well() {
        const AT: u64 = 0xffff_ffff_c000_0000;
        let folder = TempDir::new().unwrap();
        let known = compiled(&folder, false).map(|path| {
            let elf = ElfFile::open(&path).unwrap();
            assert_eq!(is_compressed(&elf), !path.ends_with("plain"), "{path:?}");
            let sections = elf.sections().iter();
            let places = sections.map(|it| if it.name == ".text" { AT } else { 0 });
            let placement = Placement(places.collect());
            let mut debug = DebugInfo::of_module(elf, placement).unwrap();
            (0..16).map(|it| debug.frames(AT + it)).collect::<Vec<_>>()
        });
        let functions = known[0].iter().flatten();
        let functions: Vec<_> = functions.filter_map(|it| it.function.as_deref()).collect();
        assert!(functions.contains(&"work") && functions.contains(&"twice"));
        assert_eq!(known[0], known[1]);
        assert_eq!(known[0], known[2]);
    }
}
