//! `kdbridge serve`

use std::net::ToSocketAddrs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use anyhow::Context;
use kdbridge::rsp::link::Address;
use kdbridge::serve::{Listener, Options, Reconnect, Server};
use kdbridge::target::Target;

use crate::args::{Listen, Serve};
use crate::{attach, output, signals};

pub(crate) fn run(arguments: &Serve) -> anyhow::Result<()> {
    let told = signals::stream()?;
    let image = attach::image(arguments.kernel.vmlinux.as_deref())?;
    let libraries = attach::libraries(&arguments.kernel)?;
    let listener = bind(&arguments.listen)?;
    let mut attached = attach::connect(&arguments.target, &arguments.kernel)?;
    attach::check(&mut attached, image.as_ref())?;
    let options = Options {
        modules: attach::modules(image.clone(), libraries, attached.xnu.clone()),
        locate: attach::locate(image, attached.xnu),
        allow_kill: arguments.allow_kill,
        remark: Box::new(|text| output::remark(text)),
    };
    let server = Server::new(attached.target, listener, options)?;
    until_told(server, attach::again(&arguments.target), &told)
}

/// The socket that debuggers connect to.
pub(super) fn bind(listen: &Listen) -> anyhow::Result<Listener> {
    let address = &listen.address;
    let listener = Listener::bind(address).with_context(|| format!("{address}"))?;
    warn_of_strangers(address);
    Ok(listener)
}

/// Serves debuggers until a signal has come; the machine runs on then.
pub(super) fn until_told<T: Target>(
    mut server: Server<T>,
    reconnect: Option<Reconnect<T>>,
    told: &UnixStream,
) -> anyhow::Result<()> {
    if let Some(reconnect) = reconnect {
        server.reconnect_by(reconnect);
    }
    let address = server.listener().address();
    output::line(format_args!("debuggers connect to {address}"));
    Ok(server.serve(told.as_fd())?)
}

/// The protocol has no passwords: whoever connects may read and change all of the machine.
fn warn_of_strangers(listen: &Address) {
    let Address::Tcp(address) = listen else {
        return;
    };
    let mut addresses = address.to_socket_addrs().into_iter().flatten();
    if addresses.any(|address| !address.ip().is_loopback()) {
        output::remark(format_args!(
            "whoever can reach {address} can read and change the machine"
        ));
    }
}
