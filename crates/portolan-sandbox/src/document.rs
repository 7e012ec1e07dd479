//! Keys and values in TOML and in property lists, with where each key is.
//!
//! Entitlement files and job files are both written in any of three formats. Here they become one
//! tree, within limits, and a tree becomes a file again.

mod distance;
mod property_list;
mod read;
mod write;
mod xml;

use std::fmt;

use thiserror::Error;

pub use distance::distance;
pub use write::WriteError;

/// The formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML.
    Toml,
    /// A property list in XML.
    Xml,
    /// A binary property list.
    Binary,
}

/// What a file says.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its keys with their values, in the order of the file.
    pub items: Vec<Item>,
    /// How it was written.
    pub source: Source,
}

/// What a document was read from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The format.
    pub format: Format,
    /// Empty for a binary one.
    text: String,
}

impl Source {
    /// The place of something that is so many bytes from the start of the text.
    #[must_use]
    pub fn position(&self, offset: usize) -> Position {
        Position::of(&self.text, offset)
    }
}

/// A key with its value.
#[derive(Clone, Debug)]
pub struct Item {
    /// The key.
    pub key: String,
    /// Where it is in the text, see [`Source::position`]; a binary property list has no places.
    pub offset: Option<usize>,
    /// The value.
    pub value: Value,
}

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// True or false.
    Boolean(bool),
    /// A whole number; those of the formats are between `i64::MIN` and `u64::MAX`.
    Integer(i128),
    /// Another number.
    Real(f64),
    /// A text.
    String(String),
    /// Values.
    Array(Vec<Value>),
    /// Keys with values.
    Dictionary(Vec<Item>),
    /// What not every format has: a date, data, a UID.
    Other,
}

/// Equal are items that say the same, wherever they are in a text.
impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.value == other.value
    }
}

/// The order of a dictionary's keys means nothing, and a real number equals itself.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Boolean(a), Self::Boolean(b)) => a == b,
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Real(a), Self::Real(b)) => a.total_cmp(b).is_eq(),
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a == b,
            (Self::Dictionary(a), Self::Dictionary(b)) => sorted(a) == sorted(b),
            (Self::Other, Self::Other) => true,
            _ => false,
        }
    }
}

fn sorted(items: &[Item]) -> Vec<&Item> {
    let mut items: Vec<_> = items.iter().collect();
    items.sort_by(|a, b| a.key.cmp(&b.key));
    items
}

impl Document {
    /// Reads a text or a binary property list; which format it is in tells how it begins.
    ///
    /// # Errors
    ///
    /// [`DocumentError`]
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        read::parse(bytes)
    }

    /// Writes the same in a format; what is read from it again is equal. Comments are not kept.
    ///
    /// ```
    /// use portolan_sandbox::document::{Document, Format};
    ///
    /// let document = Document::parse(b"RunAtLoad = true\n")?;
    /// let list = Document::parse(&document.write(Format::Xml)?)?;
    /// assert_eq!(list.items, document.items);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`WriteError`] if the format cannot say it.
    pub fn write(&self, format: Format) -> Result<Vec<u8>, WriteError> {
        write::write(&self.items, format)
    }
}

/// A place in a text, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl Position {
    fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before.get(start..).map_or(0, |line| line.chars().count()) + 1;
        Self {
            line: before.matches('\n').count() + 1,
            column,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Why bytes are not a document.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Not TOML.
    #[error("{}", .source.message())]
    Toml {
        /// Where.
        at: Option<Position>,
        /// What the parser says.
        source: toml::de::Error,
    },
    /// Not a property list, or one that nests deeper or stands for more than is taken.
    #[error("not a property list")]
    PropertyList {
        /// Where.
        at: Option<Position>,
        /// What the parser says.
        source: plist::Error,
    },
    /// An entity in XML that is none of XML's own.
    #[error("an entity that XML does not have, write & as &amp;")]
    UnknownEntity {
        /// Where.
        at: Position,
    },
    /// A property list that is no dictionary.
    #[error("the property list is not a dictionary")]
    NotATable,
    /// Neither binary nor UTF-8.
    #[error("not UTF-8")]
    NotUtf8(#[from] std::str::Utf8Error),
}

impl DocumentError {
    /// Where in the text it is wrong; a binary property list has no positions.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Toml { at, .. } | Self::PropertyList { at, .. } => *at,
            Self::UnknownEntity { at } => Some(*at),
            Self::NotATable | Self::NotUtf8(_) => None,
        }
    }
}
