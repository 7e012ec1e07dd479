//! What the members of an application group share, and nobody else has: jobs that are locked in, in each
//! tier that this machine has, and that are this test program again.

mod members;
mod part;
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
