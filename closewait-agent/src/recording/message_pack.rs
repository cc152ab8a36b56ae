//! Deserializer of MessagePack.
//!
//! That of `rmp-serde` reads any value wherever one of a certain type is expected: for each of the hundreds of types in a recording, the
//! program then has the code for all kinds of values, a megabyte in all. Here the bytes become a [`Token`] in one place, and a type has
//! code for its own kind of token only. Encoding and errors remain those of `rmp-serde`.
//!
//! Source of the format: the MessagePack specification, `spec.md`, "Formats". Values of extension types are not in recordings.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a type has one or two kinds of values, and any other one is an error"
)]

use std::{io::Read, str};

use rmp::Marker;
use rmp_serde::decode::Error;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IgnoredAny, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

/// Depth of arrays, maps and variants up to which values are read: each has a part of the stack.
const MAX_DEPTH: u16 = 128;
/// Bytes of a text that are read at once: a length alone takes no memory.
const STEP: usize = 64 << 10;

/// A value without its content, if it has any.
#[derive(Clone, Copy, Debug)]
enum Token {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    /// A text, which is in [`MessagePack::bytes`].
    Text,
    /// Bytes, which are there too.
    Bytes,
    /// An array, with the number of its values.
    Array(u32),
    /// A map, with the number of its pairs.
    Map(u32),
}

/// Deserializer of the values of a reader.
pub(super) struct MessagePack<'a> {
    from: &'a mut dyn Read,
    /// Marker that was read before its value.
    marker: Option<Marker>,
    /// Bytes of the last text.
    bytes: Vec<u8>,
    depth: u16,
}

impl<'a> MessagePack<'a> {
    /// Begins at the next byte of `from`. Nothing is read beyond the values that are asked for.
    pub(super) fn new(from: &'a mut dyn Read) -> Self {
        Self { from, marker: None, bytes: Vec::new(), depth: 0 }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes).map_err(Error::InvalidDataRead)?;
        Ok(bytes)
    }

    fn marker(&mut self) -> Result<Marker, Error> {
        if let Some(marker) = self.marker.take() {
            return Ok(marker);
        }
        let mut byte = [0];
        self.from.read_exact(&mut byte).map_err(Error::InvalidMarkerRead)?;
        Ok(Marker::from_u8(byte[0]))
    }

    /// Reads the next value; of an array or map only the head.
    fn token(&mut self) -> Result<Token, Error> {
        Ok(match self.marker()? {
            Marker::Null => Token::Nil,
            Marker::True => Token::Bool(true),
            Marker::False => Token::Bool(false),
            Marker::FixPos(value) => Token::Unsigned(value.into()),
            Marker::U8 => Token::Unsigned(u8::from_be_bytes(self.array()?).into()),
            Marker::U16 => Token::Unsigned(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => Token::Unsigned(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => Token::Unsigned(u64::from_be_bytes(self.array()?)),
            Marker::FixNeg(value) => Token::Signed(value.into()),
            Marker::I8 => Token::Signed(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => Token::Signed(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => Token::Signed(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => Token::Signed(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Token::Float(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Token::Float(f64::from_be_bytes(self.array()?)),
            Marker::FixStr(length) => self.content(length.into(), Token::Text)?,
            Marker::Str8 => self.content_8(Token::Text)?,
            Marker::Str16 => self.content_16(Token::Text)?,
            Marker::Str32 => self.content_32(Token::Text)?,
            Marker::Bin8 => self.content_8(Token::Bytes)?,
            Marker::Bin16 => self.content_16(Token::Bytes)?,
            Marker::Bin32 => self.content_32(Token::Bytes)?,
            Marker::FixArray(length) => Token::Array(length.into()),
            Marker::Array16 => Token::Array(u16::from_be_bytes(self.array()?).into()),
            Marker::Array32 => Token::Array(u32::from_be_bytes(self.array()?)),
            Marker::FixMap(length) => Token::Map(length.into()),
            Marker::Map16 => Token::Map(u16::from_be_bytes(self.array()?).into()),
            Marker::Map32 => Token::Map(u32::from_be_bytes(self.array()?)),
            other => return Err(Error::TypeMismatch(other)),
        })
    }

    fn content_8(&mut self, kind: Token) -> Result<Token, Error> {
        let length = u8::from_be_bytes(self.array()?);
        self.content(length.into(), kind)
    }

    fn content_16(&mut self, kind: Token) -> Result<Token, Error> {
        let length = u16::from_be_bytes(self.array()?);
        self.content(length.into(), kind)
    }

    fn content_32(&mut self, kind: Token) -> Result<Token, Error> {
        let length = u32::from_be_bytes(self.array()?);
        self.content(length, kind)
    }

    fn content(&mut self, length: u32, kind: Token) -> Result<Token, Error> {
        self.bytes.clear();
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        while left > 0 {
            let (start, part) = (self.bytes.len(), left.min(STEP));
            self.bytes.resize(start + part, 0);
            let to = self.bytes.get_mut(start..).unwrap_or_default();
            self.from.read_exact(to).map_err(Error::InvalidDataRead)?;
            left -= part;
        }
        Ok(kind)
    }

    /// Returns the text that was read last.
    fn text(&self) -> Result<&str, Error> {
        str::from_utf8(&self.bytes).map_err(Error::Utf8Error)
    }

    /// Skips the next value.
    fn skip(&mut self) -> Result<(), Error> {
        let values = match self.token()? {
            Token::Array(length) => u64::from(length),
            Token::Map(length) => u64::from(length) * 2,
            _ => return Ok(()),
        };
        self.enter()?;
        for _ in 0..values {
            self.skip()?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// Enters an array, a map or a variant. Leaving it is `depth -= 1`; after an error, nothing more is read.
    fn enter(&mut self) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(Error::DepthLimitExceeded) } else { Ok(()) }
    }

    /// Error of a value that does not have the expected type.
    #[cold]
    fn mismatch(&self, found: Token, expected: &dyn Expected) -> Error {
        let found = match found {
            Token::Nil => Unexpected::Unit,
            Token::Bool(value) => Unexpected::Bool(value),
            Token::Unsigned(value) => Unexpected::Unsigned(value),
            Token::Signed(value) => Unexpected::Signed(value),
            Token::Float(value) => Unexpected::Float(value),
            Token::Text => Unexpected::Other("text"),
            Token::Bytes => Unexpected::Other("bytes"),
            Token::Array(_) => Unexpected::Seq,
            Token::Map(_) => Unexpected::Map,
        };
        Error::invalid_type(found, expected)
    }

    fn number<'de, V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Unsigned(value) => visitor.visit_u64(value),
            Token::Signed(value) => visitor.visit_i64(value),
            other => Err(self.mismatch(other, &visitor)),
        }
    }

    fn seq<'de, V: Visitor<'de>>(&mut self, length: u32, visitor: V) -> Result<V::Value, Error> {
        self.enter()?;
        let mut values = Values { of: self, left: length };
        let value = visitor.visit_seq(&mut values)?;
        values.end(length).map(|()| value)
    }

    fn map<'de, V: Visitor<'de>>(&mut self, length: u32, visitor: V) -> Result<V::Value, Error> {
        self.enter()?;
        let mut values = Values { of: self, left: length };
        let value = visitor.visit_map(&mut values)?;
        values.end(length).map(|()| value)
    }
}

/// Methods that read the same as another one.
macro_rules! same {
    ($inner:ident: $($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.$inner(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for &mut MessagePack<'_> {
    type Error = Error;

    same!(number: deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64);
    same!(number: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64);
    same!(deserialize_f64: deserialize_f32);
    same!(deserialize_str: deserialize_char deserialize_string deserialize_identifier);
    same!(deserialize_bytes: deserialize_byte_buf);

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Nil => visitor.visit_unit(),
            Token::Bool(value) => visitor.visit_bool(value),
            Token::Unsigned(value) => visitor.visit_u64(value),
            Token::Signed(value) => visitor.visit_i64(value),
            Token::Float(value) => visitor.visit_f64(value),
            Token::Text => visitor.visit_str(self.text()?),
            Token::Bytes => visitor.visit_bytes(&self.bytes),
            Token::Array(length) => self.seq(length, visitor),
            Token::Map(length) => self.map(length, visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Bool(value) => visitor.visit_bool(value),
            other => Err(self.mismatch(other, &visitor)),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Float(value) => visitor.visit_f64(value),
            other => Err(self.mismatch(other, &visitor)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Text => visitor.visit_str(self.text()?),
            other => Err(self.mismatch(other, &visitor)),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Text | Token::Bytes => visitor.visit_bytes(&self.bytes),
            other => Err(self.mismatch(other, &visitor)),
        }
    }

    /// An option in an option has the same encoding as one alone.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.marker()? {
            Marker::Null => visitor.visit_none(),
            other => {
                self.marker = Some(other);
                visitor.visit_some(self)
            }
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Nil => visitor.visit_unit(),
            other => Err(self.mismatch(other, &visitor)),
        }
    }

    /// `rmp-serde` writes an empty array.
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Nil | Token::Array(0) => visitor.visit_unit(),
            other => Err(self.mismatch(other, &visitor)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Array(length) => self.seq(length, visitor),
            other => Err(self.mismatch(other, &visitor)),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Map(length) => self.map(length, visitor),
            other => Err(self.mismatch(other, &visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _members: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    /// A variant without content is its name; one with content is a map from its name to that.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let has_content = match self.marker()? {
            Marker::FixMap(1) => true,
            other => {
                self.marker = Some(other);
                false
            }
        };
        self.enter()?;
        visitor.visit_enum(Variant { of: self, has_content })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.skip()?;
        visitor.visit_unit()
    }
}

/// Values of an array, or pairs of a map.
struct Values<'a, 'b> {
    of: &'a mut MessagePack<'b>,
    left: u32,
}

impl Values<'_, '_> {
    /// Leaves an array or map of `length`.
    fn end(self, length: u32) -> Result<(), Error> {
        self.of.depth -= 1;
        if self.left == 0 { Ok(()) } else { Err(Error::LengthMismatch(length - self.left)) }
    }

    /// Begins the next value; `false` at the end.
    const fn has_next(&mut self) -> bool {
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        true
    }
}

impl<'de> SeqAccess<'de> for &mut Values<'_, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.has_next() { seed.deserialize(&mut *self.of).map(Some) } else { Ok(None) }
    }

    fn size_hint(&self) -> Option<usize> {
        usize::try_from(self.left).ok()
    }
}

impl<'de> MapAccess<'de> for &mut Values<'_, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        if self.has_next() { seed.deserialize(&mut *self.of).map(Some) } else { Ok(None) }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(&mut *self.of)
    }

    fn size_hint(&self) -> Option<usize> {
        usize::try_from(self.left).ok()
    }
}

/// Variant of an enum.
struct Variant<'a, 'b> {
    of: &'a mut MessagePack<'b>,
    has_content: bool,
}

impl Variant<'_, '_> {
    /// Reads the content by `read`, and leaves the variant.
    fn content<T>(self, read: impl FnOnce(&mut MessagePack<'_>) -> Result<T, Error>) -> Result<T, Error> {
        if !self.has_content {
            return Err(Error::invalid_type(Unexpected::UnitVariant, &"a variant with content"));
        }
        let content = read(&mut *self.of)?;
        self.of.depth -= 1;
        Ok(content)
    }
}

impl<'de> EnumAccess<'de> for Variant<'_, '_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        Ok((seed.deserialize(&mut *self.of)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        if self.has_content {
            return self.content(|from| from.deserialize_unit(IgnoredAny).map(drop));
        }
        self.of.depth -= 1;
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        self.content(|from| seed.deserialize(from))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Error> {
        self.content(|from| from.deserialize_seq(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _members: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.content(|from| from.deserialize_map(visitor))
    }
}

#[cfg(test)]
mod tests;
