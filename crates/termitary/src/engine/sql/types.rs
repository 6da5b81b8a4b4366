//! The Rust types that can be bound and read.

use std::sync::Arc;

use sqlx::decode::Decode;
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::types::Type;
use uuid::Uuid;

use super::arguments::{Argument, push};
use super::type_info::{Kind, Scalar};
use super::value::Borrowed;
use super::{Sql, SqlTypeInfo, SqlValueRef};

/// Returns whether a column of this type can be read as `T`.
macro_rules! compatible {
    ($type:ty, $info:expr) => {
        match &$info.0 {
            Kind::Rust(scalar) => <$type as Type<Sql>>::type_info().0 == Kind::Rust(*scalar),
            Kind::Sqlite(info) => <$type as Type<sqlx::Sqlite>>::compatible(info),
            #[cfg(feature = "postgres")]
            Kind::Postgres(info) => <$type as Type<sqlx::Postgres>>::compatible(info),
        }
    };
}

macro_rules! typed {
    ($type:ty, $scalar:ident) => {
        impl Type<Sql> for $type {
            fn type_info() -> SqlTypeInfo {
                SqlTypeInfo(Kind::Rust(Scalar::$scalar))
            }

            fn compatible(info: &SqlTypeInfo) -> bool {
                compatible!($type, info)
            }
        }
    };
}

macro_rules! decoded {
    ($type:ty) => {
        impl<'r> Decode<'r, Sql> for $type {
            fn decode(value: SqlValueRef<'r>) -> Result<Self, BoxDynError> {
                match value.0 {
                    Borrowed::Sqlite(value) => <Self as Decode<'r, sqlx::Sqlite>>::decode(value),
                    #[cfg(feature = "postgres")]
                    Borrowed::Postgres(value) => {
                        <Self as Decode<'r, sqlx::Postgres>>::decode(value)
                    }
                }
            }
        }
    };
}

macro_rules! encoded {
    ($type:ty, $make:expr) => {
        impl<'q> Encode<'q, Sql> for $type {
            fn encode_by_ref(&self, buffer: &mut Vec<Argument>) -> Result<IsNull, BoxDynError> {
                Ok(push(buffer, $make(self)))
            }
        }
    };
}

typed!(bool, Bool);
decoded!(bool);
encoded!(bool, |value: &bool| Argument::Bool(*value));

impl Type<Sql> for i64 {
    fn type_info() -> SqlTypeInfo {
        SqlTypeInfo(Kind::Rust(Scalar::Int))
    }

    /// PostgreSQL's smaller integers are read, too.
    fn compatible(info: &SqlTypeInfo) -> bool {
        #[cfg(feature = "postgres")]
        if let Kind::Postgres(info) = &info.0 {
            return <Self as Type<sqlx::Postgres>>::compatible(info)
                || <i32 as Type<sqlx::Postgres>>::compatible(info)
                || <i16 as Type<sqlx::Postgres>>::compatible(info);
        }
        compatible!(i64, info)
    }
}
decoded!(i64);
encoded!(i64, |value: &i64| Argument::Int(*value));

/// The smaller integers, which are stored as `i64`.
macro_rules! small {
    ($($type:ty)*) => { $(
        impl Type<Sql> for $type {
            fn type_info() -> SqlTypeInfo {
                <i64 as Type<Sql>>::type_info()
            }

            fn compatible(info: &SqlTypeInfo) -> bool {
                <i64 as Type<Sql>>::compatible(info)
            }
        }

        impl<'r> Decode<'r, Sql> for $type {
            fn decode(value: SqlValueRef<'r>) -> Result<Self, BoxDynError> {
                Ok(Self::try_from(<i64 as Decode<'r, Sql>>::decode(value)?)?)
            }
        }

        encoded!($type, |value: &$type| Argument::Int(i64::from(*value)));
    )* };
}
small!(i8 i16 i32 u8 u16 u32);

typed!(f64, Real);
decoded!(f64);
encoded!(f64, |value: &f64| Argument::Real(*value));

typed!(Uuid, Uuid);
decoded!(Uuid);
encoded!(Uuid, |value: &Uuid| Argument::Uuid(*value));

typed!(str, Text);
decoded!(&'r str);
encoded!(&str, |value: &&str| Argument::Text(Arc::from(*value)));

typed!(String, Text);
decoded!(String);
encoded!(String, |value: &String| Argument::Text(Arc::from(&**value)));

typed!([u8], Bytes);
decoded!(&'r [u8]);
encoded!(&[u8], |value: &&[u8]| Argument::Bytes(Arc::new(
    value.to_vec()
)));

typed!(Vec<u8>, Bytes);
decoded!(Vec<u8>);
encoded!(Vec<u8>, |value: &Vec<u8>| Argument::Bytes(Arc::new(
    value.clone()
)));

impl<'q, T> Encode<'q, Sql> for Option<T>
where
    T: Encode<'q, Sql> + Type<Sql> + 'q,
{
    fn produces(&self) -> Option<SqlTypeInfo> {
        Some(T::type_info())
    }

    fn encode(self, buffer: &mut Vec<Argument>) -> Result<IsNull, BoxDynError> {
        match self {
            Some(value) => value.encode(buffer),
            None => Ok(IsNull::Yes),
        }
    }

    fn encode_by_ref(&self, buffer: &mut Vec<Argument>) -> Result<IsNull, BoxDynError> {
        match self {
            Some(value) => value.encode_by_ref(buffer),
            None => Ok(IsNull::Yes),
        }
    }
}
