//! `portolan sandbox check`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;
use portolan::GroupId;
use portolan_sandbox::decision::{Decision, Remedy, Subject as Bound, Wish, decide};
use portolan_sandbox::profile::Tier;
use portolan_sandbox::{Filter, Operation};
use serde::Serialize;

use super::subject::Subject;
use crate::args::sandbox::Check;
use crate::{exit, output};

/// What a denied check exits with.
const DENIED: u8 = 1;

pub(crate) fn run(options: &Check) -> anyhow::Result<ExitCode> {
    let (subject, words) = match &options.about.entitlements {
        Some(file) => (
            Subject::described(file, &options.about)?,
            &options.words[..],
        ),
        None => match options.words.split_first() {
            Some((named, words)) if !words.is_empty() => (Subject::named(named)?, words),
            _ => return Err(exit::usage(anyhow!("which program, and which operation?"))),
        },
    };
    let question = Question::read(words, options.per_pid)?;
    let decision = answer(&subject, &question)?;
    if options.json {
        output::json(&Answer::of(&subject, &question, &decision))?;
    } else {
        print(&subject, &question, &decision);
    }
    Ok(match decision {
        Decision::Allowed { .. } => ExitCode::SUCCESS,
        _ => ExitCode::from(DENIED),
    })
}

fn answer(subject: &Subject, question: &Question) -> anyhow::Result<Decision> {
    if !subject.is_confined() {
        let rule = "it is not confined: it has no com.apple.security.app-sandbox".to_owned();
        return Ok(Decision::Allowed { rule });
    }
    // Which paths there are does not depend on whether this machine can lock it in.
    let tier = subject.tiers()?.choose(subject.isolation);
    let profile = subject.profile(tier.unwrap_or(Tier::T1))?;
    let bound = Bound {
        entitlements: &subject.entitlements,
        profile: &profile,
        home: &subject.home,
    };
    Ok(decide(&bound, question.wish())?)
}

/// What is asked.
struct Question {
    operation: &'static str,
    kind: Kind,
    name: String,
}

#[derive(Clone, Copy)]
enum Kind {
    Name(Operation, Filter),
    Read,
    Write,
    Execute,
    Connect,
    Listen,
}

impl Question {
    fn read(words: &[String], per_pid: bool) -> anyhow::Result<Self> {
        let (operation, name) = match words {
            [operation] => (operation, None),
            [operation, name] => (operation, Some(name)),
            _ => {
                return Err(exit::usage(anyhow!(
                    "an operation on one name is asked for"
                )));
            }
        };
        let filter = match per_pid {
            true => Filter::LocalName,
            false => Filter::GlobalName,
        };
        let (operation, kind) = match operation.as_str() {
            "mach-register" => ("mach-register", Kind::Name(Operation::MachRegister, filter)),
            "mach-lookup" => ("mach-lookup", Kind::Name(Operation::MachLookup, filter)),
            "ipc-posix-shm" => ("ipc-posix-shm", Kind::Name(Operation::IpcPosixShm, filter)),
            "ipc-posix-sem" => ("ipc-posix-sem", Kind::Name(Operation::IpcPosixSem, filter)),
            "file-read" | "file-read*" | "file-read-data" => ("file-read", Kind::Read),
            "file-write" | "file-write*" | "file-write-data" => ("file-write", Kind::Write),
            "process-exec" | "process-exec*" => ("process-exec", Kind::Execute),
            "network-outbound" | "network-client" => ("network-outbound", Kind::Connect),
            "network-inbound" | "network-server" | "network-bind" => {
                ("network-inbound", Kind::Listen)
            }
            other => return Err(exit::usage(anyhow!("{other:?} is no operation"))),
        };
        let name = match (kind, name) {
            (Kind::Connect | Kind::Listen, name) => name.cloned().unwrap_or_default(),
            (Kind::Name(..), Some(name)) => name.clone(),
            (_, Some(path)) => absolute(path)?,
            (_, None) => return Err(exit::usage(anyhow!("{operation} on what?"))),
        };
        let (operation, kind) = match (kind, names_group_socket(&name)) {
            (Kind::Connect, true) => socket_of_group(Operation::NetworkOutbound),
            (Kind::Listen, true) => socket_of_group(Operation::NetworkBind),
            _ => (operation, kind),
        };
        Ok(Self {
            operation,
            kind,
            name,
        })
    }

    fn wish(&self) -> Wish<'_> {
        let (name, path) = (self.name.as_str(), self.name.as_ref());
        match self.kind {
            Kind::Name(operation, filter) => Wish::Name(operation, filter, name),
            Kind::Read => Wish::Read(path),
            Kind::Write => Wish::Write(path),
            Kind::Execute => Wish::Execute(path),
            Kind::Connect => Wish::Connect,
            Kind::Listen => Wish::Listen,
        }
    }
}

/// Whether a name is `<group>/<path>`.
fn names_group_socket(name: &str) -> bool {
    let parts = name.split_once('/');
    parts.is_some_and(|(group, path)| group.parse::<GroupId>().is_ok() && !path.is_empty())
}

/// The server makes these sockets, also where the network is closed.
fn socket_of_group(operation: Operation) -> (&'static str, Kind) {
    let word = match operation {
        Operation::NetworkBind => "network-bind",
        _ => "network-outbound",
    };
    (word, Kind::Name(operation, Filter::Path))
}

fn absolute(path: &str) -> anyhow::Result<String> {
    let path: PathBuf = std::path::absolute(path)?;
    Ok(path.display().to_string())
}

fn print(subject: &Subject, question: &Question, decision: &Decision) {
    let (label, operation) = (&subject.label, question.operation);
    let (word, rule, remedy) = parts(decision);
    let name = match question.name.as_str() {
        "" => String::new(),
        name => format!(" \"{}\"", name.escape_debug()),
    };
    output::line(format_args!("{label}: {word} {operation}{name}"));
    output::line(format_args!("    rule        {}", output::plain(rule)));
    if let Some(remedy) = remedy {
        output::line(format_args!("    allowed by  {remedy}"));
    }
}

fn parts(decision: &Decision) -> (&'static str, &str, Option<&Remedy>) {
    match decision {
        Decision::Allowed { rule } => ("allow", rule, None),
        Decision::Denied { rule, remedy } => ("deny", rule, remedy.as_ref()),
        _ => ("deny", "", None),
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    label: &'a str,
    operation: &'static str,
    name: &'a str,
    allowed: bool,
    rule: &'a str,
    allowed_by: Option<AllowedBy<'a>>,
}

/// The value is null for a key that is true or false.
#[derive(Serialize)]
struct AllowedBy<'a> {
    key: &'static str,
    value: Option<&'a str>,
}

impl<'a> Answer<'a> {
    fn of(subject: &'a Subject, question: &'a Question, decision: &'a Decision) -> Self {
        let (word, rule, remedy) = parts(decision);
        Self {
            label: subject.label.as_str(),
            operation: question.operation,
            name: &question.name,
            allowed: word == "allow",
            rule,
            allowed_by: remedy.map(|remedy| AllowedBy {
                key: remedy.key,
                value: remedy.value.as_deref(),
            }),
        }
    }
}
