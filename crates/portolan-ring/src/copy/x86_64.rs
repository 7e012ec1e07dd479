//! # Safety
//!
//! The compiler does not vectorise atomic accesses, and one word at a time is half as fast as
//! `memcpy`. The accesses are therefore made inside of `asm!`, which the compiler may not look
//! into, duplicate or move other memory accesses across (no block claims `nomem`). To it, each
//! block is a call of a function that makes relaxed atomic accesses to single bytes: the processor
//! makes each byte's access atomic however wide the instruction, and orders the accesses of one
//! block among each other less strictly than program order at worst, which relaxed allows. Accesses
//! that follow with `Release`, or precede with `Acquire`, keep their order: loads and stores do on
//! this architecture, and a store behind a string instruction is seen after all of its stores
//! (Intel SDM volume 3A, "Memory ordering of fast string operations").
//!
//! `rep movsb` relies on the direction flag being clear, which holds on entry of every `asm!`.
#![allow(unsafe_code, reason = "assembly")]

use std::arch::asm;

/// `fence(SeqCst)`, at half the price of the `mfence` that the compiler makes of it: every locked
/// instruction orders all loads and stores before and behind it (Intel SDM volume 3A, "Locked
/// instructions have a total order"), and the compiler moves no access across the block.
#[inline(always)]
pub(crate) fn full_fence() {
    // SAFETY: adds nothing to a byte at the top of the stack, which is there.
    unsafe { asm!("lock or byte ptr [rsp], 0") };
}

/// From this length on the widest registers pay. A string instruction (`rep movsb`) would do on some
/// processors, and is a third slower than this on others.
const WIDE_FROM: usize = 256;

/// # Safety
///
/// `from` must be valid for reads and `to` for writes of `len` bytes, and the two must not overlap.
/// One of them, or both, may be memory that others write meanwhile.
#[inline]
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    match len {
        0 => {}
        // SAFETY: passed on, as in all arms; the arms differ in how many bytes they may assume.
        1 => unsafe { move1(from, to) },
        // SAFETY: at least 2 and at most twice 2 bytes.
        2..4 => unsafe { ends(move2, 2, from, to, len) },
        // SAFETY: at least 4 and at most twice 4 bytes.
        4..8 => unsafe { ends(move4, 4, from, to, len) },
        // SAFETY: at least 8 and at most twice 8 bytes.
        8..16 => unsafe { ends(move8, 8, from, to, len) },
        // SAFETY: at least 16 and at most twice 16 bytes.
        16..=32 => unsafe { ends(move16, 16, from, to, len) },
        // SAFETY: at least 32 and at most twice 32 bytes.
        33..=64 => unsafe { ends(move32, 32, from, to, len) },
        // SAFETY: more than 256 bytes, and the processor has what it takes.
        WIDE_FROM.. if is_x86_feature_detected!("avx") => unsafe { wide(from, to, len) },
        // SAFETY: more than 64 bytes.
        _ => unsafe { blocks(from, to, len) },
    }
}

/// Copies the first and the last `width` bytes, which overlap where `len` is less than twice that.
///
/// # Safety
///
/// As for [`copy`], and `len` must be between `width` and twice `width`.
#[inline(always)]
unsafe fn ends(
    part: unsafe fn(*const u8, *mut u8),
    width: usize,
    from: *const u8,
    to: *mut u8,
    len: usize,
) {
    let last = len - width;
    // SAFETY: `len` is at least `width`.
    unsafe { part(from, to) };
    // SAFETY: `last + width` is `len`.
    unsafe { part(from.wrapping_add(last), to.wrapping_add(last)) };
}

/// # Safety
///
/// As for [`copy`], and `len` must be at least 64.
#[inline(always)]
unsafe fn blocks(from: *const u8, to: *mut u8, len: usize) {
    let last = len - 64;
    for offset in (0..last).step_by(64) {
        // SAFETY: `offset` is less than `last`, so 64 bytes are left.
        unsafe { move64(from.wrapping_add(offset), to.wrapping_add(offset)) };
    }
    // SAFETY: `last + 64` is `len`.
    unsafe { move64(from.wrapping_add(last), to.wrapping_add(last)) };
}

macro_rules! move_through_register {
    ($name:ident, $class:ident, $load:literal, $store:literal) => {
        /// # Safety
        ///
        /// As for [`copy`], with as many bytes as the name says.
        #[inline(always)]
        unsafe fn $name(from: *const u8, to: *mut u8) {
            // SAFETY: by the contract, and by the argument at the head of this file.
            unsafe {
                asm!($load, $store, from = in(reg) from, to = in(reg) to, via = out($class) _,
                    options(nostack, preserves_flags));
            }
        }
    };
}

move_through_register!(
    move1,
    reg_byte,
    "mov {via}, byte ptr [{from}]",
    "mov byte ptr [{to}], {via}"
);
move_through_register!(
    move2,
    reg,
    "movzx {via:e}, word ptr [{from}]",
    "mov word ptr [{to}], {via:x}"
);
move_through_register!(
    move4,
    reg,
    "mov {via:e}, dword ptr [{from}]",
    "mov dword ptr [{to}], {via:e}"
);
move_through_register!(
    move8,
    reg,
    "mov {via}, qword ptr [{from}]",
    "mov qword ptr [{to}], {via}"
);
move_through_register!(
    move16,
    xmm_reg,
    "movdqu {via}, [{from}]",
    "movdqu [{to}], {via}"
);

/// # Safety
///
/// As for [`copy`], with 32 bytes.
#[inline(always)]
unsafe fn move32(from: *const u8, to: *mut u8) {
    // SAFETY: by the contract, and by the argument at the head of this file.
    unsafe {
        asm!(
            "movdqu {a}, [{from}]",
            "movdqu {b}, [{from} + 16]",
            "movdqu [{to}], {a}",
            "movdqu [{to} + 16], {b}",
            from = in(reg) from, to = in(reg) to, a = out(xmm_reg) _, b = out(xmm_reg) _,
            options(nostack, preserves_flags)
        );
    }
}

/// # Safety
///
/// As for [`copy`], with 64 bytes.
#[inline(always)]
unsafe fn move64(from: *const u8, to: *mut u8) {
    // SAFETY: by the contract, and by the argument at the head of this file.
    unsafe {
        asm!(
            "movdqu {a}, [{from}]",
            "movdqu {b}, [{from} + 16]",
            "movdqu {c}, [{from} + 32]",
            "movdqu {d}, [{from} + 48]",
            "movdqu [{to}], {a}",
            "movdqu [{to} + 16], {b}",
            "movdqu [{to} + 32], {c}",
            "movdqu [{to} + 48], {d}",
            from = in(reg) from, to = in(reg) to,
            a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
            options(nostack, preserves_flags)
        );
    }
}

/// # Safety
///
/// As for [`copy`], `len` must be at least 128, and the processor must know AVX.
#[target_feature(enable = "avx")]
unsafe fn wide(from: *const u8, to: *mut u8, len: usize) {
    let last = len - 128;
    for offset in (0..last).step_by(128) {
        // SAFETY: `offset` is less than `last`, so 128 bytes are left.
        unsafe { move128(from.wrapping_add(offset), to.wrapping_add(offset)) };
    }
    // SAFETY: `last + 128` is `len`.
    unsafe { move128(from.wrapping_add(last), to.wrapping_add(last)) };
    // SAFETY: the upper halves of the registers hold nothing; code that does not use them is slow
    // until they are said to be empty.
    unsafe { asm!("vzeroupper", options(nostack, preserves_flags)) };
}

/// # Safety
///
/// As for [`wide`], with 128 bytes.
#[inline]
#[target_feature(enable = "avx")]
unsafe fn move128(from: *const u8, to: *mut u8) {
    // SAFETY: by the contract, and by the argument at the head of this file.
    unsafe {
        asm!(
            "vmovdqu {a}, [{from}]",
            "vmovdqu {b}, [{from} + 32]",
            "vmovdqu {c}, [{from} + 64]",
            "vmovdqu {d}, [{from} + 96]",
            "vmovdqu [{to}], {a}",
            "vmovdqu [{to} + 32], {b}",
            "vmovdqu [{to} + 64], {c}",
            "vmovdqu [{to} + 96], {d}",
            from = in(reg) from, to = in(reg) to,
            a = out(ymm_reg) _, b = out(ymm_reg) _, c = out(ymm_reg) _, d = out(ymm_reg) _,
            options(nostack, preserves_flags)
        );
    }
}
