//! Istio's standard metrics, counted per recording thread and merged on scrape.
//!
//! Input: records; output: [`TrafficTotals::write`]. A record costs one hash lookup
//! and a few adds: label sets are found by the addresses of the labels that the
//! record shares with the snapshot, and rendered to text once. Source: Istio
//! standard metrics (istio.io, "Istio Standard Metrics"), reported as `source`.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::exposition::{Exposition, LabelText, MetricKind};
use super::histogram::{Histogram, HistogramNames};
use super::labels::{self, Peers};
use super::metrics::locked;
use super::record::{ConnectionRecord, RequestProtocol, RequestRecord, ResponseFlags};
use super::series::SeriesTable;

/// The numbers of one recording thread.
#[derive(Default)]
pub struct TrafficShard {
    /// Taken by the one recording thread, and by a scrape while it copies.
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    requests: SeriesTable<RequestExtra, RequestSeries>,
    connections: SeriesTable<ResponseFlags, TcpSeries>,
}

/// What distinguishes requests between the same two workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RequestExtra {
    pub(super) protocol: RequestProtocol,
    pub(super) response_code: u16,
    pub(super) grpc_status: Option<u32>,
    pub(super) flags: ResponseFlags,
}

#[derive(Default, Clone)]
struct RequestSeries {
    requests: u64,
    duration_ms: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
    /// Of gRPC: from the client, to the client.
    messages: Option<(u64, u64)>,
}

impl AddAssign<&RequestSeries> for RequestSeries {
    fn add_assign(&mut self, other: &RequestSeries) {
        self.requests += other.requests;
        self.duration_ms.add(&other.duration_ms);
        self.request_bytes.add(&other.request_bytes);
        self.response_bytes.add(&other.response_bytes);
        if let Some((received, sent)) = other.messages {
            let messages = self.messages.get_or_insert_default();
            *messages = (messages.0 + received, messages.1 + sent);
        }
    }
}

#[derive(Default, Clone)]
struct TcpSeries {
    opened: u64,
    closed: u64,
    sent: u64,
    received: u64,
}

impl AddAssign<&TcpSeries> for TcpSeries {
    fn add_assign(&mut self, other: &TcpSeries) {
        self.opened += other.opened;
        self.closed += other.closed;
        self.sent += other.sent;
        self.received += other.received;
    }
}

impl TrafficShard {
    /// Counts a finished request.
    pub fn request(&self, record: &RequestRecord) {
        let peers = Peers {
            source: &record.source,
            destination: &record.destination,
            service: &record.service,
        };
        let extra = RequestExtra {
            protocol: record.protocol,
            response_code: record.response_code,
            grpc_status: record.grpc_status,
            flags: record.flags,
        };
        let mut tables = locked(&self.tables);
        let series = tables.requests.find(peers, extra, labels::of_request);
        series.requests += 1;
        series.duration_ms.record(milliseconds(record.duration));
        series.request_bytes.record(record.request_bytes as f64);
        series.response_bytes.record(record.response_bytes as f64);
        if record.protocol == RequestProtocol::Grpc {
            let messages = series.messages.get_or_insert_default();
            messages.0 += record.request_messages;
            messages.1 += record.response_messages;
        }
    }

    /// Counts an opened connection.
    pub fn connection_opened(&self, record: &ConnectionRecord) {
        self.connection(record, |series| series.opened += 1);
    }

    /// Counts bytes of a connection that is still open.
    pub fn connection_progress(&self, record: &ConnectionRecord, received: u64, sent: u64) {
        self.connection(record, |series| {
            series.received += received;
            series.sent += sent;
        });
    }

    /// Counts a closed connection and its last bytes.
    pub fn connection_closed(&self, record: &ConnectionRecord, received: u64, sent: u64) {
        self.connection(record, |series| {
            series.closed += 1;
            series.received += received;
            series.sent += sent;
        });
    }

    fn connection(&self, record: &ConnectionRecord, count: impl FnOnce(&mut TcpSeries)) {
        let peers = Peers {
            source: &record.source,
            destination: &record.destination,
            service: &record.service,
        };
        let mut tables = locked(&self.tables);
        count(
            tables
                .connections
                .find(peers, record.flags, labels::of_connection),
        );
    }

    /// Adds this shard's numbers to `totals`.
    pub(super) fn add_to(&self, totals: &mut TrafficTotals, now: SystemTime) {
        let mut tables = locked(&self.tables);
        let Tables {
            requests,
            connections,
        } = &mut *tables;
        requests.visit(now, |labels, series| {
            *totals.requests.entry(Arc::clone(labels)).or_default() += series;
        });
        connections.visit(now, |labels, series| {
            *totals.connections.entry(Arc::clone(labels)).or_default() += series;
        });
    }
}

fn milliseconds(duration: Duration) -> f64 {
    // Envoy records whole milliseconds.
    duration.as_millis() as f64
}

/// The numbers of all shards, by labels.
#[derive(Default)]
pub(super) struct TrafficTotals {
    requests: BTreeMap<Arc<LabelText>, RequestSeries>,
    connections: BTreeMap<Arc<LabelText>, TcpSeries>,
}

/// A histogram's name, help, sample names and where it stands in a series.
type HistogramFamily = (
    &'static str,
    &'static str,
    HistogramNames,
    fn(&RequestSeries) -> &Histogram,
);

/// A TCP counter's name, help and where it stands in a series.
type TcpFamily = (&'static str, &'static str, fn(&TcpSeries) -> u64);

const HISTOGRAMS: [HistogramFamily; 3] = [
    (
        "istio_request_duration_milliseconds",
        "Duration of requests, until the last byte of the response.",
        HistogramNames {
            bucket: "istio_request_duration_milliseconds_bucket",
            sum: "istio_request_duration_milliseconds_sum",
            count: "istio_request_duration_milliseconds_count",
        },
        |series| &series.duration_ms,
    ),
    (
        "istio_request_bytes",
        "Size of requests, headers included.",
        HistogramNames {
            bucket: "istio_request_bytes_bucket",
            sum: "istio_request_bytes_sum",
            count: "istio_request_bytes_count",
        },
        |series| &series.request_bytes,
    ),
    (
        "istio_response_bytes",
        "Size of responses, headers included.",
        HistogramNames {
            bucket: "istio_response_bytes_bucket",
            sum: "istio_response_bytes_sum",
            count: "istio_response_bytes_count",
        },
        |series| &series.response_bytes,
    ),
];

/// A counter of gRPC messages: its name, help and which of the two directions.
type MessageFamily = (&'static str, &'static str, fn((u64, u64)) -> u64);

const MESSAGE_COUNTERS: [MessageFamily; 2] = [
    (
        "istio_request_messages_total",
        "gRPC messages from the client.",
        |(received, _)| received,
    ),
    (
        "istio_response_messages_total",
        "gRPC messages to the client.",
        |(_, sent)| sent,
    ),
];

const TCP_COUNTERS: [TcpFamily; 4] = [
    (
        "istio_tcp_connections_opened_total",
        "TCP connections opened.",
        |series| series.opened,
    ),
    (
        "istio_tcp_connections_closed_total",
        "TCP connections closed.",
        |series| series.closed,
    ),
    (
        "istio_tcp_sent_bytes_total",
        "Bytes sent to the client of TCP connections.",
        |series| series.sent,
    ),
    (
        "istio_tcp_received_bytes_total",
        "Bytes received from the client of TCP connections.",
        |series| series.received,
    ),
];

impl TrafficTotals {
    /// Writes all families of Istio's standard metrics.
    pub(super) fn write(&self, out: &mut Exposition) {
        out.family(
            "istio_build",
            MetricKind::Gauge,
            "Version of the component; always 1.",
        );
        let build = [("component", "proxy"), ("tag", env!("CARGO_PKG_VERSION"))];
        out.sample("istio_build", &build, 1);
        out.family(
            "istio_requests_total",
            MetricKind::Counter,
            "Finished HTTP and gRPC requests.",
        );
        for (labels, series) in &self.requests {
            out.sample_with("istio_requests_total", labels, None, series.requests);
        }
        for (name, help, names, histogram) in &HISTOGRAMS {
            out.family(name, MetricKind::Histogram, help);
            for (labels, series) in &self.requests {
                histogram(series).write(out, names, labels);
            }
        }
        for (name, help, value) in &MESSAGE_COUNTERS {
            out.family(name, MetricKind::Counter, help);
            for (labels, series) in &self.requests {
                if let Some(messages) = series.messages {
                    out.sample_with(name, labels, None, value(messages));
                }
            }
        }
        for (name, help, value) in &TCP_COUNTERS {
            out.family(name, MetricKind::Counter, help);
            for (labels, series) in &self.connections {
                out.sample_with(name, labels, None, value(series));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::MetricsRegistry;
    use super::super::testing::{connection, request};
    use super::*;

    const PEERS: &str = "source_workload=\"web\",source_canonical_service=\"web\",\
        source_canonical_revision=\"v1\",source_workload_namespace=\"shop\",\
        source_principal=\"unknown\",source_app=\"web\",source_version=\"v1\",\
        source_cluster=\"Kubernetes\",destination_workload=\"reviews-v2\",\
        destination_workload_namespace=\"shop\",destination_principal=\"unknown\",\
        destination_app=\"reviews\",destination_version=\"v2\",\
        destination_service=\"reviews.shop.svc.cluster.local\",\
        destination_canonical_service=\"reviews\",destination_canonical_revision=\"v2\",\
        destination_service_name=\"reviews\",destination_service_namespace=\"shop\",\
        destination_cluster=\"Kubernetes\"";

    fn render(registry: &MetricsRegistry) -> String {
        registry.render(SystemTime::UNIX_EPOCH)
    }

    /// Checklist id A205.
    #[test]
    fn requests_carry_exactly_the_standard_labels() {
        let registry = MetricsRegistry::default();
        let shard = registry.traffic_shard();
        shard.request(&request());
        let text = render(&registry);
        let labels = format!(
            "{{reporter=\"source\",{PEERS},request_protocol=\"http\",response_code=\"200\",\
             grpc_response_status=\"\",response_flags=\"-\",\
             connection_security_policy=\"unknown\""
        );
        for line in [
            format!("istio_requests_total{labels}}} 1\n"),
            format!("istio_request_duration_milliseconds_bucket{labels},le=\"10\"}} 0\n"),
            format!("istio_request_duration_milliseconds_bucket{labels},le=\"25\"}} 1\n"),
            format!("istio_request_duration_milliseconds_sum{labels}}} 12\n"),
            format!("istio_request_bytes_sum{labels}}} 210\n"),
            format!("istio_response_bytes_count{labels}}} 1\n"),
        ] {
            assert!(text.contains(&line), "{line} not in\n{text}");
        }
        let build = format!("component=\"proxy\",tag=\"{}\"", env!("CARGO_PKG_VERSION"));
        assert!(text.contains(&format!("istio_build{{{build}}} 1\n")));
    }

    #[test]
    fn connections_omit_what_only_requests_have() {
        let registry = MetricsRegistry::default();
        let shard = registry.traffic_shard();
        let record = connection();
        shard.connection_opened(&record);
        shard.connection_progress(&record, 10, 20);
        shard.connection_closed(&record, 1, 2);
        let text = render(&registry);
        let labels = format!(
            "{{reporter=\"source\",{PEERS},request_protocol=\"tcp\",response_flags=\"-\",\
             connection_security_policy=\"unknown\"}}"
        );
        for (name, value) in [
            ("istio_tcp_connections_opened_total", 1),
            ("istio_tcp_connections_closed_total", 1),
            ("istio_tcp_received_bytes_total", 11),
            ("istio_tcp_sent_bytes_total", 22),
        ] {
            let line = format!("{name}{labels} {value}\n");
            assert!(text.contains(&line), "{line} not in\n{text}");
        }
    }

    #[test]
    fn shards_and_new_snapshots_add_up_to_one_series() {
        let registry = MetricsRegistry::default();
        let (first, second) = (registry.traffic_shard(), registry.traffic_shard());
        let record = request();
        first.request(&record);
        first.request(&record);
        first.request(&request()); // equal labels at other addresses, as after a new snapshot
        second.request(&record);
        let text = render(&registry);
        let totals: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("istio_requests_total{"))
            .collect();
        assert_eq!(totals.len(), 1, "{totals:?}");
        assert!(totals[0].ends_with(" 4"), "{totals:?}");
    }

    #[test]
    fn codes_flags_and_grpc_status_separate_series() {
        let registry = MetricsRegistry::default();
        let shard = registry.traffic_shard();
        let mut record = request();
        shard.request(&record);
        record.response_code = 503;
        record.flags = ResponseFlags::UF.with(ResponseFlags::URX);
        shard.request(&record);
        record.protocol = RequestProtocol::Grpc;
        record.grpc_status = Some(14);
        (record.request_messages, record.response_messages) = (3, 4);
        shard.request(&record);
        let text = render(&registry);
        for (name, count) in [("request", 3), ("response", 4)] {
            let name = format!("istio_{name}_messages_total{{");
            let lines: Vec<&str> = text
                .lines()
                .filter(|line| line.starts_with(&name))
                .collect();
            // Only gRPC has messages.
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].contains("request_protocol=\"grpc\""), "{lines:?}");
            assert!(lines[0].ends_with(&format!(" {count}")), "{lines:?}");
        }
        for part in [
            "request_protocol=\"http\",response_code=\"200\",grpc_response_status=\"\",response_flags=\"-\"",
            "request_protocol=\"http\",response_code=\"503\",grpc_response_status=\"\",response_flags=\"URX,UF\"",
            "request_protocol=\"grpc\",response_code=\"503\",grpc_response_status=\"14\",response_flags=\"URX,UF\"",
        ] {
            assert!(text.contains(part), "{part} not in\n{text}");
        }
    }
}
