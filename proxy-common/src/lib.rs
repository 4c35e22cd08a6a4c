//! What kernel and userspace must agree on: map keys and values, names and
//! capacities, and decisions that need no kernel helper. No I/O, no allocation.
//!
//! Start at [`decision::decide`], the order of everything that happens inside `connect()`.
#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod balance;
pub mod cluster;
pub mod decision;
pub mod flow;
pub mod map;
pub mod pod;
pub mod reason;
pub mod service;
pub mod socket;

/// Raised with every change of a map's shape; pins of another version are not adopted.
pub const LAYOUT_VERSION: u32 = 2;

/// Declares that a map type is plain bytes: its size, and `aya::Pod` for userspace.
macro_rules! plain_bytes {
    ($type:ty, $size:expr) => {
        const _: () = assert!(core::mem::size_of::<$type>() == $size);

        // SAFETY: `repr(C)`, integers and bytes only, sized by the assertion above without hidden
        // padding (every gap is a named field), and every bit pattern is a valid value.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    };
}
pub(crate) use plain_bytes;
