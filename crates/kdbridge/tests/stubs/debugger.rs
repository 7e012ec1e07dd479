//! A debugger's end of a connection, played by a test.

use std::time::Duration;

use kdbridge::rsp::link::{Address, Deadline, Link, Stream};

use crate::serving::Serving;

const PATIENCE: Duration = Duration::from_secs(20);

/// One that has connected.
pub(crate) struct Debugger(Link);

impl Debugger {
    pub(crate) fn connect(bridge: &Serving) -> Self {
        let stream = Stream::connect(&Address::Unix(bridge.socket()), PATIENCE).unwrap();
        Self(Link::new(stream))
    }

    /// What the bridge answers.
    pub(crate) fn ask(&mut self, request: &str) -> String {
        let deadline = Deadline::after(PATIENCE);
        self.0.send(&[request.as_bytes()], deadline).unwrap();
        let reply = self.0.receive(deadline).unwrap();
        String::from_utf8_lossy(&reply.expect("an answer in time")).into_owned()
    }
}
