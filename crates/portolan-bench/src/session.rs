//! One cell, from the outside: its processes are started, given orders, and ended.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::cell::{Cell, Sample};
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
        others.0.push(Process::start(Role::Helper, cell, patience)?);
    }
    if !cell.peer.is_limit() {
        let mut server = Process::start(Role::Server, cell, patience)?;
        server.expect(LISTENING)?;
        others.0.push(server);
    }
    let mut clients = (0..cell.task.clients)
        .map(|_| Process::start(Role::Client, cell, patience))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for client in &mut clients {
        client.expect(WAITING)?;
    }
    let empty = others.0.last().map(Process::holdings).transpose()?;
    order(&mut clients)?;
    for client in &mut clients {
        client.expect(WAITING)?;
    }
    let full = others.0.last().map(Process::holdings).transpose()?;
    let before = cpu_ns(&others.0)?;
    order(&mut clients)?;
    let samples = clients
        .iter_mut()
        .map(Process::sample)
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
struct LastFirst(Vec<Process>);

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

fn cpu_ns(processes: &[Process]) -> std::io::Result<u64> {
    let mut total = 0;
    for process in processes {
        total += place::cpu_ns_of(process.child.id())?;
        if process.role == Role::Helper {
            for child in place::children_of(process.child.id())? {
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

/// A process of a cell, killed when it is let go of.
struct Process {
    role: Role,
    child: Child,
    orders: ChildStdin,
    said: BufReader<ChildStdout>,
    patience: Duration,
}

impl Process {
    fn start(role: Role, cell: &Cell, patience: Duration) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--role", &role.name(), "--cell"])
            .arg(serde_json::to_string(cell)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().context("no standard input")?;
        let said = child.stdout.take().context("no standard output")?;
        Ok(Self {
            role,
            child,
            orders,
            said: BufReader::new(said),
            patience,
        })
    }

    fn order(&mut self) -> anyhow::Result<()> {
        self.orders
            .write_all(b"go\n")
            .with_context(|| format!("the {} has ended", self.role.name()))
    }

    fn expect(&mut self, word: &str) -> anyhow::Result<()> {
        match self.line()? {
            line if line == word => Ok(()),
            line => bail!("the {} said {line:?}", self.role.name()),
        }
    }

    fn sample(&mut self) -> anyhow::Result<Sample> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("no sample: {line:?}"))
    }

    /// The next line without its end. Fails if none comes in time.
    fn line(&mut self) -> anyhow::Result<String> {
        let deadline = Instant::now() + self.patience;
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            if self.said.buffer().is_empty() {
                self.wait_until(deadline)?;
            }
            if self.said.fill_buf()?.is_empty() {
                bail!("the {} has ended", self.role.name());
            }
            let wanted = self.said.buffer().split_inclusive(|byte| *byte == b'\n');
            let part = wanted.into_iter().next().unwrap_or_default().to_vec();
            self.said.consume(part.len());
            line.extend(part);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn wait_until(&self, deadline: Instant) -> anyhow::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left)?;
        let fd = self.said.get_ref().as_fd();
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&left))? {
            0 => bail!("the {} hangs", self.role.name()),
            _ => Ok(()),
        }
    }

    fn holdings(&self) -> std::io::Result<(u64, u64)> {
        place::holdings_of(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
