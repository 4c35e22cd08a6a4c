//! Every field path of a kind, found by walking its type: for tests that hold
//! tables of fields against the types.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde::de::value::{BorrowedStrDeserializer, Error};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

/// All field paths of `T`, with `[]` for indices, without the keys of maps.
pub(crate) fn field_paths<T: DeserializeOwned>() -> BTreeSet<String> {
    let paths = RefCell::new(BTreeSet::new());
    let walker = Walker {
        path: String::new(),
        paths: &paths,
    };
    // The values are empty or the first of their kind, which every type takes.
    T::deserialize(walker).expect("the walker gives a value for every field");
    paths.into_inner()
}

/// Gives a value to whatever is asked for, and notes for which field.
#[derive(Clone)]
struct Walker<'a> {
    path: String,
    paths: &'a RefCell<BTreeSet<String>>,
}

/// One method per kind of scalar.
macro_rules! scalars {
    ($($method:ident $visit:ident $value:expr,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit($value)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Walker<'_> {
    type Error = Error;

    scalars! {
        deserialize_any visit_str "",
        deserialize_bool visit_bool false,
        deserialize_i8 visit_i8 0,
        deserialize_i16 visit_i16 0,
        deserialize_i32 visit_i32 0,
        deserialize_i64 visit_i64 0,
        deserialize_u8 visit_u8 0,
        deserialize_u16 visit_u16 0,
        deserialize_u32 visit_u32 0,
        deserialize_u64 visit_u64 0,
        deserialize_f32 visit_f32 0.0,
        deserialize_f64 visit_f64 0.0,
        deserialize_char visit_str "",
        deserialize_str visit_str "1970-01-01T00:00:00Z",
        deserialize_string visit_str "1970-01-01T00:00:00Z",
        deserialize_bytes visit_str "",
        deserialize_byte_buf visit_str "",
        deserialize_identifier visit_str "",
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    /// Durations are the only newtypes.
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(BorrowedStrDeserializer::new("1s"))
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.path += "[]";
        visitor.visit_seq(Once(Some(self)))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Fields {
            fields: &["*"],
            walker: self,
            is_map: true,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        // A one-of takes one of its fields only, and is one value to a table.
        let fields = if name == "StringMatch" {
            &fields[..1]
        } else {
            fields
        };
        visitor.visit_map(Fields {
            fields,
            walker: self,
            is_map: name == "StringMatch",
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(First(variants[0]))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

struct Once<'a>(Option<Walker<'a>>);

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.0
            .take()
            .map(|walker| seed.deserialize(walker))
            .transpose()
    }
}

struct Fields<'a> {
    fields: &'static [&'static str],
    walker: Walker<'a>,
    /// The keys are the user's and no part of a path.
    is_map: bool,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(field) = self.fields.first() else {
            return Ok(None);
        };
        seed.deserialize(IntoDeserializer::<Error>::into_deserializer(*field))
            .map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let mut walker = self.walker.clone();
        if let Some((field, rest)) = self.fields.split_first() {
            self.fields = rest;
            if !self.is_map {
                let dot = if walker.path.is_empty() { "" } else { "." };
                walker.path = format!("{}{dot}{field}", walker.path);
                walker.paths.borrow_mut().insert(walker.path.clone());
            }
        }
        seed.deserialize(walker)
    }
}

struct First(&'static str);

impl<'de> EnumAccess<'de> for First {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let name = IntoDeserializer::<Error>::into_deserializer(self.0);
        seed.deserialize(name).map(|variant| (variant, self))
    }
}

impl<'de> VariantAccess<'de> for First {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, Error> {
        Err(de::Error::custom("the kinds have plain enums only"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _visitor: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("the kinds have plain enums only"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        Err(de::Error::custom("the kinds have plain enums only"))
    }
}

#[test]
fn a_walk_finds_every_field_of_a_kind() {
    let paths = field_paths::<super::VirtualService>();
    for path in [
        "hosts",
        "http[].match[].uri",
        "http[].headers.request.set",
        "tcp[].route[].weight",
    ] {
        assert!(paths.contains(path), "{path} is not among {paths:?}");
    }
    for part in ["http[].match[].uri.exact", "http[].match[].headers.*"] {
        assert!(!paths.contains(part), "{part}");
    }
}
