//! Header operations: templates evaluated, then all removes, sets and adds of one
//! level (VirtualService `Headers`, Envoy documentation, "Custom request/response
//! headers"). Start at [`apply`].

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::snapshot::policy::{HeaderOps, HeaderTemplate, TemplatePart};
use crate::telemetry::calendar::Iso8601;

/// What templates may name, besides the headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TemplateFacts<'a> {
    /// Method, as sent.
    pub(crate) method: &'a str,
    /// Path and query, before any rewrite.
    pub(crate) path: &'a str,
    /// Host, before any rewrite.
    pub(crate) authority: &'a str,
    /// `http` or `https`.
    pub(crate) scheme: &'a str,
    /// The client's address.
    pub(crate) downstream_remote: SocketAddr,
    /// The address the client dialled.
    pub(crate) downstream_local: SocketAddr,
    /// The endpoint, once one is chosen.
    pub(crate) upstream_host: Option<SocketAddr>,
    /// `HTTP/1.1` or `HTTP/2`.
    pub(crate) protocol: &'static str,
    /// Of the upstream's response; 0 in local replies.
    pub(crate) response_code: u16,
    /// When the request head was complete.
    pub(crate) start: SystemTime,
    /// Effective route name.
    pub(crate) route_name: &'a str,
}

/// Request and response headers as templates see them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeaderViews<'a> {
    /// The request as it is now; for response operations as sent upstream.
    pub(crate) request: &'a HeaderMap,
    /// The response, for response operations.
    pub(crate) response: Option<&'a HeaderMap>,
}

/// Values of one level, all evaluated before any is applied.
#[derive(Debug, Default)]
pub(crate) struct Evaluated<'a> {
    set: Vec<(&'a HeaderName, HeaderValue)>,
    add: Vec<(&'a HeaderName, HeaderValue)>,
}

/// Evaluates all values of one level.
pub(crate) fn evaluate_all<'a>(
    ops: &'a HeaderOps,
    facts: &TemplateFacts<'_>,
    views: HeaderViews<'_>,
) -> Evaluated<'a> {
    let evaluate_list = |list: &'a [(HeaderName, HeaderTemplate)]| {
        list.iter()
            .filter_map(|(name, template)| Some((name, evaluate(template, facts, views)?)))
            .collect()
    };
    Evaluated {
        set: evaluate_list(&ops.set),
        add: evaluate_list(&ops.add),
    }
}

/// One level's pass over `headers`: removes, sets, adds.
pub(crate) fn apply(ops: &HeaderOps, evaluated: Evaluated<'_>, headers: &mut HeaderMap) {
    for name in &ops.remove {
        headers.remove(name);
    }
    for (name, value) in evaluated.set {
        headers.insert(name, value);
    }
    for (name, value) in evaluated.add {
        headers.append(name, value);
    }
}

/// One pass over request headers.
pub(crate) fn apply_to_request(
    ops: &HeaderOps,
    facts: &TemplateFacts<'_>,
    headers: &mut HeaderMap,
) {
    if ops.is_empty() {
        return;
    }
    let views = HeaderViews {
        request: headers,
        response: None,
    };
    let evaluated = evaluate_all(ops, facts, views);
    apply(ops, evaluated, headers);
}

/// One pass over response headers; `request` is the request as sent upstream.
pub(crate) fn apply_to_response(
    ops: &HeaderOps,
    facts: &TemplateFacts<'_>,
    request: &HeaderMap,
    headers: &mut HeaderMap,
) {
    if ops.is_empty() {
        return;
    }
    let views = HeaderViews {
        request,
        response: Some(headers),
    };
    let evaluated = evaluate_all(ops, facts, views);
    apply(ops, evaluated, headers);
}

/// The value, or `None` when it is empty or no header value.
pub(crate) fn evaluate(
    template: &HeaderTemplate,
    facts: &TemplateFacts<'_>,
    views: HeaderViews<'_>,
) -> Option<HeaderValue> {
    if let [TemplatePart::Literal(text)] = &template.0[..] {
        return non_empty(text.as_bytes());
    }
    let mut out = Vec::with_capacity(64);
    for part in &template.0 {
        push_part(&mut out, part, facts, views);
    }
    non_empty(&out)
}

fn non_empty(value: &[u8]) -> Option<HeaderValue> {
    if value.is_empty() {
        return None;
    }
    HeaderValue::from_bytes(value).ok()
}

fn push_part(
    out: &mut Vec<u8>,
    part: &TemplatePart,
    facts: &TemplateFacts<'_>,
    views: HeaderViews<'_>,
) {
    match part {
        TemplatePart::Literal(text) => out.extend_from_slice(text.as_bytes()),
        TemplatePart::RequestHeader {
            name,
            alternative,
            max_len_bytes,
        } => {
            let find = |name: &str| request_value(name, facts, views.request);
            let value = find(name).or_else(|| find(alternative.as_deref()?));
            push_cut(out, value, *max_len_bytes);
        }
        TemplatePart::ResponseHeader {
            name,
            alternative,
            max_len_bytes,
        } => {
            let find = |name: &str| Some(views.response?.get(name)?.as_bytes());
            let value = find(name).or_else(|| find(alternative.as_deref()?));
            push_cut(out, value, *max_len_bytes);
        }
        TemplatePart::DownstreamRemoteAddress => push_display(out, &facts.downstream_remote),
        TemplatePart::DownstreamRemoteAddressWithoutPort => {
            push_display(out, &facts.downstream_remote.ip());
        }
        TemplatePart::DownstreamLocalAddress => push_display(out, &facts.downstream_local),
        TemplatePart::UpstreamHost => {
            if let Some(host) = &facts.upstream_host {
                push_display(out, host);
            }
        }
        TemplatePart::Protocol => out.extend_from_slice(facts.protocol.as_bytes()),
        TemplatePart::ResponseCode => push_display(out, &facts.response_code),
        TemplatePart::StartTime => {
            out.extend_from_slice(Iso8601(facts.start).to_string().as_bytes())
        }
        TemplatePart::RouteName => out.extend_from_slice(facts.route_name.as_bytes()),
    }
}

/// First line of a header, or the value of a pseudo header.
fn request_value<'a>(
    name: &str,
    facts: &TemplateFacts<'a>,
    headers: &'a HeaderMap,
) -> Option<&'a [u8]> {
    match name {
        ":method" => Some(facts.method.as_bytes()),
        ":path" => Some(facts.path.as_bytes()),
        ":authority" | "host" => Some(facts.authority.as_bytes()),
        ":scheme" => Some(facts.scheme.as_bytes()),
        name => Some(headers.get(name)?.as_bytes()),
    }
}

fn push_cut(out: &mut Vec<u8>, value: Option<&[u8]>, max_len_bytes: Option<usize>) {
    let value = value.unwrap_or(b"");
    let len = max_len_bytes.map_or(value.len(), |max| max.min(value.len()));
    out.extend_from_slice(&value[..len]);
}

fn push_display(out: &mut Vec<u8>, value: &dyn std::fmt::Display) {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(text, "{value}");
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
#[path = "header_ops_tests.rs"]
mod tests;
