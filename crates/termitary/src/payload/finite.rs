//! Finds numbers that JSON does not have. `serde_json` writes `null` for NaN and the
//! infinities, which no reader decodes as that number and most readers do not decode.

use std::fmt;

use serde::ser::{self, Serialize, Serializer};

/// Fails if a float anywhere in `value` is not finite.
pub(super) fn check(value: &impl Serialize) -> Result<(), Unwritable> {
    match value.serialize(Finite { field: "" }) {
        // The value was serialized before: its own errors are known.
        Ok(()) | Err(Found::Custom) => Ok(()),
        Err(Found::Unwritable(found)) => Err(found),
    }
}

/// A number that is not finite, and the field that has it.
#[derive(Debug)]
pub(super) struct Unwritable {
    value: f64,
    field: &'static str,
}

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, field } = self;
        write!(f, "{value} in `{field}`: JSON has no such number")
    }
}

#[derive(Debug)]
enum Found {
    Unwritable(Unwritable),
    Custom,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unwritable(found) => found.fmt(f),
            Self::Custom => f.write_str("the value does not serialize"),
        }
    }
}

impl std::error::Error for Found {}

impl ser::Error for Found {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::Custom
    }
}

/// A serializer that writes nothing.
#[derive(Clone, Copy)]
struct Finite {
    /// The innermost named field.
    field: &'static str,
}

impl Finite {
    fn number(self, value: f64) -> Result<(), Found> {
        if value.is_finite() {
            return Ok(());
        }
        let field = self.field;
        Err(Found::Unwritable(Unwritable { value, field }))
    }
}

macro_rules! nothing_to_find {
    ($($method:ident($($value:ty),*))*) => {
        $(fn $method(self, $(_: $value),*) -> Result<(), Found> {
            Ok(())
        })*
    };
}

macro_rules! search_inside {
    ($($method:ident($($value:ty),*))*) => {
        $(fn $method(self, $(_: $value),*) -> Result<Self, Found> {
            Ok(self)
        })*
    };
}

impl Serializer for Finite {
    type Ok = ();
    type Error = Found;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    nothing_to_find! {
        serialize_bool(bool) serialize_char(char) serialize_str(&str) serialize_bytes(&[u8])
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64) serialize_i128(i128)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_u128(u128)
        serialize_none() serialize_unit() serialize_unit_struct(&'static str)
        serialize_unit_variant(&'static str, u32, &'static str)
    }

    search_inside! {
        serialize_seq(Option<usize>) serialize_tuple(usize) serialize_tuple_struct(&'static str, usize)
        serialize_tuple_variant(&'static str, u32, &'static str, usize)
        serialize_map(Option<usize>) serialize_struct(&'static str, usize)
        serialize_struct_variant(&'static str, u32, &'static str, usize)
    }

    fn serialize_f32(self, value: f32) -> Result<(), Found> {
        self.number(f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> Result<(), Found> {
        self.number(value)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Found> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Found> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Found> {
        value.serialize(self)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, _: &T) -> Result<(), Found> {
        Ok(())
    }
}

macro_rules! items {
    ($($what:ident $method:ident;)*) => {
        $(impl ser::$what for Finite {
            type Ok = ();
            type Error = Found;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Found> {
                value.serialize(*self)
            }

            fn end(self) -> Result<(), Found> {
                Ok(())
            }
        })*
    };
}

items! {
    SerializeSeq serialize_element;
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

macro_rules! fields {
    ($($what:ident)*) => {
        $(impl ser::$what for Finite {
            type Ok = ();
            type Error = Found;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                field: &'static str,
                value: &T,
            ) -> Result<(), Found> {
                value.serialize(Self { field })
            }

            fn end(self) -> Result<(), Found> {
                Ok(())
            }
        })*
    };
}

fields!(SerializeStruct SerializeStructVariant);

impl ser::SerializeMap for Finite {
    type Ok = ();
    type Error = Found;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, _: &T) -> Result<(), Found> {
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Found> {
        value.serialize(*self)
    }

    fn end(self) -> Result<(), Found> {
        Ok(())
    }
}
