//! `kdbridge kill-guard`

use anyhow::Context;
use kdbridge::serve::{NoModules, Options, Server};

use super::serve;
use crate::args::KillGuard;
use crate::place::Place;
use crate::{attach, output, signals};

pub(crate) fn run(arguments: &KillGuard) -> anyhow::Result<()> {
    let told = signals::stream()?;
    let listener = serve::bind(&arguments.listen)?;
    let stub = &arguments.target;
    let target = attach::stub(stub).with_context(|| format!("{stub}"))?;
    let options = Options {
        locate: Box::new(|_| None),
        modules: Box::new(NoModules),
        allow_kill: false,
        remark: Box::new(|text| output::remark(text)),
    };
    let server = Server::new(target, listener, options)?;
    serve::until_told(server, attach::again(&Place::Stub(stub.clone())), &told)
}
