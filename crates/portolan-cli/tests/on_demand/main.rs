//! What the bootstrap server does for jobs, with real processes: the server is the command's, and
//! each job is this program again, which does what the test tells it to. Tests are named after the
//! numbered statements of docs/reference/statements.md.

mod actor;
mod director;
mod messages;
mod names;
mod namespaces;
mod triggers;
#[path = "../cli/world.rs"]
#[expect(dead_code, reason = "not all of it is for these tests")]
mod world;

/// Where the process of a job begins; nothing to do in the one that runs the tests.
#[test]
fn play_a_part() {
    if std::env::var_os(actor::VARIABLE).is_some() {
        actor::act();
    }
}
