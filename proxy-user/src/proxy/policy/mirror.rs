//! Mirror copies: which are made and how their heads differ (VirtualService `mirror`
//! and `mirrors`, Envoy `RequestMirrorPolicy`).

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};

use super::fault::is_drawn;
use crate::proxy::http::headers::{ATTEMPT_COUNT, EXPECTED_TIMEOUT, FORWARDED_FOR, INTERNAL};
use crate::snapshot::policy::MirrorPolicy;
use crate::snapshot::{Cluster, ClusterRef};

/// The cluster to copy to, when this ticket is drawn and the cluster exists; a missing
/// one drops the copy silently. `ticket`: uniform over `0..fault::TICKETS`, one per
/// policy.
pub(crate) fn target(policy: &MirrorPolicy, ticket: u32) -> Option<&std::sync::Arc<Cluster>> {
    match &policy.cluster {
        ClusterRef::Known(cluster) if is_drawn(policy.share, ticket) => Some(cluster),
        ClusterRef::Known(_) | ClusterRef::Missing(_) | ClusterRef::NotHonoured(_) => None,
    }
}

/// Headers of a copy: those of the main request as sent, marked as a first, internal
/// attempt that came through `own_address`. Host and request id stay.
pub(crate) fn copy_headers(sent: &HeaderMap, own_address: Option<IpAddr>) -> HeaderMap {
    let mut headers = sent.clone();
    headers.insert(INTERNAL, HeaderValue::from_static("true"));
    headers.insert(ATTEMPT_COUNT, HeaderValue::from_static("1"));
    headers.remove(EXPECTED_TIMEOUT);
    if let Some(address) = own_address {
        let received = headers.get(FORWARDED_FOR).map(HeaderValue::as_bytes);
        let mut value = received.unwrap_or(b"").to_vec();
        if !value.is_empty() {
            value.push(b',');
        }
        value.extend_from_slice(address.to_string().as_bytes());
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.insert(FORWARDED_FOR, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checklist id A136: the draw, and the missing cluster.
    #[test]
    fn a136_copies_follow_their_share_and_a_missing_cluster_drops_them() {
        let policy = MirrorPolicy {
            cluster: ClusterRef::Missing("outbound|80||gone".into()),
            share: super::super::fault::TICKETS,
        };
        assert!(target(&policy, 0).is_none());
        assert!(!is_drawn(0, 0) && is_drawn(250_000, 249_999) && !is_drawn(250_000, 250_000));
    }

    /// Checklist id A135: Host and request id stay, the rest marks the copy.
    #[test]
    fn a135_a_copy_keeps_host_and_is_marked_internal() {
        let mut sent = HeaderMap::new();
        for (name, value) in [
            ("host", "a"),
            ("x-request-id", "id"),
            ("x-envoy-attempt-count", "3"),
            ("x-forwarded-for", "10.9.9.9"),
        ] {
            sent.insert(name, HeaderValue::from_static(value));
        }
        let copy = copy_headers(&sent, Some([10, 0, 0, 1].into()));
        for (name, value) in [
            ("host", "a"),
            ("x-request-id", "id"),
            ("x-envoy-attempt-count", "1"),
            ("x-envoy-internal", "true"),
            ("x-forwarded-for", "10.9.9.9,10.0.0.1"),
        ] {
            assert_eq!(copy[name], value, "{name}");
        }
        let alone = copy_headers(&HeaderMap::new(), Some([10, 0, 0, 1].into()));
        assert_eq!(alone[FORWARDED_FOR], "10.0.0.1");
    }
}
