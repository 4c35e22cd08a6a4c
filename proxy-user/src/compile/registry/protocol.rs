//! Which protocol a port speaks, by what its object says.
//!
//! Source: Istio, pkg/config/kube/conversion.go (`ConvertProtocol`) and
//! pkg/config/protocol/instance.go (`Parse`).

use crate::snapshot::listeners::Protocol;

/// Ports that undeclared mean TCP: their servers speak first or in binary.
const WELL_KNOWN_TCP_PORTS: [u16; 4] = [25, 53, 3306, 27017];

/// Protocol of a Kubernetes Service port.
///
/// `transport`: `TCP` (also if empty), `UDP` or `SCTP`. `app_protocol` wins over
/// `name`, also when it says nothing that is known.
pub(crate) fn of_kubernetes_port(
    transport: &str,
    app_protocol: Option<&str>,
    name: &str,
    number: u16,
) -> Protocol {
    if !transport.is_empty() && !transport.eq_ignore_ascii_case("tcp") {
        // SCTP is as foreign to the mesh as UDP.
        return Protocol::Udp;
    }
    // Kubernetes, KEP-3726 "Standard Application Protocols".
    match app_protocol {
        Some("kubernetes.io/h2c") => return Protocol::Http2,
        Some("kubernetes.io/ws") => return Protocol::Http,
        Some("kubernetes.io/wss") => return Protocol::Https,
        Some(_) | None => {}
    }
    let text = app_protocol.unwrap_or(name);
    let is_grpc_web = text
        .get(..8)
        .is_some_and(|head| head.eq_ignore_ascii_case("grpc-web"));
    if is_grpc_web {
        return Protocol::GrpcWeb;
    }
    let prefix = text.split('-').next().unwrap_or(text);
    match parse_protocol(prefix) {
        Some(protocol) => protocol,
        None if WELL_KNOWN_TCP_PORTS.contains(&number) => Protocol::Tcp,
        None => Protocol::Auto,
    }
}

/// Protocol of a ServiceEntry, Gateway or Sidecar port: no well-known ports, empty means to find out.
pub(crate) fn of_declared_port(text: &str) -> Protocol {
    parse_protocol(text).unwrap_or(Protocol::Auto)
}

/// The protocol that `text` names, in any case.
fn parse_protocol(text: &str) -> Option<Protocol> {
    let protocol = match text.to_ascii_lowercase().as_str() {
        "http" => Protocol::Http,
        "http2" => Protocol::Http2,
        "https" => Protocol::Https,
        "http_proxy" => Protocol::HttpProxy,
        "grpc" => Protocol::Grpc,
        "grpc-web" => Protocol::GrpcWeb,
        "tcp" => Protocol::Tcp,
        "tls" => Protocol::Tls,
        "mongo" => Protocol::Mongo,
        "redis" => Protocol::Redis,
        "mysql" => Protocol::Mysql,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some(protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubernetes_port_speaks_what_app_protocol_else_its_name_says() {
        for (name, app_protocol, number, expected) in [
            ("http-web", None, 80, Protocol::Http),                // A014
            ("web-http", None, 80, Protocol::Auto), // A014: only what is before the first `-`
            ("tcp-x", Some("http"), 80, Protocol::Http), // A015
            ("x", Some("kubernetes.io/h2c"), 80, Protocol::Http2), // A016
            ("x", Some("kubernetes.io/ws"), 80, Protocol::Http),
            ("x", Some("kubernetes.io/wss"), 80, Protocol::Https),
            ("GRPC-Web-x", None, 80, Protocol::GrpcWeb), // A017
            ("grpc-x", None, 80, Protocol::Grpc),
            ("HTTP2", None, 80, Protocol::Http2),
            ("http_proxy", None, 80, Protocol::HttpProxy),
            ("https-x", None, 443, Protocol::Https),
            ("tls", None, 443, Protocol::Tls),
            ("mongo", None, 1, Protocol::Mongo),
            ("redis", None, 1, Protocol::Redis),
            ("mysql", None, 1, Protocol::Mysql),
            ("", None, 3306, Protocol::Tcp),                // A018
            ("", None, 9999, Protocol::Auto),               // A019
            ("http", None, 3306, Protocol::Http),           // a name that says something wins
            ("http", Some("nonsense"), 80, Protocol::Auto), // never back to the name
            ("http", Some("nonsense"), 25, Protocol::Tcp),
            ("udp-x", None, 80, Protocol::Udp),
            ("größe-http", None, 80, Protocol::Auto), // cut inside a character
        ] {
            let found = of_kubernetes_port("TCP", app_protocol, name, number);
            assert_eq!(found, expected, "{name:?} {app_protocol:?} {number}");
        }
        assert_eq!(of_kubernetes_port("UDP", None, "http", 80), Protocol::Udp);
        assert_eq!(of_kubernetes_port("", None, "http", 80), Protocol::Http);
    }

    #[test]
    fn a_declared_port_speaks_exactly_what_it_says() {
        for (text, expected) in [
            ("HTTP", Protocol::Http),
            ("grpc-web", Protocol::GrpcWeb),
            ("TLS", Protocol::Tls),
            ("", Protocol::Auto),
            ("http-x", Protocol::Auto), // the whole text counts, not a prefix
        ] {
            assert_eq!(of_declared_port(text), expected, "{text:?}");
        }
    }
}
