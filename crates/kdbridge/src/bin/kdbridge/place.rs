//! Where a machine is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use kdbridge::kdp;
use kdbridge::rsp::link::{Address, AddressError};

/// What leads to a machine, and what is spoken there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A stub that speaks the GDB protocol.
    Stub(Address),
    /// A kernel that speaks KDP by UDP: `HOST:PORT`.
    Kdp(String),
    /// A kernel that speaks KDP over this serial line, or the socket that stands for it.
    Serial(PathBuf),
}

/// What to write there.
pub(crate) const HELP: &str = "The machine: HOST:PORT, :PORT, or unix:PATH of its stub (QEMU's `-s` listens at \
    :1234); kdp:HOST[:PORT] or serial:PATH of an XNU kernel that waits for a debugger";

impl FromStr for Place {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("serial:") {
            return Ok(Self::Serial(path.into()));
        }
        let Some(host) = text.strip_prefix("kdp:") else {
            return text.parse().map(Self::Stub);
        };
        match host.rsplit_once(':') {
            _ if host.is_empty() => Err(AddressError),
            Some((_, port)) if port.parse::<u16>().is_err() => Err(AddressError),
            Some(_) => Ok(Self::Kdp(host.to_owned())),
            None => Ok(Self::Kdp(format!("{host}:{}", kdp::PORT))),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stub(address) => address.fmt(f),
            Self::Kdp(address) => write!(f, "kdp:{address}"),
            Self::Serial(path) => write!(f, "serial:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_says_what_is_spoken_there() {
        let place = |text: &str| text.parse::<Place>();
        assert_eq!(
            place("kdp:10.0.0.2"),
            Ok(Place::Kdp("10.0.0.2:41139".into()))
        );
        assert_eq!(place("kdp:mac:5000"), Ok(Place::Kdp("mac:5000".into())));
        assert_eq!(place("kdp:mac:many"), Err(AddressError));
        assert_eq!(place("kdp:"), Err(AddressError));
        assert_eq!(
            place("serial:/dev/ttyS0"),
            Ok(Place::Serial("/dev/ttyS0".into()))
        );
        let stub = Address::Tcp("127.0.0.1:1234".into());
        assert_eq!(place(":1234"), Ok(Place::Stub(stub)));
    }
}
