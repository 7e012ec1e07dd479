//! The command itself.

mod boot_args;
mod guide;
mod pages;

use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

fn kdbridge(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdbridge"));
    command.args(arguments).output().expect("kdbridge")
}

/// What it prints if all is well.
fn said(arguments: &[&str]) -> String {
    let output = kdbridge(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let output = kdbridge(&["boot-args", "\x1b[2Jhalt\x07"]);
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(text.contains("[2Jhalt"), "{text}");
    assert!(!text.contains('\x1b') && !text.contains('\x07'), "{text}");
}

#[test]
fn a_place_for_files_where_nothing_is_is_named() {
    for arguments in [
        ["info", "--symbols", "/nonexistent"],
        ["serve", "--files", "/nonexistent"],
    ] {
        let output = kdbridge(&arguments);
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).expect("text");
        assert!(text.contains("'/nonexistent'"), "{text}");
        assert!(text.contains("No such file or directory"), "{text}");
    }
}

#[test]
fn a_stub_that_another_debugger_holds_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let stub = folder.path().join("stub");
    // As QEMU does it: whoever connects while another one is served waits.
    let _listener = UnixListener::bind(&stub).expect("a socket");
    let output = kdbridge(&["info", "--target", stub.to_str().expect("a path")]);
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(
        text.contains("perhaps another debugger holds the stub"),
        "{text}"
    );
}
