//! Parts that tests play in processes of their own, with the library and not with the command.

use std::process::{Command, Stdio};
use std::time::Duration;

use portolan::bootstrap::Bootstrap;
use portolan::{Message, ReceiveRight, SendRight};

use crate::world::{Running, World};

const PATIENCE: Duration = Duration::from_secs(60);

/// The environment variable that tells a process which part it plays.
const VARIABLE: &str = "PORTOLAN_TEST_PART";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Publishes `test.given`, gives its receive right to `test.collector`, and exits when told.
    GiveAway,
    /// Publishes `test.mine` for itself and answers with its pid until `test.collector` lets go.
    PerPid,
    /// Sends a thousand requests of varying size to `test.echo`.
    ThousandRequests,
}

const PARTS: [Part; 3] = [Part::GiveAway, Part::PerPid, Part::ThousandRequests];

/// Runs this test program again to play a part in a world.
pub(crate) fn play(world: &World, part: Part) -> Running {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", "parts::play_a_part", "--nocapture"])
        .env(VARIABLE, format!("{part:?}"))
        .env("PORTOLAN_RUNTIME_DIR", world.runtime())
        .env("PORTOLAN_AUTOSTART", "0")
        .env_remove("PORTOLAN_BOOTSTRAP_FD")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Running::start(&mut command)
}

/// Where a process that was started by [`play`] begins; nothing to do for everybody else.
#[test]
fn play_a_part() {
    let Ok(name) = std::env::var(VARIABLE) else {
        return;
    };
    let part = PARTS
        .into_iter()
        .find(|part| format!("{part:?}") == name)
        .expect("a part");
    let bootstrap = Bootstrap::from_env().expect("connect");
    match part {
        Part::GiveAway => give_away(&bootstrap),
        Part::PerPid => serve_for_oneself(&bootstrap),
        Part::ThousandRequests => request_a_thousand_times(&bootstrap),
    }
}

fn look_up(bootstrap: &Bootstrap, name: &str) -> SendRight {
    bootstrap
        .look_up(&name.parse().expect("name"))
        .expect("look up")
}

fn give_away(bootstrap: &Bootstrap) {
    let port = bootstrap
        .check_in(&"test.given".parse().expect("name"))
        .expect("check in");
    let collector = look_up(bootstrap, "test.collector");
    collector
        .request(Message::new(0).with_right(port), PATIENCE, PATIENCE)
        .expect("give away");
}

fn serve_for_oneself(bootstrap: &Bootstrap) {
    let port = ReceiveRight::new().expect("port");
    let right = port.make_send().expect("right");
    bootstrap
        .register_per_pid(&"test.mine".parse().expect("name"), right)
        .expect("register");
    let collector = look_up(bootstrap, "test.collector");
    std::thread::spawn(move || {
        while let Ok(mut request) = port.receive(PATIENCE) {
            let answer = Message::new(0).with_bytes(std::process::id().to_le_bytes());
            request
                .take_reply()
                .expect("reply right")
                .send(answer)
                .expect("answer");
        }
    });
    // Ends when the collector drops the reply right.
    collector
        .request(Message::new(0), PATIENCE, PATIENCE)
        .expect_err("no answer is meant to come");
}

fn request_a_thousand_times(bootstrap: &Bootstrap) {
    let echo = look_up(bootstrap, "test.echo");
    let own = std::process::id() as usize;
    for k in 0..1000_usize {
        let len = (k * 7919 + own) % 40_000 * usize::from(k % 3 != 0);
        let bytes: Vec<u8> = (0..len).map(|at| (at * own + k) as u8).collect();
        let id = i32::try_from(k).expect("small");
        let answer = echo
            .request(
                Message::new(id).with_bytes(bytes.clone()),
                PATIENCE,
                PATIENCE,
            )
            .expect("answer");
        assert_eq!(answer.id(), id);
        assert!(
            answer.bytes() == bytes,
            "request {k} of {len} bytes came back changed"
        );
    }
}
