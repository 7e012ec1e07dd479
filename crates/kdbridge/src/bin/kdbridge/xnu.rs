//! XNU kernels: how they are reached over KDP, and what debuggers are told of them.

use std::fs::{File, OpenOptions};
use std::net::ToSocketAddrs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
pub(crate) use kdbridge::discover::xnu::NotFound;
use kdbridge::discover::xnu::{self, FILE_BASE, Hints, Kernel};
use kdbridge::kdp::{KdpTarget, Link, Reentry, SerialLink, UdpLink};
use kdbridge::serve::Whereabouts;
use kdbridge::symbols::Cache;
use kdbridge::target::{Cpu, Target};
use kdbridge::xnu::{FilesError, Places, Symbols};

use crate::args;
use crate::output::remark;

/// What is known of a kernel without asking it again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Xnu {
    /// What it says of itself over KDP.
    banner: Option<Vec<u8>>,
    places: Places,
    /// Whether it was there when it was looked for last, for all who know of it.
    seen: Arc<AtomicBool>,
}

impl Xnu {
    /// Where its files are, by what was typed.
    pub(crate) fn new(kernel: &args::Kernel) -> anyhow::Result<Self> {
        let cache = Cache::of_user();
        let cache = cache
            .folder()
            .context("no folder for copies: HOME is not set")?;
        Ok(Self::with(Places {
            search: kernel.files.clone(),
            cache: cache.to_owned(),
        }))
    }

    pub(crate) fn with(places: Places) -> Self {
        Self {
            banner: None,
            places,
            seen: Arc::default(),
        }
    }

    /// Whether it speaks KDP, as only XNU does.
    pub(crate) fn is_certain(&self) -> bool {
        self.banner.is_some()
    }

    /// Whether it was there when it was looked for last.
    pub(crate) fn was_seen(&self) -> bool {
        self.seen.load(Ordering::Relaxed)
    }

    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    pub(crate) fn find(&self, target: &mut dyn Target) -> Result<Kernel, NotFound> {
        let pc = target.registers(Cpu(0)).ok().map(|registers| registers.rip);
        let hints = Hints {
            banner: self.banner.as_deref(),
            pc,
        };
        let found = xnu::find(target, hints);
        self.seen.store(found.is_ok(), Ordering::Relaxed);
        found
    }

    pub(crate) fn symbols(&self, kernel: &Kernel) -> Result<Symbols, FilesError> {
        Symbols::of(kernel, &self.places)
    }

    /// The files of a kernel, its own first, which lldb does not find by itself on Linux.
    pub(crate) fn images(&self, target: &mut dyn Target, kernel: &Kernel) -> Vec<PathBuf> {
        let Ok(symbols) = self.symbols(kernel) else {
            return Vec::new();
        };
        let extensions = symbols.extensions(target, &self.places);
        let extensions = extensions.unwrap_or_default().into_iter();
        let own = symbols.image.path().to_owned();
        let others = extensions.filter_map(|extension| extension.file);
        [own].into_iter().chain(others).collect()
    }

    /// What debuggers are told, and a remark if they are told little.
    pub(crate) fn whereabouts(&self, target: &mut dyn Target) -> Result<Whereabouts, NotFound> {
        let kernel = self.find(target)?;
        let symbols = self.symbols(&kernel);
        if let Err(error) = &symbols {
            remark(format_args!("gdb gets no names: {error}"));
        }
        let symbols = symbols.ok();
        let unslid = kernel.base.wrapping_sub(FILE_BASE);
        Ok(Whereabouts {
            text: kernel.base,
            slide: symbols.as_ref().map_or(unslid, |symbols| symbols.slide),
            file: symbols.map(|symbols| symbols.elf),
        })
    }
}

/// Attaches to the kernel at `HOST:PORT`.
pub(crate) fn attach_udp(
    address: &str,
    xnu: &mut Xnu,
    every: Option<Duration>,
    told: Option<Arc<AtomicBool>>,
) -> anyhow::Result<Box<dyn Target + Send>> {
    let mut addresses = address.to_socket_addrs()?;
    let address = addresses.next().context("no such host")?;
    attach(UdpLink::connect(address)?, xnu, every, told)
}

/// Attaches to the kernel at the other end of a serial line.
pub(crate) fn attach_serial(
    path: &Path,
    xnu: &mut Xnu,
    every: Option<Duration>,
    told: Option<Arc<AtomicBool>>,
) -> anyhow::Result<Box<dyn Target + Send>> {
    attach(SerialLink::new(open_line(path)?)?, xnu, every, told)
}

fn open_line(path: &Path) -> anyhow::Result<File> {
    if path.metadata()?.file_type().is_socket() {
        return Ok(File::from(OwnedFd::from(UnixStream::connect(path)?)));
    }
    Ok(OpenOptions::new().read(true).write(true).open(path)?)
}

fn attach<L: Link + Send + 'static>(
    link: L,
    xnu: &mut Xnu,
    every: Option<Duration>,
    told: Option<Arc<AtomicBool>>,
) -> anyhow::Result<Box<dyn Target + Send>> {
    let mut target = KdpTarget::attach_heeding(link, told)?;
    xnu.banner = Some(target.banner().to_vec());
    if let Some(every) = every {
        match reentry(&mut target, xnu, every) {
            Ok(reentry) => target.interrupt_by(reentry),
            Err(error) => {
                target.detach()?;
                return Err(error);
            }
        }
    }
    Ok(Box::new(target))
}

fn reentry(target: &mut dyn Target, xnu: &Xnu, every: Duration) -> anyhow::Result<Reentry> {
    let kernel = xnu.find(target)?;
    let symbols = xnu.symbols(&kernel);
    let symbols = symbols.context("--interrupt-every needs symbols")?;
    let Some(reentry) = symbols.reentry(every) else {
        let path = symbols.image.path().display();
        bail!("{path} does not name kdp_reentry_deadline");
    };
    Ok(reentry)
}

/// What was found, for whoever started the bridge.
pub(crate) fn report(kernel: &Kernel) -> String {
    let Kernel {
        base,
        uuid,
        version,
        method,
        ..
    } = kernel;
    let slide = base.wrapping_sub(FILE_BASE);
    format!("{version}\ntext at {base:#x}, slid by {slide:#x}; UUID {uuid}; found by {method}")
}
