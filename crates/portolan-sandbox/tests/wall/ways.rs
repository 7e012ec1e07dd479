//! The ways in which walls are built: started by root for a user or by the user, with user
//! namespaces and without, in each tier.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use portolan_sandbox::profile::Tier;
use portolan_sandbox::selftest::{Attempt, Outcome, Report, Row, Selftest, Verdict, attempts};

pub(crate) const LAUNCHER: &str = env!("CARGO_BIN_EXE_portolan-launch");

/// Who runs the programs if the tests are root's: `nobody`, who has no files.
pub(crate) const NOBODY: u32 = 65534;

pub(crate) const PROBER: &str = env!("CARGO_BIN_EXE_portolan-probe");

/// Tells a test that it is run again, and in which way.
const AGAIN: &str = "PORTOLAN_TEST_WAY";

/// One of the ways, on this machine.
pub(crate) struct Way {
    name: String,
    pub(crate) selftest: Selftest,
    pub(crate) tiers: Vec<Tier>,
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What a test did, and what it could not do here.
#[allow(clippy::print_stderr, reason = "the output of a test")]
pub(crate) fn remark(text: &str) {
    eprintln!("{text}");
}

/// Does this in each way that there is here. The others are named, for nobody should take a test
/// for passed that was not made.
pub(crate) fn each(what: impl Fn(&Way)) {
    let way = Way::of_this_process();
    remark(&format!("{}: {:?}", way.name, way.tiers));
    for tier in [Tier::T1, Tier::T2] {
        if !way.tiers.contains(&tier) {
            remark(&format!("MISSING: {}: {tier}", way.name));
        }
    }
    assert!(!way.tiers.is_empty(), "{}: there is no wall", way.name);
    what(&way);
    if env::var_os(AGAIN).is_some() {
        return;
    }
    again("without user namespaces", as_it_is, true);
    match is_root() {
        true => {
            again("by a user", as_nobody, false);
            again("by a user, without user namespaces", as_nobody, true);
        }
        false => remark("MISSING: started by root"),
    }
}

fn as_it_is(_: &mut Command) {}

fn as_nobody(command: &mut Command) {
    command.uid(NOBODY).gid(NOBODY);
}

/// Runs the same test in a process that was started in another way.
fn again(way: &str, who: fn(&mut Command), alone: bool) {
    let thread = std::thread::current();
    let name = thread.name().expect("a test has a name");
    let this = env::current_exe().expect("this program");
    let started = |program: &Path| {
        let mut command = match alone {
            true => Command::new(PROBER),
            false => Command::new(program),
        };
        if alone {
            command.arg("alone").arg(program);
        }
        who(&mut command);
        command.current_dir("/");
        command
    };
    // Whether that can be done at all is found out with a program that cannot fail.
    let possible = started(Path::new("/bin/true")).status();
    let possible = possible.is_ok_and(|status| status.success());
    if !possible || !is_reached(&this, who) {
        return remark(&format!("MISSING: started {way}"));
    }
    let mut command = started(&this);
    command
        .args(["--exact", name, "--nocapture"])
        .env(AGAIN, way);
    let status = command.status().expect("this program");
    assert!(status.success(), "started {way}: {status}");
}

/// A checkout may be out of the user's reach.
fn is_reached(program: &Path, who: fn(&mut Command)) -> bool {
    let mut command = Command::new(program);
    who(command.arg("--list").stdout(Stdio::null()));
    command.status().is_ok_and(|status| status.success())
}

impl Way {
    fn of_this_process() -> Self {
        let selftest = Selftest::new(Path::new(LAUNCHER)).expect("portolan-probe");
        let found = selftest.tiers().expect("tiers");
        let tiers = [(Tier::T1, found.t1), (Tier::T2, found.t2)];
        let tiers = tiers.into_iter().filter(|(_, found)| found.is_ok());
        let itself = if is_root() { "by root" } else { "by a user" };
        Self {
            name: env::var(AGAIN).unwrap_or_else(|_| itself.to_owned()),
            selftest,
            tiers: tiers.map(|(tier, _)| tier).collect(),
        }
    }

    /// Makes the attempts with these names.
    pub(crate) fn run(&self, names: &[&str]) -> Report {
        let named: Vec<_> = attempts().filter(|one| names.contains(&one.name)).collect();
        assert_eq!(named.len(), names.len(), "{names:?}");
        self.make(&named)
    }

    pub(crate) fn make(&self, attempts: &[&'static Attempt]) -> Report {
        self.selftest.run(&self.tiers, attempts).expect("a report")
    }

    /// What a result was, for a test that fails.
    pub(crate) fn says(&self, row: &Row) -> String {
        format!("{}: {row:#?}", self.name)
    }
}

/// Makes all attempts of a statement, in each way: none gets out, what must work does, and outside
/// each succeeds but for those that need more than there is everywhere.
pub(crate) fn statement(number: u8, unproven: &[&str]) {
    statement_and(number, unproven, |_| {});
}

/// The same, and looks at what came of them.
pub(crate) fn statement_and(number: u8, unproven: &[&str], look: impl Fn(&Report)) {
    let all: Vec<_> = attempts().filter(|one| one.statement == number).collect();
    each(|way| {
        let report = way.make(&all);
        holds(way, &report);
        for row in &report.rows {
            let is_known = unproven.contains(&row.attempt.name);
            let proven = row.outside == Some(Outcome::Out) || is_known;
            assert!(proven, "{}", way.says(row));
        }
        look(&report);
    });
}

fn holds(way: &Way, report: &Report) {
    for row in &report.rows {
        for tier in &way.tiers {
            let verdict = row.verdict(*tier).expect("it was made");
            let good = verdict.is_good() && verdict != Verdict::Leak;
            assert!(good, "{tier} {verdict:?} {}", way.says(row));
        }
    }
    assert_eq!(report.changes, []);
}

/// What comes of an attempt in every tier.
pub(crate) fn comes_to(report: &Report, name: &str, expected: &Outcome) {
    let mut rows = report.rows.iter();
    let row = rows.find(|row| row.attempt.name == name).expect("a row");
    for (tier, outcome) in &row.inside {
        assert_eq!(outcome, expected, "{tier} {name}");
    }
}
