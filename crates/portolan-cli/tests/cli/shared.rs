//! `portolan shm` and `portolan sem`.

use portolan::bootstrap::Bootstrap;
use portolan::semaphore::Semaphore;
use portolan::shm::SharedMemory;

use crate::world::World;

#[test]
fn what_has_a_name_is_listed_and_unlinked() {
    let world = World::new();
    assert_eq!(world.run(["shm", "list"]).ok(), b"");
    let bootstrap = Bootstrap::connect(&world.runtime()).expect("a server");
    for (name, size) in [("group.b/x\n", 10), ("group.a/frames", 1 << 20)] {
        let name = name.parse().expect("a name");
        SharedMemory::create(&bootstrap, &name, size).expect("make");
    }
    let turn = "group.a/turn".parse().expect("a name");
    Semaphore::create(&bootstrap, &turn, 1).expect("make");
    let listed = String::from_utf8(world.run(["shm", "list"]).ok()).expect("text");
    assert_eq!(
        listed,
        "     1048576  group.a/frames\n          10  group.b/x\\n\n"
    );
    let listed = world.run(["shm", "list", "--json"]).ok();
    let expected = "[{\"name\":\"group.a/frames\",\"size\":1048576},{\"name\":\"group.b/x\\n\",\"size\":10}]\n";
    assert_eq!(String::from_utf8_lossy(&listed), expected);
    assert_eq!(world.run(["sem", "list"]).ok(), b"group.a/turn\n");
    let listed = world.run(["sem", "list", "--json"]).ok();
    assert_eq!(listed, b"[{\"name\":\"group.a/turn\"}]\n");

    let unlink = ["shm", "unlink", "group.a/frames", "group.b/x\n"];
    world.run(unlink).ok();
    assert_eq!(world.run(["shm", "list"]).ok(), b"");
    let again = world.run(["shm", "unlink", "group.a/frames"]);
    again.fails(
        3,
        "cannot unlink \"group.a/frames\": Unknown service name (1102)",
    );
    world.run(["sem", "unlink", "group.a/turn"]).ok();
    let wrong = world.run(["sem", "unlink", "group.a.turn"]);
    wrong.fails(2, "is `<group>/<name>`");
}
