//! proxy

pub(crate) mod http;
pub(crate) mod policy;
