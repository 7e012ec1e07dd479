//! A client: finds `greeter` by its name, asks it once and prints the answer.

use std::io::{self, Write};
use std::time::Duration;

use portolan::Message;
use portolan::bootstrap::Bootstrap;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let greeter = Bootstrap::from_env()?.look_up(&"org.example.greeter".parse()?)?;
    let second = Duration::from_secs(1);
    let answer = greeter.request(Message::new(1).with_bytes("port"), second, second)?;
    io::stdout().write_all(answer.bytes())?;
    Ok(())
}
