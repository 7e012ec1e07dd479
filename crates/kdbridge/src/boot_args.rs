//! The bits of XNU's boot-arg `debug`, by name and by number (`osfmk/kern/debug.h`).

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// One bit of the boot-arg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag {
    /// Its value.
    pub bit: u32,
    /// Its name in XNU, without `DB_` and in small letters.
    pub name: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

/// Every bit that XNU has or had a meaning for.
pub const FLAGS: &[Flag] = &[
    flag(0x1, "halt", "stop at start and wait for a debugger"),
    flag(
        0x2,
        "prt",
        "send what the kernel prints with printf to the console",
    ),
    flag(
        0x4,
        "nmi",
        "enter the debugger at an NMI, or when the power key is pressed",
    ),
    flag(
        0x8,
        "kprt",
        "send what the kernel prints with kprintf to the serial line",
    ),
    flag(
        0x10,
        "kdb",
        "use the debugger inside the kernel, where there is one",
    ),
    flag(
        0x40,
        "arp",
        "answer ARP in the debugger, so that the debugging machine finds it",
    ),
    flag(0x80, "kdp_bp_dis", "take no breakpoints from old debuggers"),
    flag(
        0x100,
        "log_pi_scrn",
        "no picture at a panic, but text on the screen (obsolete)",
    ),
    flag(
        0x200,
        "kdp_getc_ena",
        "ask at the console whether to go on, reboot or wait",
    ),
    flag(0x400, "kern_dump_on_panic", "write a core at a panic"),
    flag(0x800, "kern_dump_on_nmi", "write a core at an NMI"),
    flag(
        0x1000,
        "dbg_post_core",
        "wait for a debugger after the core of an NMI",
    ),
    flag(
        0x2000,
        "paniclog_dump",
        "send the panic log only, not a core",
    ),
    flag(0x4000, "reboot_post_core", "reboot after the core"),
    flag(0x8000, "nmi_btn_ena", "let the power key be an NMI"),
    flag(
        0x20000,
        "disable_local_core",
        "write no core to a disk of this machine",
    ),
    flag(
        0x40000,
        "disable_gzip_core",
        "write cores as they are, not compressed",
    ),
    flag(
        0x80000,
        "disable_cross_panic",
        "do not panic with a coprocessor",
    ),
    flag(
        0x100000,
        "reboot_always",
        "reboot after a panic, even if no core could be written",
    ),
    flag(
        0x200000,
        "disable_stackshot_to_disk",
        "write no picture of the stacks to the disk",
    ),
];

const fn flag(bit: u32, name: &'static str, meaning: &'static str) -> Flag {
    Flag { bit, name, meaning }
}

/// A value of the boot-arg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BootArgs(pub u32);

impl BootArgs {
    /// The flags that are set.
    pub fn flags(self) -> impl Iterator<Item = &'static Flag> {
        FLAGS.iter().filter(move |flag| self.0 & flag.bit != 0)
    }

    /// The bits that have no name.
    #[must_use]
    pub fn unknown(self) -> u32 {
        self.flags().fold(self.0, |left, flag| left & !flag.bit)
    }
}

/// Names with commas between them; bits without a name as a number.
impl fmt::Display for BootArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<String> = self.flags().map(|flag| flag.name.to_owned()).collect();
        if self.unknown() != 0 || self.0 == 0 {
            names.push(format!("{:#x}", self.unknown()));
        }
        f.write_str(&names.join(","))
    }
}

/// A word that is neither a flag nor a number.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{word}` is no flag of the boot-arg debug; there are {}", all_names())]
pub struct UnknownFlag {
    /// The word.
    pub word: String,
}

fn all_names() -> String {
    let names: Vec<&str> = FLAGS.iter().map(|flag| flag.name).collect();
    names.join(", ")
}

/// Names, in any case, with or without `DB_`, and numbers, with commas between them. `debug=` may
/// stand in front.
impl FromStr for BootArgs {
    type Err = UnknownFlag;

    fn from_str(text: &str) -> Result<Self, UnknownFlag> {
        let text = text.trim();
        let words = text.strip_prefix("debug=").unwrap_or(text).split(',');
        words
            .map(str::trim)
            .map(value)
            .try_fold(Self(0), |all, bits| Ok(Self(all.0 | bits?)))
    }
}

fn value(word: &str) -> Result<u32, UnknownFlag> {
    let small = word.to_ascii_lowercase();
    let name = small.strip_prefix("db_").unwrap_or(&small);
    if let Some(flag) = FLAGS.iter().find(|flag| flag.name == name) {
        return Ok(flag.bit);
    }
    let number = match small.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => small.parse(),
    };
    number.map_err(|_| UnknownFlag {
        word: word.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_the_same() {
        assert_eq!("halt,nmi,arp".parse(), Ok(BootArgs(0x45)));
        assert_eq!(BootArgs(0x45).to_string(), "halt,nmi,arp");
        assert_eq!("debug=0x144".parse(), Ok(BootArgs(0x144)));
        assert_eq!(BootArgs(0x144).to_string(), "nmi,arp,log_pi_scrn");
        assert_eq!(" DB_NMI, DB_ARP, 256".parse(), Ok(BootArgs(0x144)));
    }

    #[test]
    fn every_flag_has_one_bit_and_comes_back() {
        for (at, flag) in FLAGS.iter().enumerate() {
            assert_eq!(flag.bit.count_ones(), 1);
            assert_eq!(flag.name.parse(), Ok(BootArgs(flag.bit)));
            assert_eq!(BootArgs(flag.bit).to_string(), flag.name);
            assert!(FLAGS[..at].iter().all(|other| other.bit < flag.bit));
        }
        let all = BootArgs(FLAGS.iter().fold(0, |all, flag| all | flag.bit));
        assert_eq!(all.to_string().parse(), Ok(all));
    }

    #[test]
    fn bits_without_a_name_stay_numbers() {
        assert_eq!(BootArgs(0x25).to_string(), "halt,nmi,0x20");
        assert_eq!(BootArgs(0).to_string(), "0x0");
        assert_eq!("0x0".parse(), Ok(BootArgs(0)));
    }

    #[test]
    fn a_word_that_is_no_flag_is_named() {
        let error = "halt,nim".parse::<BootArgs>().unwrap_err();
        assert_eq!(error.word, "nim");
        assert!(error.to_string().contains("nmi_btn_ena"));
    }
}
