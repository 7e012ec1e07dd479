//! What becomes of a machine behind a stub that does not answer when a command is told to end.

use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use kdbridge::rsp::RspTarget;
use kdbridge::target::{Target, TargetError, Trap};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::processors::registers;
use crate::stub::{Say, Stub};

const PATIENCE: Duration = Duration::from_secs(20);

/// What is not answered before the debugger leaves, and what is said then.
struct Late(&'static [u8], &'static [&'static [u8]]);

fn answer(request: &[u8]) -> Say {
    match request {
        b"?" => "T05thread:1;".into(),
        b"vCont?" => "vCont;c;C;s;S".into(),
        b"qqemu.Supported" => "PhyMemMode".into(),
        b"g" => registers(0x1000),
        [b'H', ..] | [b'Q', ..] => "OK".into(),
        _ => "".into(),
    }
}

/// A stub at `stub` in the folder, and what it is told.
fn late_stub(folder: &TempDir, late: Late) -> (Stub, Receiver<String>) {
    let listener = UnixListener::bind(folder.path().join("stub")).unwrap();
    let (told, heard) = channel();
    let stub = Stub::accept(listener, move |request| {
        // Nobody listens at the end of the test.
        told.send(String::from_utf8_lossy(request).into_owned())
            .ok();
        match request {
            b"D" => Say::Packets(late.1),
            _ if request.starts_with(late.0) => Say::Silence,
            _ => answer(request),
        }
    });
    (stub, heard)
}

fn look(folder: &TempDir, look: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdbridge"));
    let stub = format!("unix:{}/stub", folder.path().display());
    let files = ["--no-files", "--no-cache", "--target", &stub];
    command.arg(look).args(files);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Sends the signal while an answer is waited for, and waits for the end.
fn ends(command: &str, late: Late, signal: Signal) {
    let folder = TempDir::new().unwrap();
    let asked = String::from_utf8_lossy(late.0);
    let (_stub, heard) = late_stub(&folder, late);
    let mut child = look(&folder, command);
    while !heard.recv_timeout(PATIENCE).unwrap().starts_with(&*asked) {}
    kill_process(Pid::from_child(&child), signal).unwrap();
    let mut errors = String::new();
    let stderr = child.stderr.as_mut().unwrap();
    stderr.read_to_string(&mut errors).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(128 + signal.as_raw()), "{errors}");
    let ended = format!("ended by signal {}: ", signal.as_raw());
    assert!(errors.contains(&ended), "{errors}");
    assert!(errors.contains("told to end"), "{errors}");
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), ["D"]);
}

#[test]
fn the_first_signal_ends_a_look_and_the_machine_is_left() {
    ends("info", Late(b"m", &[b"E14", b"OK"]), Signal::INT);
    ends("bt", Late(b"m", &[b"E14", b"OK"]), Signal::TERM);
}

#[test]
fn the_first_signal_ends_connecting_too() {
    ends("modules", Late(b"qSupported", &[b"", b"OK"]), Signal::HUP);
}

#[test]
fn a_breakpoint_whose_setting_was_not_waited_for_is_taken_off() {
    let told = Arc::new(AtomicBool::new(false));
    let (heard, hears) = channel();
    let (go, goes) = channel();
    let tell = Arc::clone(&told);
    let (_stub, line) = Stub::play(move |request| match request {
        [b'm', ..] => "90".into(),
        b"Z0,1000,1" => {
            tell.store(true, Ordering::Relaxed);
            goes.recv().unwrap();
            "OK".into()
        }
        b"z0,1000,1" => {
            heard.send(()).unwrap();
            "OK".into()
        }
        _ => answer(request),
    });
    let mut target = RspTarget::over(line, PATIENCE).unwrap();
    target.heed(Some(told));
    let set = target.set(0x1000, Trap::Software);
    assert!(matches!(set, Err(TargetError::BrokenOff)), "{set:?}");
    go.send(()).unwrap();
    target.heed(None);
    target.detach().unwrap();
    hears.recv().unwrap();
}
