//! A message port that answers each request in capitals. Start it, then `message_port_client`.

use portolan::bootstrap::Bootstrap;
use portolan::message_port::LocalMessagePort;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = "org.example.capitals".parse()?;
    let created = LocalMessagePort::create(&Bootstrap::from_env()?, &name, |request| {
        Some(request.data().to_ascii_uppercase())
    })?;
    Ok(created.into_port().run()?)
}
