//! The callback that runs when a port becomes invalid.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

type Callback = Box<dyn FnOnce() + Send>;

/// Whether a port has become invalid, and what is to be called when it does.
pub(super) struct Invalidation(Mutex<State>);

enum State {
    Valid(Option<Callback>),
    Invalid,
}

impl Invalidation {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State::Valid(None)))
    }

    pub(super) fn has_happened(&self) -> bool {
        matches!(*self.lock(), State::Invalid)
    }

    /// Becomes invalid, lets go of what the port has, and calls the callback.
    ///
    /// Only the first call does anything.
    pub(super) fn happen(&self, let_go: impl FnOnce()) {
        let State::Valid(callback) = mem::replace(&mut *self.lock(), State::Invalid) else {
            return;
        };
        let_go();
        if let Some(callback) = callback {
            call(callback);
        }
    }

    /// Sets what is to be called, or calls it if that is due already.
    pub(super) fn set_callback(&self, callback: Callback) {
        let mut state = self.lock();
        let State::Valid(place) = &mut *state else {
            drop(state);
            return call(callback);
        };
        let former = place.replace(callback);
        drop(state);
        // What it captured may have a destructor that comes back here.
        drop(former);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs in destructors and in calls that have nothing to do with it, so its panic stays here.
fn call(callback: Callback) {
    drop(catch_unwind(AssertUnwindSafe(callback)));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Invalidation;

    #[test]
    fn the_callback_runs_once_and_at_once_when_it_is_late() {
        let (invalidation, calls) = (Invalidation::new(), Arc::new(AtomicU32::new(0)));
        let count = |calls: &Arc<AtomicU32>| {
            let calls = Arc::clone(calls);
            Box::new(move || {
                calls.fetch_add(1, Ordering::Relaxed);
            })
        };
        invalidation.set_callback(Box::new(|| unreachable!("it was replaced")));
        invalidation.set_callback(count(&calls));
        invalidation.happen(|| {});
        invalidation.happen(|| unreachable!("it has happened"));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        invalidation.set_callback(count(&calls));
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_callback_may_look_at_what_calls_it() {
        let invalidation = Arc::new(Invalidation::new());
        let seen = Arc::clone(&invalidation);
        invalidation.set_callback(Box::new(move || assert!(seen.has_happened())));
        invalidation.happen(|| {});
        assert!(Arc::strong_count(&invalidation) == 1, "it was not dropped");
    }
}
