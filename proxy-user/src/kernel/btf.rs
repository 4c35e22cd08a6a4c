//! Offsets of fields in the running kernel's structures, from its own type information.
//!
//! aya has no relocations of this kind, so the offsets are found here and set as a global before
//! loading. Source: kernel documentation, "BPF Type Format (BTF)".

use std::collections::HashMap;

use proxy_common::map::Offsets;

/// Where the kernel keeps its types (Linux 5.4, `CONFIG_DEBUG_INFO_BTF`).
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// Anonymous structures nest; deeper than this is not the kernel's.
const NESTING_MAX: u32 = 8;

/// The offsets that the programs read; what cannot be found is zero and its use switched off.
pub(super) fn kernel_offsets() -> Offsets {
    let Ok(bytes) = std::fs::read(VMLINUX) else {
        return Offsets::default();
    };
    let Some(types) = Types::parse(&bytes) else {
        return Offsets::default();
    };
    let offset = |structure, field| types.field_offset(structure, field).unwrap_or(0);
    Offsets {
        sk_ack_backlog: offset("sock", "sk_ack_backlog"),
        sk_max_ack_backlog: offset("sock", "sk_max_ack_backlog"),
        // `sk_flags` is a macro; `sock` begins with its `sock_common`.
        sk_flags: offset("sock_common", "skc_flags"),
        bytes_acked: offset("tcp_sock", "bytes_acked"),
        bytes_received: offset("tcp_sock", "bytes_received"),
    }
}

/// Structures and unions by type id; everything else is skipped.
struct Types<'a> {
    strings: &'a [u8],
    members: HashMap<u32, &'a [u8]>,
    structures: HashMap<&'a [u8], u32>,
    has_bitfields: HashMap<u32, bool>,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

impl<'a> Types<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        // `struct btf_header`: magic, version, flags, hdr_len, type_off, type_len, str_off, str_len.
        let header_len = word(bytes, 4)? as usize;
        let part = |at: usize| -> Option<&'a [u8]> {
            let start = header_len.checked_add(word(bytes, at)? as usize)?;
            bytes.get(start..start.checked_add(word(bytes, at + 4)? as usize)?)
        };
        let (types, strings) = (part(8)?, part(16)?);
        let mut parsed = Self {
            strings,
            members: HashMap::new(),
            structures: HashMap::new(),
            has_bitfields: HashMap::new(),
        };
        let (mut at, mut id) = (0, 1);
        while at < types.len() {
            let (name, info) = (word(types, at)?, word(types, at + 4)?);
            let (count, kind) = ((info & 0xffff) as usize, info >> 24 & 0x1f);
            let data_at = at + 12;
            let data_len = match kind {
                KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
                KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
                _ => 0,
            };
            if kind == KIND_STRUCT || kind == KIND_UNION {
                parsed
                    .members
                    .insert(id, types.get(data_at..data_at + data_len)?);
                parsed.has_bitfields.insert(id, info >> 31 == 1);
                if kind == KIND_STRUCT && name != 0 {
                    parsed.structures.entry(parsed.string(name)?).or_insert(id);
                }
            }
            at = data_at + data_len;
            id += 1;
        }
        Some(parsed)
    }

    fn string(&self, offset: u32) -> Option<&'a [u8]> {
        let rest = self.strings.get(offset as usize..)?;
        rest.split(|byte| *byte == 0).next()
    }

    /// Bytes from the start of `structure` to `field`, also through anonymous members.
    fn field_offset(&self, structure: &str, field: &str) -> Option<u32> {
        let id = *self.structures.get(structure.as_bytes())?;
        self.find(id, field.as_bytes(), NESTING_MAX)
    }

    fn find(&self, id: u32, field: &[u8], depth: u32) -> Option<u32> {
        let has_bitfields = *self.has_bitfields.get(&id)?;
        for member in self.members.get(&id)?.chunks_exact(12) {
            let (name, of_type, offset) = (word(member, 0)?, word(member, 4)?, word(member, 8)?);
            // With bit-fields the upper byte holds their width.
            let bits = if has_bitfields {
                offset & 0x00ff_ffff
            } else {
                offset
            };
            if name != 0 {
                if self.string(name)? == field {
                    return Some(bits / 8);
                }
            } else if depth > 0
                && let Some(inner) = self.find(of_type, field, depth - 1)
            {
                return Some(bits / 8 + inner);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernels_fields_are_found_in_a_plausible_place() {
        if std::fs::metadata(VMLINUX).is_err() {
            eprintln!("skipped: this kernel has no {VMLINUX}");
            return;
        }
        let offsets = kernel_offsets();
        assert!(
            offsets.sk_ack_backlog > 0 && offsets.sk_ack_backlog < 1024,
            "{offsets:?}"
        );
        assert_eq!(
            offsets.sk_max_ack_backlog,
            offsets.sk_ack_backlog + 4,
            "{offsets:?}"
        );
        assert!(
            offsets.bytes_acked > 0 && offsets.bytes_received > 0 && offsets.sk_flags > 0,
            "{offsets:?}"
        );
    }

    #[test]
    fn broken_type_information_is_no_panic() {
        for bytes in [&b""[..], &[0; 7], &[0xff; 64], &[0; 24]] {
            let found =
                Types::parse(bytes).and_then(|types| types.field_offset("sock", "sk_flags"));
            assert_eq!(found, None);
        }
    }
}
