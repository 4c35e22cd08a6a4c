//! xxHash64, and how Envoy makes hash keys of it.

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

/// xxHash64 of `data`. Source: the xxHash specification (Cyan4973/xxHash, `xxhash_spec.md`).
#[must_use]
pub fn xx_hash64(data: &[u8], seed: u64) -> u64 {
    let mut rest = data;
    let mut hash = if data.len() >= 32 {
        let mut lanes = [
            seed.wrapping_add(P1).wrapping_add(P2),
            seed.wrapping_add(P2),
            seed,
            seed.wrapping_sub(P1),
        ];
        while let Some((stripe, tail)) = rest.split_first_chunk::<32>() {
            for (lane, word) in lanes.iter_mut().zip(stripe.chunks_exact(8)) {
                *lane = round(*lane, word64(word));
            }
            rest = tail;
        }
        let mixed = lanes[0]
            .rotate_left(1)
            .wrapping_add(lanes[1].rotate_left(7))
            .wrapping_add(lanes[2].rotate_left(12))
            .wrapping_add(lanes[3].rotate_left(18));
        lanes.into_iter().fold(mixed, |hash, lane| {
            (hash ^ round(0, lane)).wrapping_mul(P1).wrapping_add(P4)
        })
    } else {
        seed.wrapping_add(P5)
    };
    hash = hash.wrapping_add(data.len() as u64);
    while let Some((word, tail)) = rest.split_first_chunk::<8>() {
        hash ^= round(0, word64(word));
        hash = hash.rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
        rest = tail;
    }
    if let Some((word, tail)) = rest.split_first_chunk::<4>() {
        hash ^= u64::from(u32::from_le_bytes(*word)).wrapping_mul(P1);
        hash = hash.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
        rest = tail;
    }
    for byte in rest {
        hash ^= u64::from(*byte).wrapping_mul(P5);
        hash = hash.rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(P2))
        .rotate_left(31)
        .wrapping_mul(P1)
}

fn word64(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(word)
}

/// The key of several header lines: sorted, each hashed with the previous hash as
/// its seed (Envoy `HeaderHashMethod`). `None` without a line.
#[must_use]
pub fn hash_lines(lines: &mut [&[u8]]) -> Option<u64> {
    lines.sort_unstable();
    lines
        .iter()
        .fold(None, |seed, line| Some(xx_hash64(line, seed.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values are those of the reference implementation.
    #[test]
    fn hashes_equal_the_reference() {
        for (text, seed, expected) in [
            ("", 0, 0xef46_db37_51d8_e999_u64),
            ("a", 0, 0xd24e_c4f1_a98c_6e5b),
            ("abc", 0, 0x44bc_2cf5_ad77_0999),
            (
                "Nobody inspects the spammish repetition",
                0,
                0xfbce_a83c_8a37_8bf1,
            ),
        ] {
            assert_eq!(xx_hash64(text.as_bytes(), seed), expected, "{text:?}");
        }
    }

    #[test]
    fn the_order_of_header_lines_does_not_matter_but_their_bounds_do() {
        assert_eq!(hash_lines(&mut [b"a", b"b"]), hash_lines(&mut [b"b", b"a"]));
        assert_ne!(hash_lines(&mut [b"a", b"b"]), hash_lines(&mut [b"a,b"]));
        assert_eq!(hash_lines(&mut []), None);
        assert!(
            hash_lines(&mut [b""]).is_some(),
            "present but empty is a key"
        );
    }
}
