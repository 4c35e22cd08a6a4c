//! The lab: pods on one machine.
