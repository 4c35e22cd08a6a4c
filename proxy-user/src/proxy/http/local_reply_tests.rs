use super::*;

fn failed(kind: Kind, has_retried: bool) -> LocalReply {
    LocalReply::upstream(&TrafficError::upstream(kind, None), has_retried)
}

fn text(reply: &LocalReply) -> &str {
    std::str::from_utf8(&reply.body).expect("ASCII")
}

#[test]
fn every_cause_has_its_status_flag_and_text() {
    let connect_error = "upstream connect error or disconnect/reset before headers. ";
    for (reply, status, flags, body, details) in [
        (
            LocalReply::route_not_found(),
            404,
            "NR",
            String::new(),
            "route_not_found",
        ),
        (
            LocalReply::cluster_not_found(),
            503,
            "NC",
            String::new(),
            "cluster_not_found",
        ),
        (
            LocalReply::block_all(),
            502,
            "-",
            String::new(),
            "direct_response",
        ),
        (
            LocalReply::no_healthy_upstream(),
            503,
            "UH",
            "no healthy upstream".to_owned(),
            "no_healthy_upstream",
        ),
        (
            LocalReply::timeout(false),
            504,
            "UT",
            "upstream request timeout".to_owned(),
            "response_timeout",
        ),
        (
            LocalReply::timeout(true),
            504,
            "UT",
            "upstream request timeout".to_owned(),
            "upstream_per_try_timeout",
        ),
        (
            failed(Kind::ConnectFailed, true),
            503,
            "UF",
            format!(
                "{connect_error}retried and the latest reset reason: remote connection failure"
            ),
            "upstream_reset_before_response_started{remote_connection_failure}",
        ),
        (
            failed(Kind::ConnectTimeout, false),
            503,
            "UF",
            format!("{connect_error}reset reason: connection timeout"),
            "upstream_reset_before_response_started{connection_timeout}",
        ),
        (
            failed(Kind::Forbidden, false),
            503,
            "UF",
            "mizzen leads no host-network pod to an address of the host itself".to_owned(),
            "host_network_guard",
        ),
        (
            failed(Kind::ConnectionTermination, false),
            503,
            "UC",
            format!("{connect_error}reset reason: connection termination"),
            "upstream_reset_before_response_started{connection_termination}",
        ),
        (
            failed(Kind::RemoteReset, false),
            503,
            "UR",
            format!("{connect_error}reset reason: remote reset"),
            "upstream_reset_before_response_started{remote_reset}",
        ),
        (
            failed(Kind::RefusedStream, false),
            503,
            "UR",
            format!("{connect_error}reset reason: remote refused stream reset"),
            "upstream_reset_before_response_started{remote_refused_stream_reset}",
        ),
        (
            failed(Kind::ProtocolError, false),
            502,
            "UPE",
            format!("{connect_error}reset reason: protocol error"),
            "upstream_reset_before_response_started{protocol_error}",
        ),
        (
            failed(Kind::Overflow, false),
            503,
            "UO",
            format!("{connect_error}reset reason: overflow"),
            "upstream_reset_before_response_started{overflow}",
        ),
    ] {
        assert_eq!(reply.status.as_u16(), status, "{details}");
        assert_eq!(reply.flags.text(), flags, "{details}");
        assert_eq!(text(&reply), body, "{details}");
        assert_eq!(reply.details, details);
    }
    let overflow = failed(Kind::Overflow, false);
    assert_eq!(overflow.headers[ENVOY_OVERLOADED], "true");
}

#[test]
fn plain_clients_get_text_with_a_length() {
    let (status, headers, body) = LocalReply::no_healthy_upstream().into_response(false);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers[CONTENT_TYPE], "text/plain");
    assert_eq!(headers[CONTENT_LENGTH], "19");
    assert_eq!(body, "no healthy upstream");
    let (_, headers, _) = LocalReply::route_not_found().into_response(false);
    assert_eq!(headers[CONTENT_LENGTH], "0");
    assert!(!headers.contains_key(CONTENT_TYPE)); // an empty body has no type
}

/// Checklist ids A053 and A131.
#[test]
fn a053_a131_grpc_clients_get_trailers_only() {
    for (reply, grpc_status, message) in [
        (
            LocalReply::no_healthy_upstream(),
            "14",
            Some("no healthy upstream"),
        ),
        (
            LocalReply::timeout(false),
            "14",
            Some("upstream request timeout"),
        ), // not 4
        (LocalReply::route_not_found(), "12", None), // empty body, no message
        (
            LocalReply::fault_abort(StatusCode::IM_A_TEAPOT),
            "2",
            Some("fault filter abort"),
        ),
        (
            LocalReply::fault_abort_grpc(14),
            "14",
            Some("fault filter abort"),
        ),
        (
            LocalReply::direct(StatusCode::OK, Bytes::from("a%\n")),
            "2",
            Some("a%25%0A"),
        ),
    ] {
        let (status, headers, body) = reply.into_response(true);
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers[CONTENT_TYPE], "application/grpc");
        assert_eq!(headers[GRPC_STATUS], grpc_status);
        let found = headers
            .get(GRPC_MESSAGE)
            .map(|value| value.to_str().expect("ASCII"));
        assert_eq!(found, message);
        assert!(body.is_empty());
    }
    let (status, _, body) = LocalReply::fault_abort_grpc(14).into_response(false);
    assert_eq!(
        (status.as_u16(), &body[..]),
        (200, &b"fault filter abort"[..])
    );
}

#[test]
fn http_codes_map_to_grpc_codes() {
    for (status, expected) in [
        (400, 13),
        (401, 16),
        (403, 7),
        (404, 12),
        (429, 14),
        (502, 14),
        (503, 14),
        (504, 14),
        (200, 2),
        (408, 2),
        (499, 2),
        (500, 2),
    ] {
        let status = StatusCode::from_u16(status).expect("a status");
        assert_eq!(grpc_status_of(status), expected, "{status}");
    }
}
