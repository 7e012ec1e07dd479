//! `kdbridge modules`: what is loaded, the extensions of XNU too.

use std::fmt;

use serde::Serialize;

use super::hex;
use crate::kernel::Kernel;

/// The modules that are loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Modules {
    /// In the order of the kernel's list.
    pub modules: Vec<Module>,
}

/// A module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// The UUID of an extension.
    pub uuid: Option<String>,
    /// Where its code begins.
    #[serde(serialize_with = "hex")]
    pub base: u64,
    /// How many bytes it has from there on.
    pub size: u64,
    /// Whether it has started.
    pub live: bool,
    /// How many symbols it has.
    pub symbols: usize,
    /// Its file, if one of the same build-id or UUID was found.
    pub file: Option<String>,
    /// Its sections, or the segments of an extension.
    pub sections: Vec<Section>,
}

/// A section of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Where it is.
    #[serde(serialize_with = "hex")]
    pub at: u64,
}

/// Lists the modules of a kernel.
#[must_use]
pub fn modules(kernel: &Kernel) -> Modules {
    let modules = kernel.modules().iter().map(|loaded| {
        let module = &loaded.module;
        let sections = module.sections.iter().map(|(name, at)| Section {
            name: name.clone(),
            at: *at,
        });
        Module {
            name: module.name.clone(),
            uuid: loaded.uuid.map(|uuid| uuid.to_string()),
            base: module.base,
            size: module.size,
            live: module.live,
            symbols: loaded.symbols.len(),
            file: loaded.path.as_ref().map(|it| it.display().to_string()),
            sections: sections.collect(),
        }
    });
    Modules {
        modules: modules.collect(),
    }
}

impl fmt::Display for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for module in &self.modules {
            let Module {
                name,
                base,
                size,
                symbols,
                ..
            } = module;
            write!(f, "{base:#018x} {size:>8} {name}, {symbols} symbols")?;
            match &module.file {
                Some(file) => write!(f, ", {file}")?,
                None => write!(f, ", no file")?,
            }
            if let Some(uuid) = &module.uuid {
                write!(f, ", UUID {uuid}")?;
            }
            let state = if module.live { "" } else { ", not running" };
            writeln!(f, "{state}")?;
        }
        Ok(())
    }
}
