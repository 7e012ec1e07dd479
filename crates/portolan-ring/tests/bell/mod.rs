//! A bell as the ring asks for one: a ring that nobody waits for yet is kept. Loom reports a
//! deadlock when a side waits for a bell that never rings.

use loom::sync::{Condvar, Mutex};
use portolan_ring::Bell;

#[derive(Default)]
pub struct Doorbell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Doorbell {
    pub fn ring_if(&self, bell: Bell) {
        if bell == Bell::Ring {
            *self.rung.lock().unwrap() = true;
            self.changed.notify_one();
        }
    }

    pub fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// Runs `body` in every interleaving with at most `preemptions` preemptions.
pub fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}
