//! The fields that several of this crate's encodings are made of, each beside what reads it.
//!
//! All integers are little-endian and nothing is padded.

use crate::bootstrap::DecodeError;
use crate::bounded::Text;
use crate::cursor::Cursor;
use crate::label::JobLabel;
use crate::name::ServiceName;

/// A string: its length in bytes as a `u16`, then its bytes. All that is written with this is of a
/// type whose longest value a `u16` can tell.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    const {
        assert!(ServiceName::MAX_BYTES <= u16::MAX as usize);
        assert!(JobLabel::MAX_BYTES <= u16::MAX as usize);
    }
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text.as_bytes());
}

pub(crate) fn take_string<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], DecodeError> {
    let len = cursor.u16()?;
    Ok(cursor.bytes(len.into())?)
}

pub(crate) fn take_name(cursor: &mut Cursor<'_>) -> Result<ServiceName, DecodeError> {
    Ok(ServiceName::from_bytes(take_string(cursor)?)?)
}

pub(crate) fn take_label(cursor: &mut Cursor<'_>) -> Result<JobLabel, DecodeError> {
    Ok(JobLabel::from_bytes(take_string(cursor)?)?)
}

pub(crate) fn take_text<const MAX: usize>(
    cursor: &mut Cursor<'_>,
) -> Result<Text<MAX>, DecodeError> {
    Ok(Text::from_bytes(take_string(cursor)?)?)
}

/// A label that need not be there: a string, empty for none.
pub(crate) fn put_optional_label(out: &mut Vec<u8>, label: Option<&JobLabel>) {
    put_string(out, label.map_or("", JobLabel::as_str));
}

pub(crate) fn take_optional_label(
    cursor: &mut Cursor<'_>,
) -> Result<Option<JobLabel>, DecodeError> {
    match take_string(cursor)? {
        [] => Ok(None),
        bytes => Ok(Some(JobLabel::from_bytes(bytes)?)),
    }
}

/// A truth value: a `u8`, 0 or 1.
pub(crate) fn put_bool(out: &mut Vec<u8>, value: bool) {
    out.push(u8::from(value));
}

pub(crate) fn take_bool(cursor: &mut Cursor<'_>) -> Result<bool, DecodeError> {
    match cursor.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(DecodeError::NotBool { value }),
    }
}

/// A process that need not be there: a `u32`, 0 for none.
pub(crate) fn put_pid(out: &mut Vec<u8>, pid: Option<u32>) {
    out.extend(pid.unwrap_or(0).to_le_bytes());
}

pub(crate) fn take_pid(cursor: &mut Cursor<'_>) -> Result<Option<u32>, DecodeError> {
    let pid = cursor.u32()?;
    Ok((pid != 0).then_some(pid))
}

/// What need not be there: a truth value, and then the value if it is 1.
pub(crate) fn put_optional<T>(
    out: &mut Vec<u8>,
    value: Option<&T>,
    put: impl Fn(&T, &mut Vec<u8>),
) {
    put_bool(out, value.is_some());
    if let Some(value) = value {
        put(value, out);
    }
}

pub(crate) fn take_optional<T>(
    cursor: &mut Cursor<'_>,
    take: impl Fn(&mut Cursor<'_>) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    match take_bool(cursor)? {
        true => take(cursor).map(Some),
        false => Ok(None),
    }
}

/// A list: the number of its items as a `u32`, then the items. What is beyond `max` is left out.
pub(crate) fn put_list<T>(
    out: &mut Vec<u8>,
    items: &[T],
    max: u32,
    put: impl Fn(&T, &mut Vec<u8>),
) {
    let count = u32::try_from(items.len()).map_or(max, |count| count.min(max));
    out.extend(count.to_le_bytes());
    items
        .iter()
        .take(count as usize)
        .for_each(|item| put(item, out));
}

/// Grows with what was read: the count is the peer's word.
pub(crate) fn take_list<T>(
    cursor: &mut Cursor<'_>,
    max: u32,
    take: impl Fn(&mut Cursor<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = cursor.u32()?;
    if count > max {
        return Err(DecodeError::TooMany { count, max });
    }
    (0..count).map(|_| take(cursor)).collect()
}

/// Bytes up to the end of the message.
pub(crate) fn take_rest(cursor: &mut Cursor<'_>, max: usize) -> Result<Vec<u8>, DecodeError> {
    match cursor.remaining() {
        len if len > max => Err(DecodeError::FileTooLong { len, max }),
        len => Ok(cursor.bytes(len)?.to_vec()),
    }
}

pub(crate) fn expect_end(cursor: &Cursor<'_>) -> Result<(), DecodeError> {
    match cursor.remaining() {
        0 => Ok(()),
        count => Err(DecodeError::TrailingBytes { count }),
    }
}
