//! `portolan sandbox explain`.

use std::path::Path;

use portolan_sandbox::places::{self, Access, Origin, Place, Refused};
use portolan_sandbox::probe::{Missing, Tiers};
use portolan_sandbox::profile::{Excepted, Profile, Tier};
use serde::Serialize;

use super::subject::Subject;
use crate::args::sandbox::Explain;
use crate::output;

pub(crate) fn run(options: &Explain) -> anyhow::Result<()> {
    let subject = match (&options.about.entitlements, &options.subject) {
        (Some(file), _) => Subject::described(file, &options.about)?,
        (None, named) => Subject::named(named.as_deref().unwrap_or_default())?,
    };
    if !subject.is_confined() {
        return print_unconfined(&subject, options.json);
    }
    let tiers = subject.tiers()?;
    let tier = tiers.choose(subject.isolation);
    let profile = subject.profile(tier.unwrap_or(Tier::T1))?;
    let view = View::new(&subject, &profile, &tiers, tier.ok())?;
    if options.json {
        return output::json(&view);
    }
    view.print();
    Ok(())
}

fn print_unconfined(subject: &Subject, json: bool) -> anyhow::Result<()> {
    let label = subject.label.as_str();
    if json {
        #[derive(Serialize)]
        struct Unconfined<'a> {
            label: &'a str,
            confined: bool,
        }
        let confined = false;
        return output::json(&Unconfined { label, confined });
    }
    output::line(label);
    row(
        "confined",
        "no: without com.apple.security.app-sandbox, other entitlements mean nothing",
    );
    Ok(())
}

/// What a confined program has.
#[derive(Serialize)]
struct View<'a> {
    label: &'a str,
    confined: bool,
    /// Null if it cannot be started here.
    tier: Option<String>,
    isolation: String,
    missing: Vec<Lack>,
    program: Option<&'a Path>,
    container: &'a Path,
    groups: Vec<Group<'a>>,
    names: Names<'a>,
    /// Memory and semaphores.
    shared: Vec<String>,
    network: Network,
    files: Vec<File>,
    /// What exceptions name and do not grant.
    refused: Vec<Refusal>,
}

/// What a tier needs and this machine has not.
#[derive(Serialize)]
struct Lack {
    tier: String,
    part: &'static str,
    needs: String,
    error: String,
}

#[derive(Serialize)]
struct Group<'a> {
    id: &'a str,
    container: &'a Path,
}

/// Patterns: a star at the end stands for anything.
#[derive(Serialize)]
struct Names<'a> {
    any: Vec<String>,
    register: Vec<&'a str>,
    register_per_pid: Vec<&'a str>,
    look_up: Vec<&'a str>,
    look_up_per_pid: Vec<&'a str>,
}

#[derive(Serialize)]
struct Network {
    client: bool,
    server: bool,
}

#[derive(Serialize)]
struct Refusal {
    path: String,
    why: &'static str,
}

#[derive(Serialize)]
struct File {
    path: String,
    access: &'static str,
    origin: &'static str,
}

impl<'a> View<'a> {
    fn new(
        subject: &'a Subject,
        profile: &'a Profile,
        tiers: &Tiers,
        tier: Option<Tier>,
    ) -> anyhow::Result<Self> {
        let entitlements = &subject.entitlements;
        let groups = entitlements.application_groups.iter().zip(&profile.groups);
        let group = |(id, container): (&'a portolan::GroupId, &'a std::path::PathBuf)| Group {
            id: id.as_str(),
            container,
        };
        let granted = places::of(profile, &places::program(profile))?;
        let is_known = subject.program.is_some();
        let places = granted.places.iter();
        let places = places.filter(|place| is_known || place.origin != Origin::Program);
        let refused = granted.refused.iter().cloned().chain(absent(profile));
        Ok(Self {
            label: subject.label.as_str(),
            confined: true,
            tier: tier.map(|tier| tier.to_string()),
            isolation: subject.isolation.to_string(),
            missing: [tiers.t1, tiers.t2]
                .into_iter()
                .filter_map(Lack::of)
                .collect(),
            program: subject.program.as_deref(),
            container: &profile.container,
            groups: groups.map(group).collect(),
            names: Names::of(subject),
            shared: names_of_shared(subject),
            network: Network {
                client: profile.client,
                server: profile.server,
            },
            files: places.filter_map(File::of).collect(),
            refused: refused.map(Refusal::from).collect(),
        })
    }

    fn print(&self) {
        output::line(self.label);
        let tier = self.tier.as_deref();
        let tier = tier.unwrap_or("none here: it is not started");
        row("tier", &format!("{tier} (isolation {})", self.isolation));
        for Lack {
            tier, needs, error, ..
        } in &self.missing
        {
            row("missing", &format!("{tier} needs {needs}: {error}"));
        }
        if let Some(program) = self.program {
            row("program", &program.display().to_string());
        }
        row("container", &self.container.display().to_string());
        for Group { id, container } in &self.groups {
            row("group", &format!("{id}: {}", container.display()));
        }
        self.names.print();
        if !self.shared.is_empty() {
            row("shared", &self.shared.join(" "));
        }
        row("network", self.network.words());
        self.print_files();
    }

    /// What every program has is in one row for each kind.
    fn print_files(&self) {
        let is_general = |file: &&File| file.origin == "system";
        for File {
            path,
            access,
            origin,
        } in self.files.iter().filter(|file| !is_general(file))
        {
            row("file", &format!("{access} {path} ({origin})"));
        }
        for Refusal { path, why } in &self.refused {
            row("refused", &format!("{path}: {why}"));
        }
        for access in ["read", "devices", "processes"] {
            let general = self.files.iter().filter(is_general);
            let paths = general.filter(|file| file.access == access);
            let paths: Vec<_> = paths.map(|file| file.path.as_str()).collect();
            if !paths.is_empty() {
                row("all have", &format!("{access} {}", paths.join(" ")));
            }
        }
    }
}

/// What exceptions name and is not there: nothing comes of them.
fn absent(profile: &Profile) -> impl Iterator<Item = Refused> {
    profile.exceptions.iter().filter_map(|exception| {
        let path = match &exception.what {
            Excepted::File(path) | Excepted::Tree(path) => path,
            Excepted::Folder(_) => return None,
        };
        let why = "it is not there";
        let is_there = std::fs::symlink_metadata(path).is_ok();
        (!is_there).then(|| Refused {
            path: path.clone(),
            why,
        })
    })
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self {
            path: refused.path.display().to_string(),
            why: refused.why,
        }
    }
}

impl Lack {
    fn of(found: Result<(), Missing>) -> Option<Self> {
        let Missing { tier, part, errno } = found.err()?;
        Some(Self {
            tier: tier.to_string(),
            part: part.word(),
            needs: part.to_string(),
            error: std::io::Error::from(errno).to_string(),
        })
    }
}

fn names_of_shared(subject: &Subject) -> Vec<String> {
    let groups = subject.entitlements.application_groups.iter();
    groups.map(|group| format!("{group}/*")).collect()
}

impl<'a> Names<'a> {
    fn of(subject: &'a Subject) -> Self {
        let label = &subject.label;
        let entitlements = &subject.entitlements;
        let groups = entitlements.application_groups.iter();
        let mut any = vec![label.to_string(), format!("{label}.*")];
        any.extend(groups.map(|group| format!("{group}.*")));
        fn texts(names: &[String]) -> Vec<&str> {
            names.iter().map(String::as_str).collect()
        }
        Self {
            any,
            register: texts(&entitlements.register_global),
            register_per_pid: texts(&entitlements.register_local),
            look_up: texts(&entitlements.lookup_global),
            look_up_per_pid: texts(&entitlements.lookup_local),
        }
    }

    fn print(&self) {
        row("names", &self.any.join(" "));
        for (key, names, what) in [
            ("register", &self.register, ""),
            ("register", &self.register_per_pid, " (per pid)"),
            ("look up", &self.look_up, ""),
            ("look up", &self.look_up_per_pid, " (per pid)"),
        ] {
            for name in names {
                row(key, &format!("\"{}\"{what}", name.escape_debug()));
            }
        }
    }
}

impl Network {
    fn words(&self) -> &'static str {
        match (self.client, self.server) {
            (false, false) => "none",
            (true, false) => "makes connections",
            (false, true) => "waits for connections",
            (true, true) => "makes connections and waits for them",
        }
    }
}

impl File {
    /// Of what every program has, most machines have only a part.
    fn of(place: &Place) -> Option<Self> {
        if place.origin == Origin::System && !place.path.exists() {
            return None;
        }
        Some(Self {
            path: place.path.display().to_string(),
            access: match place.access {
                Access::Read => "read",
                Access::Device => "devices",
                Access::Processes => "processes",
                Access::Write | Access::Own => "write",
                Access::List => "list",
            },
            origin: match place.origin {
                Origin::System => "system",
                Origin::Network => "network",
                Origin::Program => "program",
                Origin::Exception => "exception",
                Origin::Group | Origin::Container => return None,
                _ => "other",
            },
        })
    }
}

/// A key and what it is.
fn row(key: &str, text: &str) {
    let plain = output::plain(text).replace('\n', " ");
    output::line(format_args!("    {key:<10}  {plain}"));
}
