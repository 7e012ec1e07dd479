//! KDP over a serial line (boot-arg `kdp_match_name=serial`): whole Ethernet frames with IP and UDP in
//! them, each between marks and with a check sum, beside what the kernel prints on its console.
//!
//! On the line stands FA, the CRC-32 of the frame, FA, the frame, FB; what would look like a mark, and
//! the line feed, stands as FE and its complement. XNU's `osfmk/kdp/kdp_serial.c` is the other end.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::PORT;
use super::link::{Link, is_readable, is_writable};

const START: u8 = 0xFA;
const END: u8 = 0xFB;
const ESCAPE: u8 = 0xFE;

/// The longest frame of Ethernet, with its check sum.
const MAX_FRAME_BYTES: usize = 1518;

/// Ethernet's head, IP's and UDP's.
const HEADS_BYTES: usize = 14 + 20 + 8;

const IPV4: [u8; 2] = 0x0800u16.to_be_bytes();
const UDP: u8 = 17;

/// The address that a kernel without a network has on its line.
const KERNEL: [u8; 4] = 0xABAD_BABEu32.to_be_bytes();

/// How long a frame may take to be written; the longest takes a quarter of a second at 115200 baud.
const SEND_PATIENCE: Duration = Duration::from_secs(2);

/// Ours; the kernel sends to whoever wrote to it.
const DEBUGGER: [u8; 4] = 0xABAD_BABFu32.to_be_bytes();

/// Addresses that no card has.
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

/// The port from which the debugger sends.
const DEBUGGER_PORT: u16 = 41140;

/// What stands on the line for `frame`.
#[must_use]
pub fn encode(frame: &[u8]) -> Vec<u8> {
    let mut line = vec![START];
    escape(&crc32(frame).to_le_bytes(), &mut line);
    line.push(START);
    escape(frame, &mut line);
    line.push(END);
    line
}

fn escape(bytes: &[u8], line: &mut Vec<u8>) {
    for &byte in bytes {
        if matches!(byte, START | END | ESCAPE | b'\n') {
            line.extend([ESCAPE, !byte]);
        } else {
            line.push(byte);
        }
    }
}

/// Finds frames among what comes over a line.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What has come since the last [`START`]; `None` outside frames.
    collected: Option<Vec<u8>>,
    /// What came between the two.
    crc: Option<[u8; 4]>,
    escaped: bool,
}

impl Decoder {
    /// Takes the next byte, and gives the frame that it ends, if its check sum is right.
    pub fn push(&mut self, byte: u8) -> Option<Vec<u8>> {
        match byte {
            START => self.start(),
            END => return self.end(),
            ESCAPE => self.escaped = true,
            _ => self.collect(byte),
        }
        None
    }

    fn start(&mut self) {
        let before = self.collected.replace(Vec::new());
        self.crc = before.and_then(|crc| crc.try_into().ok());
        self.escaped = false;
    }

    fn end(&mut self) -> Option<Vec<u8>> {
        let Self { collected, crc, .. } = std::mem::take(self);
        let expected = u32::from_le_bytes(crc?);
        collected.filter(|frame| crc32(frame) == expected)
    }

    fn collect(&mut self, byte: u8) {
        let escaped = std::mem::take(&mut self.escaped);
        let Some(collected) = &mut self.collected else {
            return;
        };
        if collected.len() == MAX_FRAME_BYTES {
            *self = Self::default();
        } else {
            collected.push(if escaped { !byte } else { byte });
        }
    }
}

/// The check sum of zlib, a bit at a time: a serial line is slower.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc))
    })
}

/// A datagram for the kernel's port, as a frame.
///
/// # Panics
///
/// If `packet` does not fit into a frame.
#[must_use]
pub fn wrap(packet: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + 8 + packet.len()).expect("a packet fits into a frame");
    let mut frame = Vec::with_capacity(HEADS_BYTES + packet.len());
    frame.extend(MACS);
    frame.extend(IPV4);
    frame.extend(ip_head(length));
    frame.extend(DEBUGGER_PORT.to_be_bytes());
    frame.extend(PORT.to_be_bytes());
    frame.extend((length - 20).to_be_bytes());
    // UDP may go without a check sum.
    frame.extend([0, 0]);
    frame.extend(packet);
    frame
}

fn ip_head(length: u16) -> [u8; 20] {
    let mut head = [0; 20];
    head[0] = 0x45;
    head[2..4].copy_from_slice(&length.to_be_bytes());
    head[8] = 60;
    head[9] = UDP;
    head[12..16].copy_from_slice(&DEBUGGER);
    head[16..].copy_from_slice(&KERNEL);
    let sum: u32 = head
        .chunks(2)
        .map(|two| u32::from(two[0]) << 8 | u32::from(two[1]))
        .sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    head[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    head
}

/// The UDP datagram in a frame, if it has one and every length is right. A frame may be padded.
#[must_use]
pub fn unwrap(frame: &[u8]) -> Option<&[u8]> {
    let (ethernet, ip) = frame.split_first_chunk::<14>()?;
    let head = ip.first_chunk::<20>()?;
    let total = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let fragment = u16::from_be_bytes([head[6], head[7]]) & 0x3FFF;
    if ethernet[12..] != IPV4 || head[0] != 0x45 || head[9] != UDP || fragment != 0 {
        return None;
    }
    let (udp, rest) = ip.get(20..total)?.split_first_chunk::<8>()?;
    let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
    (length == rest.len() + 8).then_some(rest)
}

/// A serial line, or whatever stands for it: a socket of the machine that emulates it.
#[derive(Debug)]
pub struct SerialLink<S> {
    line: S,
    decoder: Decoder,
    read: Vec<u8>,
    taken: usize,
}

impl<S: Read + Write + AsFd> SerialLink<S> {
    /// A link over `line`, which passes all bytes on as they are, and does not block from then on.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(line: S) -> io::Result<Self> {
        fcntl_setfl(&line, fcntl_getfl(&line)? | OFlags::NONBLOCK)?;
        Ok(Self {
            line,
            decoder: Decoder::default(),
            read: Vec::new(),
            taken: 0,
        })
    }

    /// A datagram that is complete with what has been read.
    fn next(&mut self) -> Option<Vec<u8>> {
        while let Some(&byte) = self.read.get(self.taken) {
            self.taken += 1;
            if let Some(frame) = self.decoder.push(byte)
                && let Some(packet) = unwrap(&frame)
            {
                return Some(packet.to_vec());
            }
        }
        None
    }

    /// Reads what there is; `false` if nothing came before the deadline.
    fn fill(&mut self, deadline: Instant) -> io::Result<bool> {
        if !is_readable(&self.line, deadline)? {
            return Ok(false);
        }
        self.read.resize(4096, 0);
        self.taken = 0;
        let length = match self.line.read(&mut self.read) {
            Err(error) if is_passing(&error) => {
                self.read.clear();
                return Ok(true);
            }
            length => length?,
        };
        self.read.truncate(length);
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(true)
    }
}

/// Whether what failed may be tried again at once, or soon.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

impl<S: Read + Write + AsFd> Link for SerialLink<S> {
    /// What the line does not take in time is lost, as any packet may be.
    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        let frame = encode(&wrap(packet));
        let mut rest = frame.as_slice();
        let deadline = Instant::now() + SEND_PATIENCE;
        while !rest.is_empty() && Instant::now() < deadline && is_writable(&self.line, deadline)? {
            match self.line.write(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.line.flush()
    }

    fn receive(&mut self, into: &mut [u8], deadline: Instant) -> io::Result<Option<usize>> {
        loop {
            if let Some(packet) = self.next() {
                let length = packet.len().min(into.len());
                into[..length].copy_from_slice(&packet[..length]);
                return Ok(Some(length));
            }
            if Instant::now() > deadline || !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn port(&self) -> u16 {
        DEBUGGER_PORT
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_line_that_takes_nothing_blocks_nobody_for_ever() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut link = SerialLink::new(ours).unwrap();
        let is_full = (0..1000).any(|_| {
            let start = Instant::now();
            link.send(&[0; 1024]).unwrap();
            start.elapsed() >= SEND_PATIENCE
        });
        assert!(is_full);
    }
}
