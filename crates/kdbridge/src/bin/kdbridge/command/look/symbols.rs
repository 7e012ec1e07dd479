//! `kdbridge symbols`

use anyhow::bail;
use kdbridge::commands::symbols;

use super::show;
use crate::args::look::Symbols;

pub(super) fn run(args: &Symbols) -> anyhow::Result<()> {
    let what = &args.what;
    show(&args.options, |_, kernel| {
        let digits = what.strip_prefix("0x");
        let address = digits.and_then(|it| u64::from_str_radix(it, 16).ok());
        let found = match address {
            Some(address) => symbols::symbol_at(kernel, address),
            None => symbols::symbols(kernel, what),
        };
        if found.symbols.is_empty() {
            bail!("the kernel has no symbol {what}");
        }
        Ok(found)
    })
}
