//! The user defaults of an application group, as the bytes of their file.
//!
//! | field | bytes |
//! | --- | --- |
//! | magic and version | 8 |
//! | id of the store | `u64` |
//! | generation | `u64` |
//! | number of values | `u32` |
//! | the values, in the order of their keys: a key, a [`Value`] | |
//! | number of changes | `u32` |
//! | the last changes, the oldest first: a key, then 0, or 1 and the [`Value`] it got | |
//!
//! All integers are little-endian and nothing is padded. A *key* is its length in bytes as a `u16`,
//! then its bytes. A value begins with a byte that tells its kind: 0 false, 1 true, 2 an integer
//! (`i64`), 3 a real number (the bits of an `f64`), 4 a string and 5 data (length as a `u32`, then
//! bytes), 6 a date (seconds since 1970 as an `i64`, nanoseconds as a `u32`), 7 an array (number of
//! values as a `u32`, then the values), 8 a dictionary (number as a `u32`, then for each a string
//! without its kind, and a value, in the order of the strings). There is one encoding of each store.
//!
//! The changes are in the file because it is replaced as a whole: whoever reads it sees the values
//! and how they came about at one moment, however the writer ended.

mod decode;
mod encode;
mod value;

use std::collections::{BTreeMap, VecDeque};

pub use decode::ImageError;
pub use encode::LimitError;
pub use value::{Value, WrongKind};

/// The longest file.
pub const MAX_BYTES: usize = 4 << 20;

/// The most values of a store, those within arrays and dictionaries and those of changes counted.
pub const MAX_VALUES: u32 = 1 << 16;

/// How deep arrays and dictionaries may be in each other.
pub const MAX_DEPTH: u32 = 32;

/// The longest key of a store, in bytes.
pub const MAX_KEY_BYTES: usize = 256;

/// How many changes are kept.
pub const MAX_CHANGES: usize = 256;

/// How many bytes the kept changes have at most.
pub const MAX_CHANGES_BYTES: usize = 64 << 10;

const MAGIC: [u8; 8] = *b"PortDef\x01";

/// What a file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    id: u64,
    generation: u64,
    values: BTreeMap<String, Value>,
    changes: VecDeque<Change>,
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its value from then on, or none if it was removed.
    pub value: Option<Value>,
}

impl Image {
    /// A store without values. The id tells it from one that was in its place before.
    #[must_use]
    pub fn new(id: u64) -> Self {
        Self {
            id,
            generation: 0,
            values: BTreeMap::new(),
            changes: VecDeque::new(),
        }
    }

    /// The values.
    #[must_use]
    pub fn values(&self) -> &BTreeMap<String, Value> {
        &self.values
    }

    /// The values, without the rest.
    #[must_use]
    pub fn into_values(self) -> BTreeMap<String, Value> {
        self.values
    }

    /// Sets a key, or removes it. Tells whether that changed anything.
    ///
    /// # Errors
    ///
    /// [`KeyError`]
    pub fn set(&mut self, key: &str, value: Option<Value>) -> Result<bool, KeyError> {
        check_key(key)?;
        if self.values.get(key) == value.as_ref() {
            return Ok(false);
        }
        match &value {
            Some(value) => self.values.insert(key.to_owned(), value.clone()),
            None => self.values.remove(key),
        };
        self.generation += 1;
        self.changes.truncate(MAX_CHANGES - 1);
        let key = key.to_owned();
        self.changes.push_front(Change { key, value });
        Ok(true)
    }

    /// What was changed since an earlier image of the same store, in order; nothing if that is not
    /// known any more. An image that nothing has happened to is an earlier one of every store.
    #[must_use]
    pub fn changes_since(&self, earlier: &Self) -> Option<Vec<Change>> {
        let count = self.generation.checked_sub(earlier.generation)?;
        let count = usize::try_from(count).ok()?;
        let related = self.id == earlier.id || earlier.generation == 0;
        let known = related && count <= self.changes.len();
        known.then(|| self.changes.iter().take(count).rev().cloned().collect())
    }

    /// What is different from an earlier image, in the order of the keys, whatever happened between.
    #[must_use]
    pub fn difference(&self, earlier: &Self) -> Vec<Change> {
        let keys = earlier.values.keys().chain(self.values.keys());
        let keys: std::collections::BTreeSet<_> = keys.collect();
        let changed = keys
            .into_iter()
            .filter(|key| self.values.get(*key) != earlier.values.get(*key));
        changed
            .map(|key| Change {
                key: key.clone(),
                value: self.values.get(key).cloned(),
            })
            .collect()
    }
}

fn check_key(key: &str) -> Result<(), KeyError> {
    match key.len() {
        0 => Err(KeyError::Empty),
        len if len > MAX_KEY_BYTES => Err(KeyError::TooLong { len }),
        _ => Ok(()),
    }
}

/// Why some text cannot be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is nothing in it.
    #[error("a key cannot be empty")]
    Empty,
    /// It is longer than [`MAX_KEY_BYTES`].
    #[error("a key has at most {MAX_KEY_BYTES} bytes, this one has {len}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
}
