//! Archives in the format that the kernel unpacks into its first file system ("newc").

use std::io::{self, Write};

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// Writes one entry after the other.
pub(crate) struct Archive<W> {
    to: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to, entries: 0 }
    }

    /// Its parent must have been put before.
    pub(crate) fn folder(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, FOLDER | 0o755, &[])
    }

    pub(crate) fn program(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.entry(path, FILE | 0o755, bytes)
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.to)
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let name = path.len() + 1;
        write!(self.to, "070701{:08X}{mode:08X}", self.entries)?;
        // Owner, group, number of links and time; then, behind the size, the devices.
        write!(self.to, "{:08X}{:08X}{:08X}{:08X}", 0, 0, 1, 0)?;
        write!(self.to, "{size:08X}{:08X}{:08X}{:08X}{:08X}", 0, 0, 0, 0)?;
        write!(self.to, "{name:08X}{:08X}{path}\0", 0)?;
        self.pad(HEADER + name)?;
        self.to.write_all(bytes)?;
        self.pad(bytes.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.to
            .write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

const HEADER: usize = 110;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_trailer_is_last() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("bin").expect("memory");
        archive.program("bin/x", b"hello").expect("memory");
        let bytes = archive.finish().expect("memory");
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.starts_with("0707010000000100"));
        let at: Vec<_> = text.match_indices("070701").map(|(at, _)| at % 4).collect();
        assert_eq!(at, [0, 0, 0]);
        assert!(text.contains("bin/x\0hello\0\0\x00070701"));
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"));
    }
}
