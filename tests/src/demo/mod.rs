//! The demo: the classic traffic tasks on a small mesh, by changing YAML only.
