//! The environment of a job.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};

use portolan_wire::place::INHERITED_FD;

use super::Inheritance;
use super::account::Account;
use crate::job::Job;

pub use portolan_wire::instance::VARIABLE as MARK;

/// What the server hands on of its own.
const GENERAL: &[&str] = &["PATH", "LANG"];

/// What it hands on to jobs that run as its own user.
const OF_THE_USER: &[&str] = &[
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "XDG_RUNTIME_DIR",
    "TMPDIR",
];

/// Where programs are looked for if the server itself was not told.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// All variables but [`MARK`] and `LISTEN_PID`.
pub(super) fn variables(
    job: &Job,
    inheritance: &Inheritance<'_>,
    account: Option<&Account>,
) -> BTreeMap<OsString, OsString> {
    let mut variables = BTreeMap::from([("PATH".into(), DEFAULT_PATH.into())]);
    let own = |name: &&str| Some(((*name).into(), env::var_os(name)?));
    variables.extend(GENERAL.iter().filter_map(own));
    match account.and_then(|account| account.user.as_ref()) {
        None => variables.extend(OF_THE_USER.iter().filter_map(own)),
        Some(user) => variables.extend(
            [
                ("HOME", &user.home),
                ("USER", &user.name),
                ("LOGNAME", &user.name),
                ("SHELL", &user.shell),
            ]
            .map(|(name, value)| (name.into(), value.into())),
        ),
    }
    let both = |(name, value): (&String, &String)| (name.into(), value.into());
    variables.extend(job.environment_variables.iter().map(both));
    let extra = inheritance.environment.iter();
    variables.extend(extra.map(|(name, value)| (name.into(), value.into())));
    for ours in [MARK, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        variables.remove(OsStr::new(ours));
    }
    variables.extend(descriptors(inheritance));
    variables
}

/// Whether the server alone sets a variable, to something that no job chooses.
pub(super) fn is_ours(name: &OsStr) -> bool {
    let ours = [
        MARK,
        INHERITED_FD,
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
    ];
    ours.iter().any(|our| name == OsStr::new(our))
}

/// Where the program of a job is looked for.
pub(super) fn search(job: &Job) -> OsString {
    let own = job.environment_variables.get("PATH").map(OsString::from);
    let search = own.or_else(|| env::var_os("PATH"));
    search.unwrap_or_else(|| DEFAULT_PATH.into())
}

fn descriptors(inheritance: &Inheritance<'_>) -> Vec<(OsString, OsString)> {
    let sockets = inheritance.sockets;
    let bootstrap = (3 + sockets.len()).to_string();
    let mut variables = vec![(INHERITED_FD.into(), bootstrap.into())];
    if !sockets.is_empty() {
        let names: Vec<String> = sockets
            .iter()
            .map(|(name, _)| name.replace(':', "_"))
            .collect();
        variables.push(("LISTEN_FDS".into(), sockets.len().to_string().into()));
        // The names are separated by colons, so none of them can have one.
        variables.push(("LISTEN_FDNAMES".into(), names.join(":").into()));
    }
    variables
}
