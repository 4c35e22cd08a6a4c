//! One record per request and per connection; metrics and access log are made of it.
//!
//! Start at [`Telemetry`]: it hands a [`record::Recorder`] to every thread that
//! moves traffic, and the text of `/metrics` to whoever asks. Nothing here knows
//! who calls it.

mod access_format;
pub mod access_log;
pub mod calendar;
pub mod exposition;
mod histogram;
mod labels;
pub mod logging;
pub mod metrics;
pub mod node_metrics;
pub mod record;
mod recorder;
mod series;
#[cfg(test)]
mod testing;
pub mod traffic;

pub use access_log::{AccessLog, AccessLogFormat};
pub use metrics::MetricsRegistry;
pub use node_metrics::NodeMetrics;
pub use record::{ConnectionRecord, DestinationLabels, RequestRecord, ResponseFlags};
pub use recorder::Telemetry;
