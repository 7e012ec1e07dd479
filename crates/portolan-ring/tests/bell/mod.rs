//! A bell as the ring asks for one: a ring that nobody waits for yet is kept. Loom reports a
//! deadlock when a side waits for a bell that never rings.

use loom::sync::{Condvar, Mutex};
use portolan_ring::Bell;

#[derive(Default)]
pub(crate) struct Doorbell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Doorbell {
    pub(crate) fn ring_if(&self, bell: Bell) {
        if bell == Bell::Ring {
            *self.rung.lock().expect("not poisoned") = true;
            self.changed.notify_one();
        }
    }

    pub(crate) fn wait(&self) {
        let mut rung = self.rung.lock().expect("not poisoned");
        while !*rung {
            rung = self.changed.wait(rung).expect("not poisoned");
        }
        *rung = false;
    }
}
