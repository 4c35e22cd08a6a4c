//! What the objects of one namespace may cost the node.
//!
//! Tenants share one proxy: without a bound, one namespace's rules could take the memory and
//! the compile time of all. Beyond the budget a namespace keeps its last good state. The root
//! namespace is the operator's own and has no budget.

use serde::Serialize;
use serde_json::json;

use super::fields::{Fields, SettingsError};

/// The setting `namespaceBudget`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NamespaceBudget {
    /// Objects of all kinds but Pods.
    pub objects: u64,
    /// Addresses and networks with a port that its services stand at, as the kernel's table
    /// of services holds them.
    pub addresses: u64,
    /// Regular expressions as written.
    pub regexes: u64,
    /// What these take once compiled, bytes.
    pub regex_bytes: u64,
    /// What its objects become in the snapshot, bytes, as far as it grows with them.
    pub compiled_bytes: u64,
}

const MEBIBYTE: u64 = 1 << 20;

impl Default for NamespaceBudget {
    /// Room for the whole of a large mesh (10,000 services, 5,000 VirtualServices) in one
    /// namespace; half of the kernel's table of services.
    fn default() -> Self {
        Self {
            objects: 100_000,
            addresses: 131_072,
            regexes: 1_000,
            regex_bytes: 64 * MEBIBYTE,
            compiled_bytes: 256 * MEBIBYTE,
        }
    }
}

impl NamespaceBudget {
    /// Reads the mapping; what it leaves out has its default.
    pub(super) fn from_settings(mut fields: Fields) -> Result<Self, SettingsError> {
        const ANY: u64 = u32::MAX as u64;
        let default = Self::default();
        let mebibytes = |value: Option<u64>, default: u64| value.map_or(default, |n| n * MEBIBYTE);
        let budget = Self {
            objects: fields.whole("objects", ANY)?.unwrap_or(default.objects),
            addresses: fields.whole("addresses", ANY)?.unwrap_or(default.addresses),
            regexes: fields.whole("regexes", ANY)?.unwrap_or(default.regexes),
            regex_bytes: mebibytes(fields.whole("regexMebibytes", ANY)?, default.regex_bytes),
            compiled_bytes: mebibytes(
                fields.whole("compiledMebibytes", ANY)?,
                default.compiled_bytes,
            ),
        };
        fields.finish()?;
        Ok(budget)
    }

    /// In the form of a settings file.
    pub(super) fn document(&self) -> serde_json::Value {
        json!({
            "objects": self.objects,
            "addresses": self.addresses,
            "regexes": self.regexes,
            "regexMebibytes": self.regex_bytes / MEBIBYTE,
            "compiledMebibytes": self.compiled_bytes / MEBIBYTE,
        })
    }
}
