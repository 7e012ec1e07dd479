//! What is done to jobs: `portolan unload`, `enable`, `disable`, `kickstart` and `stop`.

use anyhow::{Context as _, anyhow};
use portolan::JobLabel;
use portolan::bootstrap::{Bootstrap, BootstrapError, jobs};
use serde::Serialize;

use crate::args::{Kickstart, Labels};
use crate::exit::{self, Coded};
use crate::output;

pub(crate) fn unload(options: &Labels) -> anyhow::Result<()> {
    change(options, "unloaded", Bootstrap::unload)
}

pub(crate) fn enable(options: &Labels) -> anyhow::Result<()> {
    change(options, "enabled", Bootstrap::enable)
}

pub(crate) fn disable(options: &Labels) -> anyhow::Result<()> {
    change(options, "disabled", Bootstrap::disable)
}

pub(crate) fn stop(options: &Labels) -> anyhow::Result<()> {
    change(options, "stopped", Bootstrap::stop)
}

fn change(
    options: &Labels,
    done: &str,
    call: impl Fn(&Bootstrap, &JobLabel) -> Result<(), BootstrapError>,
) -> anyhow::Result<()> {
    let server = Bootstrap::from_env()?;
    each(&options.labels, |label| {
        call(&server, label).with_context(|| format!("{label} is not {done}"))
    })
}

/// Does it to each, whatever became of the ones before. The exit code is that of the first failure.
pub(super) fn each<T>(items: &[T], act: impl Fn(&T) -> anyhow::Result<()>) -> anyhow::Result<()> {
    if let [only] = items {
        return act(only);
    }
    let mut codes = Vec::new();
    for error in items.iter().filter_map(|item| act(item).err()) {
        output::error(&error);
        codes.push(exit::code(&error));
    }
    let Some(&code) = codes.first() else {
        return Ok(());
    };
    let error = anyhow!("{} of {} failed", codes.len(), items.len());
    Err(Coded { code, error }.into())
}

pub(crate) fn kickstart(options: &Kickstart) -> anyhow::Result<()> {
    let Kickstart {
        kill,
        timeout,
        json,
        label,
    } = options;
    let wait = (!timeout.is_zero()).then(|| (*timeout).into());
    let how = jobs::Kickstart { kill: *kill, wait };
    let pid = Bootstrap::from_env()?
        .kickstart(label, how)
        .with_context(|| format!("{label} is not started"))?;
    if *json {
        #[derive(Serialize)]
        struct Started<'a> {
            label: &'a str,
            pid: Option<u32>,
        }
        let label = label.as_str();
        return output::json(&Started { label, pid });
    }
    match pid {
        Some(pid) => output::line(format_args!("{label}  pid {pid}")),
        None => output::line(format_args!("{label}  not running yet")),
    }
    Ok(())
}
