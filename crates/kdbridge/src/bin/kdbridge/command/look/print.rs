//! `kdbridge print`

use kdbridge::commands::print;
use kdbridge::pages::Pages;

use super::{show, with_mark};
use crate::args::look::Print;
use crate::session;

pub(super) fn run(args: &Print) -> anyhow::Result<()> {
    show(&args.options, |target, kernel| {
        session::cpu(target, args.cpu)?;
        let mut memory = Pages::new(target);
        let printed = print::print(&mut memory, kernel, &args.expression, args.cpu);
        with_mark(&args.expression, printed)
    })
}
