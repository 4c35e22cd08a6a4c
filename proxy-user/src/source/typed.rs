//! Trees to typed values: serde over [`Node`], with the path and line of what is wrong.
//!
//! Stricter and plainer than a YAML reader: no number becomes text, no text a
//! number, an empty field is an absent one, and a misspelt field is answered
//! with the nearest known name. Source: what a Kubernetes API server accepts.

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use super::node::{Entry, Meaning, Node, Scalar, Value};
use super::problem::TypeProblem;

/// Reads `node` as a `T`; `path` is where the node stands in its object.
///
/// # Errors
///
/// The first place that does not fit, in the order written.
pub(super) fn read<T: DeserializeOwned>(node: &Node, path: &str) -> Result<T, TypeProblem> {
    if node.is_null() {
        return T::deserialize(NodeReader {
            node: &EMPTY,
            field: None,
        });
    }
    T::deserialize(NodeReader { node, field: None }).map_err(|problem| problem.below(path))
}

/// What an absent value is read as.
static EMPTY: Node = Node {
    value: Value::Mapping(Vec::new()),
    line: 0,
};

/// Reads one value.
#[derive(Clone, Copy)]
struct NodeReader<'a> {
    node: &'a Node,
    /// What the field is called by its type, for better messages.
    field: Option<&'static str>,
}

impl<'a> NodeReader<'a> {
    fn scalar(self, what: &str) -> Result<&'a Scalar, TypeProblem> {
        match &self.node.value {
            Value::Scalar(scalar) => Ok(scalar),
            Value::Sequence(_) | Value::Mapping(_) | Value::Invalid(_) => {
                Err(TypeProblem::expected(what, self.node))
            }
        }
    }

    fn text(self) -> Result<&'a str, TypeProblem> {
        let what = self.field.unwrap_or("text");
        let scalar = self.scalar(what)?;
        match scalar.meaning {
            Meaning::Text => Ok(&scalar.text),
            Meaning::Null => Ok(""),
            Meaning::Bool(_) | Meaning::Int(_) | Meaning::Float(_) => {
                let mut problem = TypeProblem::expected(what, self.node);
                if self.field.is_none() {
                    problem.message += &format!("; write it in quotes: \"{}\"", scalar.text);
                }
                Err(problem)
            }
        }
    }

    fn whole_number(self) -> Result<i128, TypeProblem> {
        let what = "a whole number";
        let scalar = self.scalar(what)?;
        match scalar.meaning {
            Meaning::Int(number) => Ok(number),
            Meaning::Null => Ok(0),
            // A cast of what has no fraction and is far from the limits keeps the value.
            Meaning::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
                Ok(number as i128)
            }
            Meaning::Bool(_) | Meaning::Float(_) | Meaning::Text => {
                Err(TypeProblem::expected(what, self.node))
            }
        }
    }

    fn entries(self) -> Result<&'a [Entry], TypeProblem> {
        match &self.node.value {
            Value::Mapping(entries) => Ok(entries),
            Value::Scalar(_) | Value::Sequence(_) | Value::Invalid(_) => Err(
                TypeProblem::expected(self.field.unwrap_or("a mapping"), self.node),
            ),
        }
    }
}

/// One method per kind of whole number: within its limits or refused by name.
macro_rules! whole_numbers {
    ($($method:ident $visit:ident $type:ty,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
            let number = self.whole_number()?;
            match <$type>::try_from(number) {
                Ok(number) => visitor.$visit(number),
                Err(_) => {
                    let limits =
                        format!("a whole number from {} to {}", <$type>::MIN, <$type>::MAX);
                    Err(TypeProblem::expected(&limits, self.node))
                }
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for NodeReader<'_> {
    type Error = TypeProblem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
        match &self.node.value {
            Value::Scalar(scalar) => match scalar.meaning {
                Meaning::Null => visitor.visit_unit(),
                Meaning::Bool(value) => visitor.visit_bool(value),
                Meaning::Int(number) => match (u64::try_from(number), i64::try_from(number)) {
                    (Ok(number), _) => visitor.visit_u64(number),
                    (Err(_), Ok(number)) => visitor.visit_i64(number),
                    (Err(_), Err(_)) => Err(TypeProblem::expected("a smaller number", self.node)),
                },
                Meaning::Float(number) => visitor.visit_f64(number),
                Meaning::Text => visitor.visit_str(&scalar.text),
            },
            Value::Sequence(_) => self.deserialize_seq(visitor),
            Value::Mapping(_) => self.deserialize_map(visitor),
            Value::Invalid(_) => Err(TypeProblem::expected("a value", self.node)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
        let what = "true or false";
        match self.scalar(what)?.meaning {
            Meaning::Bool(value) => visitor.visit_bool(value),
            Meaning::Null => visitor.visit_bool(false),
            Meaning::Int(_) | Meaning::Float(_) | Meaning::Text => {
                Err(TypeProblem::expected(what, self.node))
            }
        }
    }

    whole_numbers! {
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
        let what = "a number";
        match self.scalar(what)?.meaning {
            // Whole numbers of fields that may have a fraction are small.
            Meaning::Int(number) => visitor.visit_f64(number as f64),
            Meaning::Float(number) if number.is_finite() => visitor.visit_f64(number),
            Meaning::Null => visitor.visit_f64(0.0),
            Meaning::Float(_) | Meaning::Bool(_) | Meaning::Text => {
                Err(TypeProblem::expected(what, self.node))
            }
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
        if self.node.is_null() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, TypeProblem> {
        visitor.visit_unit()
    }

    /// A newtype's name is what messages expect, as `a duration such as "250ms"`.
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, TypeProblem> {
        visitor.visit_newtype_struct(Self {
            node: self.node,
            field: Some(name),
        })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
        let items = match &self.node.value {
            Value::Sequence(items) => items.as_slice(),
            Value::Scalar(Scalar {
                meaning: Meaning::Null,
                ..
            }) => &[],
            Value::Scalar(_) | Value::Mapping(_) | Value::Invalid(_) => {
                return Err(TypeProblem::expected("a list", self.node));
            }
        };
        visitor.visit_seq(Items {
            items: items.iter().enumerate(),
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, TypeProblem> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, TypeProblem> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
        visitor.visit_map(Fields {
            entries: self.entries()?.iter(),
            known: None,
            current: None,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TypeProblem> {
        let entries = self.entries()?.iter();
        visitor.visit_map(Fields {
            entries,
            known: Some(fields),
            current: None,
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TypeProblem> {
        let text = self.text().map_err(|_| {
            TypeProblem::expected(&format!("one of {}", variants.join(", ")), self.node)
        })?;
        visitor.visit_enum(text.into_deserializer())
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeProblem> {
        visitor.visit_unit()
    }
}

/// The entries of a list, one after the other.
struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = TypeProblem;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, TypeProblem> {
        let Some((index, node)) = self.items.next() else {
            return Ok(None);
        };
        let read = if node.is_null() {
            Err(TypeProblem::new(
                "empty entry in a list; remove it or fill it in",
            ))
        } else {
            seed.deserialize(NodeReader { node, field: None })
        };
        read.map(Some)
            .map_err(|problem| problem.inside(&format!("[{index}]"), node.line))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// The fields of a mapping, one after the other.
struct Fields<'a> {
    entries: std::slice::Iter<'a, Entry>,
    /// The fields of the type; `None` where any key is one.
    known: Option<&'static [&'static str]>,
    current: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = TypeProblem;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, TypeProblem> {
        let known = self.known.unwrap_or_default();
        // An empty field is an absent one; an unknown field is unknown even if empty.
        let is_absent = |entry: &Entry| entry.value.is_null() && known.contains(&&*entry.key);
        self.current = self.entries.find(|entry| !is_absent(entry));
        let Some(entry) = self.current else {
            return Ok(None);
        };
        let key: de::value::StrDeserializer<'_, TypeProblem> = (*entry.key).into_deserializer();
        seed.deserialize(key)
            .map(Some)
            .map_err(|problem| problem.inside(&entry.key, entry.value.line))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, TypeProblem> {
        let Some(entry) = self.current.take() else {
            return Err(TypeProblem::new("a value without a key"));
        };
        seed.deserialize(NodeReader {
            node: &entry.value,
            field: None,
        })
        .map_err(|problem| problem.inside(&entry.key, entry.value.line))
    }
}

#[cfg(test)]
#[path = "typed_tests.rs"]
mod tests;
