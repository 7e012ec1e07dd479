//! What was asked of a job is done, whatever becomes of the job or of the server meanwhile.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use portolan::bootstrap::jobs::{JobState, Kickstart};
use portolan::bootstrap::{Bootstrap, BootstrapError};
use portolan::{Message, ServiceName};
use rustix::process::{Resource, Rlimit, Signal, prlimit};

use crate::site::{PATIENCE, Site, ask, label, name, until};

/// A job that does not end by SIGTERM, and the server that has it.
fn stubborn(keys: &str) -> (Site, u32) {
    let site = Site::new();
    let ready = site.path("ready");
    let script = format!("trap \"\" TERM; touch {}; sleep 1000", ready.display());
    site.load(&format!(
        "Label = '{}'\nProgramArguments = ['sh', '-c', '{script}']\nRunAtLoad = true\n\
         ExitTimeOut = 1\n{keys}\n",
        label()
    ));
    until("it runs", || ready.exists());
    let pid = site.pid();
    (site, pid)
}

/// What another job waits for in vain, which it requires.
fn blocked() -> Site {
    let site = Site::new();
    let first = "Label = 'first'\nProgramArguments = ['sleep', '1000']\nTimeOut = 0\n\
                 MachServices.first = true\n";
    site.load(first);
    site.load(&format!(
        "Label = '{}'\nProgramArguments = ['sleep', '1000']\nRequires = ['first']\n\
         RunAtLoad = true\n",
        label()
    ));
    site.until_state(JobState::Waiting);
    site
}

/// Kills the server, and waits for the next.
fn kill(site: &Site) {
    let server = site.signal_server(Signal::KILL);
    until("there is another server", || {
        site.server().is_some_and(|next| next != server)
    });
}

fn is_gone<T>(asked: &Result<T, BootstrapError>) -> bool {
    let code = asked.as_ref().err().and_then(BootstrapError::code);
    code.is_some_and(|code| code.raw() == 1200)
}

#[test]
fn a_job_is_unloaded_though_the_server_is_killed() {
    let (site, _) = stubborn("KeepAlive = true");
    site.bootstrap.unload(&label()).expect("unload");
    kill(&site);
    until("it is gone", || is_gone(&site.bootstrap.job(&label())));
}

#[test]
fn a_job_is_stopped_though_the_server_is_killed() {
    let (site, _) = stubborn("");
    site.bootstrap.stop(&label()).expect("stop");
    kill(&site);
    site.until_state(JobState::Idle);
}

#[test]
fn a_job_is_started_anew_though_the_server_is_killed() {
    let (site, old) = stubborn("");
    let how = Kickstart {
        kill: true,
        wait: None,
    };
    site.bootstrap.kickstart(&label(), how).expect("kickstart");
    kill(&site);
    until("another instance runs", || {
        let pid = site.job().summary.pid;
        pid.is_some_and(|pid| pid != old)
    });
}

#[test]
fn a_job_that_waits_for_another_still_does_when_the_server_was_killed() {
    let site = blocked();
    kill(&site);
    assert_eq!(site.state(), JobState::Waiting);
}

#[test]
fn who_waits_for_the_start_of_a_job_hears_that_there_will_be_none() {
    let ends: [fn(&Bootstrap); 2] = [
        |bootstrap| bootstrap.unload(&label()).expect("unload"),
        |bootstrap| drop(bootstrap.stop(&label())),
    ];
    for end in ends {
        let site = blocked();
        site.bootstrap.stop(&label()).expect_err("it does not run");
        site.until_state(JobState::Idle);
        let other = site.bootstrap.copy().expect("copy");
        let how = Kickstart {
            kill: false,
            wait: Some(PATIENCE),
        };
        let waiter = thread::spawn(move || other.kickstart(&label(), how));
        site.until_state(JobState::Waiting);
        end(&site.bootstrap);
        let told = waiter.join().expect("no panic");
        let error = told.expect_err("nothing was started");
        assert!(error.code().is_some(), "{error}");
    }
}

/// The listener rests while there are no descriptors, and not for as long as others are busy.
#[test]
fn connections_are_accepted_again_though_the_server_is_busy() {
    let site = Site::new();
    let busy = [(); 2].map(|()| site.bootstrap.copy().expect("copy"));
    // Known to the server, which needs no more descriptors for them.
    busy.iter().for_each(|right| drop(right.look_up(&name())));
    let server = site.server();
    let limit = |current| {
        let maximum = prlimit_of(server).maximum;
        let limit = Rlimit { current, maximum };
        prlimit(server, Resource::Nofile, limit).expect("prlimit");
    };
    let before = prlimit_of(server).current;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // The busy ones end also when this fails.
        let end = End(&over);
        for right in &busy {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    right.look_up(&name()).expect_err("there is none");
                }
            });
        }
        limit(Some(3));
        let runtime = site.world().runtime();
        let newcomer = scope.spawn(move || Bootstrap::connect(&runtime).expect("connect").list());
        until("the server cannot accept", || {
            let log = fs::read_to_string(site.path("log")).expect("the log");
            log.contains("cannot accept a connection")
        });
        limit(before);
        until("the newcomer is answered", || newcomer.is_finished());
        drop(end);
        newcomer.join().expect("no panic").expect("a list");
    });
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn prlimit_of(server: Option<rustix::process::Pid>) -> Rlimit {
    let server = server.expect("a server").as_raw_pid();
    let limits = fs::read_to_string(format!("/proc/{server}/limits")).expect("/proc");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let mut numbers = line.expect("a line").split_whitespace().skip(3);
    let mut number = || numbers.next().and_then(|number| number.parse().ok());
    Rlimit {
        current: number(),
        maximum: number(),
    }
}

/// What is dropped again costs nothing, whether the job runs, waits for something, or never starts.
#[test]
fn rights_that_are_dropped_leave_no_descriptors_in_the_server() {
    let site = Site::with("serve", "");
    let turn_over = |state: JobState| {
        site.until_state(state);
        turn_over(&site, &name());
    };
    turn_over(JobState::Idle);
    site.bootstrap.disable(&label()).expect("disable");
    turn_over(JobState::Disabled);
    site.bootstrap.enable(&label()).expect("enable");
    ask(&site.look_up()).expect("an answer");
    turn_over(JobState::Running);
}

#[test]
fn rights_to_a_job_that_is_throttled_leave_no_descriptors_either() {
    let site = Site::new();
    site.load(&format!(
        "Label = '{}'\nProgram = '/bin/false'\nKeepAlive = true\nThrottleInterval = 1000\n\
         MachServices.'{}' = true\n",
        label(),
        name()
    ));
    site.until_state(JobState::Throttled);
    turn_over(&site, &name());
    let right = site.look_up();
    right.send(Message::new(0), PATIENCE).expect("send");
    turn_over(&site, &name());
    assert_eq!(site.job().services[0].queued, 1);
}

/// Looks a name up again and again, and expects that the server keeps nothing of it.
fn turn_over(site: &Site, name: &ServiceName) {
    let server = site.server().expect("a server").as_raw_pid();
    let open = || {
        let all = fs::read_dir(format!("/proc/{server}/fd"));
        all.expect("/proc").count()
    };
    let look_up = || drop(site.bootstrap.look_up(name).expect("look up"));
    let before = open();
    (0..500).for_each(|_| look_up());
    until("little is left", || {
        look_up();
        open() < before + 200
    });
}
