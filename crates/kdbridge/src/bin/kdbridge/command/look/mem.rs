//! `kdbridge mem`

use kdbridge::commands::mem;

use super::{show, with_mark};
use crate::args::look::Mem;

pub(super) fn run(args: &Mem) -> anyhow::Result<()> {
    show(&args.options, |target, kernel| {
        let at = kernel.address(target, &args.address, 0);
        let at = with_mark(&args.address, at)?;
        Ok(mem::mem(target, at, args.length as usize)?)
    })
}
