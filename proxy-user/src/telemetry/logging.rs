//! The daemon's own log: one line per event on standard error, values as fields.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// The log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not one.
    #[error(
        "log filter {filter:?}: {reason}; expected a level such as info, or parts such as \
         info,proxy_user::kernel=debug"
    )]
    Filter {
        /// As it was given.
        filter: String,
        /// What the parser says.
        reason: String,
    },
    /// Something else in this process logs already.
    #[error("the log was started before")]
    Started,
}

/// Starts the log. `filter`: a level, or `target=level` parts joined by commas, as in
/// tracing-subscriber's `EnvFilter`.
///
/// # Errors
/// The filter is wrong, or the log runs already.
pub fn start(filter: &str) -> Result<(), LoggingError> {
    let parsed = parse_filter(filter)?;
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .with_span_events(FmtSpan::NONE)
        .try_init()
        .map_err(|_| LoggingError::Started)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::try_new(filter).map_err(|error| LoggingError::Filter {
        filter: filter.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_levels_or_targets_with_levels() {
        for (filter, is_good) in [
            ("info", true),
            ("warn,proxy_user::kernel=debug", true),
            ("off", true),
            ("proxy_user=loud", false),
        ] {
            assert_eq!(parse_filter(filter).is_ok(), is_good, "{filter}");
        }
    }
}
