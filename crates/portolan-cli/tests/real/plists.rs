//! Property lists that others wrote for launchd, loaded as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::skipped;
use crate::world::World;

/// The files of the tests of `portoland`.
fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../portoland/tests/jobs");
    let entries = fs::read_dir(folder).expect("files");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    assert!(files.len() >= 18, "{files:?}");
    files
}

/// Runs a script with a file system for `/run`, `/var/run` and `/private`, and a network, of its own:
/// the files name sockets and ports that belong to a whole system. `None` where that is not allowed.
fn in_a_system_of_its_own(world: &World, script: &str) -> Option<Output> {
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--mount", "--net"]);
    if !unshare
        .arg("true")
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        return None;
    }
    let before = "set -e; mount -t tmpfs tmpfs /run; mkdir -p /run/x; ip link set lo up 2>/dev/null || true\n";
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "--net", "sh", "-c"])
        .arg(format!("{before}{script}"))
        .arg("sh")
        .arg(env!("CARGO_BIN_EXE_portolan"))
        .env("PORTOLAN_RUNTIME_DIR", world.runtime())
        .env("PORTOLAN_SERVER", "")
        .env_remove("PORTOLAN_BOOTSTRAP_FD");
    Some(command.output().expect("unshare"))
}

#[test]
fn every_file_is_loaded_and_each_job_has_a_state() {
    // The server is told of copies: whoever has checked this out may have made them writable.
    let world = World::new();
    let (mut script, mut expected) = (String::new(), Vec::new());
    for file in files() {
        let name = file
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let copy = world.path(&name);
        fs::copy(&file, &copy).expect("copy");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(&copy, mode).expect("permissions");
        let copy = copy.display();
        script.push_str(&format!(
            "echo '# {name}'; if \"$1\" load '{copy}' 2>'{copy}.said'; then \
             label=$(\"$1\" jobs --json | sed 's/.*\"label\":\"\\([^\"]*\\)\".*/\\1/'); \
             \"$1\" print \"$label\"; \"$1\" unload \"$label\"; else cat '{copy}.said'; fi\n"
        ));
        expected.push(name);
    }
    script.push_str("\"$1\" shutdown\n");
    let Some(output) = in_a_system_of_its_own(&world, &script) else {
        return skipped("no namespaces for this user");
    };
    let printed = String::from_utf8(output.stdout).expect("text");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{complaints}");
    let parts: Vec<_> = printed.split("# ").skip(1).collect();
    assert_eq!(parts.len(), expected.len(), "{printed}\n{complaints}");
    for (name, part) in expected.iter().zip(parts) {
        // This one has a socket in a directory that no Linux has, and says so.
        if name.starts_with("cups.") {
            let says = "Sockets.Listeners: cannot listen at /private/var/run/cupsd: No such file";
            assert!(part.contains(says), "{part}");
            continue;
        }
        let state = part
            .lines()
            .find_map(|line| line.trim().strip_prefix("state "));
        let state = state.unwrap_or_else(|| panic!("{name}: {part}"));
        let states = [
            "idle",
            "running",
            "starting",
            "throttled",
            "disabled",
            "failed",
        ];
        assert!(
            states.iter().any(|known| state.trim().starts_with(known)),
            "{part}"
        );
        // One that could not be started says of what it is about.
        if part.contains("no start") || state.contains("throttled") {
            assert!(
                part.contains("cannot") || part.contains("there is no"),
                "{part}"
            );
        }
    }
}
