//! A debugger's end of a connection, played by a test.

use std::time::Duration;

use kdbridge::rsp::link::{Address, Deadline, Link, Stream};
use kdbridge::target::TargetError;

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
        self.send(request);
        self.hear()
    }

    pub(crate) fn send(&mut self, request: &str) {
        let deadline = Deadline::after(PATIENCE);
        self.0.send(&[request.as_bytes()], deadline).unwrap();
    }

    pub(crate) fn interrupt(&mut self) {
        self.0.interrupt(Deadline::after(PATIENCE)).unwrap();
    }

    pub(crate) fn stop_acks(&mut self) {
        assert_eq!(self.ask("QStartNoAckMode"), "OK");
        self.0.stop_acks();
    }

    /// Whether the bridge has hung up, after all that was heard.
    pub(crate) fn is_hung_up_on(&mut self) -> bool {
        let end = self.0.receive(Deadline::after(PATIENCE));
        matches!(end, Err(TargetError::Gone | TargetError::Io(_)))
    }

    /// The next packet of the bridge's.
    pub(crate) fn hear(&mut self) -> String {
        let packet = self.0.receive(Deadline::after(PATIENCE)).unwrap();
        String::from_utf8_lossy(&packet.expect("a packet in time")).into_owned()
    }
}
