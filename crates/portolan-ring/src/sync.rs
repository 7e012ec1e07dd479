//! The one place where atomics come from, so that loom can stand in for them.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
pub(crate) fn full_fence() {
    loom::sync::atomic::fence(Ordering::SeqCst);
}

#[cfg(all(not(loom), target_arch = "x86_64", not(miri)))]
pub(crate) use crate::copy::full_fence;

#[cfg(all(not(loom), any(not(target_arch = "x86_64"), miri)))]
pub(crate) fn full_fence() {
    std::sync::atomic::fence(Ordering::SeqCst);
}
