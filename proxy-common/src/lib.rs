//! What kernel and userspace must agree on: map keys and values, names and
//! capacities, and decisions that need no kernel helper. No I/O, no allocation.
#![cfg_attr(not(test), no_std)]
