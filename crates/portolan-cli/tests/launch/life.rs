//! The server is restarted and killed under load, and nobody notices.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portolan::bootstrap::Bootstrap;
use portolan::{Message, SendRight, Timeout};
use portolan_testkit::flavour::Flavour;
use portolan_testkit::soak;
use rustix::process::{Pid, Signal};

use crate::part::{NOTE, REPORT, TALLY};
use crate::site::{PATIENCE, Site, TIME, ask, median, name, show, typical, until};

/// Messages a second, of both senders.
const RATE: u64 = 50_000;

/// Those of them that go through a socket.
const SOCKET_RATE: u64 = 2_000;

const TICK: Duration = Duration::from_millis(5);

/// How long the server is left alone before and after each of its ends.
const CALM: Duration = Duration::from_millis(150);

#[test]
fn l37_nothing_is_lost_when_the_server_restarts_under_load() {
    let load = Load::new();
    let mut pauses = Vec::new();
    load.while_it_runs(|| pauses.extend((0..5).map(|_| load.restart())));
    show(&format!(
        "nobody was answered for {pauses:?} around a restart"
    ));
    assert!(typical(pauses) < Duration::from_millis(50));
}

#[test]
fn l37_nothing_is_lost_when_the_server_is_killed_under_load() {
    let load = Load::new();
    let mut pauses = Vec::new();
    load.while_it_runs(|| pauses.extend((0..5).map(|_| load.kill())));
    show(&format!("nobody was answered for {pauses:?} around a kill"));
    assert!(pauses.iter().all(|pause| *pause < Duration::from_secs(1)));
}

#[test]
fn soak_l37_nothing_is_lost_when_the_server_ends_under_load() {
    let load = Load::new();
    let mut pauses = [Vec::new(), Vec::new()];
    load.while_it_runs(|| {
        for _ in soak::rounds() {
            pauses[0].push(load.restart());
            pauses[1].push(load.kill());
        }
    });
    for (pauses, what) in pauses.into_iter().zip(["restarts", "kills"]) {
        let (count, longest) = (pauses.len(), pauses.iter().max().copied());
        let median = median(pauses);
        show(&format!(
            "{count} {what}: pauses of {median:?}, the longest {longest:?}"
        ));
        assert!(longest < Some(Duration::from_secs(1)));
    }
}

#[test]
fn l37_what_is_queued_while_the_server_is_gone_is_delivered() {
    let site = Site::with("serve", "");
    let right = site.look_up();
    let server = site.signal_server(Signal::STOP);
    let send = |range: std::ops::Range<u32>| {
        for number in range {
            let message = Message::new(NOTE).with_bytes(number.to_string());
            right.send(message, PATIENCE).expect("send");
        }
    };
    send(0..50);
    rustix::process::kill_process(server, Signal::KILL).expect("kill");
    send(50..100);
    ask(&right).expect("answer");
    let received = site.lines("received");
    let numbers = received.iter().filter_map(|line| line.rsplit(' ').next());
    let sent: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    assert_eq!(numbers.collect::<Vec<_>>(), sent);
}

/// A job that counts what two senders send it, one through memory and one through a socket.
struct Load {
    site: Site,
    sent: AtomicU64,
    over: AtomicBool,
    /// The longest time without an answer of the server, in microseconds.
    pause: AtomicU64,
}

impl Load {
    fn new() -> Self {
        Self {
            site: Site::with("serve", ""),
            sent: AtomicU64::new(0),
            over: AtomicBool::new(false),
            pause: AtomicU64::new(0),
        }
    }

    /// Sends while this runs; then each message must have been counted, by the process that was
    /// there at the start.
    fn while_it_runs(&self, body: impl FnOnce()) {
        let rights = [self.site.look_up(), self.site.look_up()];
        assert_eq!(Flavour::of(&rights[1]), Flavour::Socket);
        let asker = self.site.look_up();
        let pid = ask(&asker).expect("answer");
        let begun = Instant::now();
        thread::scope(|scope| {
            let senders = [(0, RATE - SOCKET_RATE), (1, SOCKET_RATE)];
            for (right, (number, rate)) in rights.iter().zip(senders) {
                scope.spawn(move || self.send(right, number, rate));
            }
            scope.spawn(|| self.ask_server());
            // The senders end also when this fails.
            let end = End(&self.over);
            self.calm();
            body();
            self.calm();
            drop(end);
        });
        let (sent, took) = (self.sent.load(Ordering::Relaxed), begun.elapsed());
        let rate = sent as f64 / took.as_secs_f64();
        show(&format!("{sent} messages in {took:?}, {rate:.0} a second"));
        until("each message was counted", || counted(&asker) >= sent);
        assert_eq!(counted(&asker), sent);
        assert_eq!((self.site.pid(), self.site.job().runs), (pid, 1));
        assert_eq!(ask(&asker).expect("answer"), pid);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn send(&self, right: &SendRight, sender: u32, rate: u64) {
        let (mut sent, begun) = (0u64, Instant::now());
        while !self.is_over() {
            let due = u128::from(rate) * begun.elapsed().as_micros() / 1_000_000;
            while u128::from(sent) < due {
                let bytes = [&sender.to_le_bytes()[..], &sent.to_le_bytes()].concat();
                right.send_bytes(TALLY, &bytes, PATIENCE).expect("send");
                sent += 1;
            }
            thread::park_timeout(TICK);
        }
        self.sent.fetch_add(sent, Ordering::Relaxed);
    }

    /// Asks the server all the time, over the same right.
    fn ask_server(&self) {
        let bootstrap = self.site.bootstrap.copy().expect("copy");
        let mut answered = Instant::now();
        while !self.is_over() {
            bootstrap.look_up(&name()).expect("look up");
            let pause = u64::try_from(answered.elapsed().as_micros()).expect("short");
            self.pause.fetch_max(pause, Ordering::Relaxed);
            answered = Instant::now();
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// The longest pause around something that is done to the server.
    fn pause(&self, end: impl FnOnce()) -> Duration {
        self.pause.store(0, Ordering::Relaxed);
        end();
        self.calm();
        Duration::from_micros(self.pause.load(Ordering::Relaxed))
    }

    fn restart(&self) -> Duration {
        self.pause(|| self.site.bootstrap.restart().expect("restart"))
    }

    fn kill(&self) -> Duration {
        self.pause(|| {
            let server = self.site.signal_server(Signal::KILL);
            let next = || self.site.server().filter(|next| *next != server);
            until("there is another server", || next().is_some());
        })
    }

    fn calm(&self) {
        let until = Instant::now() + CALM;
        while Instant::now() < until {
            thread::park_timeout(TICK);
        }
    }
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn counted(right: &SendRight) -> u64 {
    let answer = right.request(Message::new(REPORT), PATIENCE, Timeout::after(TIME));
    let answer = answer.expect("answer");
    u64::from_le_bytes(answer.bytes().try_into().expect("a number"))
}

/// Whoever kills the process that was started kills the holder, and then, perhaps, the server.
#[test]
fn a_server_whose_holder_is_killed_gets_another_one() {
    let mut site = Site::with("serve", "");
    let right = site.look_up();
    let pid = ask(&right).expect("answer");
    for _ in 0..3 {
        site.kill_holder();
        assert_eq!(ask(&right).expect("answer"), pid);
        let killed = site.signal_server(Signal::KILL);
        until("there is another server", || {
            site.server().is_some_and(|next| next != killed)
        });
        let fresh = Bootstrap::connect(&site.world().runtime()).expect("connect");
        let found = fresh.look_up(&name()).expect("look up");
        assert_eq!(ask(&found).expect("answer"), pid);
        let last = site.server();
        site.bootstrap.restart().expect("restart");
        until("there is another server", || {
            site.server().is_some_and(|next| Some(next) != last)
        });
        assert_eq!((site.pid(), site.job().runs), (pid, 1));
    }
}

/// A server that comes back is killed before it has all that the one before it had.
#[test]
fn nothing_is_lost_when_a_server_is_killed_while_it_comes_back() {
    let site = Site::with("serve", "");
    let right = site.look_up();
    let pid = ask(&right).expect("answer");
    for _ in 0..20 {
        for _ in 0..3 {
            let killed = site.signal_server(Signal::KILL);
            until("there is another server", || {
                site.server().is_some_and(|next| next != killed)
            });
        }
        assert_eq!((site.pid(), site.job().runs), (pid, 1));
        assert_eq!(ask(&site.look_up()).expect("answer"), pid);
        assert_eq!(ask(&right).expect("answer"), pid);
    }
}

/// Whoever is told to end while the server is gone ends what that has left all the same.
#[test]
fn a_server_that_is_killed_and_told_to_end_leaves_nothing() {
    for next_is_there in [false, true] {
        let mut site = Site::with("serve", "");
        let pid = ask(&site.look_up()).expect("answer");
        let killed = site.signal_server(Signal::KILL);
        if next_is_there {
            until("there is another server", || {
                site.server().is_some_and(|next| next != killed)
            });
        }
        let holder = Pid::from_raw(site.holder().cast_signed()).expect("a pid");
        rustix::process::kill_process(holder, Signal::TERM).expect("signal");
        until("the holder has ended", || site.has_ended());
        assert!(
            !site.world().runtime().join("bootstrap").exists(),
            "the socket is there"
        );
        let job = Pid::from_raw(pid.cast_signed()).expect("a pid");
        until("the job has ended", || {
            rustix::process::test_kill_process(job).is_err()
        });
    }
}

/// Names are there for everybody, not only for who was connected.
#[test]
fn l37_names_are_back_within_a_second_of_a_kill() {
    let site = Site::with("serve", "");
    let right = site.look_up();
    let pid = ask(&right).expect("answer");
    let times = (0..5).map(|_| {
        site.signal_server(Signal::KILL);
        let start = Instant::now();
        let mut found = None;
        until("the name is found", || {
            let fresh = Bootstrap::connect(&site.world().runtime());
            found = fresh.ok().and_then(|fresh| fresh.look_up(&name()).ok());
            found.is_some()
        });
        let time = start.elapsed();
        assert_eq!(ask(&found.expect("found")).expect("answer"), pid);
        time
    });
    let times: Vec<_> = times.collect();
    show(&format!("names are back after {times:?}"));
    assert!(
        times.iter().all(|time| *time < Duration::from_secs(1)),
        "{times:?}"
    );
    assert_eq!(ask(&right).expect("answer"), pid);
}
