//! One cell, from the outside: its processes are started, given orders, and ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cell::{Cell, Sample};
use crate::process::Process;
use crate::role::{LISTENING, Role, WAITING};
use crate::{peer, place};

/// Runs a cell in a directory of its own.
pub(crate) fn run(mut cell: Cell, parent: &Path, number: usize) -> anyhow::Result<Sample> {
    cell.directory = parent.join(number.to_string());
    private_directory(&cell.directory)?;
    let result = run_in(&cell);
    peer::clean_up(&cell)?;
    fs::remove_dir_all(&cell.directory)?;
    result
}

fn run_in(cell: &Cell) -> anyhow::Result<Sample> {
    let patience = cell.budget * 3 + Duration::from_secs(30);
    let mut others = LastFirst(Vec::new());
    if cell.peer.has_helper(&cell.task) {
        let helper = start(Role::Helper, cell, patience)?;
        others.0.push((Role::Helper, helper));
    }
    if !cell.peer.is_limit() {
        let mut server = start(Role::Server, cell, patience)?;
        server.expect(LISTENING)?;
        others.0.push((Role::Server, server));
    }
    let mut clients = (0..cell.task.clients)
        .map(|_| start(Role::Client, cell, patience))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for client in &mut clients {
        client.expect(WAITING)?;
    }
    let empty = others.holdings()?;
    order(&mut clients)?;
    for client in &mut clients {
        client.expect(WAITING)?;
    }
    let full = others.holdings()?;
    let before = cpu_ns(&others.0)?;
    order(&mut clients)?;
    let samples = clients
        .iter_mut()
        .map(Process::answer)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut sample = together(&samples);
    sample.cpu_ns += cpu_ns(&others.0)? - before;
    if let (Some(empty), Some(full), idle @ FEW..) = (empty, full, cell.task.idle) {
        let per_channel = |before: u64, after: u64| (after as f64 - before as f64) / idle as f64;
        sample.bytes_per_channel = Some(per_channel(empty.0, full.0));
        sample.descriptors_per_channel = Some(per_channel(empty.1, full.1));
    }
    Ok(sample)
}

/// Processes that are ended in the opposite order: a server before the bus it is on.
struct LastFirst(Vec<(Role, Process)>);

impl LastFirst {
    fn holdings(&self) -> std::io::Result<Option<(u64, u64)>> {
        let last = self.0.last();
        last.map(|(_, process)| place::holdings_of(process.id()))
            .transpose()
    }
}

impl Drop for LastFirst {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

/// With fewer idle channels the memory that each takes is lost in that of everything else.
const FEW: usize = 1000;

fn order(clients: &mut [Process]) -> anyhow::Result<()> {
    clients.iter_mut().try_for_each(Process::order)
}

fn start(role: Role, cell: &Cell, patience: Duration) -> anyhow::Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--role", &role.name(), "--cell"])
        .arg(serde_json::to_string(cell)?);
    Process::start(&mut command, role.name(), patience)
}

fn cpu_ns(processes: &[(Role, Process)]) -> std::io::Result<u64> {
    let mut total = 0;
    for (role, process) in processes {
        total += place::cpu_ns_of(process.id())?;
        if *role == Role::Helper {
            for child in place::children_of(process.id())? {
                total += place::cpu_ns_of(child)?;
            }
        }
    }
    Ok(total)
}

/// Clients that ran side by side, as one.
fn together(samples: &[Sample]) -> Sample {
    Sample {
        count: samples.iter().map(|sample| sample.count).sum(),
        elapsed_ns: samples.iter().map(|s| s.elapsed_ns).max().unwrap_or(0),
        p50_ns: middle(samples.iter().filter_map(|sample| sample.p50_ns)),
        p99_ns: samples.iter().filter_map(|sample| sample.p99_ns).max(),
        cpu_ns: samples.iter().map(|sample| sample.cpu_ns).sum(),
        ..Sample::default()
    }
}

fn middle(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// A directory for sockets that only this user can reach.
pub(crate) fn private_directory(path: &Path) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(path)?;
    Ok(path.to_owned())
}
