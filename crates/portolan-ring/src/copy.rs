//! Copies between private memory and memory that another process may write meanwhile.
//!
//! # Safety
//!
//! An ordinary copy of memory that changes underneath is undefined behaviour. The copies here are
//! not: they act as relaxed atomic loads (or stores) of single bytes on the shared side. Where the
//! peer writes meanwhile, the copy holds for each byte some value that was there, and is as good as
//! any other input from that peer.
#![allow(
    unsafe_code,
    reason = "raw pointers are the only way to name such memory"
)]

#[cfg(not(loom))]
#[cfg(any(test, miri, not(target_arch = "x86_64")))]
mod portable;
#[cfg(not(loom))]
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86_64;

#[cfg(not(loom))]
#[cfg(any(miri, not(target_arch = "x86_64")))]
pub(crate) use portable::{into_shared, out_of_shared};
#[cfg(not(loom))]
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(crate) use x86_64::{copy as into_shared, copy as out_of_shared, full_fence};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    type Copy = unsafe fn(*const u8, *mut u8, usize);

    const SPAN: usize = 5000;

    fn check(copy: Copy, from: usize, to: usize, len: usize) {
        let source: Vec<u8> = (0..SPAN).map(|i| (i * 7 + i / 256) as u8 | 1).collect();
        let mut target = vec![0u8; SPAN];
        // SAFETY: both runs are within their vectors, and the vectors are apart.
        unsafe { copy(source[from..].as_ptr(), target[to..].as_mut_ptr(), len) };
        assert_eq!(
            target[to..to + len],
            source[from..from + len],
            "{from} {to} {len}"
        );
        assert!(
            target[..to].iter().all(|byte| *byte == 0),
            "{from} {to} {len}: before"
        );
        assert!(
            target[to + len..].iter().all(|byte| *byte == 0),
            "{from} {to} {len}: behind"
        );
    }

    #[test]
    fn each_length_and_alignment_is_copied_and_nothing_else() {
        let lengths = (0..200).chain([255, 256, 257, 511, 512, 767, 768, 769, 1023, 4096, 4097]);
        for len in lengths {
            for (from, to) in [(0, 0), (0, 8), (1, 0), (0, 3), (7, 5), (15, 9)] {
                check(into_shared, from, to, len);
                check(out_of_shared, from, to, len);
                check(portable::into_shared, from, to, len);
                check(portable::out_of_shared, from, to, len);
            }
        }
    }
}
