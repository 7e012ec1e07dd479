//! `portolan list`, `portolan lookup` and `portolan status`.

use anyhow::Context as _;
use portolan::bootstrap::{Bootstrap, LookUp, ServiceInfo, ServiceStatus};
use serde::Serialize;

use crate::args;
use crate::output;

#[derive(Serialize)]
pub(super) struct Service<'a> {
    name: &'a str,
    owner: &'a str,
    pid: Option<u32>,
    status: &'static str,
    per_pid: bool,
}

impl<'a> From<&'a ServiceInfo> for Service<'a> {
    fn from(info: &'a ServiceInfo) -> Self {
        Self {
            name: info.name.as_str(),
            owner: info.owner.as_str(),
            pid: (info.pid != 0).then_some(info.pid),
            status: word(info.status),
            per_pid: info.per_pid,
        }
    }
}

pub(super) fn word(status: ServiceStatus) -> &'static str {
    match status {
        ServiceStatus::Active => "active",
        ServiceStatus::OnDemand => "on demand",
        _ => "inactive",
    }
}

pub(crate) fn list(options: &args::List) -> anyhow::Result<()> {
    let services = Bootstrap::from_env()?.list()?;
    if options.json {
        let services: Vec<_> = services.iter().map(Service::from).collect();
        return output::json(&services);
    }
    services.iter().for_each(print);
    Ok(())
}

pub(super) fn print(info: &ServiceInfo) {
    let service = Service::from(info);
    let pid = service
        .pid
        .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let name = service.name.escape_debug();
    let scope = if service.per_pid { " (per pid)" } else { "" };
    output::line(format_args!(
        "{pid:>7}  {:<9}  {}  {name}{scope}",
        service.status, service.owner
    ));
}

pub(crate) fn lookup(options: &args::Lookup) -> anyhow::Result<()> {
    let which = LookUp {
        per_pid: options.pid,
        ..LookUp::default()
    };
    let right = Bootstrap::from_env()?
        .look_up_with(&options.name, which)
        .with_context(|| format!("cannot look up {}", options.name))?;
    if options.json {
        #[derive(Serialize)]
        struct Found<'a> {
            name: &'a str,
            port: String,
        }
        let port = right.port().to_string();
        return output::json(&Found {
            name: options.name.as_str(),
            port,
        });
    }
    output::line(format_args!("{}  port {}", options.name, right.port()));
    Ok(())
}

pub(crate) fn status(options: &args::Status) -> anyhow::Result<()> {
    let status = Bootstrap::from_env()?
        .status(&options.name)
        .with_context(|| format!("cannot ask for {}", options.name))?;
    if options.json {
        #[derive(Serialize)]
        struct Answer<'a> {
            name: &'a str,
            status: &'static str,
            code: u32,
        }
        let (status, code) = (word(status), status.raw());
        return output::json(&Answer {
            name: options.name.as_str(),
            status,
            code,
        });
    }
    output::line(format_args!("{}  {}", options.name, word(status)));
    Ok(())
}
