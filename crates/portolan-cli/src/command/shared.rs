//! `portolan shm` and `portolan sem`.

use anyhow::Context as _;
use portolan::bootstrap::{Bootstrap, BootstrapError};
use portolan::shm::{ObjectInfo, ObjectName};
use portolan::{semaphore, shm};
use serde::Serialize;

use crate::args;
use crate::output;

/// What is the same for both.
struct Calls {
    list: fn(&Bootstrap) -> Result<Vec<ObjectInfo>, BootstrapError>,
    unlink: fn(&Bootstrap, &ObjectName) -> Result<(), BootstrapError>,
    /// Whether it has a size.
    sized: bool,
}

#[derive(Serialize)]
struct Object<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

pub(crate) fn memory(command: &args::Shared) -> anyhow::Result<()> {
    let calls = Calls {
        list: shm::list,
        unlink: shm::unlink,
        sized: true,
    };
    run(&calls, command)
}

pub(crate) fn semaphores(command: &args::Shared) -> anyhow::Result<()> {
    let calls = Calls {
        list: semaphore::list,
        unlink: semaphore::unlink,
        sized: false,
    };
    run(&calls, command)
}

fn run(calls: &Calls, command: &args::Shared) -> anyhow::Result<()> {
    let bootstrap = Bootstrap::from_env()?;
    match command {
        args::Shared::List(options) => list(calls, &bootstrap, options.json),
        args::Shared::Unlink { names } => names.iter().try_for_each(|name| {
            let unlinked = (calls.unlink)(&bootstrap, name);
            unlinked.with_context(|| format!("cannot unlink {name:?}"))
        }),
    }
}

fn list(calls: &Calls, bootstrap: &Bootstrap, json: bool) -> anyhow::Result<()> {
    let objects = (calls.list)(bootstrap)?;
    if json {
        let objects = objects.iter().map(|object| Object {
            name: object.name.as_str(),
            size: calls.sized.then_some(object.size),
        });
        return output::json(&objects.collect::<Vec<_>>());
    }
    for object in objects {
        let name = object.name.as_str().escape_debug();
        match calls.sized {
            true => output::line(format_args!("{:>12}  {name}", object.size)),
            false => output::line(name),
        }
    }
    Ok(())
}
