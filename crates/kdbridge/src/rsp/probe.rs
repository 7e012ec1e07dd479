//! What a stub says of itself.

use std::collections::BTreeSet;

use super::registers::{Layout, includes};

/// The longest description that is read, and the most files that it may have.
const MAX_DESCRIPTION: usize = 1 << 20;
pub(super) const MAX_FILES: usize = 32;

/// The features that a stub names in its answer to `qSupported`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// The longest packet that it takes.
    pub(super) packet: Option<usize>,
    pub(super) description: bool,
    pub(super) no_acks: bool,
    /// All of them.
    pub(super) named: BTreeSet<String>,
}

impl Features {
    pub(super) fn read(reply: &[u8]) -> Self {
        let mut features = Self::default();
        let named = String::from_utf8_lossy(reply);
        features.named = named.split(';').map(str::to_owned).collect();
        for feature in reply.split(|&byte| byte == b';') {
            match feature {
                b"qXfer:features:read+" => features.description = true,
                b"QStartNoAckMode+" => features.no_acks = true,
                _ => {
                    if let Some(size) = feature.strip_prefix(b"PacketSize=") {
                        features.packet = super::hex::number(size).map(|size| size as usize);
                    }
                }
            }
        }
        features
    }
}

/// A file that is read in pieces by `qXfer`.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pub(super) bytes: Vec<u8>,
}

impl Pieces {
    /// Takes a piece; false if it was the last one, or none.
    pub(super) fn push(&mut self, reply: &[u8]) -> bool {
        let Some((kind, piece)) = reply.split_first() else {
            return false;
        };
        let fits = self.bytes.len() + piece.len() <= MAX_DESCRIPTION;
        if fits && matches!(kind, b'm' | b'l') {
            self.bytes.extend_from_slice(piece);
        }
        fits && *kind == b'm' && !piece.is_empty()
    }
}

/// A description, file by file.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) layout: Layout,
    pub(super) amd64: bool,
    pub(super) names_architecture: bool,
    wanted: Vec<String>,
    files: usize,
}

impl Description {
    pub(super) fn new() -> Self {
        Self {
            layout: Layout::default(),
            amd64: false,
            names_architecture: false,
            wanted: vec!["target.xml".to_owned()],
            files: 0,
        }
    }

    /// The name of the next file to read.
    pub(super) fn next(&mut self) -> Option<String> {
        self.files += 1;
        if self.files > MAX_FILES {
            return None;
        }
        self.wanted.pop()
    }

    pub(super) fn push(&mut self, xml: &str) {
        self.layout.add(xml);
        self.names_architecture |= xml.contains("<architecture>");
        // LLDB's stub has a name of its own for it.
        self.amd64 |= xml.contains("x86-64") || xml.contains(">x86_64<");
        let first = self.wanted.len();
        self.wanted.extend(includes(xml).map(str::to_owned));
        // The last is taken next.
        if let Some(new) = self.wanted.get_mut(first..) {
            new.reverse();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_of_qemu() {
        let features = Features::read(b"PacketSize=1000;qXfer:features:read+;vContSupported+;x");
        assert_eq!(features.packet, Some(0x1000));
        assert!(features.description);
        assert!(!features.no_acks);
    }

    #[test]
    fn files_come_in_the_order_in_which_they_are_included() {
        let mut description = Description::new();
        assert_eq!(description.next().as_deref(), Some("target.xml"));
        description.push("<xi:include href=\"a\"/><xi:include href=\"b\"/>");
        assert_eq!(description.next().as_deref(), Some("a"));
        description.push("<xi:include href=\"a\"/>");
        let rest = std::iter::from_fn(|| {
            let next = description.next()?;
            description.push("<xi:include href=\"a\"/>");
            Some(next)
        });
        assert!(rest.count() < MAX_FILES);
    }

    #[test]
    fn a_file_without_end_is_cut_off() {
        let mut pieces = Pieces::default();
        assert!(pieces.push(b"mab"));
        assert!(!pieces.push(b"lcd"));
        assert_eq!(pieces.bytes, b"abcd");
        assert!(!pieces.push(b"m"));
        let long = vec![b'm'; MAX_DESCRIPTION];
        assert!(!pieces.push(&long));
    }
}
