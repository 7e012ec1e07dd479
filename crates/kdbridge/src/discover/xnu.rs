//! An XNU kernel: where it is, which one it is, and the extensions that it has loaded.

use std::collections::BTreeSet;
use std::fmt;

use thiserror::Error;

use crate::macho::{HEADER_BYTES, Image, ImageError, Segment, Uuid};
use crate::symbols::bytes::{Bytes, text_at};
use crate::target::{Memory, TargetError};

/// Where a kernel for x86-64 is linked to.
pub const FILE_BASE: u64 = 0xffff_ff80_0020_0000;

/// Words that say where the text of the kernel begins: in the pages that arm64 and x86-64 have at
/// fixed addresses for that.
const LOW_GLOBALS: [u64; 4] = [
    0xffff_ff80_0000_2010,
    0xffff_ff80_0000_4010,
    0xffff_fff0_0000_4010,
    0xffff_fff0_0000_2010,
];

/// From such a word to the one that says where the version is, on x86-64.
const TO_VERSION: u64 = 0x20;

/// How far back from where it executes a kernel is looked for.
const FARTHEST: u64 = 32 << 20;

/// A booter slides kernels for x86-64 by a multiple of this.
const SLIDE_STEP: u64 = 2 << 20;

/// The smallest step between places where an image can begin.
const SMALL_STEP: u64 = 16 << 10;

const MOST_VERSION_BYTES: usize = 256;

/// What is known without looking into memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hints<'a> {
    /// What the kernel says of itself over KDP.
    pub banner: Option<&'a [u8]>,
    /// Where a processor executes.
    pub pc: Option<u64>,
}

/// How a kernel was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// KDP's version string told.
    Banner,
    /// The page of low globals told.
    LowGlobals,
    /// Its header stands before where it executes.
    NearPc,
    /// It is where it is linked to.
    Unslid,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Banner => "the version that it tells over KDP",
            Self::LowGlobals => "the page of low globals",
            Self::NearPc => "its header before the program counter",
            Self::Unslid => "the address that it is linked to",
        })
    }
}

/// A kernel that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Where its header is.
    pub base: u64,
    /// Its UUID.
    pub uuid: Uuid,
    /// What it calls itself; empty if it could not be read.
    pub version: String,
    /// How it was found.
    pub method: Method,
    /// What its load commands say in memory.
    pub image: Image,
}

impl Kernel {
    /// How far it lies above where a file with this image is linked to.
    #[must_use]
    pub fn slide(&self, file: &Image) -> u64 {
        self.base.wrapping_sub(file.base().unwrap_or(FILE_BASE))
    }
}

/// Why no kernel was found.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NotFound {
    /// There is none where one could be.
    #[error("no XNU kernel is where the low globals, the program counter or KDP say")]
    Nowhere,
    /// There is one, but not the one that it says it is.
    #[error("the kernel at {base:#x} has the UUID {memory}, but over KDP it says {banner}")]
    Another {
        /// Where it is.
        base: u64,
        /// Its UUID in memory.
        memory: Uuid,
        /// Its UUID over KDP.
        banner: Uuid,
    },
    /// The way to the target.
    #[error("the target failed")]
    Target(#[source] TargetError),
}

/// Finds the kernel.
///
/// # Errors
///
/// [`NotFound`].
pub fn find(memory: &mut dyn Memory, hints: Hints<'_>) -> Result<Kernel, NotFound> {
    let banner = hints.banner.map(Banner::parse).unwrap_or_default();
    let mut seen = BTreeSet::new();
    for (method, at) in places(memory, hints, &banner) {
        if !seen.insert(at) {
            continue;
        }
        let Some((image, uuid)) = kernel_at(memory, at).map_err(NotFound::Target)? else {
            continue;
        };
        if let Some(told) = banner.uuid.filter(|&told| told != uuid) {
            return Err(NotFound::Another {
                base: at,
                memory: uuid,
                banner: told,
            });
        }
        return Ok(Kernel {
            base: at,
            uuid,
            version: banner
                .version
                .or_else(|| version(memory))
                .unwrap_or_default(),
            method,
            image,
        });
    }
    Err(NotFound::Nowhere)
}

/// Where a header may be, the likeliest first.
fn places(memory: &mut dyn Memory, hints: Hints<'_>, banner: &Banner) -> Vec<(Method, u64)> {
    let mut places: Vec<(Method, u64)> = Vec::new();
    places.extend(banner.text.map(|at| (Method::Banner, at)));
    let words = LOW_GLOBALS.iter().filter_map(|&at| pointer(memory, at));
    places.extend(words.map(|at| (Method::LowGlobals, at)));
    places.push((Method::Unslid, FILE_BASE));
    if let Some(pc) = hints.pc {
        // A program's code may be less far from address 0.
        let back = |step: u64| {
            (0..=FARTHEST / step).map_while(move |n| (pc & !(step - 1)).checked_sub(n * step))
        };
        let near = back(SLIDE_STEP).chain(back(SMALL_STEP));
        places.extend(near.map(|at| (Method::NearPc, at)));
    }
    places
}

/// What KDP's version string says: `…; UUID=…; stext=0x…`.
#[derive(Debug, Default)]
struct Banner {
    version: Option<String>,
    uuid: Option<Uuid>,
    text: Option<u64>,
}

impl Banner {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let field = |name: &str| {
            let rest = text.split_once(name)?.1;
            rest.split([';', ' ']).next().map(str::to_owned)
        };
        let number = field("stext=0x");
        Self {
            version: text.split(';').next().map(str::to_owned),
            uuid: field("UUID=").and_then(|uuid| uuid.parse().ok()),
            text: number.and_then(|number| u64::from_str_radix(&number, 16).ok()),
        }
    }
}

/// The kernel whose header is at `at`, if one is.
fn kernel_at(memory: &mut dyn Memory, at: u64) -> Result<Option<(Image, Uuid)>, TargetError> {
    let image = match image_at(memory, at) {
        Ok(image) => image,
        Err(ReadError::Target(TargetError::Unreadable(_)) | ReadError::Image(_)) => {
            return Ok(None);
        }
        Err(ReadError::Target(error)) => return Err(error),
    };
    let uuid = image.uuid.filter(|_| image.is_kernel());
    Ok(uuid.map(|uuid| (image, uuid)))
}

/// Why there is no image in memory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Memory.
    #[error("the image cannot be read")]
    Target(#[from] TargetError),
    /// What is there is none.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// The load commands of the image whose header is at `at`.
///
/// # Errors
///
/// [`ReadError`].
pub fn image_at(memory: &mut dyn Memory, at: u64) -> Result<Image, ReadError> {
    let mut header = [0; HEADER_BYTES];
    memory.read(at, &mut header)?;
    let mut commands = vec![0; Image::length(&header)?];
    memory.read(at, &mut commands)?;
    Ok(Image::parse(&commands)?)
}

/// Where a pointer leads, if it can be read and leads anywhere.
fn pointer(memory: &mut dyn Memory, at: u64) -> Option<u64> {
    memory.word(at).ok().filter(|&word| word != 0)
}

/// What the kernel calls itself, by the low globals of x86-64.
fn version(memory: &mut dyn Memory) -> Option<String> {
    let [globals, ..] = LOW_GLOBALS;
    let at = pointer(memory, globals + TO_VERSION)?;
    let mut text = [0; MOST_VERSION_BYTES];
    // It may stand at the end of what can be read.
    let length = match memory.read(at, &mut text) {
        Err(TargetError::Unreadable(end)) => end.saturating_sub(at) as usize,
        result => result.map(|()| text.len()).ok()?,
    };
    let text = text.get_mut(..length)?;
    memory.read(at, text).ok()?;
    Some(text_at(text, 0).into_owned())
}

/// An extension that the kernel has loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kext {
    /// Its bundle identifier.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Where its header is.
    pub address: u64,
    /// How many bytes it has.
    pub size: u64,
    /// The number that the kernel gave it.
    pub load_tag: u32,
}

/// Why there is no list of extensions.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KextError {
    /// The kernel is changing it.
    #[error("the kernel is changing its list of extensions")]
    Updating,
    /// It is none that is known: version, bytes of an entry, number of entries.
    #[error("a list of extensions of version {0}, {2} entries of {1} bytes")]
    Unknown(u32, u32, u32),
    /// Memory.
    #[error("the list of extensions cannot be read")]
    Target(#[from] TargetError),
}

const MOST_VERSION: u32 = 128;
const MOST_ENTRY_BYTES: u32 = 4096;
const MOST_KEXTS: u32 = 10_000;

/// Name, UUID, address, size, version, load tag.
const LEAST_ENTRY_BYTES: u32 = 64 + 16 + 8 + 8 + 8 + 4;

/// The extensions that are loaded. `pointer` is the address of the variable `gLoadedKextSummaries`.
///
/// # Errors
///
/// [`KextError`].
pub fn kexts(memory: &mut dyn Memory, pointer: u64) -> Result<Vec<Kext>, KextError> {
    let list = match memory.word(pointer)? {
        0 => return Err(KextError::Updating),
        list => list,
    };
    let mut header = [0; 16];
    memory.read(list, &mut header)?;
    let field = |at| header.u32(at).unwrap_or_default();
    let (version, entry_bytes, count) = (field(0), field(4), field(8));
    let known = version <= MOST_VERSION && count <= MOST_KEXTS;
    if !known || !(LEAST_ENTRY_BYTES..=MOST_ENTRY_BYTES).contains(&entry_bytes) {
        return Err(KextError::Unknown(version, entry_bytes, count));
    }
    let mut entries = vec![0; (count * entry_bytes) as usize];
    memory.read(list.wrapping_add(16), &mut entries)?;
    let entries = entries.chunks_exact(entry_bytes as usize);
    Ok(entries.filter_map(kext).collect())
}

fn kext(entry: &[u8]) -> Option<Kext> {
    Some(Kext {
        name: text_at(entry.get(..64)?, 0).into_owned(),
        uuid: Uuid(entry.array(64)?),
        address: entry.u64(80)?,
        size: entry.u64(88)?,
        load_tag: entry.u32(104)?,
    })
}

/// Where the segments of an extension are: each may be slid by itself, and its load commands in
/// memory say where to. What the linker needed is not loaded.
///
/// # Errors
///
/// [`ReadError`].
pub fn segments(memory: &mut dyn Memory, kext: &Kext) -> Result<Vec<Segment>, ReadError> {
    let image = image_at(memory, kext.address)?;
    let segments = image.segments.into_iter();
    Ok(segments
        .filter(|segment| segment.name != "__LINKEDIT")
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::testing::Nothing;

    #[test]
    fn no_place_is_below_address_0() {
        for pc in [0, 0x1000, 0x40_1000, u64::MAX] {
            let hints = Hints {
                pc: Some(pc),
                ..Hints::default()
            };
            let places = places(&mut Nothing, hints, &Banner::default());
            let near = places
                .iter()
                .filter(|(method, _)| matches!(method, Method::NearPc));
            assert!(near.map(|(_, at)| *at).all(|at| at <= pc), "{pc:#x}");
        }
    }
}
