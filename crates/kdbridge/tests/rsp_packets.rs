//! Any bytes as packets of the GDB protocol.

mod rsp_bytes;

use proptest::prelude::*;

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        rsp_bytes::check(&bytes);
    }

    #[test]
    fn what_looks_like_packets_is_decoded_or_refused(
        text in "[$#*}+\\-%0-9a-f\\x03 ~]{0,120}"
    ) {
        rsp_bytes::check(text.as_bytes());
    }
}
