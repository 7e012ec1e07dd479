//! A look at a machine: it stands still meanwhile, and runs on afterwards.

use anyhow::Context;
use kdbridge::kernel::{Kernel, Sources};
use kdbridge::pages::Pages;
use kdbridge::symbols::{Cache, Index};
use kdbridge::target::{Cpu, Target};

use crate::args::look::Options;
use crate::{attach, output};

/// Connects, finds the kernel, hands both to `look`, and lets the machine go on whatever comes of it.
pub(crate) fn with<T>(
    options: &Options,
    look: impl FnOnce(&mut dyn Target, &mut Kernel) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let address = &options.target;
    let mut target = attach::stub(address).with_context(|| format!("{address}"))?;
    let kernel = open(options, target.as_mut());
    let looked = kernel.and_then(|mut kernel| look(target.as_mut(), &mut kernel));
    let left = target.detach().context("the machine may still stand still");
    let looked = looked?;
    left.map(|()| looked)
}

fn open(options: &Options, target: &mut dyn Target) -> anyhow::Result<Kernel> {
    let mut memory = Pages::new(target);
    let image = attach::image(options.vmlinux.as_deref())?;
    let found = attach::find_linux(&mut memory, image.as_ref())?;
    let places = options.vmlinux.iter().chain(&options.symbols).cloned();
    let index = match options.no_files {
        true => Index::only(Vec::new()),
        false => Index::new(places.collect()),
    };
    let cache = match options.no_cache {
        true => Cache::none(),
        false => Cache::of_user(),
    };
    let sources = Sources {
        index,
        cache,
        progress: &mut output::progress,
    };
    Ok(Kernel::open(&mut memory, found, sources)?)
}

/// A processor by its number.
pub(crate) fn cpu(target: &mut dyn Target, number: u32) -> anyhow::Result<Cpu> {
    let cpus = target.cpus()?;
    let last = cpus.len().saturating_sub(1);
    let found = cpus.into_iter().find(|cpu| cpu.0 == number);
    found.with_context(|| format!("there is no processor {number}: they are 0 to {last}"))
}
