//! Which debugger is on the line.

/// They understand some answers differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Dialect {
    #[default]
    Gdb,
    Lldb,
}

impl Dialect {
    /// What a request tells about who sends it, if anything: each asks early for something that the
    /// other does not know.
    pub(super) fn of(request: &[u8]) -> Option<Self> {
        if request == b"QThreadSuffixSupported" || request == b"qHostInfo" {
            return Some(Self::Lldb);
        }
        let features = request.strip_prefix(b"qSupported:")?;
        let mut features = features.split(|&byte| byte == b';');
        features
            .any(|feature| feature == b"swbreak+")
            .then_some(Self::Gdb)
    }
}

/// Whether a GDB says that it takes an error with a text for any answer. One older than 16 does so for some.
pub(super) fn takes_error_texts(request: &[u8]) -> bool {
    let features = request.strip_prefix(b"qSupported:").unwrap_or_default();
    let mut features = features.split(|&byte| byte == b';');
    features.any(|feature| feature == b"error-message+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_packets_tell() {
        let gdb = b"qSupported:multiprocess+;swbreak+;hwbreak+;qRelocInsn+";
        let lldb = b"qSupported:xmlRegisters=i386,arm,mips,arc;multiprocess+;fork-events+";
        assert_eq!(Dialect::of(gdb), Some(Dialect::Gdb));
        assert_eq!(Dialect::of(lldb), None);
        assert_eq!(Dialect::of(b"QThreadSuffixSupported"), Some(Dialect::Lldb));
        assert_eq!(Dialect::of(b"QStartNoAckMode"), None);
    }
}
