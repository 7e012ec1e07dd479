use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

/// A value of user defaults: what a property list can say.
#[derive(Debug, Clone)]
pub enum Value {
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// Another number. Two are equal if they have the same bits, so that one that is not a number
    /// equals itself.
    Real(f64),
    /// A text.
    String(String),
    /// Bytes.
    Data(Vec<u8>),
    /// A point in time.
    Date(SystemTime),
    /// Values in an order.
    Array(Vec<Value>),
    /// Values with names.
    Dictionary(BTreeMap<String, Value>),
}

impl Value {
    /// What kind of value it is, as a word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Real(_) => "a real number",
            Self::String(_) => "a string",
            Self::Data(_) => "data",
            Self::Date(_) => "a date",
            Self::Array(_) => "an array",
            Self::Dictionary(_) => "a dictionary",
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Boolean(a), Self::Boolean(b)) => a == b,
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Real(a), Self::Real(b)) => a.to_bits() == b.to_bits(),
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Data(a), Self::Data(b)) => a == b,
            (Self::Date(a), Self::Date(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a == b,
            (Self::Dictionary(a), Self::Dictionary(b)) => a == b,
            _ => false,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Integer(number.into())
    }
}

/// A value is of another kind than was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongKind {
    /// The kind that it is.
    pub found: &'static str,
}

impl fmt::Display for WrongKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the value is {}", self.found)
    }
}

impl std::error::Error for WrongKind {}

/// Makes a kind of value out of what Rust has for it, and the other way.
macro_rules! kind {
    ($($variant:ident($inner:ty)),*) => {$(
        impl From<$inner> for Value {
            fn from(inner: $inner) -> Self {
                Self::$variant(inner)
            }
        }

        impl TryFrom<Value> for $inner {
            type Error = WrongKind;

            fn try_from(value: Value) -> Result<Self, WrongKind> {
                match value {
                    Value::$variant(inner) => Ok(inner),
                    other => Err(WrongKind { found: other.kind() }),
                }
            }
        }
    )*};
}

kind!(
    Boolean(bool),
    Integer(i64),
    Real(f64),
    String(String),
    Data(Vec<u8>),
    Date(SystemTime),
    Array(Vec<Value>),
    Dictionary(BTreeMap<String, Value>)
);
