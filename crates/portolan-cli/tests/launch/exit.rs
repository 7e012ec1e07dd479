//! Jobs exit because they have nothing to do, or because they are told to.

use std::time::{Duration, Instant};

use portolan::SendRight;
use portolan::bootstrap::jobs::JobState;
use portolan_testkit::soak;
use portolan_testkit::usage::children;

use crate::site::{NAME, Site, ask, label, show, until};

/// Rounds of a race in a test that runs once.
const ROUNDS: u32 = 1000;

#[test]
fn l38_no_message_is_lost_to_an_exit_at_the_same_moment() {
    let site = Site::with("idle", "");
    let right = site.look_up();
    race(&site, &right, ROUNDS);
}

/// A hundred thousand rounds take some minutes.
#[test]
fn soak_l38_no_message_is_lost_to_an_exit_at_the_same_moment() {
    let site = Site::with("idle", "");
    let right = site.look_up();
    for _ in soak::rounds() {
        race(&site, &right, ROUNDS / 10);
    }
}

/// The job asks whether it may exit whenever it has answered. What is sent between that and its end,
/// at any moment, is answered by it or by the next instance.
fn race(site: &Site, right: &SendRight, rounds: u32) {
    let (mut last, mut changes) = (0, 0);
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let start = Instant::now();
        let pid = ask(right).expect("answer");
        longest = longest.max(start.elapsed());
        changes += u32::from(pid != last);
        last = pid;
        // From before the question until after the end of the process.
        let moment = Duration::from_micros(u64::from(round % 16) * 100);
        let answered = Instant::now();
        while answered.elapsed() < moment {
            std::hint::spin_loop();
        }
    }
    show(&format!(
        "{rounds} rounds, {changes} instances, the longest wait was {longest:?}"
    ));
    let job = site.job();
    assert_eq!(job.failures, 0);
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}

/// A script that takes itself out of its session and its parent's sight, and whose processes all
/// ignore SIGTERM. Each says its pid.
const STUBBORN: &str = r#"#!/bin/sh
cd "$1" || exit 1
trap '' TERM
echo $$ >> pids
setsid sh -c 'echo $$ >> pids; (setsid sh -c "echo \$\$ >> pids; exec sleep 1000" &) & exec sleep 1000' &
exec sleep 1000
"#;

#[test]
fn l40_stop_ends_all_processes_of_a_job_whatever_they_do() {
    let site = Site::new();
    let script = site.write("stubborn", STUBBORN);
    let file = format!(
        "Label = '{NAME}'\nProgramArguments = ['/bin/sh', '{}', '{}']\n\
         RunAtLoad = true\nExitTimeOut = 1\n",
        script.display(),
        site.path("").display(),
    );
    site.load(&file);
    until("all of them run", || site.lines("pids").len() == 3);
    let pids: Vec<u32> = site
        .lines("pids")
        .iter()
        .map(|pid| pid.parse().expect("pid"))
        .collect();
    assert!(pids.iter().all(|pid| is_there(*pid)));

    let start = Instant::now();
    site.bootstrap.stop(&label()).expect("stop");
    assert_eq!(site.state(), JobState::Stopping);
    site.until_state(JobState::Idle);
    until("none of them is left", || {
        !pids.iter().any(|pid| is_there(*pid))
    });
    let time = start.elapsed();
    show(&format!(
        "all were gone {time:?} after the stop, with a second to end by themselves"
    ));
    assert!(
        (Duration::from_secs(1)..Duration::from_secs(2)).contains(&time),
        "{time:?}"
    );
    // Nor is one of them left unreaped.
    let server = site.server().expect("a server");
    let server = server.as_raw_pid().cast_unsigned();
    assert_eq!(children(site.holder()), [server]);
    assert!(children(server).is_empty());
}

fn is_there(pid: u32) -> bool {
    std::fs::exists(format!("/proc/{pid}")).expect("/proc")
}
