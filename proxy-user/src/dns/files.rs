//! Whether resolv.conf and the hosts file are what they were.

use std::path::Path;

use super::DnsFiles;

/// Larger files are cut: nobody has a million nameservers.
const FILE_LEN_MAX: u64 = 1 << 20;

/// The bytes of both files; `None` for one that cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FileTexts {
    pub(super) resolv_conf: Option<Vec<u8>>,
    pub(super) hosts: Option<Vec<u8>>,
}

impl FileTexts {
    /// Reads both. They are small and mostly in the page cache.
    pub(super) fn read(files: &DnsFiles) -> Self {
        Self {
            resolv_conf: read(&files.resolv_conf),
            hosts: read(&files.hosts),
        }
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read;
    let file = std::fs::File::open(path).ok()?;
    let mut bytes = Vec::new();
    file.take(FILE_LEN_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
