//! KDP in front of a stub.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use kdbridge::discover::xnu::{self, Hints, Kernel};
use kdbridge::kdp::{Front, Identity, Server};
use kdbridge::rsp::RspTarget;
use kdbridge::rsp::target::PATIENCE;
use kdbridge::target::{Cpu, Target};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::args::ServeKdp;
use crate::output;

pub(crate) fn run(arguments: &ServeKdp) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(arguments.listen)
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let address = socket.local_addr()?;
    let mut target = RspTarget::connect(&arguments.stub, PATIENCE)
        .with_context(|| format!("cannot attach to {}", arguments.stub))?;
    let banner = banner(&mut target)?;
    output::remark(format_args!("{banner}"));
    output::remark(format_args!(
        "a debugger can attach with kdp-remote at {address}"
    ));
    let end = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&end))?;
    }
    let identity = Identity {
        banner: banner.into_bytes(),
    };
    let mut front = Front::new(Server::new(target, identity), socket)?;
    let served = front.serve(&end);
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
