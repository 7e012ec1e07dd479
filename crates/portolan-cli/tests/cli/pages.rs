//! Help, man pages and completions are made from the same definitions.

use crate::world::World;

#[test]
fn completions_are_printed_for_every_shell() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = String::from_utf8(world.run(["completions", shell]).ok()).expect("text");
        assert!(script.contains("lookup"), "{shell}: {script}");
    }
}

#[test]
fn the_man_page_names_the_exit_codes() {
    let world = World::new();
    let page = String::from_utf8(world.run(["man"]).ok()).expect("text");
    assert!(
        page.contains(".TH portolan") && page.contains("Exit codes"),
        "{page}"
    );
}

#[test]
fn the_man_pages_in_the_repository_are_these() {
    let world = World::new();
    let made = world.path("man");
    world.run(["man", made.to_str().expect("path")]).ok();
    let kept = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/man");
    let names = |directory: &std::path::Path| {
        let entries = std::fs::read_dir(directory).expect("man pages");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("entry").file_name())
            .filter(|name| name.to_string_lossy().starts_with("portolan"))
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&made), names(&kept), "run `portolan man docs/man`");
    for name in names(&made) {
        let read = |directory: &std::path::Path| {
            std::fs::read_to_string(directory.join(&name)).expect("man page")
        };
        assert!(
            read(&made) == read(&kept),
            "{name:?} is old: run `portolan man docs/man`"
        );
    }
}
