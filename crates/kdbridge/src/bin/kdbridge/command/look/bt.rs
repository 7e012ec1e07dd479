//! `kdbridge bt`

use kdbridge::commands::bt;

use crate::args::look::Bt;
use crate::{output, session};

pub(super) fn run(args: &Bt) -> anyhow::Result<()> {
    let stacks = session::with(&args.options, |target, kernel, _| {
        let cpus = match args.all {
            true => target.cpus()?,
            false => vec![session::cpu(target, args.cpu)?],
        };
        Ok(bt::bt(target, kernel, &cpus)?)
    })?;
    if args.options.json {
        return output::json(&stacks);
    }
    let texts: Vec<String> = stacks.iter().map(ToString::to_string).collect();
    output::put(&texts.join("\n"))
}
