//! `kdbridge symbols`: from names to addresses and back.

use std::fmt;

use serde::Serialize;

use super::hex;
use crate::kernel::Kernel;
use crate::symbols::{Kind, Symbol};

/// Symbols that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Found {
    /// Ordered by address, the kernel's before its modules'.
    pub symbols: Vec<Named>,
}

/// A symbol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Where it is now; for a variable that each processor has for itself, where among those.
    #[serde(serialize_with = "hex")]
    pub at: u64,
    /// How far behind its beginning the address is that was asked for.
    pub offset: Option<u64>,
    /// How long it is, if that is known.
    pub size: Option<u64>,
    /// What it is.
    pub kind: &'static str,
    /// The module it belongs to.
    pub module: Option<String>,
}

/// Symbols whose name has `part` in it, or, if it is a whole name, only those of that name.
#[must_use]
pub fn symbols(kernel: &Kernel, part: &str) -> Found {
    let of_kernel = kernel.symbols().iter().map(|symbol| {
        let at = kernel.placed(&symbol);
        (symbol, at, None)
    });
    let of_modules = kernel.modules().iter().flat_map(|loaded| {
        let name = Some(loaded.module.name.as_str());
        loaded.symbols.iter().map(move |symbol| {
            let at = symbol.address;
            (symbol, at, name)
        })
    });
    let all = of_kernel.chain(of_modules);
    let matching = all.filter(|(symbol, ..)| symbol.name.contains(part));
    let mut symbols: Vec<Named> = matching.map(named).collect();
    if symbols.iter().any(|symbol| symbol.name == part) {
        symbols.retain(|symbol| symbol.name == part);
    }
    Found { symbols }
}

/// The symbol that an address belongs to; none if it belongs to none.
#[must_use]
pub fn symbol_at(kernel: &Kernel, address: u64) -> Found {
    let found = kernel.name_at(address).into_iter();
    let symbols = found.map(|(symbol, offset)| {
        let module = kernel.module_at(address);
        let module = module.map(|it| it.module.name.as_str());
        Named {
            offset: Some(offset),
            ..named((symbol, address - offset, module))
        }
    });
    Found {
        symbols: symbols.collect(),
    }
}

fn named((symbol, at, module): (Symbol<'_>, u64, Option<&str>)) -> Named {
    Named {
        name: symbol.name.into_owned(),
        at,
        offset: None,
        size: (symbol.size > 0).then_some(symbol.size),
        kind: match symbol.kind {
            Kind::Function => "function",
            Kind::Data => "data",
            Kind::PerCpu => "per-cpu",
        },
        module: module.map(str::to_owned),
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for symbol in &self.symbols {
            write!(f, "{:#018x} {:8} {}", symbol.at, symbol.kind, symbol.name)?;
            if let Some(offset) = symbol.offset {
                write!(f, "+{offset:#x}")?;
            }
            match &symbol.module {
                Some(module) => writeln!(f, " [{module}]")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
