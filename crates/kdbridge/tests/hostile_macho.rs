//! Mach-O files and images from whoever may have written them.

use std::fs;

use kdbridge::macho::{self, Image, MachFile};
use proptest::prelude::*;
use tempfile::TempDir;

const HEADER: [u32; 8] = [0xfeed_facf, 0x0100_0007, 3, 2, 0, 0, 1, 0];

/// A header with this many commands of so many bytes in all, and what follows it.
fn image(commands: u32, bytes: u32, rest: &[u8]) -> Vec<u8> {
    let mut header = HEADER;
    (header[4], header[5]) = (commands, bytes);
    [header.map(u32::to_le_bytes).concat().as_slice(), rest].concat()
}

/// A command of any size that says it is one of those that are read.
fn command() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop::sample::select(vec![0x2u32, 0x19, 0x1b, 0x24]);
    let body = prop::collection::vec(any::<u8>(), 0..240);
    (kinds, body, -8i32..8).prop_map(|(kind, body, lie)| {
        let size = (body.len() as i32 + 8 + lie).max(0) as u32;
        [[kind, size].map(u32::to_le_bytes).concat(), body].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn load_commands_that_lie_are_survived(
        commands in prop::collection::vec(command(), 0..6),
        extra in 0u32..3,
    ) {
        let count = commands.len() as u32 + extra;
        let all = commands.concat();
        let bytes = image(count, all.len() as u32, &all);
        let parsed = Image::parse(&bytes);
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("image");
        fs::write(&path, &bytes).expect("room");
        if let Ok(file) = MachFile::open(&path) {
            prop_assert_eq!(Ok(file.image()), parsed.as_ref());
            // Whatever it says of itself, the copy is bounded by what the file has.
            let mut copy = Vec::new();
            if macho::to_elf(&file, &file, &mut copy).is_ok() {
                prop_assert!(copy.len() < 64 << 20);
            }
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Image::parse(&bytes).is_err());
        prop_assert!(Image::parse(&image(3, bytes.len() as u32 + 1, &bytes)).is_err());
    }
}
