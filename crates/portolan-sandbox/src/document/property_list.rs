//! Property lists, within limits.
//!
//! A binary property list can refer to a value any number of times, so that two kilobytes of it
//! stand for more values than there is memory. Here values are counted while they are read.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess,
    SeqAccess, VariantAccess as _, Visitor,
};

use super::{Item, Value};

/// The most that a property list may stand for: bytes of text and of data, and one for each value.
const MAX_CONTENTS: usize = 256 << 10;

/// How deep values may nest. The deepest of a job is a dictionary of arrays of dictionaries.
const MAX_DEPTH: usize = 8;

/// By this name of `plist::Value`, its reader gives dates and UIDs as such; else as a text and as a
/// number.
const PLIST_VALUE: &str = "PLIST-VALUE";

/// XML or binary, as it begins.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, plist::Error> {
    plist::from_bytes(bytes).map(|Root(value)| value)
}

struct Root(Value);

impl<'de> Deserialize<'de> for Root {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut left = MAX_CONTENTS;
        let bounded = Bounded {
            left: &mut left,
            depth: MAX_DEPTH,
        };
        bounded.deserialize(deserializer).map(Self)
    }
}

/// Reads one value, within what is left of the limits.
struct Bounded<'a> {
    left: &'a mut usize,
    depth: usize,
}

impl Bounded<'_> {
    fn spend<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        let left = self.left.checked_sub(bytes);
        *self.left = left.ok_or_else(|| E::custom("stands for too many values"))?;
        Ok(())
    }

    fn below<E: Error>(&mut self) -> Result<Bounded<'_>, E> {
        let depth = self.depth.checked_sub(1);
        Ok(Bounded {
            left: self.left,
            depth: depth.ok_or_else(|| E::custom("nested too deep"))?,
        })
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<Value, D::Error> {
        self.spend(1)?;
        deserializer.deserialize_newtype_struct(PLIST_VALUE, self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of a property list")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_str<E: Error>(mut self, value: &str) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_bytes<E: Error>(mut self, value: &[u8]) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(Value::Other)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Real(value))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
        inner.deserialize_any(self)
    }

    /// A date or a UID.
    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        let (_, contents) = access.variant::<IgnoredAny>()?;
        contents.newtype_variant::<IgnoredAny>()?;
        Ok(Value::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(self.below()?)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            self.spend(key.len())?;
            items.push(Item {
                key,
                offset: None,
                value: map.next_value_seed(self.below()?)?,
            });
        }
        Ok(Value::Dictionary(items))
    }
}
