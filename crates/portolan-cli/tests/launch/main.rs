//! Launch on demand: a server of its own for each test, and jobs that are this test program again.
//!
//! The tests are named after the statements that they show, `lNN_…`; `docs/reference/statements.md`
//! has them. `cargo xtask soak jobs` repeats those named `soak_…`.

mod asked;
mod demand;
mod exit;
mod failure;
mod forms;
mod identity;
mod life;
mod part;
mod quota;
mod senders;
mod shared;
mod site;
#[path = "../cli/world.rs"]
#[expect(dead_code, reason = "not all of it is for these tests")]
mod world;

#[test]
fn play_a_part() {
    if let Some(part) = part::Part::of_this_process() {
        part.play();
    }
}
