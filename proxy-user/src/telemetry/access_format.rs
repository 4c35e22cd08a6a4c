//! Lines of the access log: Istio's default text format and its JSON keys.
//!
//! Source: Istio, pilot/pkg/model/telemetry_logging.go (`EnvoyTextLogFormat`,
//! `EnvoyJSONLogFormatIstio`); operators as in Envoy, "Access logging".

use std::borrow::Cow;
use std::fmt::{self, Display, Write};
use std::time::Duration;

use serde::Serialize;

use super::calendar::Iso8601;
use super::record::{ConnectionRecord, RequestRecord};

/// The fields of one line; `None` is `-` in text and `null` in JSON. Their order is JSON's.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    #[serde(serialize_with = "as_text")]
    start_time: Iso8601,
    route_name: Option<&'a str>,
    method: Option<&'a str>,
    path: Option<&'a str>,
    protocol: Option<&'a str>,
    response_code: u16,
    response_flags: Cow<'static, str>,
    response_code_details: Option<&'a str>,
    connection_termination_details: Option<&'a str>,
    bytes_received: u64,
    bytes_sent: u64,
    duration: u128,
    upstream_service_time: Option<String>,
    x_forwarded_for: Option<&'a str>,
    user_agent: Option<&'a str>,
    request_id: Option<&'a str>,
    authority: Option<&'a str>,
    upstream_host: Option<String>,
    upstream_cluster: Option<&'a str>,
    upstream_local_address: Option<String>,
    downstream_local_address: String,
    downstream_remote_address: String,
    requested_server_name: Option<&'a str>,
    upstream_transport_failure_reason: Option<&'a str>,
}

/// A text that says something: neither empty nor the dash of a missing value.
fn said(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty() && *text != "-")
}

impl<'a> Line<'a> {
    /// The line of a finished request.
    pub(super) fn of_request(record: &'a RequestRecord) -> Self {
        Self {
            start_time: Iso8601(record.start),
            route_name: record.route_name.as_deref(),
            method: said(&record.method),
            path: said(&record.path),
            protocol: Some(record.http_version),
            response_code: record.response_code,
            response_flags: record.flags.text(),
            response_code_details: said(&record.details),
            connection_termination_details: None,
            bytes_received: record.bytes_received,
            bytes_sent: record.bytes_sent,
            duration: record.duration.as_millis(),
            upstream_service_time: record
                .upstream_service_time
                .map(|time| time.as_millis().to_string()),
            x_forwarded_for: record.forwarded_for.as_deref(),
            user_agent: record.user_agent.as_deref(),
            request_id: record.request_id.as_deref(),
            authority: said(&record.authority),
            upstream_host: record.upstream_host.map(|host| host.to_string()),
            upstream_cluster: record.upstream_cluster.as_deref(),
            upstream_local_address: record.upstream_local.map(|local| local.to_string()),
            downstream_local_address: record.downstream_local.to_string(),
            downstream_remote_address: record.downstream_remote.to_string(),
            requested_server_name: None,
            upstream_transport_failure_reason: record.upstream_failure.as_deref(),
        }
    }

    /// The line of a closed TCP connection: no request, code 0.
    pub(super) fn of_connection(record: &'a ConnectionRecord, duration: Duration) -> Self {
        Self {
            start_time: Iso8601(record.start),
            route_name: None,
            method: None,
            path: None,
            protocol: None,
            response_code: 0,
            response_flags: record.flags.connection_text(),
            response_code_details: said(&record.details),
            connection_termination_details: None,
            bytes_received: record.bytes_received,
            bytes_sent: record.bytes_sent,
            duration: duration.as_millis(),
            upstream_service_time: None,
            x_forwarded_for: None,
            user_agent: None,
            request_id: None,
            authority: None,
            upstream_host: record.upstream_host.map(|host| host.to_string()),
            upstream_cluster: record.upstream_cluster.as_deref(),
            upstream_local_address: record.upstream_local.map(|local| local.to_string()),
            downstream_local_address: record.downstream_local.to_string(),
            downstream_remote_address: record.downstream_remote.to_string(),
            requested_server_name: record.server_name.as_deref(),
            upstream_transport_failure_reason: record.upstream_failure.as_deref(),
        }
    }

    /// Istio's default text format, with its line feed.
    pub(super) fn text(&self) -> String {
        let mut out = String::with_capacity(512);
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "[{}] \"{} {} {}\" {} {} {} {} \"{}\" {} {} {} {} \"{}\" \"{}\" \"{}\" \"{}\" \"{}\" \
             {} {} {} {} {} {}",
            self.start_time,
            Dash(self.method),
            Dash(self.path),
            Dash(self.protocol),
            self.response_code,
            self.response_flags,
            Dash(self.response_code_details),
            Dash(self.connection_termination_details),
            Dash(self.upstream_transport_failure_reason),
            self.bytes_received,
            self.bytes_sent,
            self.duration,
            Dash(self.upstream_service_time.as_deref()),
            Dash(self.x_forwarded_for),
            Dash(self.user_agent),
            Dash(self.request_id),
            Dash(self.authority),
            Dash(self.upstream_host.as_deref()),
            Dash(self.upstream_cluster),
            Dash(self.upstream_local_address.as_deref()),
            self.downstream_local_address,
            self.downstream_remote_address,
            Dash(self.requested_server_name),
            Dash(self.route_name),
        );
        out
    }

    /// One JSON object, with its line feed.
    pub(super) fn json(&self) -> String {
        // Texts and numbers always serialise; an empty line would show the mistake.
        let mut out = serde_json::to_string(self).unwrap_or_default();
        out.push('\n');
        out
    }
}

/// A value or `-`; control characters are escaped, so that one record is one line.
struct Dash<'a>(Option<&'a str>);

impl Display for Dash<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.unwrap_or("-");
        if !text.bytes().any(|byte| byte.is_ascii_control()) {
            return f.write_str(text);
        }
        for character in text.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

fn as_text<S: serde::Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[cfg(test)]
mod tests {
    use super::super::record::ResponseFlags;
    use super::super::testing::{connection, request};
    use super::*;

    /// Checklist id A206.
    #[test]
    fn a_request_is_one_line_of_istios_default_format() {
        let mut minimal = request();
        minimal.response_code = 404;
        minimal.flags = ResponseFlags::NR;
        minimal.details = "route_not_found".into();
        minimal.upstream_service_time = None;
        minimal.upstream_host = None;
        minimal.upstream_cluster = None;
        minimal.upstream_local = None;
        minimal.route_name = None;
        minimal.user_agent = None;
        minimal.forwarded_for = Some("1.2.3.4".into());
        for (record, expected) in [
            (
                request(),
                "[2026-11-26T07:14:56.042Z] \"GET /reviews/1?full=yes HTTP/1.1\" 200 - \
                 via_upstream - \"-\" 0 1234 12 11 \"-\" \"curl/8\" \
                 \"5f0c2b2e-0d5e-4a5b-9a5f-0a1b2c3d4e5f\" \"reviews:9080\" \"10.0.0.7:9080\" \
                 outbound|9080|v2|reviews.shop.svc.cluster.local 10.0.0.3:41000 10.96.0.9:9080 \
                 10.0.0.3:40000 - by-user\n",
            ),
            (
                minimal,
                "[2026-11-26T07:14:56.042Z] \"GET /reviews/1?full=yes HTTP/1.1\" 404 NR \
                 route_not_found - \"-\" 0 1234 12 - \"1.2.3.4\" \"-\" \
                 \"5f0c2b2e-0d5e-4a5b-9a5f-0a1b2c3d4e5f\" \"reviews:9080\" \"-\" - - \
                 10.96.0.9:9080 10.0.0.3:40000 - -\n",
            ),
        ] {
            assert_eq!(Line::of_request(&record).text(), expected);
        }
    }

    #[test]
    fn a_connection_has_code_zero_and_no_request() {
        let mut record = connection();
        record.flags = ResponseFlags::UF.with(ResponseFlags::URX);
        record.upstream_failure = Some("connection refused".into());
        record.server_name = Some("db.example.org".into());
        let line = Line::of_connection(&record, Duration::from_millis(1500));
        assert_eq!(
            line.text(),
            "[2026-11-26T07:14:56.042Z] \"- - -\" 0 UF,URX - - \"connection refused\" 11 22 1500 \
             - \"-\" \"-\" \"-\" \"-\" \"10.0.0.7:9080\" \
             outbound|9080|v2|reviews.shop.svc.cluster.local 10.0.0.3:41000 10.96.0.9:9080 \
             10.0.0.3:40000 db.example.org -\n"
        );
    }

    #[test]
    fn json_has_istios_keys_and_null_for_what_is_missing() {
        let record = request();
        let value: serde_json::Value =
            serde_json::from_str(&Line::of_request(&record).json()).expect("JSON");
        let expected = serde_json::json!({
            "start_time": "2026-11-26T07:14:56.042Z",
            "route_name": "by-user",
            "method": "GET",
            "path": "/reviews/1?full=yes",
            "protocol": "HTTP/1.1",
            "response_code": 200,
            "response_flags": "-",
            "response_code_details": "via_upstream",
            "connection_termination_details": null,
            "bytes_received": 0,
            "bytes_sent": 1234,
            "duration": 12,
            "upstream_service_time": "11",
            "x_forwarded_for": null,
            "user_agent": "curl/8",
            "request_id": "5f0c2b2e-0d5e-4a5b-9a5f-0a1b2c3d4e5f",
            "authority": "reviews:9080",
            "upstream_host": "10.0.0.7:9080",
            "upstream_cluster": "outbound|9080|v2|reviews.shop.svc.cluster.local",
            "upstream_local_address": "10.0.0.3:41000",
            "downstream_local_address": "10.96.0.9:9080",
            "downstream_remote_address": "10.0.0.3:40000",
            "requested_server_name": null,
            "upstream_transport_failure_reason": null,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn nothing_a_peer_sends_begins_a_new_line() {
        let mut record = request();
        record.user_agent = Some("a\nb\tc\u{1b}[0m".into());
        let line = Line::of_request(&record);
        assert!(line.text().contains("\"a\\nb\\tc\\u{1b}[0m\""));
        for text in [line.text(), line.json()] {
            assert_eq!(text.matches('\n').count(), 1, "{text}");
        }
    }
}
