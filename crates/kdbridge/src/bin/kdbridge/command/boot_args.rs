//! The boot-arg `debug`.

use kdbridge::boot_args::{BootArgs, FLAGS, Flag};

use crate::args;
use crate::output;

pub(crate) fn run(arguments: &args::BootArgs) -> anyhow::Result<()> {
    let Some(text) = &arguments.flags else {
        FLAGS.iter().for_each(print);
        return Ok(());
    };
    let value: BootArgs = text.parse()?;
    let bare = text.trim().trim_start_matches("debug=");
    if bare.starts_with(|c: char| c.is_ascii_digit()) {
        output::line(value);
    } else {
        output::line(format_args!("debug={:#x}", value.0));
    }
    value.flags().for_each(print);
    if value.unknown() != 0 {
        output::line(format_args!("  {:#8x}  has no meaning", value.unknown()));
    }
    Ok(())
}

fn print(flag: &Flag) {
    output::line(format_args!(
        "  {:#8x}  {:25}  {}",
        flag.bit, flag.name, flag.meaning
    ));
}
