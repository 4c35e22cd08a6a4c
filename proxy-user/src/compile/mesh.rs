//! Policies of the mesh that stand in where objects say nothing.
//!
//! Source: Istio, mesh/v1alpha1/config.proto (`defaultHttpRetryPolicy`,
//! `defaultTrafficPolicy`) and pilot/pkg/networking/core/cluster_traffic_policy.go.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{ConnectionPoolSettings, HTTPRetry, OutlierDetection};
use crate::finding::{Finding, Severity};
use crate::settings::MeshSettings;
use crate::snapshot::policy::RetryPolicy;

use super::http_policy::read_retry;

/// `defaultTrafficPolicy`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct DefaultTrafficPolicy {
    /// For clusters whose rules have none.
    pub(crate) connection_pool: Option<ConnectionPoolSettings>,
    /// For clusters whose rules have none.
    pub(crate) outlier_detection: Option<OutlierDetection>,
}

/// What the mesh says for all.
#[derive(Debug, Default)]
pub(crate) struct MeshPolicies {
    /// Of routes without `retries`, that avoid hosts already tried.
    retry: Arc<RetryPolicy>,
    /// The same where the route's one destination has a consistent hash.
    hashed_retry: Arc<RetryPolicy>,
    /// For every cluster.
    pub(crate) traffic: DefaultTrafficPolicy,
}

impl MeshPolicies {
    /// Reads the mesh's policies; one that cannot be read is an error and counts as absent.
    pub(crate) fn read(mesh: &MeshSettings, findings: &mut Vec<Finding>) -> Self {
        const RETRY: &str = "defaultHttpRetryPolicy";
        const TRAFFIC: &str = "defaultTrafficPolicy";
        let written: Option<HTTPRetry> =
            decode(mesh.default_http_retry_policy.as_ref(), RETRY, findings);
        let mut compile = |skips_hosts: bool| {
            let builtin = RetryPolicy {
                skip_previous_hosts: skips_hosts,
                ..RetryPolicy::default()
            };
            let mut unknown = Vec::new();
            let policy = read_retry(written.as_ref(), &builtin, |item| {
                unknown.push(format!("{item:?} is no condition that is honoured"));
            });
            let unknown = unknown.into_iter();
            findings.extend(unknown.map(|message| finding(&format!("{RETRY}.retryOn"), message)));
            Arc::new(policy)
        };
        let (retry, hashed_retry) = (compile(true), compile(false));
        let traffic: DefaultTrafficPolicy =
            decode(mesh.default_traffic_policy.as_ref(), TRAFFIC, findings).unwrap_or_default();
        let outlier = traffic.outlier_detection.as_ref();
        for (is_set, field) in [
            (
                written.is_some_and(|retry| retry.retry_remote_localities.is_some()),
                format!("{RETRY}.retryRemoteLocalities"),
            ),
            (
                outlier.is_some_and(|outlier| outlier.consecutive_errors.is_some()),
                format!("{TRAFFIC}.outlierDetection.consecutiveErrors"),
            ),
        ] {
            if is_set {
                let message = "not honoured, the mesh acts without it";
                findings.push(
                    Finding::new(Severity::Warning, "mesh-not-honoured", message)
                        .with_field(format!("mesh.{field}")),
                );
            }
        }
        Self {
            retry,
            hashed_retry,
            traffic,
        }
    }

    /// The policy of routes without `retries`; `is_hashed`: the one destination has a
    /// consistent hash, which must not be led elsewhere.
    pub(crate) fn retry(&self, is_hashed: bool) -> &Arc<RetryPolicy> {
        if is_hashed {
            &self.hashed_retry
        } else {
            &self.retry
        }
    }
}

fn decode<T: DeserializeOwned>(
    written: Option<&Value>,
    name: &str,
    findings: &mut Vec<Finding>,
) -> Option<T> {
    match T::deserialize(written?) {
        Ok(policy) => Some(policy),
        Err(error) => {
            let message = format!("{error}; the mesh acts without it");
            findings.push(finding(name, message));
            None
        }
    }
}

fn finding(name: &str, message: String) -> Finding {
    Finding::new(Severity::Error, "mesh-config", message).with_field(format!("mesh.{name}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::compile::testing::lines;
    use crate::snapshot::policy::RetryOn;

    fn read(retry: Option<Value>, traffic: Option<Value>) -> (MeshPolicies, Vec<String>) {
        let mesh = MeshSettings {
            default_http_retry_policy: retry,
            default_traffic_policy: traffic,
            ..MeshSettings::default()
        };
        let mut findings = Vec::new();
        let policies = MeshPolicies::read(&mesh, &mut findings);
        (policies, lines(&findings))
    }

    #[test]
    fn unset_policies_are_the_built_in_ones() {
        let (policies, findings) = read(None, None);
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(**policies.retry(false), RetryPolicy::default());
        assert!(!policies.retry(true).skip_previous_hosts);
        assert_eq!(policies.traffic, DefaultTrafficPolicy::default());
    }

    #[test]
    fn policies_are_read_and_what_cannot_be_read_is_said() {
        let retry = json!({ "attempts": 5, "retryOn": "reset,odd" });
        let traffic = json!({ "connectionPool": { "tcp": { "maxConnections": 7 } } });
        let (policies, findings) = read(Some(retry), Some(traffic));
        assert_eq!(policies.retry(false).attempts, 5);
        assert_eq!(policies.retry(false).on, RetryOn::RESET);
        assert!(policies.traffic.connection_pool.is_some());
        assert_eq!(findings.len(), 2, "{findings:?}"); // one for each use; compile drops doubles
        assert!(findings[0].contains("mesh.defaultHttpRetryPolicy.retryOn: \"odd\""));

        let unknown = json!({ "loadBalancer": {} });
        let (policies, findings) = read(Some(json!({ "attempts": "x" })), Some(unknown));
        assert_eq!(**policies.retry(false), RetryPolicy::default());
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(
            findings[1].starts_with("error: mesh.defaultTrafficPolicy: "),
            "{findings:?}"
        );
    }
}
