//! A program that speaks the Debug Adapter Protocol, as an IDE does.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::bridge::guarded;

/// How many seconds a session may take.
const PATIENCE: &str = "200";

/// A running `lldb-dap`; it ends when this is dropped, and if the test is killed.
pub(crate) struct Adapter {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    sent: u64,
    /// What came while something else was awaited.
    unread: Vec<Value>,
}

impl Adapter {
    pub(crate) fn start() -> Self {
        let mut child = guarded("timeout")
            .args(["-k", "1", PATIENCE, "lldb-dap-19"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            sent: 0,
            unread: Vec::new(),
        }
    }

    /// Sends a request and does not wait; gives its number.
    pub(crate) fn send(&mut self, command: &str, arguments: &Value) -> u64 {
        self.sent += 1;
        let request = json!({
            "seq": self.sent, "type": "request", "command": command, "arguments": arguments,
        });
        let request = request.to_string();
        write!(
            self.input,
            "Content-Length: {}\r\n\r\n{request}",
            request.len()
        )
        .unwrap();
        self.sent
    }

    /// What a request was answered.
    ///
    /// # Panics
    ///
    /// If it was refused.
    pub(crate) fn answer(&mut self, request: u64) -> Value {
        let answer = self.find(|it| it["request_seq"] == request);
        assert_eq!(answer["success"], true, "{answer}");
        answer["body"].clone()
    }

    pub(crate) fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        let request = self.send(command, arguments);
        self.answer(request)
    }

    /// The next event of this kind.
    pub(crate) fn event(&mut self, kind: &str) -> Value {
        self.find(|it| it["event"] == kind)["body"].clone()
    }

    /// The first message that `is_wanted`, among those that came before and that come.
    fn find(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            if let Some(at) = self.unread.iter().position(&is_wanted) {
                return self.unread.remove(at);
            }
            let message = self.receive();
            self.unread.push(message);
        }
    }

    fn receive(&mut self) -> Value {
        let mut length = 0;
        loop {
            let mut line = String::new();
            let count = self.output.read_line(&mut line).unwrap();
            assert_ne!(count, 0, "lldb-dap has ended: {:?}", self.unread);
            if let Some(number) = line.strip_prefix("Content-Length: ") {
                length = number.trim().parse().unwrap();
            } else if line.trim().is_empty() {
                break;
            }
        }
        let mut message = vec![0; length];
        self.output.read_exact(&mut message).unwrap();
        serde_json::from_slice(&message).unwrap()
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
