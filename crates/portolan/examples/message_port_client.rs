//! Sends a request to `message_port_server` and prints the answer.

use std::io::{self, Write};
use std::time::Duration;

use portolan::bootstrap::Bootstrap;
use portolan::message_port::{RemoteMessagePort, ReplyMode};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = "org.example.capitals".parse()?;
    let server = RemoteMessagePort::create(&Bootstrap::from_env()?, &name)?;
    let second = Duration::from_secs(1);
    let answer = server.send_request(1, "hello\n", second, ReplyMode::ReceiveTimeout(second))?;
    io::stdout().write_all(&answer.unwrap_or_default())?;
    Ok(())
}
