use std::time::SystemTime;

use super::{Change, Image, MAGIC, MAX_BYTES, MAX_CHANGES_BYTES, MAX_DEPTH, MAX_VALUES, Value};

impl Image {
    /// The bytes of the file. Of the changes, those are left out that do not fit any more.
    ///
    /// # Errors
    ///
    /// [`LimitError`]
    pub fn encode(&self) -> Result<Vec<u8>, LimitError> {
        let mut writer = Writer::default();
        writer.out.extend(MAGIC);
        writer.out.extend(self.id.to_le_bytes());
        writer.out.extend(self.generation.to_le_bytes());
        writer.count(self.values.len());
        for (key, value) in &self.values {
            writer.key(key);
            writer.value(value, 0)?;
        }
        let changes = recent_changes(self, &writer);
        writer.count(changes.len());
        changes
            .iter()
            .rev()
            .for_each(|change| writer.out.extend(change));
        match writer.out.len() {
            len if len > MAX_BYTES => Err(LimitError::TooLong { len }),
            _ => Ok(writer.out),
        }
    }
}

/// The newest first, as long as there is room for them.
fn recent_changes(image: &Image, before: &Writer) -> Vec<Vec<u8>> {
    let mut room = MAX_CHANGES_BYTES.min(MAX_BYTES.saturating_sub(before.out.len() + 4));
    let mut values = before.values;
    let mut kept = Vec::new();
    for change in &image.changes {
        let mut writer = Writer {
            values,
            ..Writer::default()
        };
        if writer.change(change).is_err() || writer.out.len() > room {
            break;
        }
        room -= writer.out.len();
        values = writer.values;
        kept.push(writer.out);
    }
    kept
}

#[derive(Default)]
struct Writer {
    out: Vec<u8>,
    values: u32,
}

impl Writer {
    fn change(&mut self, change: &Change) -> Result<(), LimitError> {
        self.key(&change.key);
        self.out.push(u8::from(change.value.is_some()));
        match &change.value {
            Some(value) => self.value(value, 0),
            None => Ok(()),
        }
    }

    /// `MAX_KEY_BYTES` is checked where a key comes into an image.
    fn key(&mut self, key: &str) {
        self.out.extend((key.len() as u16).to_le_bytes());
        self.out.extend(key.as_bytes());
    }

    fn value(&mut self, value: &Value, depth: u32) -> Result<(), LimitError> {
        if depth > MAX_DEPTH {
            return Err(LimitError::TooDeep);
        }
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(LimitError::TooManyValues);
        }
        match value {
            Value::Boolean(value) => self.out.push(u8::from(*value)),
            Value::Integer(value) => self.tagged(2, &value.to_le_bytes()),
            Value::Real(value) => self.tagged(3, &value.to_bits().to_le_bytes()),
            Value::String(text) => self.block(4, text.as_bytes()),
            Value::Data(bytes) => self.block(5, bytes),
            Value::Date(date) => {
                let (seconds, nanos) = since_1970(*date);
                self.tagged(6, &seconds.to_le_bytes());
                self.out.extend(nanos.to_le_bytes());
            }
            Value::Array(values) => {
                self.out.push(7);
                self.count(values.len());
                for value in values {
                    self.value(value, depth + 1)?;
                }
            }
            Value::Dictionary(values) => {
                self.out.push(8);
                self.count(values.len());
                for (key, value) in values {
                    self.text(key.as_bytes());
                    self.value(value, depth + 1)?;
                }
            }
        }
        match self.out.len() {
            len if len > MAX_BYTES => Err(LimitError::TooLong { len }),
            _ => Ok(()),
        }
    }

    fn tagged(&mut self, kind: u8, bytes: &[u8]) {
        self.out.push(kind);
        self.out.extend(bytes);
    }

    fn block(&mut self, kind: u8, bytes: &[u8]) {
        self.out.push(kind);
        self.text(bytes);
    }

    /// One that is too long for its length makes the whole too long, which is refused.
    fn text(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.out.extend(bytes);
    }

    fn count(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.out.extend(count.to_le_bytes());
    }
}

/// Seconds, and nanoseconds after them.
fn since_1970(date: SystemTime) -> (i64, u32) {
    match date.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => (
            0i64.saturating_add_unsigned(since.as_secs()),
            since.subsec_nanos(),
        ),
        Err(before) => {
            let before = before.duration();
            let seconds = 0i64.saturating_sub_unsigned(before.as_secs());
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanos => (seconds.saturating_sub(1), 1_000_000_000 - nanos),
            }
        }
    }
}

/// User defaults are more than a file may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// More than [`MAX_BYTES`].
    #[error(
        "the defaults of a group have at most {MAX_BYTES} bytes, these would have {len} or more"
    )]
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// More than [`MAX_VALUES`].
    #[error("the defaults of a group have at most {MAX_VALUES} values")]
    TooManyValues,
    /// Deeper than [`MAX_DEPTH`].
    #[error("arrays and dictionaries are at most {MAX_DEPTH} deep in each other")]
    TooDeep,
}
