//! KDP in front of a stub.

use std::net::UdpSocket;

use anyhow::Context;
use kdbridge::discover::xnu::{self, Hints, Kernel};
use kdbridge::kdp::{Front, Identity, Server};
use kdbridge::rsp::RspTarget;
use kdbridge::rsp::target::PATIENCE;
use kdbridge::target::{Cpu, Target};

use crate::args::ServeKdp;
use crate::{output, signals};

pub(crate) fn run(arguments: &ServeKdp) -> anyhow::Result<()> {
    let told = signals::flag()?;
    let socket = UdpSocket::bind(arguments.listen)
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let address = socket.local_addr()?;
    let mut target = RspTarget::connect(&arguments.stub, PATIENCE)
        .with_context(|| format!("cannot attach to {}", arguments.stub))?;
    let banner = match banner(&mut target) {
        Ok(banner) => banner,
        Err(error) => {
            target.detach()?;
            return Err(error);
        }
    };
    output::remark(format_args!("{banner}"));
    output::remark(format_args!(
        "a debugger can attach with kdp-remote at {address}"
    ));
    let identity = Identity {
        banner: banner.into_bytes(),
    };
    let mut front = Front::new(Server::new(target, identity), socket)?;
    let served = front.serve(&told);
    front.leave()?;
    Ok(served?)
}

/// What a debugger is told of the kernel.
fn banner(target: &mut RspTarget) -> anyhow::Result<String> {
    let pc = target.registers(Cpu(0))?.rip;
    let hints = Hints {
        banner: None,
        pc: Some(pc),
    };
    Ok(match xnu::find(target, hints) {
        Ok(Kernel {
            base,
            uuid,
            version,
            ..
        }) => format!("{version}; UUID={uuid}; stext={base:#x}"),
        Err(_) => "a kernel that is not XNU".to_owned(),
    })
}
