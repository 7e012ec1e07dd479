//! Which workloads there are, in which variants, and for how long.

use std::time::Duration;

use crate::cell::Placement::{Free, OneCore, TwoCores};
use crate::cell::{Action, Placement, Task, Workload};

/// Every variant of every workload, in the order of the tables.
pub(crate) fn tasks() -> Vec<Task> {
    use Workload::*;
    let mut tasks = Vec::new();
    for (name, placement) in [
        ("two-cores", TwoCores),
        ("one-core", OneCore),
        ("free", Free),
    ] {
        tasks.push(Task {
            placement,
            ..task(W1, name, Action::Echo)
        });
    }
    for (size, bytes) in SIZES {
        for (name, placement) in PINNED {
            tasks.push(Task {
                placement,
                bytes,
                ..task(W2, &format!("{size}-{name}"), Action::Sum)
            });
        }
    }
    for (size, bytes) in [("64B", 64), ("4KiB", 4 << 10)] {
        for (name, placement) in [("free", Free), ("two-cores", TwoCores)] {
            tasks.push(Task {
                placement,
                bytes,
                ..task(W3, &format!("{size}-{name}"), Action::Stream)
            });
        }
    }
    for (name, placement) in [("free", Free), ("two-cores", TwoCores)] {
        tasks.push(Task {
            placement,
            batches: true,
            ..task(W3, &format!("64B-batches-{name}"), Action::Stream)
        });
    }
    tasks.push(Task {
        clients: 8,
        ..task(W4, "free", Action::Echo)
    });
    tasks.push(task(W5, "free", Action::PassRight));
    tasks.push(task(W6, "free", Action::Find));
    for (name, placement) in [("two-cores", TwoCores), ("free", Free)] {
        tasks.push(Task {
            placement,
            ..task(W7, name, Action::Echo)
        });
    }
    for clients in [1, 1000] {
        tasks.push(Task {
            idle: clients - 1,
            ..task(W7, &format!("idle-{clients}"), Action::Idle)
        });
    }
    for idle in [1, 100, 10_000] {
        tasks.push(Task {
            placement: TwoCores,
            idle,
            ..task(W8, &format!("idle-{idle}"), Action::Echo)
        });
    }
    tasks
}

const SIZES: [(&str, usize); 4] = [
    ("4KiB", 4 << 10),
    ("64KiB", 64 << 10),
    ("1MiB", 1 << 20),
    ("16MiB", 16 << 20),
];

const PINNED: [(&str, Placement); 2] = [("one-core", OneCore), ("two-cores", TwoCores)];

fn task(workload: Workload, variant: &str, action: Action) -> Task {
    Task {
        workload,
        variant: variant.to_owned(),
        action,
        placement: Free,
        bytes: 64,
        batches: false,
        clients: 1,
        idle: 0,
    }
}

/// How long the measured part takes.
pub(crate) fn budget(task: &Task, quick: bool) -> Duration {
    let milliseconds = match (task.action, task.workload, quick) {
        (Action::Idle, _, _) => 3000,
        (_, Workload::W3, false) => 320,
        (_, Workload::W7, false) => 300,
        (_, Workload::W4, _) => 240,
        (_, Workload::W2, _) => 200,
        (_, _, false) => 160,
        (_, Workload::W3 | Workload::W7, true) => 120,
        (_, _, true) => 80,
    };
    Duration::from_millis(milliseconds)
}

/// Doing nothing takes long and is the same in every round.
pub(crate) fn is_for_first_round_only(task: &Task) -> bool {
    task.action == Action::Idle
}

/// What `--quick` leaves.
pub(crate) fn is_quick(workload: Workload) -> bool {
    matches!(workload, Workload::W1 | Workload::W3 | Workload::W7)
}
