//! What starts a job besides messages, and what keeps it from being started again.

use std::fs;
use std::time::{Duration, Instant};

use portolan::bootstrap::jobs::JobState;
use rustix::process::Signal;

use crate::director::{Director, code, label, send, wait_for_death, wait_until};

/// `ThrottleInterval = 1` and `StartInterval = 1` in the job files below.
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_job_that_is_launched_once_is_gone_after_its_run() {
    let director = Director::new();
    director.load("job", "LaunchOnlyOnce = true\nMachServices.'test.a' = true");
    let right = director.look_up("test.a").expect("look up");
    send(&right, [1, 2]);
    let actor = director.actor();
    actor.check_in("test.a");
    assert_eq!(actor.receive("test.a"), 1);
    actor.exit(0);
    assert_eq!(code(director.bootstrap.job(&label("job"))), 1200);
    assert_eq!(code(director.look_up("test.a")), 1102);
    wait_for_death(&right);
    director.nobody_else_came();
}

#[test]
fn a_job_that_is_kept_alive_starts_by_itself_and_again_after_the_throttle() {
    let director = Director::new();
    let before = Instant::now();
    director.load("job", "KeepAlive = true\nThrottleInterval = 1");
    let first = director.actor();
    first.exit(0);
    assert_eq!(director.state("job"), JobState::Throttled);
    let second = director.actor();
    assert!(before.elapsed() >= SECOND, "{:?}", before.elapsed());
    assert_eq!(director.runs("job"), 2);
    drop(second);
}

#[test]
fn a_job_that_is_kept_alive_after_failures_rests_after_a_success() {
    let director = Director::new();
    director.load("job", "KeepAlive.SuccessfulExit = false");
    director.actor().exit(1);
    director.actor().kill(Signal::KILL);
    director.actor().exit(0);
    assert_eq!(director.state("job"), JobState::Idle);
    assert_eq!(director.runs("job"), 3);
}

#[test]
fn a_job_that_is_kept_alive_after_crashes_rests_after_other_failures() {
    let director = Director::new();
    director.load("job", "KeepAlive.Crashed = true");
    director.actor().kill(Signal::ABORT);
    director.actor().exit(1);
    assert_eq!(director.state("job"), JobState::Idle);
    assert_eq!(director.runs("job"), 2);
}

#[test]
fn a_job_is_kept_alive_while_a_path_exists() {
    let director = Director::new();
    let path = director.path("wanted");
    let keys = format!("KeepAlive.PathState.'{}' = true", path.display());
    director.load("job", &keys);
    assert_eq!(director.state("job"), JobState::Idle);
    fs::write(&path, "").expect("write");
    let actor = director.actor();
    fs::remove_file(&path).expect("remove");
    actor.exit(0);
    wait_until(|| director.state("job") == JobState::Idle);
    assert_eq!(director.runs("job"), 1);
}

#[test]
fn a_job_with_an_interval_starts_each_time_it_is_over() {
    let director = Director::new();
    let before = Instant::now();
    director.load("job", "StartInterval = 1");
    assert_eq!(director.runs("job"), 0);
    let actor = director.actor();
    assert!(before.elapsed() >= SECOND, "{:?}", before.elapsed());
    actor.exit(0);
    drop(director.actor());
    assert!(before.elapsed() >= 2 * SECOND, "{:?}", before.elapsed());
}

#[test]
fn a_job_starts_when_a_path_changes_and_again_if_it_changes_meanwhile() {
    let director = Director::new();
    let path = director.path("watched");
    fs::write(&path, "").expect("write");
    let keys = format!("WatchPaths = ['{}']\nThrottleInterval = 1", path.display());
    let before = Instant::now();
    director.load("job", &keys);
    assert_eq!(director.runs("job"), 0);
    fs::write(&path, "changed").expect("write");
    let actor = director.actor();
    fs::write(&path, "changed again").expect("write");
    actor.exit(0);
    drop(director.actor());
    assert!(before.elapsed() >= SECOND, "{:?}", before.elapsed());
}

#[test]
fn a_job_starts_while_a_directory_is_not_empty() {
    let director = Director::new();
    let queue = director.path("queue");
    fs::create_dir(&queue).expect("directory");
    let keys = format!(
        "QueueDirectories = ['{}']\nThrottleInterval = 1",
        queue.display()
    );
    director.load("job", &keys);
    assert_eq!(director.runs("job"), 0);
    let work = queue.join("work");
    fs::write(&work, "").expect("write");
    director.actor().exit(0);
    let second = director.actor();
    fs::remove_file(&work).expect("remove");
    second.exit(0);
    wait_until(|| director.state("job") == JobState::Idle);
    assert_eq!(director.runs("job"), 2);
}
