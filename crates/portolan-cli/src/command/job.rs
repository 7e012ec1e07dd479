//! `portolan job`: job files, without the server.

use std::error::Error as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use portolan_sandbox::document::{DocumentError, Format, Position};
use portoland::job::{self, Finding, Job, JobError, Reading, Warning};
use serde::Serialize;

use crate::args;
use crate::{exit, output};

pub(crate) fn run(command: &args::Job) -> anyhow::Result<()> {
    match command {
        args::Job::Lint(options) => lint(options),
        args::Job::Convert(options) => convert(options),
    }
}

fn lint(options: &args::Lint) -> anyhow::Result<()> {
    let files: Vec<_> = options.files.iter().map(|path| Linted::of(path)).collect();
    if options.json {
        output::json(&files)?;
    } else {
        for file in &files {
            file.lines().for_each(output::line);
        }
    }
    let wrong = files.iter().filter(|file| file.job.is_none()).count();
    match wrong {
        0 => Ok(()),
        _ => Err(exit::configuration(anyhow!(
            "{wrong} of {} job files cannot be used",
            files.len()
        ))),
    }
}

/// What was found in a file, and the job in it if there is no error.
#[derive(Serialize)]
pub(super) struct Linted {
    file: String,
    findings: Vec<Remark>,
    pub(super) job: Option<Job>,
}

#[derive(Serialize)]
struct Remark {
    line: Option<usize>,
    column: Option<usize>,
    severity: &'static str,
    message: String,
}

impl Linted {
    fn of(path: &Path) -> Self {
        match job::read_file(path) {
            Ok(bytes) => Self::read(path, &bytes),
            Err(error) => {
                let message = format!("cannot be read: {error}");
                Self {
                    file: path.display().to_string(),
                    findings: vec![Remark::new("error", None, message)],
                    job: None,
                }
            }
        }
    }

    /// What is found in the bytes of a file.
    pub(super) fn read(path: &Path, bytes: &[u8]) -> Self {
        let reading = Reading::of(bytes);
        Self {
            file: path.display().to_string(),
            findings: remarks(&reading),
            job: reading.job,
        }
    }

    /// Each finding as compilers print it, so that editors find the place.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        self.findings.iter().map(|remark| self.line(remark))
    }

    fn line(&self, remark: &Remark) -> String {
        let Remark {
            severity, message, ..
        } = remark;
        let file = &self.file;
        match (remark.line, remark.column) {
            (Some(line), Some(column)) => format!("{file}:{line}:{column}: {severity}: {message}"),
            _ => format!("{file}: {severity}: {message}"),
        }
    }
}

impl Remark {
    fn new(severity: &'static str, at: Option<Position>, message: String) -> Self {
        Self {
            line: at.map(|at| at.line),
            column: at.map(|at| at.column),
            severity,
            message,
        }
    }
}

/// Errors and warnings in the order of the file.
fn remarks(reading: &Reading) -> Vec<Remark> {
    let errors = reading.errors.iter().map(error);
    let warnings = reading.warnings.iter().map(warning);
    let mut remarks: Vec<_> = errors.chain(warnings).collect();
    remarks.sort_by_key(|remark| (remark.line, remark.column));
    remarks
}

fn error(error: &Finding<JobError>) -> Remark {
    let mut message = error.to_string();
    // The cause of that one is the same with a picture of the text.
    let is_toml = matches!(error.what, JobError::Document(DocumentError::Toml { .. }));
    let mut cause = error.what.source().filter(|_| !is_toml);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    Remark::new("error", error.at, message)
}

fn warning(warning: &Finding<Warning>) -> Remark {
    Remark::new("warning", warning.at, warning.to_string())
}

fn convert(options: &args::Convert) -> anyhow::Result<()> {
    let path = options.file.display().to_string();
    let bytes = job::read_file(&options.file);
    let bytes = bytes.with_context(|| path.clone());
    let reading = Reading::of(&bytes.map_err(exit::configuration)?);
    let Some(document) = reading.document.filter(|_| reading.job.is_some()) else {
        let advice = format!("{path} cannot be used; `portolan job lint` says why");
        return Err(exit::configuration(anyhow!(advice)));
    };
    let format = match options.to {
        args::JobFormat::Toml => Format::Toml,
        args::JobFormat::Xml => Format::Xml,
        args::JobFormat::Binary => Format::Binary,
    };
    let converted = document.write(format).with_context(|| path.clone());
    output::bytes(&converted.map_err(exit::configuration)?)
}
