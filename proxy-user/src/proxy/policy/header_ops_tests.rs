use std::time::{Duration, UNIX_EPOCH};

use super::*;

fn facts() -> TemplateFacts<'static> {
    TemplateFacts {
        method: "GET",
        path: "/a?b",
        authority: "h:80",
        scheme: "http",
        downstream_remote: ([10, 0, 0, 1], 4321).into(),
        downstream_local: ([10, 0, 0, 2], 80).into(),
        upstream_host: Some(([10, 0, 0, 3], 8080).into()),
        protocol: "HTTP/1.1",
        response_code: 200,
        start: UNIX_EPOCH + Duration::from_millis(1_767_225_600_007),
        route_name: "r",
    }
}

fn name(text: &'static str) -> HeaderName {
    HeaderName::from_static(text)
}

fn literal(text: &str) -> HeaderTemplate {
    HeaderTemplate(vec![TemplatePart::Literal(text.into())])
}

fn request_header(header: &str, alternative: Option<&str>, max: Option<usize>) -> TemplatePart {
    TemplatePart::RequestHeader {
        name: header.into(),
        alternative: alternative.map(Into::into),
        max_len_bytes: max,
    }
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(key, value)| (name(key), HeaderValue::from_static(value)))
        .collect()
}

#[test]
fn templates_give_what_envoy_gives() {
    let request = headers(&[("x", "first"), ("x", "second"), ("y", "other")]);
    let response = headers(&[("z", "from-upstream")]);
    let views = HeaderViews {
        request: &request,
        response: Some(&response),
    };
    for (parts, expected) in [
        (vec![request_header("x", None, None)], Some("first")), // first line
        (
            vec![request_header("absent", Some("y"), None)],
            Some("other"),
        ),
        (vec![request_header("x", None, Some(3))], Some("fir")),
        (vec![request_header(":path", None, None)], Some("/a?b")),
        (vec![request_header(":authority", None, None)], Some("h:80")),
        (vec![request_header("absent", None, None)], None), // empty: skipped
        (
            vec![
                TemplatePart::Literal("a-".into()),
                request_header("absent", None, None),
                TemplatePart::Literal("-b".into()),
            ],
            Some("a--b"), // a missing part is empty inside a longer text
        ),
        (
            vec![TemplatePart::ResponseHeader {
                name: "z".into(),
                alternative: None,
                max_len_bytes: None,
            }],
            Some("from-upstream"),
        ),
        (
            vec![TemplatePart::DownstreamRemoteAddress],
            Some("10.0.0.1:4321"),
        ),
        (
            vec![TemplatePart::DownstreamRemoteAddressWithoutPort],
            Some("10.0.0.1"),
        ),
        (
            vec![TemplatePart::DownstreamLocalAddress],
            Some("10.0.0.2:80"),
        ),
        (vec![TemplatePart::UpstreamHost], Some("10.0.0.3:8080")),
        (vec![TemplatePart::Protocol], Some("HTTP/1.1")),
        (vec![TemplatePart::ResponseCode], Some("200")),
        (
            vec![TemplatePart::StartTime],
            Some("2026-01-01T00:00:00.007Z"),
        ),
        (vec![TemplatePart::RouteName], Some("r")),
        (vec![TemplatePart::Literal("".into())], None),
    ] {
        let template = HeaderTemplate(parts);
        let value = evaluate(&template, &facts(), views);
        let value = value.as_ref().map(|value| value.to_str().expect("ASCII"));
        assert_eq!(value, expected, "{template:?}");
    }
}

/// Checklist ids A096 and A097.
#[test]
fn a096_a097_removes_then_sets_then_adds() {
    for (ops, received, expected) in [
        (
            HeaderOps {
                set: vec![(name("x"), literal("1"))],
                add: vec![(name("x"), literal("2"))],
                ..HeaderOps::default()
            },
            headers(&[("x", "0")]),
            headers(&[("x", "1"), ("x", "2")]),
        ),
        (
            HeaderOps {
                remove: vec![name("x")],
                set: vec![(name("x"), literal("1"))],
                ..HeaderOps::default()
            },
            headers(&[("x", "0"), ("x", "9")]),
            headers(&[("x", "1")]),
        ),
        (
            HeaderOps {
                remove: vec![name("x")],
                add: vec![(name("y"), literal("2"))],
                ..HeaderOps::default()
            },
            headers(&[("x", "0"), ("y", "1")]),
            headers(&[("y", "1"), ("y", "2")]),
        ),
    ] {
        let mut map = received;
        apply_to_request(&ops, &facts(), &mut map);
        assert_eq!(map, expected);
    }
}

#[test]
fn values_of_one_pass_do_not_see_each_other_but_the_next_pass_does() {
    let copy_x = HeaderTemplate(vec![request_header("x", None, None)]);
    let destination = HeaderOps {
        set: vec![(name("x"), literal("new")), (name("y"), copy_x.clone())],
        ..HeaderOps::default()
    };
    let route = HeaderOps {
        set: vec![(name("z"), copy_x)],
        ..HeaderOps::default()
    };
    let mut map = headers(&[("x", "old")]);
    apply_to_request(&destination, &facts(), &mut map);
    apply_to_request(&route, &facts(), &mut map);
    assert_eq!(map, headers(&[("x", "new"), ("y", "old"), ("z", "new")]));
}

/// Checklist id A099: the route's pass runs last; A100: response removes.
#[test]
fn a099_a100_the_route_wins_over_a_weighted_destination() {
    let set = |value: &str| HeaderOps {
        set: vec![(name("x"), literal(value))],
        ..HeaderOps::default()
    };
    let mut map = HeaderMap::new();
    apply_to_request(&set("d"), &facts(), &mut map);
    apply_to_request(&set("r"), &facts(), &mut map);
    assert_eq!(map, headers(&[("x", "r")]));
    let remove = HeaderOps {
        remove: vec![name("server-timing")],
        ..HeaderOps::default()
    };
    let mut response = headers(&[("server-timing", "1"), ("a", "b")]);
    apply_to_response(&remove, &facts(), &HeaderMap::new(), &mut response);
    assert_eq!(response, headers(&[("a", "b")]));
}
