//! Why a destination leads to no cluster, in words.

use crate::compile::destination_rule::Rule;

/// Why [`ClusterTable::resolve`] gave [`ClusterRef::Missing`]. `Display` is the
/// message of a finding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClusterProblem {
    /// No object that the client sees defines the host.
    #[error("no service {host} is visible here{hint}; what goes there gets 503")]
    UnknownHost {
        /// As resolved.
        host: String,
        /// What was perhaps meant, with its own punctuation, or empty.
        hint: String,
    },
    /// The service has no such port.
    #[error("{host} has no port {port}, only {known}; what goes there gets 503")]
    PortAbsent {
        /// As resolved.
        host: String,
        /// Asked for.
        port: u16,
        /// Numbers, comma separated.
        known: String,
    },
    /// No DestinationRule that applies here defines the subset.
    #[error("{host} has no subset {subset}: {known}; what goes there gets 503")]
    SubsetUndefined {
        /// As resolved.
        host: String,
        /// Asked for.
        subset: String,
        /// What applies instead.
        known: String,
    },
    /// Nothing is listed that DNS could resolve, or nothing with the subset's labels.
    #[error("{host} has no endpoint to resolve{of_subset}; what goes there gets 503")]
    NothingToResolve {
        /// As resolved.
        host: String,
        /// Names the subset, or empty.
        of_subset: String,
    },
    /// Subsets need endpoints with labels.
    #[error(
        "{host} is resolved at the time of the request and has no subsets; what goes there gets 503"
    )]
    SubsetOfDynamic {
        /// As resolved.
        host: String,
    },
}

pub(super) fn unknown_subset(host: &str, subset: &str, rule: Option<&Rule>) -> ClusterProblem {
    let known = match rule {
        None => "no DestinationRule applies to it here".to_owned(),
        Some(rule) => {
            let names: Vec<&str> = rule.subset_names().collect();
            let names = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            };
            format!("{} defines {names}", rule.lead.reference())
        }
    };
    ClusterProblem::SubsetUndefined {
        host: host.to_owned(),
        subset: subset.to_owned(),
        known,
    }
}
