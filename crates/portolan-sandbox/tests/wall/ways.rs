//! The ways in which walls are built: started by root for a user or by the user, with user
//! namespaces and without, in each tier.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use portolan_sandbox::profile::Tier;
use portolan_sandbox::selftest::{Attempt, Outcome, Report, Row, Selftest, Verdict, attempts};

pub(crate) const LAUNCHER: &str = env!("CARGO_BIN_EXE_portolan-launch");

/// Who runs the programs if the tests are root's: `nobody`, who has no files.
pub(crate) const NOBODY: u32 = 65534;

/// Tells a test that it is run again as a user.
const AS_USER: &str = "PORTOLAN_TEST_AS_USER";

/// One of the ways, on this machine.
pub(crate) struct Way {
    name: String,
    pub(crate) selftest: Selftest,
    pub(crate) namespaces: bool,
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
    for namespaces in [true, false] {
        let way = Way::new(namespaces);
        remark(&format!("{}: {:?}", way.name, way.tiers));
        assert!(
            way.tiers.contains(&Tier::T1),
            "{}: there is no wall",
            way.name
        );
        if namespaces && !way.tiers.contains(&Tier::T2) {
            remark(&format!("MISSING: {}: T2", way.name));
        }
        what(&way);
    }
    if is_root() {
        again_as_user();
    } else if env::var_os(AS_USER).is_none() {
        remark("MISSING: started by root");
    }
}

/// Runs the same test as `nobody`, whom root then has nothing to do with.
fn again_as_user() {
    let thread = std::thread::current();
    let name = thread.name().expect("a test has a name");
    let program = env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command
        .args(["--exact", name, "--nocapture"])
        .env(AS_USER, "1");
    match command.uid(NOBODY).gid(NOBODY).current_dir("/").status() {
        Ok(status) => assert!(status.success(), "as a user: {status}"),
        Err(error) => remark(&format!(
            "MISSING: by a user, who cannot reach the build: {error}"
        )),
    }
}

impl Way {
    fn new(namespaces: bool) -> Self {
        let starter = if is_root() { "root" } else { "a user" };
        let with = if namespaces { "with" } else { "without" };
        let mut selftest = Selftest::new(Path::new(LAUNCHER)).expect("portolan-probe");
        if !namespaces {
            selftest = selftest.without_namespaces();
        }
        let found = selftest.tiers().expect("tiers");
        let tiers = [(Tier::T1, found.t1), (Tier::T2, found.t2)];
        let tiers = tiers.into_iter().filter(|(_, found)| found.is_ok());
        Self {
            name: format!("started by {starter}, {with} user namespaces"),
            selftest,
            namespaces,
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
