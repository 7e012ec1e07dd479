//! A server: publishes a name and answers whoever greets it. Start it, then `greet`.

use portolan::bootstrap::Bootstrap;
use portolan::{Message, Timeout};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = Bootstrap::from_env()?.check_in(&"org.example.greeter".parse()?)?;
    loop {
        let mut greeting = port.receive(Timeout::NEVER)?;
        let text = format!("Hello, {}!\n", String::from_utf8_lossy(greeting.bytes()));
        if let Some(reply) = greeting.take_reply() {
            // A client that has gone meanwhile is no reason to stop.
            reply.send(Message::new(0).with_bytes(text)).ok();
        }
    }
}
