//! A second, naive evaluator of Istio's routing rules, written from their description
//! alone, and a generator of small meshes to hold it against the proxy.
//!
//! Slow and plain on purpose: it looks everything up by scanning lists, shares no code
//! with the product, and knows only what a request's answer must be. Start at
//! [`naive::evaluate`].

pub mod generate;
pub mod model;
pub mod naive;
pub mod yaml;
