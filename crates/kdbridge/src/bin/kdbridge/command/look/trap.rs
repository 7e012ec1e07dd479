//! `kdbridge break` and `kdbridge watch`

use anyhow::bail;
use kdbridge::commands::trap::Patience;
use kdbridge::commands::{print, trap};
use kdbridge::target::Trap;

use super::{show_waiting, with_mark};
use crate::args::look::{Break, Watch};

pub(super) fn wait(args: &Break) -> anyhow::Result<()> {
    show_waiting(&args.options, |target, kernel, told| {
        let at = with_mark(&args.place, kernel.address(target, &args.place, 0))?;
        let trap = match args.hardware {
            true => Trap::Hardware,
            false => Trap::Software,
        };
        let patience = Patience {
            time: args.patience.timeout,
            told,
        };
        Ok(trap::wait_for(target, kernel, (at, trap), patience)?)
    })
}

pub(super) fn watch(args: &Watch) -> anyhow::Result<()> {
    let (text, cpu) = (&args.expression, args.cpu);
    show_waiting(&args.options, |target, kernel, told| {
        let (at, size) = with_mark(text, kernel.extent(target, text, cpu))?;
        if ![1, 2, 4, 8].contains(&size) {
            bail!("{text} has {size} bytes: only 1, 2, 4 or 8 can be watched");
        }
        let before = with_mark(text, print::print(target, kernel, text, cpu))?;
        let trap = Trap::Write(size as u8);
        let patience = Patience {
            time: args.patience.timeout,
            told,
        };
        let hit = trap::wait_for(target, kernel, (at, trap), patience)?;
        let after = with_mark(text, print::print(target, kernel, text, cpu))?;
        Ok(trap::Changed {
            hit,
            before: before.value,
            after: after.value,
        })
    })
}
