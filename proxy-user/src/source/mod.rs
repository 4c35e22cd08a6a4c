//! Where objects come from: YAML text or an API server in, complete sets of
//! typed objects with their places and findings out. Never looks at what the
//! objects mean together.
//!
//! Start at [`directory`]; [`state`] is its pure part: texts in, the set in
//! force out, object by object with last good versions. [`document`] alone
//! knows YAML.

pub mod directory;
pub mod document;
pub mod mesh;
pub mod node;
pub mod object;
mod parallel;
mod parts;
mod problem;
pub mod share;
pub mod state;
mod typed;
