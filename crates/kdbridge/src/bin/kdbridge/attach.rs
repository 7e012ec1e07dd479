//! From what was typed to a machine and its kernel.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, bail};
use kdbridge::discover;
use kdbridge::discover::linux::{self, Image, NotFound};
use kdbridge::kernel::{Found, KernelError};
use kdbridge::modules::Libraries;
use kdbridge::rsp::RspTarget;
use kdbridge::rsp::link::{Address, Link, Stream};
use kdbridge::rsp::target::PATIENCE;
use kdbridge::serve::{Library, Locate, Modules, Reconnect, Whereabouts};
use kdbridge::symbols::{Cache, ElfFile, Index, SymbolTable};
use kdbridge::target::{Memory, Target};
use kdbridge::xnu::{Extensions, FilesError};
use thiserror::Error;

use crate::args::Kernel;
use crate::output::remark;
use crate::place::Place;
use crate::xnu::{self, Xnu};

/// A machine, and what is known of its kernel.
pub(crate) struct Attached {
    pub(crate) target: Box<dyn Target + Send>,
    pub(crate) xnu: Xnu,
}

/// Attaches to a machine, which stands still from then on.
pub(crate) fn connect(place: &Place, kernel: &Kernel) -> anyhow::Result<Attached> {
    connect_to(place, Xnu::new(kernel)?, kernel.interrupt_every, None)
}

/// The same of a kernel whose files, if it is XNU, are where `xnu` says. What is set breaks it off, and all
/// that the target is asked after that.
pub(crate) fn connect_to(
    place: &Place,
    mut xnu: Xnu,
    every: Option<Duration>,
    told: Option<Arc<AtomicBool>>,
) -> anyhow::Result<Attached> {
    let target = match place {
        Place::Stub(address) => stub_heeding(address, told),
        Place::Kdp(address) => xnu::attach_udp(address, &mut xnu, every, told),
        Place::Serial(path) => xnu::attach_serial(path, &mut xnu, every, told),
    };
    let target = target.with_context(|| format!("{place}"))?;
    Ok(Attached { target, xnu })
}

/// Connects to a stub again. Over KDP a machine is never known to be gone.
pub(crate) fn again(place: &Place) -> Option<Reconnect<Box<dyn Target + Send>>> {
    let Place::Stub(address) = place.clone() else {
        return None;
    };
    Some(Box::new(move || Ok(stub(&address)?)))
}

/// Connects to a stub.
pub(crate) fn stub(address: &Address) -> anyhow::Result<Box<dyn Target + Send>> {
    stub_heeding(address, None)
}

fn stub_heeding(
    address: &Address,
    told: Option<Arc<AtomicBool>>,
) -> anyhow::Result<Box<dyn Target + Send>> {
    let mut link = Link::new(Stream::connect(address, PATIENCE)?);
    link.heed(told);
    Ok(Box::new(RspTarget::over(link, PATIENCE)?))
}

/// What the file of a kernel says, if one was named.
pub(crate) fn image(vmlinux: Option<&Path>) -> anyhow::Result<Option<Image>> {
    let Some(path) = vmlinux else {
        return Ok(None);
    };
    let read = || -> anyhow::Result<Image> {
        let elf = ElfFile::open(path)?;
        Ok(Image::of(&elf, &SymbolTable::of_file(&elf)?)?)
    };
    read().with_context(|| path.display().to_string()).map(Some)
}

/// Refuses a file that is another kernel's, and gives the kernel; one that is not there yet is looked for
/// again later.
pub(crate) fn check(
    attached: &mut Attached,
    image: Option<&Image>,
) -> anyhow::Result<Option<Found>> {
    let Attached { target, xnu } = attached;
    if target.is_program() || !target.is_amd64() {
        remark("no kernel for x86-64: what debuggers ask is passed on");
        return Ok(None);
    }
    let found = match find(target, image, xnu, &Cache::of_user()) {
        Ok(found) => found,
        Err(NoKernel::Linux(
            error @ (NotFound::OtherKernel { .. } | NotFound::NoBuildId { .. }),
        )) => {
            target.detach()?;
            bail!(error);
        }
        Err(error) => {
            remark(format_args!(
                "{error}; it is looked for again when a debugger connects"
            ));
            return Ok(None);
        }
    };
    match &found {
        Found::Linux(kernel) => remark(report(kernel)),
        Found::Xnu(kernel) => {
            remark(xnu::report(kernel));
            if let Err(error @ FilesError::Search(_)) = xnu.symbols(kernel) {
                target.detach()?;
                bail!(error);
            }
        }
    }
    Ok(Some(found))
}

/// Looks for the kernel each time that it is asked, and says why if there is none.
pub(crate) fn locate(image: Option<Image>, xnu: Xnu) -> Locate {
    let cache = Cache::of_user();
    Box::new(
        move |target| match find(target, image.as_ref(), &xnu, &cache) {
            Ok(Found::Linux(kernel)) => Some(Whereabouts {
                text: kernel.text,
                slide: kernel.slide,
                file: None,
            }),
            Ok(Found::Xnu(_)) => xnu.whereabouts(target).ok(),
            Err(error) => {
                remark(format_args!("debuggers get no addresses: {error}"));
                None
            }
        },
    )
}

/// The files of modules of Linux, by what was typed.
pub(crate) fn libraries(kernel: &Kernel) -> anyhow::Result<Libraries> {
    let places = kernel.vmlinux.iter().chain(&kernel.files);
    Ok(Libraries::new(Index::new(places.cloned().collect()))?)
}

/// What the kernel that runs has loaded: modules of Linux, or extensions of XNU.
pub(crate) fn modules(image: Option<Image>, libraries: Libraries, xnu: Xnu) -> Box<dyn Modules> {
    Box::new(KernelModules {
        image,
        cache: Cache::of_user(),
        libraries,
        extensions: Extensions::new(xnu.places().clone()),
        xnu,
    })
}

struct KernelModules {
    image: Option<Image>,
    cache: Cache,
    libraries: Libraries,
    xnu: Xnu,
    extensions: Extensions,
}

impl KernelModules {
    /// What Linux or XNU says, whichever runs; nothing if none does, and a remark if it says nothing.
    fn of<T: Default>(
        &mut self,
        target: &mut dyn Target,
        linux: impl FnOnce(&mut Libraries, &mut dyn Target, linux::Kernel) -> Result<T, KernelError>,
        xnu: impl FnOnce(
            &mut Extensions,
            &mut dyn Target,
            &discover::xnu::Kernel,
        ) -> Result<T, KernelError>,
    ) -> T {
        let said = match find(target, self.image.as_ref(), &self.xnu, &self.cache) {
            Ok(Found::Linux(kernel)) => linux(&mut self.libraries, target, kernel),
            Ok(Found::Xnu(kernel)) => xnu(&mut self.extensions, target, &kernel),
            Err(_) => return T::default(),
        };
        said.unwrap_or_else(|error| {
            remark(format_args!("debuggers get no modules: {error}"));
            T::default()
        })
    }
}

impl Modules for KernelModules {
    fn list(&mut self, target: &mut dyn Target) -> Vec<Library> {
        self.of(target, Libraries::list, Extensions::list)
    }

    fn hooks(&mut self, target: &mut dyn Target) -> Vec<u64> {
        self.of(
            target,
            |libraries, target, kernel| libraries.hooks(target, kernel),
            |extensions, target, kernel| extensions.hooks(target, kernel),
        )
    }

    fn copies(&mut self, target: &mut dyn Target) -> Vec<(PathBuf, u64)> {
        self.libraries.copies(target)
    }

    fn are_for_lldb(&self) -> bool {
        !self.xnu.was_seen()
    }

    fn nothing(&self) -> Option<(PathBuf, u64)> {
        Some(self.libraries.nothing())
    }
}

/// Why there is no kernel.
#[derive(Debug, Error)]
pub(crate) enum NoKernel {
    #[error(transparent)]
    Linux(NotFound),
    #[error(transparent)]
    Xnu(xnu::NotFound),
    #[error("{0}; {1}")]
    Neither(NotFound, xnu::NotFound),
}

/// Looks for Linux, and for XNU unless Linux was named; for XNU first where it was before.
pub(crate) fn find(
    target: &mut dyn Target,
    image: Option<&Image>,
    xnu: &Xnu,
    cache: &Cache,
) -> Result<Found, NoKernel> {
    if image.is_none() && (xnu.is_certain() || xnu.was_seen()) {
        match xnu.find(target) {
            Ok(kernel) => return Ok(Found::Xnu(kernel)),
            Err(error) if xnu.is_certain() => return Err(NoKernel::Xnu(error)),
            // Something else may have booted.
            Err(_) => {}
        }
    }
    match find_linux(target, image, cache) {
        Ok(kernel) => Ok(Found::Linux(kernel)),
        Err(error) if image.is_some() => Err(NoKernel::Linux(error)),
        Err(error) => {
            let xnu = xnu.find(target).map(Found::Xnu);
            xnu.map_err(|other| NoKernel::Neither(error, other))
        }
    }
}

/// Finds Linux, or the one that a file belongs to.
pub(crate) fn find_linux(
    target: &mut dyn Memory,
    image: Option<&Image>,
    cache: &Cache,
) -> Result<linux::Kernel, NotFound> {
    match image {
        Some(image) => linux::locate(target, image),
        None => linux::find(target, cache),
    }
}

fn report(kernel: &linux::Kernel) -> String {
    let build_id = kernel.build_id.as_ref().map(ToString::to_string);
    format!(
        "{}\ntext at {:#x}, slid by {:#x}; build-id {}; found by {} in {} reads",
        kernel.version,
        kernel.text,
        kernel.slide,
        build_id.as_deref().unwrap_or("unknown"),
        kernel.method,
        kernel.reads,
    )
}
