/// Whether the other side has to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a bell that is not rung leaves the other side asleep"]
pub enum Bell {
    /// Wake the other side: it said that it sleeps, and its word has been taken off, so that no
    /// later call answers `Ring` for the same sleep.
    Ring,
    /// The other side is awake, or sleeps for more than what has happened so far.
    Quiet,
}

/// What a side that wanted to sleep is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "sleeping without need loses time, and not sleeping needs `awake`"]
pub enum Readiness {
    /// What was waited for is here: do not sleep. The side counts as awake.
    Ready,
    /// Wait for the bell, then call `awake`.
    Sleep,
}
