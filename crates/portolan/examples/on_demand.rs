//! A service that runs only while it is used: it counts requests, and exits when none has come for a
//! while. As a job, the bootstrap server starts it again with the next request.
//!
//! ```toml
//! Label = "org.example.counter"
//! Program = "/path/to/on_demand"
//! MachServices."org.example.counter" = true
//! ```

use std::time::Duration;

use portolan::bootstrap::Bootstrap;
use portolan::{Message, ReceiveError};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bootstrap = Bootstrap::from_env()?;
    let port = bootstrap.check_in(&"org.example.counter".parse()?)?;
    let mut count = 0;
    loop {
        match port.receive(Duration::from_millis(50)) {
            Ok(mut request) => {
                count += 1;
                if let Some(reply) = request.take_reply() {
                    // A client that has gone meanwhile is no reason to stop.
                    reply
                        .send(Message::new(0).with_bytes(format!("{count}\n")))
                        .ok();
                }
            }
            // After a yes it gets nothing more; after a no there is something to receive.
            Err(ReceiveError::TimedOut) if bootstrap.try_exit()? => return Ok(()),
            Err(ReceiveError::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
