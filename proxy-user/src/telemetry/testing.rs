//! Records for tests.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::record::{
    ConnectionPath, ConnectionRecord, DestinationLabels, RequestProtocol, RequestRecord,
    ResponseFlags, WorkloadLabels,
};

fn workload(name: &str, app: &str, version: &str) -> Arc<WorkloadLabels> {
    Arc::new(WorkloadLabels {
        workload: name.into(),
        namespace: "shop".into(),
        principal: "unknown".into(),
        app: app.into(),
        version: version.into(),
        canonical_service: app.into(),
        canonical_revision: version.into(),
    })
}

fn service() -> Arc<DestinationLabels> {
    Arc::new(DestinationLabels {
        service: "reviews.shop.svc.cluster.local".into(),
        service_name: "reviews".into(),
        service_namespace: "shop".into(),
    })
}

/// 2026-11-26T07:14:56.042Z.
pub(super) fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_677_296_042)
}

/// `GET /reviews/1?full=yes` of web at reviews v2, answered 200 in 12 ms.
pub(super) fn request() -> RequestRecord {
    RequestRecord {
        start: start(),
        duration: Duration::from_micros(12_700),
        source: workload("web", "web", "v1"),
        destination: workload("reviews-v2", "reviews", "v2"),
        service: service(),
        protocol: RequestProtocol::Http,
        http_version: "HTTP/1.1",
        method: "GET".into(),
        path: "/reviews/1?full=yes".into(),
        authority: "reviews:9080".into(),
        response_code: 200,
        grpc_status: None,
        flags: ResponseFlags::default(),
        details: Cow::Borrowed("via_upstream"),
        upstream_failure: None,
        bytes_received: 0,
        bytes_sent: 1234,
        request_bytes: 210,
        response_bytes: 1400,
        request_messages: 0,
        response_messages: 0,
        upstream_service_time: Some(Duration::from_millis(11)),
        forwarded_for: None,
        user_agent: Some("curl/8".into()),
        request_id: Some("5f0c2b2e-0d5e-4a5b-9a5f-0a1b2c3d4e5f".into()),
        upstream_host: "10.0.0.7:9080".parse().ok(),
        upstream_cluster: Some("outbound|9080|v2|reviews.shop.svc.cluster.local".into()),
        upstream_local: "10.0.0.3:41000".parse().ok(),
        downstream_local: "10.96.0.9:9080".parse().expect("a literal address"),
        downstream_remote: "10.0.0.3:40000".parse().expect("a literal address"),
        route_name: Some("by-user".into()),
        retry_count: 0,
    }
}

/// A TCP connection between the same two.
pub(super) fn connection() -> ConnectionRecord {
    let request = request();
    ConnectionRecord {
        start: request.start,
        source: request.source,
        destination: request.destination,
        service: request.service,
        flags: ResponseFlags::default(),
        details: Cow::Borrowed("-"),
        upstream_failure: None,
        bytes_received: 11,
        bytes_sent: 22,
        upstream_host: request.upstream_host,
        upstream_cluster: request.upstream_cluster,
        upstream_local: request.upstream_local,
        downstream_local: request.downstream_local,
        downstream_remote: request.downstream_remote,
        server_name: None,
        path: ConnectionPath::Proxy,
    }
}
