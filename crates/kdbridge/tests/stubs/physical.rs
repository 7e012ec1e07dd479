//! A stub of a machine with page tables, which shows its breakpoints in memory, as QEMU does with KVM.

use std::collections::BTreeMap;
use std::time::Duration;

use kdbridge::rsp::RspTarget;
use kdbridge::rsp::hex;
use kdbridge::target::{Memory, Target, Trap};

use crate::stub::{Say, Stub};

const PATIENCE: Duration = Duration::from_secs(20);

/// The kernel's tables, and those of a program, which have nothing of the kernel.
const TABLES: u64 = 0x2000;
const TABLES_OF_USER: u64 = 0x3000;

/// A page of the kernel, and where it is.
const PLACE: u64 = 0xffff_8000_0000_0000;
const PHYSICAL: u64 = 0x7000;
const PAGE: u64 = 4096;

const NOP: u8 = 0x90;
const TRAP: u8 = 0xcc;

const DESCRIPTION: &str = "l<target><architecture>i386:x86-64</architecture><feature><reg name=\"rip\" bitsize=\"64\" regnum=\"16\"/>\
    <reg name=\"cr3\" bitsize=\"64\" regnum=\"40\"/><reg name=\"cr4\" bitsize=\"64\"/></feature></target>";

struct Machine {
    memory: Vec<u8>,
    cr3: u64,
    is_physical: bool,
    /// What was there before.
    traps: BTreeMap<u64, u8>,
}

impl Machine {
    fn new(cr3: u64) -> Self {
        let mut memory = vec![0; 0x8000];
        let entries = [
            (TABLES + 256 * 8, 0x4001),
            (0x4000, 0x5001),
            (0x5000, 0x6001),
            (0x6000, PHYSICAL | 1),
        ];
        for (at, entry) in entries {
            memory[at as usize..at as usize + 8].copy_from_slice(&u64::to_le_bytes(entry));
        }
        memory[PHYSICAL as usize..].fill(NOP);
        Self {
            memory,
            cr3,
            is_physical: false,
            traps: BTreeMap::new(),
        }
    }

    fn answer(&mut self, request: &[u8]) -> Say {
        let text = String::from_utf8_lossy(request);
        match request {
            _ if text.starts_with("qSupported") => "PacketSize=1000;qXfer:features:read+".into(),
            _ if text.starts_with("qXfer:features:read:target.xml:0,") => DESCRIPTION.into(),
            b"?" => "T05thread:1;".into(),
            b"qqemu.Supported" => "PhyMemMode".into(),
            b"Qqemu.PhyMemMode:1" | b"Qqemu.PhyMemMode:0" => {
                self.is_physical = request.ends_with(b"1");
                "OK".into()
            }
            b"p28" => Say::Packet(hex::encode(&self.cr3.to_le_bytes()).into_bytes()),
            b"p29" => "0000000000000000".into(),
            [b'm', place @ ..] => match self.at(place) {
                Some(bytes) => Say::Packet(hex::encode(bytes).into_bytes()),
                None => "E14".into(),
            },
            [b'M', rest @ ..] => {
                let colon = rest.iter().position(|&it| it == b':').unwrap();
                let bytes = hex::decode(&rest[colon + 1..]).unwrap();
                match self.at(&rest[..colon]) {
                    Some(place) => place.copy_from_slice(&bytes),
                    None => return "E14".into(),
                }
                "OK".into()
            }
            [b'Z', b'0', b',', place @ ..] => {
                let (at, _) = hex::pair(place).unwrap();
                let byte = std::mem::replace(self.byte(at), TRAP);
                self.traps.insert(at, byte);
                "OK".into()
            }
            [b'z', b'0', b',', place @ ..] => {
                let (at, _) = hex::pair(place).unwrap();
                *self.byte(at) = self.traps.remove(&at).unwrap();
                "OK".into()
            }
            b"Hg1" | b"Hg-1" => "OK".into(),
            _ => "".into(),
        }
    }

    /// A breakpoint is set in the memory of the kernel, whatever the processor runs.
    fn byte(&mut self, at: u64) -> &mut u8 {
        &mut self.memory[(at - PLACE + PHYSICAL) as usize]
    }

    fn at(&mut self, place: &[u8]) -> Option<&mut [u8]> {
        let (at, length) = hex::pair(place)?;
        let at = match self.is_physical {
            true => at,
            false if self.cr3 == TABLES => at.checked_sub(PLACE)? + PHYSICAL,
            false => return None,
        };
        self.memory.get_mut(at as usize..(at + length) as usize)
    }
}

fn target(cr3: u64) -> (Stub, RspTarget) {
    let mut machine = Machine::new(cr3);
    let (stub, line) = Stub::play(move |request| machine.answer(request));
    (stub, RspTarget::over(line, PATIENCE).unwrap())
}

fn physical(target: &mut RspTarget, at: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    target.read_physical(at, &mut bytes).unwrap();
    bytes
}

#[test]
fn k16_breakpoints_do_not_show_in_physical_memory() {
    for cr3 in [TABLES, TABLES_OF_USER] {
        let (_stub, mut target) = target(cr3);
        target.set(PLACE + 0x102, Trap::Software).unwrap();
        target.set(PLACE + 0x108, Trap::Software).unwrap();
        let mut bytes = [0; 8];
        target.read(PLACE + 0x100, &mut bytes).unwrap();
        assert_eq!(bytes, [NOP; 8], "{cr3:#x}");
        assert_eq!(
            physical(&mut target, PHYSICAL + 0x100),
            [NOP; 8],
            "{cr3:#x}"
        );
        assert_eq!(
            physical(&mut target, PHYSICAL + 0x108),
            [NOP; 8],
            "{cr3:#x}"
        );
        assert_eq!(
            physical(&mut target, 0x6000)[0],
            1,
            "other memory is as it is"
        );
    }
}

#[test]
fn k16_what_is_written_below_a_breakpoint_is_read_and_stays() {
    for cr3 in [TABLES, TABLES_OF_USER] {
        let (_stub, mut target) = target(cr3);
        let at = PLACE + PAGE - 4;
        target.set(at, Trap::Software).unwrap();
        target.write(at - 1, &[1, 2, 3]).unwrap();
        let mut bytes = [0; 3];
        target.read(at - 1, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3], "{cr3:#x}");
        target.clear(at, Trap::Software).unwrap();
        target.read(at - 1, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3], "{cr3:#x}");
    }
}
