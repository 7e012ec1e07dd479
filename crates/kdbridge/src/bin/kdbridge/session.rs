//! A look at a machine: it stands still meanwhile, and runs on afterwards.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use kdbridge::kernel::{Found, Kernel, Sources};
use kdbridge::pages::Pages;
use kdbridge::scratch::Scratch;
use kdbridge::symbols::{Cache, Index};
use kdbridge::target::{Cpu, Target};
use kdbridge::xnu::Places;

use crate::args::look::Options;
use crate::attach::{self, Attached};
use crate::output;
use crate::signals::Told;
use crate::xnu::Xnu;

/// Connects, finds the kernel, hands both to `look`, and lets the machine go on whatever comes of it, also when
/// the command is told to end. What is set then is for a `look` that waits.
pub(crate) fn with<T>(
    options: &Options,
    look: impl FnOnce(&mut dyn Target, &mut Kernel, &AtomicBool) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let told = Told::new()?;
    let looked = look_at(options, look, told.flag());
    told.or_ended(looked)
}

fn look_at<T>(
    options: &Options,
    look: impl FnOnce(&mut dyn Target, &mut Kernel, &AtomicBool) -> anyhow::Result<T>,
    told: &Arc<AtomicBool>,
) -> anyhow::Result<T> {
    let files = Files::new(options)?;
    let heeded = Some(Arc::clone(told));
    let mut attached = attach::connect_to(&options.target, files.xnu(options), None, heeded)?;
    let looked = open(options, &files, &mut attached)
        .and_then(|mut kernel| look(attached.target.as_mut(), &mut kernel, told));
    attached.target.heed(None);
    let left = match options.stay {
        true => Ok(()),
        false => attached.target.detach(),
    };
    match (&looked, left) {
        (Err(_), Err(error)) if !error.is_final() => {
            output::remark(format_args!("{STANDS}: {error}"));
        }
        (Ok(_), left) => left.context(STANDS)?,
        _ => {}
    }
    looked
}

const STANDS: &str = "the machine may still stand still";

/// Where files are kept.
struct Files {
    cache: Cache,
    /// The folder of copies of what is Mach-O.
    copies: PathBuf,
    /// It is removed at the end.
    _folder: Option<Scratch>,
}

impl Files {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let cache = match options.no_cache {
            true => Cache::none(),
            false => Cache::of_user(),
        };
        let folder = cache.folder().is_none().then(Scratch::new);
        let folder = folder.transpose()?;
        let copies = cache.folder().or(folder.as_ref().map(Scratch::path));
        Ok(Self {
            copies: copies.map(PathBuf::from).unwrap_or_default(),
            cache,
            _folder: folder,
        })
    }

    fn xnu(&self, options: &Options) -> Xnu {
        Xnu::with(Places {
            search: options.symbols.clone(),
            cache: self.copies.clone(),
        })
    }
}

fn open(options: &Options, files: &Files, attached: &mut Attached) -> anyhow::Result<Kernel> {
    let Attached { target, xnu } = attached;
    let image = attach::image(options.vmlinux.as_deref())?;
    let found = attach::find(target.as_mut(), image.as_ref(), xnu, &files.cache)?;
    let mut memory = Pages::new(target.as_mut());
    let found = match found {
        Found::Linux(found) => found,
        Found::Xnu(found) => {
            let places = (!options.no_files).then_some(xnu.places());
            let cache = &files.cache;
            let progress = &mut output::progress;
            let kernel = Kernel::open_xnu(&mut memory, found, places, cache, progress);
            return Ok(kernel?);
        }
    };
    let places = options.vmlinux.iter().chain(&options.symbols).cloned();
    let index = match options.no_files {
        true => Index::only(Vec::new()),
        false => Index::new(places.collect()),
    };
    let sources = Sources {
        index,
        cache: files.cache.clone(),
        progress: &mut output::progress,
    };
    let kernel = Kernel::open(&mut memory, found, sources)?;
    if !kernel.was_searched_for() {
        output::remark(
            "there are too many files in the places that are searched: not all were looked at",
        );
    }
    Ok(kernel)
}

/// A processor by its number.
pub(crate) fn cpu(target: &mut dyn Target, number: u32) -> anyhow::Result<Cpu> {
    let cpus = target.cpus()?;
    let last = cpus.len().saturating_sub(1);
    let found = cpus.into_iter().find(|cpu| cpu.0 == number);
    found.with_context(|| format!("there is no processor {number}: they are 0 to {last}"))
}
