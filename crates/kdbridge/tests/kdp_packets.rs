//! The bytes of KDP's packets.

mod packets;

use kdbridge::kdp::packet::{
    Code, DumpInfo, Exception, Head, Malformed, Region, Reply, Request, Status,
};
use kdbridge::kdp::serial;
use proptest::prelude::*;

const SEQUENCE: u8 = 0x21;
const KEY: u32 = 0x0a0b_0c0d;

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).expect("a byte"))
        .collect()
}

fn info() -> DumpInfo {
    let mut info = DumpInfo {
        name: [0; 50],
        server: [0; 16],
        router: [0; 16],
        port: 1069,
        kind: 0x2000_0102,
    };
    info.name[..4].copy_from_slice(b"core");
    info.server[..8].copy_from_slice(b"10.0.0.1");
    info.router[..8].copy_from_slice(b"10.0.0.2");
    info
}

fn info_bytes(head: &str) -> String {
    let name = format!("63 6f 72 65{}", " 00".repeat(46));
    let server = format!("31 30 2e 30 2e 30 2e 31{}", " 00".repeat(8));
    let router = format!("31 30 2e 30 2e 30 2e 32{}", " 00".repeat(8));
    format!("{head} {name} {server} {router} 2d 04 00 00 02 01 00 20")
}

const AT: u64 = 0xffff_ff80_0020_1000;

fn requests() -> Vec<(Request<'static>, String)> {
    let data: &[u8] = &[0xde, 0xad];
    let exception = Exception {
        cpu: 1,
        exception: 6,
        code: 3,
        subcode: 4,
    };
    #[rustfmt::skip]
    let rows = [
        (Request::Connect { reply_port: 41140, exception_port: 41145, greeting: b"hi" },
         "00 21 0f 00 0d 0c 0b 0a  a0 b4 a0 b9 68 69 00"),
        (Request::Disconnect, "01 21 08 00 0d 0c 0b 0a"),
        (Request::HostInfo, "02 21 08 00 0d 0c 0b 0a"),
        (Request::Version, "03 21 08 00 0d 0c 0b 0a"),
        (Request::MaxBytes, "04 21 08 00 0d 0c 0b 0a"),
        (Request::ReadMem { at: 0x1000, length: 0x200 },
         "05 21 10 00 0d 0c 0b 0a  00 10 00 00 00 02 00 00"),
        (Request::WriteMem { at: 0x1000, data },
         "06 21 12 00 0d 0c 0b 0a  00 10 00 00 02 00 00 00 de ad"),
        (Request::ReadRegs { cpu: 0, flavor: 4 },
         "07 21 10 00 0d 0c 0b 0a  00 00 00 00 04 00 00 00"),
        (Request::WriteRegs { cpu: 0, flavor: 4, state: data },
         "08 21 12 00 0d 0c 0b 0a  00 00 00 00 04 00 00 00 de ad"),
        (Request::Load { arguments: b"k" }, "09 21 0a 00 0d 0c 0b 0a  6b 00"),
        (Request::ImagePath, "0a 21 08 00 0d 0c 0b 0a"),
        (Request::Suspend, "0b 21 08 00 0d 0c 0b 0a"),
        (Request::ResumeCpus { mask: u32::MAX }, "0c 21 0c 00 0d 0c 0b 0a  ff ff ff ff"),
        (Request::Exception(vec![exception]),
         "0d 21 1c 00 0d 0c 0b 0a  01 00 00 00 01 00 00 00 06 00 00 00 03 00 00 00 04 00 00 00"),
        (Request::Termination { reason: 3, exit_code: 7 },
         "0e 21 10 00 0d 0c 0b 0a  03 00 00 00 07 00 00 00"),
        (Request::BreakpointSet { at: 0x1000 }, "0f 21 0c 00 0d 0c 0b 0a  00 10 00 00"),
        (Request::BreakpointRemove { at: 0x1000 }, "10 21 0c 00 0d 0c 0b 0a  00 10 00 00"),
        (Request::Regions, "11 21 08 00 0d 0c 0b 0a"),
        (Request::Reattach { reply_port: 41140 }, "12 21 0a 00 0d 0c 0b 0a  a0 b4"),
        (Request::HostReboot, "13 21 08 00 0d 0c 0b 0a"),
        (Request::ReadMem64 { at: AT, length: 0x400 },
         "14 21 14 00 0d 0c 0b 0a  00 10 20 00 80 ff ff ff 00 04 00 00"),
        (Request::WriteMem64 { at: AT, data },
         "15 21 16 00 0d 0c 0b 0a  00 10 20 00 80 ff ff ff 02 00 00 00 de ad"),
        (Request::Breakpoint64Set { at: AT },
         "16 21 10 00 0d 0c 0b 0a  00 10 20 00 80 ff ff ff"),
        (Request::Breakpoint64Remove { at: AT },
         "17 21 10 00 0d 0c 0b 0a  00 10 20 00 80 ff ff ff"),
        (Request::KernelVersion, "18 21 08 00 0d 0c 0b 0a"),
        (Request::ReadPhysMem64 { at: 0x1000, length: 8, cpu: 0xfffe },
         "19 21 16 00 0d 0c 0b 0a  00 10 00 00 00 00 00 00 08 00 00 00 fe ff"),
        (Request::WritePhysMem64 { at: 0x1000, cpu: 0xfffe, data },
         "1a 21 18 00 0d 0c 0b 0a  00 10 00 00 00 00 00 00 02 00 00 00 fe ff de ad"),
        (Request::ReadIoPort { cpu: 1, port: 0x3f8, length: 2 },
         "1b 21 0e 00 0d 0c 0b 0a  01 00 f8 03 02 00"),
        (Request::WriteIoPort { cpu: 1, port: 0x3f8, data },
         "1c 21 10 00 0d 0c 0b 0a  01 00 f8 03 02 00 de ad"),
        (Request::ReadMsr64 { msr: 0xc000_0080, cpu: 1 },
         "1d 21 0e 00 0d 0c 0b 0a  80 00 00 c0 01 00"),
        (Request::WriteMsr64 { msr: 0xc000_0080, cpu: 1, value: 0xd01 },
         "1e 21 16 00 0d 0c 0b 0a  80 00 00 c0 01 00 01 0d 00 00 00 00 00 00"),
    ];
    let rows = rows.map(|(request, bytes)| (request, bytes.to_owned()));
    let info = (
        Request::DumpInfo(info()),
        info_bytes("1f 21 62 00 0d 0c 0b 0a"),
    );
    rows.into_iter().chain([info]).collect()
}

fn replies() -> Vec<(Reply<'static>, String)> {
    let data: &[u8] = &[0xde, 0xad];
    let region = Region {
        at: 0,
        size: u32::MAX,
        protection: 7,
    };
    let status = |code| Reply::Status(code, Status::OK);
    let read = |code| Reply::Data(code, Status::OK, data);
    #[rustfmt::skip]
    let rows = [
        (Reply::Status(Code::Connect, Status::ALREADY_CONNECTED), "80 21 0c 00 0d 0c 0b 0a  01 00 00 00"),
        (Reply::Done(Code::Disconnect), "81 21 08 00 0d 0c 0b 0a"),
        (Reply::HostInfo { cpus: 3, cpu_type: 0x0100_0007, cpu_subtype: 4 },
         "82 21 14 00 0d 0c 0b 0a  03 00 00 00 07 00 00 01 04 00 00 00"),
        (Reply::Version { version: 12, features: 1 },
         "83 21 18 00 0d 0c 0b 0a  0c 00 00 00 01 00 00 00 00 00 00 00 00 00 00 00"),
        (Reply::MaxBytes(1024), "84 21 0c 00 0d 0c 0b 0a  00 04 00 00"),
        (read(Code::ReadMem), "85 21 0e 00 0d 0c 0b 0a  00 00 00 00 de ad"),
        (status(Code::WriteMem), "86 21 0c 00 0d 0c 0b 0a  00 00 00 00"),
        (read(Code::ReadRegs), "87 21 0e 00 0d 0c 0b 0a  00 00 00 00 de ad"),
        (Reply::Status(Code::WriteRegs, Status::BAD_FLAVOR), "88 21 0c 00 0d 0c 0b 0a  03 00 00 00"),
        (status(Code::Load), "89 21 0c 00 0d 0c 0b 0a  00 00 00 00"),
        (Reply::Text(Code::ImagePath, b"/k"), "8a 21 0b 00 0d 0c 0b 0a  2f 6b 00"),
        (Reply::Done(Code::Suspend), "8b 21 08 00 0d 0c 0b 0a"),
        (Reply::Done(Code::ResumeCpus), "8c 21 08 00 0d 0c 0b 0a"),
        (Reply::Done(Code::Exception), "8d 21 08 00 0d 0c 0b 0a"),
        (Reply::Done(Code::Termination), "8e 21 08 00 0d 0c 0b 0a"),
        (Reply::Status(Code::BreakpointSet, Status::TABLE_FULL), "8f 21 0c 00 0d 0c 0b 0a  64 00 00 00"),
        (Reply::Status(Code::BreakpointRemove, Status::NOT_FOUND), "90 21 0c 00 0d 0c 0b 0a  65 00 00 00"),
        (Reply::Regions(vec![region]),
         "91 21 18 00 0d 0c 0b 0a  01 00 00 00 00 00 00 00 ff ff ff ff 07 00 00 00"),
        (Reply::Done(Code::Reattach), "92 21 08 00 0d 0c 0b 0a"),
        (Reply::Data(Code::ReadMem64, Status::BAD_ACCESS, data), "94 21 0e 00 0d 0c 0b 0a  04 00 00 00 de ad"),
        (Reply::Status(Code::WriteMem64, Status::BAD_LENGTH), "95 21 0c 00 0d 0c 0b 0a  02 00 00 00"),
        (Reply::Status(Code::Breakpoint64Set, Status::TRAP_THERE), "96 21 0c 00 0d 0c 0b 0a  66 00 00 00"),
        (status(Code::Breakpoint64Remove), "97 21 0c 00 0d 0c 0b 0a  00 00 00 00"),
        (Reply::Text(Code::KernelVersion, b"Darwin"), "98 21 0f 00 0d 0c 0b 0a  44 61 72 77 69 6e 00"),
        (read(Code::ReadPhysMem64), "99 21 0e 00 0d 0c 0b 0a  00 00 00 00 de ad"),
        (status(Code::WritePhysMem64), "9a 21 0c 00 0d 0c 0b 0a  00 00 00 00"),
        (read(Code::ReadIoPort), "9b 21 0e 00 0d 0c 0b 0a  00 00 00 00 de ad"),
        (status(Code::WriteIoPort), "9c 21 0c 00 0d 0c 0b 0a  00 00 00 00"),
        (read(Code::ReadMsr64), "9d 21 0e 00 0d 0c 0b 0a  00 00 00 00 de ad"),
        (status(Code::WriteMsr64), "9e 21 0c 00 0d 0c 0b 0a  00 00 00 00"),
    ];
    let rows = rows.map(|(reply, bytes)| (reply, bytes.to_owned()));
    let info = (
        Reply::DumpInfo(info()),
        info_bytes("9f 21 62 00 0d 0c 0b 0a"),
    );
    rows.into_iter().chain([info]).collect()
}

#[test]
fn k13_every_request_has_its_bytes() {
    let rows = requests();
    for (at, (request, bytes)) in rows.iter().enumerate() {
        let bytes = hex(bytes);
        assert_eq!(request.encode(SEQUENCE, KEY), bytes, "{request:?}");
        let (head, body) = Head::split(&bytes).unwrap();
        assert_eq!((head.code, head.is_reply), (Code::ALL[at], false));
        assert_eq!((head.sequence, head.key), (SEQUENCE, KEY));
        assert_eq!(Request::decode(head.code, body).as_ref(), Ok(request));
    }
    assert_eq!(rows.len(), Code::ALL.len());
}

#[test]
fn k13_every_reply_has_its_bytes() {
    let rows = replies();
    for (reply, bytes) in &rows {
        let bytes = hex(bytes);
        assert_eq!(reply.encode(SEQUENCE, KEY), bytes, "{reply:?}");
        let (head, body) = Head::split(&bytes).unwrap();
        assert!(head.is_reply && head.code == reply.code());
        assert_eq!(Reply::decode(head.code, body).as_ref(), Ok(reply));
    }
    let answered: Vec<Code> = rows.iter().map(|(reply, _)| reply.code()).collect();
    let silent: Vec<Code> = Code::ALL
        .into_iter()
        .filter(|code| !answered.contains(code))
        .collect();
    assert_eq!(silent, [Code::HostReboot]);
    assert!(Reply::decode(Code::HostReboot, &[]).is_err());
}

#[test]
fn k13_a_packet_of_another_length_than_it_says_is_refused() {
    let rows = requests().into_iter().map(|row| row.1);
    for bytes in rows.chain(replies().into_iter().map(|row| row.1)) {
        let packet = hex(&bytes);
        let longer = [packet.as_slice(), &[0]].concat();
        assert_eq!(Head::split(&longer), Err(Malformed::Length));
        assert!(Head::split(&packet[..packet.len() - 1]).is_err());
    }
}

/// Every body but those that end with bytes of any number.
#[test]
fn k13_a_body_with_a_byte_too_many_or_too_few_is_refused() {
    for (request, bytes) in requests() {
        let packet = hex(&bytes);
        let body = &packet[8..];
        let longer = [body, &[0]].concat();
        let any = matches!(request, Request::WriteRegs { .. });
        assert!(
            any || Request::decode(request.code(), &longer).is_err(),
            "{request:?}"
        );
        if let Some((_, shorter)) = body.split_last() {
            assert!(
                any || Request::decode(request.code(), shorter).is_err(),
                "{request:?}"
            );
        }
    }
}

#[test]
fn k13_counts_inside_a_body_are_checked() {
    let many = hex("ff ff ff ff 01 00 00 00 06 00 00 00 03 00 00 00 04 00 00 00");
    assert_eq!(
        Request::decode(Code::Exception, &many),
        Err(Malformed::Length)
    );
    assert_eq!(Reply::decode(Code::Regions, &many), Err(Malformed::Length));
    let write = hex("00 10 20 00 80 ff ff ff 03 00 00 00 de ad");
    assert_eq!(
        Request::decode(Code::WriteMem64, &write),
        Err(Malformed::Length)
    );
    let code = hex("20 00 08 00 00 00 00 00");
    assert_eq!(Head::split(&code), Err(Malformed::Code(0x20)));
}

#[test]
fn k13_a_serial_line_carries_frames_as_the_kernel_does() {
    let packet = Request::Version.encode(0x0a, 0xfbfa_fe0a);
    let frame = serial::wrap(&packet);
    let expected = hex("02 00 00 00 00 01 02 00 00 00 00 02 08 00 \
         45 00 00 24 00 00 00 00 3c 11 b1 f0 ab ad ba bf ab ad ba be \
         a0 b4 a0 b3 00 10 00 00  03 0a 08 00 0a fe fa fb");
    assert_eq!(frame, expected);
    assert_eq!(serial::unwrap(&frame), Some(packet.as_slice()));
    let line = serial::encode(&frame);
    assert!(
        line.starts_with(&[0xfa])
            && line.ends_with(&hex("03 fe f5 08 00 fe f5 fe 01 fe 05 fe 04 fb"))
    );
    assert!(!line.contains(&b'\n'));
    let mut decoder = serial::Decoder::default();
    let noise = [b"panic(cpu 0)\n".as_slice(), &line, b"more\n"].concat();
    let frames: Vec<_> = noise
        .iter()
        .filter_map(|&byte| decoder.push(byte))
        .collect();
    assert_eq!(frames, [frame]);
}

#[test]
fn k13_a_serial_frame_with_a_wrong_check_sum_is_dropped() {
    // The check value that CRC-32 is known by.
    let good = hex("fa 26 39 f4 cb fa 31 32 33 34 35 36 37 38 39 fb");
    assert_eq!(serial::encode(b"123456789"), good);
    for at in 1..good.len() - 1 {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let mut decoder = serial::Decoder::default();
        assert!(bad.iter().all(|&byte| decoder.push(byte).is_none()), "{at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn k13_any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        packets::check(&bytes);
    }

    #[test]
    fn k13_packets_with_any_body_are_survived(
        code in 0u8..0xff,
        body in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let length = (8 + body.len()) as u8;
        packets::check(&[&[code, 0, length, 0, 1, 2, 3, 4], body.as_slice()].concat());
    }
}
