//! Root's server beside that of another user, in a `/run` of their own.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Somebody who is not root and has nothing.
const NOBODY: &str = "65534";

/// Runs a script as root where `/run` is empty and belongs to this test. `$P` is the command, `$D` a
/// directory, and `$NOBODY` before a command runs it as another user.
fn in_own_run(script: &str) -> Output {
    let directory = TempDir::new().expect("temporary directory");
    let whole = format!(
        r#"set -e
mount -t tmpfs tmpfs /run
chmod 755 "$D"; mkdir -m 700 "$D/user"; chown {NOBODY} "$D/user"
cp "$BINARY" "$D/portolan"; P="$D/portolan"
unset PORTOLAN_RUNTIME_DIR PORTOLAN_BOOTSTRAP_FD PORTOLAN_AUTOSTART
export PORTOLAN_SERVER= PORTOLAN_JOBS_DIR="$D/jobs"
AS="setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --"
NOBODY="$AS env XDG_RUNTIME_DIR=$D/user HOME=$D/user PORTOLAN_JOBS_DIR="
serving= own=
trap '$NOBODY "$P" shutdown; "$P" shutdown; kill $serving $own 2>/dev/null; true' EXIT
{script}"#
    );
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &whole])
        .env("D", directory.path())
        .env("BINARY", env!("CARGO_BIN_EXE_portolan"))
        .current_dir("/")
        .output()
        .expect("unshare and setpriv are part of util-linux")
}

/// Without root there is no second user to be had, and nobody else's `/run` either.
fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn names_of_the_system_are_found_by_all_and_registered_by_root() {
    if !is_root() {
        let usual = portolan::bootstrap::directory();
        assert_ne!(usual, Path::new("/run/portolan"), "that is root's");
        return;
    }
    let output = in_own_run(
        r#"
"$P" serve --echo org.example.system & serving=$!
until "$P" lookup org.example.system 2>/dev/null; do :; done
echo "root is in $(ls -d /run/portolan/bootstrap)"
echo hello | $NOBODY "$P" call org.example.system
$NOBODY "$P" serve --echo org.example.own & own=$!
until $NOBODY "$P" lookup org.example.own 2>/dev/null; do :; done
"$P" lookup org.example.own || echo "root does not see it: $?"
$NOBODY "$P" list
$NOBODY env PORTOLAN_RUNTIME_DIR=/run/portolan "$P" shutdown || echo "not by others: $?"
$NOBODY env PORTOLAN_RUNTIME_DIR=/run/portolan "$P" serve --echo org.example.intruder || echo "nor this: $?"
"#,
    );
    let said = text(&output);
    for expected in [
        "root is in /run/portolan/bootstrap",
        "hello",
        "root does not see it: 3",
        "not by others: 4",
        "nor this: 4",
        "this is another user's server",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in {said}");
    }
    assert!(
        !said.contains("org.example.system\n  "),
        "lists are one's own: {said}"
    );
}
