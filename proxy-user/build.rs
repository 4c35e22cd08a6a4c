//! Embeds the eBPF object that `cargo xtask build` left under the target directory.
//!
//! Without one the embedded object is empty, so that `cargo check`, `test` and `clippy` work on a
//! bare clone; loading then says what to run.

use std::{
    env, fs,
    io::Error,
    path::{Path, PathBuf},
};

fn main() -> Result<(), Error> {
    let out_dir =
        PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| Error::other("cargo sets OUT_DIR"))?);
    println!("cargo::rerun-if-changed=build.rs");
    let embedded = out_dir.join("mizzen-ebpf");
    let Some(directory) = object_dir(&out_dir) else {
        return fs::write(embedded, []);
    };
    // The directory exists from here on, so that its first object is noticed and its absence does
    // not look like a change each time.
    fs::create_dir_all(&directory)?;
    println!("cargo::rerun-if-changed={}", directory.display());
    let object = directory.join("mizzen-ebpf");
    let bytes = if object.exists() {
        fs::read(object)?
    } else {
        Vec::new()
    };
    fs::write(embedded, bytes)
}

/// `TARGET/ebpf/object`, where TARGET is the directory that holds this profile's `build`:
/// `TARGET/PROFILE/build/proxy-user-HASH/out`.
fn object_dir(out_dir: &Path) -> Option<PathBuf> {
    Some(out_dir.ancestors().nth(4)?.join("ebpf").join("object"))
}
