//! From what was typed to a machine and its kernel.

use anyhow::{Context, bail};
use kdbridge::discover::linux::{self, Image, NotFound};
use kdbridge::rsp::RspTarget;
use kdbridge::rsp::link::Address;
use kdbridge::rsp::target::PATIENCE;
use kdbridge::serve::{Locate, Whereabouts};
use kdbridge::symbols::{ElfFile, SymbolTable};
use kdbridge::target::Target;

use crate::args::Kernel;
use crate::output::remark;

/// Connects to a stub.
pub(crate) fn connect(address: &Address) -> anyhow::Result<RspTarget> {
    RspTarget::connect(address, PATIENCE).with_context(|| format!("{address}"))
}

/// What the file of a kernel says, if one was named.
pub(crate) fn image(kernel: &Kernel) -> anyhow::Result<Option<Image>> {
    let Some(path) = &kernel.vmlinux else {
        return Ok(None);
    };
    let read = || -> anyhow::Result<Image> {
        let elf = ElfFile::open(path)?;
        Ok(Image::of(&elf, &SymbolTable::of_file(&elf)?)?)
    };
    read().with_context(|| path.display().to_string()).map(Some)
}

/// Refuses a file that is another kernel's; a kernel that is not there yet is looked for again later.
pub(crate) fn check(target: &mut RspTarget, image: Option<&Image>) -> anyhow::Result<()> {
    match find(target, image) {
        Ok(kernel) => remark(report(&kernel)),
        Err(error @ (NotFound::OtherKernel { .. } | NotFound::NoBuildId { .. })) => {
            target.detach()?;
            bail!(error);
        }
        Err(error) => remark(format_args!(
            "{error}; it is looked for again when a debugger connects"
        )),
    }
    Ok(())
}

/// Looks for the kernel each time that it is asked, and says why if there is none.
pub(crate) fn locate(image: Option<Image>) -> Locate {
    Box::new(move |target| match find(target, image.as_ref()) {
        Ok(kernel) => Some(Whereabouts {
            text: kernel.text,
            slide: kernel.slide,
            file: None,
        }),
        Err(error) => {
            remark(format_args!("debuggers get no addresses: {error}"));
            None
        }
    })
}

fn find(target: &mut dyn Target, image: Option<&Image>) -> Result<linux::Kernel, NotFound> {
    match image {
        Some(image) => linux::locate(target, image),
        None => linux::find(target),
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
