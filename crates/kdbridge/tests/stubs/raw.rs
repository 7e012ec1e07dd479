//! Bytes that debuggers do not send so.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kdbridge::rsp::RspTarget;

use crate::serving::Serving;
use crate::stub::{Say, Stub};

const PATIENCE: Duration = Duration::from_secs(20);

/// A stub that knows as little as one can, and stands still.
fn modest(request: &[u8]) -> Say {
    match request {
        b"?" | b"\x03" => "S02".into(),
        b"Hg1" => "OK".into(),
        b"c" => Say::Silence,
        _ => "".into(),
    }
}

fn serve() -> (Stub, Serving) {
    let (stub, line) = Stub::play(modest);
    let target = RspTarget::over(line, PATIENCE).unwrap();
    (stub, Serving::start(target, Box::new(|_| None)))
}

fn connect(bridge: &Serving) -> UnixStream {
    let line = UnixStream::connect(bridge.socket()).unwrap();
    line.set_read_timeout(Some(PATIENCE)).unwrap();
    line
}

#[test]
fn acknowledgements_that_are_repeated_are_not_answered() {
    let (_stub, bridge) = serve();
    let mut line = connect(&bridge);
    line.write_all(b"++$qC#b4").unwrap();
    let mut said = [0; 2];
    line.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"+$");
}

#[test]
fn a_browser_is_hung_up_on() {
    let (_stub, bridge) = serve();
    let mut line = connect(&bridge);
    line.write_all(b"POST / HTTP/1.1\r\n\r\n$qC#b4").unwrap();
    let mut said = Vec::new();
    line.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"");
}
