//! The parts of the story, each played in a process of its own.

use std::time::Duration;

use anyhow::Context as _;
use portolan::bootstrap::{Bootstrap, BootstrapError};
use portolan::{Message, ReceiveRight, Right, ServiceName, Timeout};

use rustix::event::{PollFd, PollFlags, poll};

use super::{GROUP, timing};
use crate::args::Part;
use crate::output;

/// No step of the story takes this long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(8);

pub(super) fn play(part: Part) -> anyhow::Result<()> {
    match part {
        Part::Server => serve(),
        Part::Client => greet(),
        Part::Outsider => be_refused(),
        Part::Talker => listen(),
        Part::SocketEcho => timing::echo_socket(),
        Part::PortEcho => timing::echo_port(),
    }
}

fn published_name() -> anyhow::Result<ServiceName> {
    Ok(format!("{GROUP}.server").parse()?)
}

/// Ends this process when nobody reads what it says any more: the story has ended, in whatever way.
fn end_with_the_story() {
    std::thread::spawn(|| {
        let out = std::io::stdout();
        poll(&mut [PollFd::new(&out, PollFlags::empty())], None).ok();
        std::process::exit(1);
    });
}

fn serve() -> anyhow::Result<()> {
    end_with_the_story();
    let bootstrap = Bootstrap::from_env()?;
    let random = random_uuid()?;
    match bootstrap.check_in(&random.parse()?) {
        Err(BootstrapError::Refused(code) | BootstrapError::Explained { code, .. }) => {
            output::line(format_args!(
                "server: {random} is refused: {} '{code}'",
                code.raw()
            ));
        }
        Err(error) => return Err(error.into()),
        Ok(_) => anyhow::bail!("a random name was not refused"),
    }
    let name = published_name()?;
    let port = bootstrap.check_in(&name)?;
    output::line(format_args!("server: {name} is published\nserver: serving"));
    loop {
        answer(&port)?;
    }
}

fn answer(port: &ReceiveRight) -> anyhow::Result<()> {
    let mut message = port.receive(Timeout::NEVER)?;
    let text = String::from_utf8_lossy(message.bytes()).into_owned();
    if let Some(Right::Send(back)) = message.take_rights().pop() {
        back.send(
            Message::new(2).with_bytes("Hello client! I speak first."),
            PATIENCE,
        )?;
    } else if let Some(reply) = message.take_reply() {
        // Processes in T2 do not see each other, and so no ids of others.
        let from = match message.sender().and_then(portolan::Sender::pid) {
            Some(pid) => format!(" from process {pid}"),
            None => String::new(),
        };
        let heard = format!("Hello client! (The server heard {text:?}{from}.)");
        reply.send(Message::new(1).with_bytes(heard))?;
    }
    Ok(())
}

fn greet() -> anyhow::Result<()> {
    let server = Bootstrap::from_env()?.look_up(&published_name()?)?;
    output::line("client: sends \"Hello server!\"");
    let answer = server.request(
        Message::new(1).with_bytes("Hello server!"),
        PATIENCE,
        PATIENCE,
    )?;
    output::line(format_args!(
        "client: is told: {}",
        String::from_utf8_lossy(answer.bytes())
    ));
    Ok(())
}

fn be_refused() -> anyhow::Result<()> {
    let name = published_name()?;
    match Bootstrap::from_env()?.look_up(&name) {
        Err(BootstrapError::Refused(code) | BootstrapError::Explained { code, .. }) => {
            output::line(format_args!(
                "outsider: {name} is refused: {} '{code}'",
                code.raw()
            ));
            Ok(())
        }
        Err(error) => Err(error.into()),
        Ok(_) => anyhow::bail!("a client outside the group was let in"),
    }
}

fn listen() -> anyhow::Result<()> {
    let server = Bootstrap::from_env()?.look_up(&published_name()?)?;
    let port = ReceiveRight::new()?;
    let introduction = Message::new(2)
        .with_bytes("Talk to me.")
        .with_right(port.make_send()?);
    server.send(introduction, PATIENCE)?;
    let first = port.receive(PATIENCE).context("the server did not speak")?;
    output::line(format_args!(
        "client: the server said: {}",
        String::from_utf8_lossy(first.bytes())
    ));
    Ok(())
}

/// A version 4 UUID, as an application would make for a name.
fn random_uuid() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let bits = u128::from_ne_bytes(bytes);
    let bits = bits & !(0xf << 76) & !(3 << 62) | 4 << 76 | 2 << 62;
    let digits = format!("{bits:032X}");
    let mut rest = digits.as_str();
    let groups = [8, 4, 4, 4, 12].map(|len| {
        let (group, others) = rest.split_at(len);
        rest = others;
        group
    });
    Ok(groups.join("-"))
}
