//! `portolan serve`.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::Context as _;
use portolan::bootstrap::Bootstrap;
use portolan::{MAX_MESSAGE_BYTES, Message, ReceiveRight, Timeout};

use crate::args::Serve;
use crate::{exit, output};

pub(crate) fn run(options: &Serve) -> anyhow::Result<()> {
    check_program(&options.command)?;
    let port = Bootstrap::from_env()?
        .check_in(&options.name)
        .with_context(|| format!("cannot publish {}", options.name))?;
    output::remark(format_args!("serving {}", options.name));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs)
            .map(|_| scope.spawn(|| work(&port, options)))
            .collect();
        for worker in workers {
            worker
                .join()
                .map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok(())
    })
}

/// A command that cannot run is better refused now than at the first request.
fn check_program(command: &[OsString]) -> anyhow::Result<()> {
    let Some(program) = command.first() else {
        return Ok(());
    };
    let path = Path::new(program);
    let error = if path.components().count() > 1 {
        can_execute(path).err()
    } else {
        let directories = std::env::var_os("PATH").unwrap_or_default();
        let found =
            std::env::split_paths(&directories).any(|at| can_execute(&at.join(path)).is_ok());
        (!found).then_some(rustix::io::Errno::NOENT)
    };
    error.map_or(Ok(()), |errno| {
        Err(exit::not_executed(program, errno.into()))
    })
}

fn can_execute(path: &Path) -> rustix::io::Result<()> {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK)
}

fn work(port: &ReceiveRight, options: &Serve) -> anyhow::Result<()> {
    loop {
        let mut request = port.receive(Timeout::NEVER)?;
        let (id, reply) = (request.id(), request.take_reply());
        let answer = if options.echo {
            Ok(request.into_bytes())
        } else {
            answer(options, request)
        };
        match (answer, reply) {
            (Ok(bytes), Some(reply)) => {
                // The client may have gone meanwhile, which is its own affair.
                if let Err(error) = reply.send(Message::new(id).with_bytes(bytes)) {
                    output::remark(format_args!("request {id}: {error}"));
                }
            }
            (Ok(_), None) => {}
            // The reply right is dropped here, and the client told.
            (Err(error), _) => output::remark(format_args!("request {id}: {error:#}")),
        }
    }
}

fn answer(options: &Serve, request: Message) -> anyhow::Result<Vec<u8>> {
    let (program, arguments) = options.command.split_first().context("no command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .env("PORTOLAN_MESSAGE_ID", request.id().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot execute {}", program.display()))?;
    let output = converse(&mut child, request.bytes());
    let status = child.wait()?;
    let output = output?;
    anyhow::ensure!(
        status.success(),
        "{} ended with {status}",
        program.display()
    );
    anyhow::ensure!(
        output.len() <= MAX_MESSAGE_BYTES,
        "the answer is larger than a message"
    );
    Ok(output)
}

/// Feeds the command and reads it at the same time, as either may fill a pipe.
fn converse(child: &mut Child, input: &[u8]) -> io::Result<Vec<u8>> {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    thread::scope(|scope| {
        let feeder = scope.spawn(
            move || match stdin.map(|mut stdin| stdin.write_all(input)) {
                // A command need not read what it does not need.
                Some(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
                _ => Ok(()),
            },
        );
        let mut output = Vec::new();
        if let Some(stdout) = stdout {
            stdout
                .take(MAX_MESSAGE_BYTES as u64 + 1)
                .read_to_end(&mut output)?;
        }
        feeder.join().map_err(|_| io::ErrorKind::Other)??;
        Ok(output)
    })
}
