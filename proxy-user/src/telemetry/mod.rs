//! One record per request and per connection; metrics and access log are made of it.

pub mod record;

pub use record::{ConnectionRecord, DestinationLabels, RequestRecord, ResponseFlags};
