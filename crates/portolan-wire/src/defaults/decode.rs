use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use super::{
    Change, Image, KeyError, MAGIC, MAX_BYTES, MAX_CHANGES, MAX_CHANGES_BYTES, MAX_DEPTH,
    MAX_VALUES, Value, check_key,
};
use crate::cursor::{Cursor, Truncated};

impl Image {
    /// Reads the bytes of a file, which anybody may have written.
    ///
    /// # Errors
    ///
    /// [`ImageError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        if bytes.len() > MAX_BYTES {
            return Err(ImageError::TooLong);
        }
        let rest = bytes.strip_prefix(&MAGIC).ok_or(ImageError::OtherFormat)?;
        let mut reader = Reader {
            cursor: Cursor::new(rest),
            values: 0,
        };
        let image = Self {
            id: reader.cursor.u64()?,
            generation: reader.cursor.u64()?,
            values: reader.values()?,
            changes: reader.changes()?,
        };
        match reader.cursor.remaining() {
            0 if image.changes.len() as u64 <= image.generation => Ok(image),
            0 => Err(ImageError::TooManyChanges),
            _ => Err(ImageError::TrailingBytes),
        }
    }
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    values: u32,
}

impl Reader<'_> {
    fn values(&mut self) -> Result<BTreeMap<String, Value>, ImageError> {
        let count = self.cursor.u32()?;
        self.pairs(count, Self::key, 0)
    }

    fn changes(&mut self) -> Result<VecDeque<Change>, ImageError> {
        let count = self.cursor.u32()?;
        let before = self.cursor.remaining();
        let mut changes = VecDeque::new();
        for _ in 0..count {
            changes.push_front(self.change()?);
            let bytes = before - self.cursor.remaining();
            if changes.len() > MAX_CHANGES || bytes > MAX_CHANGES_BYTES {
                return Err(ImageError::TooManyChanges);
            }
        }
        Ok(changes)
    }

    fn change(&mut self) -> Result<Change, ImageError> {
        let key = self.key()?;
        let value = match self.cursor.u8()? {
            0 => None,
            1 => Some(self.value(0)?),
            kind => return Err(ImageError::UnknownKind { kind }),
        };
        Ok(Change { key, value })
    }

    fn key(&mut self) -> Result<String, ImageError> {
        let len = self.cursor.u16()?;
        let key = text(self.cursor.bytes(len.into())?)?;
        check_key(&key)?;
        Ok(key)
    }

    fn string(&mut self) -> Result<String, ImageError> {
        text(self.block()?)
    }

    fn block(&mut self) -> Result<&[u8], ImageError> {
        let len = self.cursor.u32()? as usize;
        Ok(self.cursor.bytes(len)?)
    }

    fn value(&mut self, depth: u32) -> Result<Value, ImageError> {
        if depth > MAX_DEPTH {
            return Err(ImageError::TooDeep);
        }
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(ImageError::TooManyValues);
        }
        Ok(match self.cursor.u8()? {
            0 => Value::Boolean(false),
            1 => Value::Boolean(true),
            2 => Value::Integer(self.cursor.u64()?.cast_signed()),
            3 => Value::Real(f64::from_bits(self.cursor.u64()?)),
            4 => Value::String(self.string()?),
            5 => Value::Data(self.block()?.to_vec()),
            6 => Value::Date(self.date()?),
            7 => Value::Array(self.array(depth + 1)?),
            8 => {
                let count = self.cursor.u32()?;
                Value::Dictionary(self.pairs(count, Self::string, depth + 1)?)
            }
            kind => return Err(ImageError::UnknownKind { kind }),
        })
    }

    /// Grows with what was read: the count is the writer's word.
    fn array(&mut self, depth: u32) -> Result<Vec<Value>, ImageError> {
        let count = self.cursor.u32()?;
        (0..count).map(|_| self.value(depth)).collect()
    }

    fn pairs(
        &mut self,
        count: u32,
        key: impl Fn(&mut Self) -> Result<String, ImageError>,
        depth: u32,
    ) -> Result<BTreeMap<String, Value>, ImageError> {
        let mut pairs = BTreeMap::new();
        for _ in 0..count {
            let key = key(self)?;
            if pairs.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(ImageError::KeyOrder);
            }
            pairs.insert(key, self.value(depth)?);
        }
        Ok(pairs)
    }

    fn date(&mut self) -> Result<SystemTime, ImageError> {
        let seconds = self.cursor.u64()?.cast_signed();
        let nanos = self.cursor.u32()?;
        if nanos >= 1_000_000_000 {
            return Err(ImageError::Date);
        }
        let distance = Duration::from_secs(seconds.unsigned_abs());
        let whole = match seconds {
            0.. => SystemTime::UNIX_EPOCH.checked_add(distance),
            _ => SystemTime::UNIX_EPOCH.checked_sub(distance),
        };
        whole
            .and_then(|whole| whole.checked_add(Duration::from_nanos(nanos.into())))
            .ok_or(ImageError::Date)
    }
}

fn text(bytes: &[u8]) -> Result<String, ImageError> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| ImageError::NotUtf8)
}

/// Why bytes are not the defaults of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// They are something else, or of a later version.
    #[error("not a file of defaults, or of a later version")]
    OtherFormat,
    /// They end too early.
    #[error("it ends too early")]
    Truncated,
    /// There are more than a file may have.
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLong,
    /// Something follows the end.
    #[error("something follows its end")]
    TrailingBytes,
    /// A kind of value that there is not.
    #[error("there is no kind of value {kind}")]
    UnknownKind {
        /// Its number.
        kind: u8,
    },
    /// More values than [`MAX_VALUES`].
    #[error("it has more than {MAX_VALUES} values")]
    TooManyValues,
    /// Deeper than [`MAX_DEPTH`].
    #[error("it is more than {MAX_DEPTH} deep")]
    TooDeep,
    /// More changes than are kept, or than there were.
    #[error("it has more changes than are kept")]
    TooManyChanges,
    /// A key that cannot be one.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Keys that are out of order, or twice there.
    #[error("its keys are not in order")]
    KeyOrder,
    /// A text that is not UTF-8.
    #[error("a text in it is not UTF-8")]
    NotUtf8,
    /// A date that cannot be.
    #[error("a date in it cannot be")]
    Date,
}

impl From<Truncated> for ImageError {
    fn from(Truncated: Truncated) -> Self {
        Self::Truncated
    }
}
