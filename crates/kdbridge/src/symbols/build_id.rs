//! The number that a linker gives to what it made, by which a file and a kernel know each other.

use std::fmt;
use std::path::PathBuf;

/// A GNU build-id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BuildId(Vec<u8>);

impl BuildId {
    /// `None` if there are fewer than 2 or more than 64 bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (2..=64).contains(&bytes.len()).then(|| Self(bytes.into()))
    }

    /// The bytes themselves.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Where the file of this build-id is below a `.build-id` folder.
    #[must_use]
    pub fn file_name(&self) -> PathBuf {
        let digits = self.to_string();
        let (folder, name) = digits.split_at(2);
        PathBuf::from(folder).join(format!("{name}.debug"))
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_its_file() {
        let id = BuildId::new(&[0xab, 0x01, 0xff]).unwrap();
        assert_eq!(id.to_string(), "ab01ff");
        assert_eq!(id.file_name(), PathBuf::from("ab/01ff.debug"));
    }

    #[test]
    fn too_short_and_too_long_ones_are_none() {
        assert_eq!(BuildId::new(&[1]), None);
        assert_eq!(BuildId::new(&[1; 65]), None);
    }
}
