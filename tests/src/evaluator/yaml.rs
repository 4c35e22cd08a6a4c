//! Writes a mesh as the YAML that a user would.

use std::fmt::Write;

use super::model::{
    Action, Client, DestinationRule, HttpMatch, Mesh, Service, Text, VirtualService,
};

/// One document per object, and a Pod per client and endpoint.
#[must_use]
pub fn documents(mesh: &Mesh, clients: &[(Client, String)]) -> String {
    let mut out = String::new();
    for (at, (client, uid)) in clients.iter().enumerate() {
        let _ = write!(
            out,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: client{at}, namespace: {}, uid: {uid}, labels: {{app: {}}}}}\n\
             spec: {{}}\nstatus: {{podIPs: [{{ip: 10.9.0.{}}}]}}\n",
            client.namespace,
            client.app,
            at + 1
        );
    }
    mesh.services
        .iter()
        .for_each(|service| write_service(&mut out, service));
    mesh.virtual_services
        .iter()
        .for_each(|vs| write_virtual_service(&mut out, vs));
    mesh.destination_rules
        .iter()
        .for_each(|rule| write_destination_rule(&mut out, rule));
    out
}

fn write_service(out: &mut String, service: &Service) {
    let (name, namespace) = (&service.name, &service.namespace);
    let _ = write!(
        out,
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  clusterIP: {}\n  ports:\n",
        service.vip
    );
    let port_name = |number: u16, is_http: bool| {
        if is_http {
            format!("http-{number}")
        } else {
            format!("p{number}")
        }
    };
    for port in &service.ports {
        let _ = writeln!(
            out,
            "  - {{name: {}, port: {}}}",
            port_name(port.number, port.is_http),
            port.number
        );
    }
    let _ = write!(
        out,
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\nports:\n"
    );
    for port in &service.ports {
        let _ = writeln!(
            out,
            "- {{name: {}, port: {}}}",
            port_name(port.number, port.is_http),
            port.number
        );
    }
    out.push_str(if service.endpoints.is_empty() {
        "endpoints: []\n"
    } else {
        "endpoints:\n"
    });
    for (at, endpoint) in service.endpoints.iter().enumerate() {
        let _ = writeln!(
            out,
            "- {{addresses: [{}], conditions: {{ready: {}, terminating: false}}, targetRef: {{kind: Pod, name: {name}-{at}, namespace: {namespace}}}}}",
            endpoint.ip, endpoint.is_ready
        );
    }
    for (at, endpoint) in service.endpoints.iter().enumerate() {
        let _ = write!(
            out,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}-{at}, namespace: {namespace}, uid: {namespace}-{name}-{at}, labels: {{app: {name}, version: {}}}}}\n\
             spec: {{nodeName: elsewhere}}\nstatus: {{podIPs: [{{ip: {}}}]}}\n",
            endpoint.version, endpoint.ip
        );
    }
}

fn write_virtual_service(out: &mut String, vs: &VirtualService) {
    let _ = write!(
        out,
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {}, namespace: {}, creationTimestamp: \"2024-01-01T00:00:{:02}Z\"}}\n\
         spec:\n  hosts: {}\n",
        vs.name,
        vs.namespace,
        vs.created,
        list(&vs.hosts)
    );
    if !vs.gateways.is_empty() {
        let _ = writeln!(out, "  gateways: {}", list(&vs.gateways));
    }
    if !vs.export_to.is_empty() {
        let _ = writeln!(out, "  exportTo: {}", list(&vs.export_to));
    }
    out.push_str("  http:\n");
    for rule in &vs.http {
        out.push_str("  - ");
        if !rule.matches.is_empty() {
            out.push_str("match:\n");
            for element in &rule.matches {
                let _ = writeln!(out, "    - {{{}}}", match_fields(element).join(", "));
            }
            out.push_str("    ");
        }
        match &rule.action {
            Action::Redirect(uri) => {
                let _ = writeln!(out, "redirect: {{uri: {uri}}}");
            }
            Action::Direct(status) => {
                let _ = writeln!(out, "directResponse: {{status: {status}}}");
            }
            Action::Route {
                destinations,
                rewrite_uri,
            } => {
                out.push_str("route:\n");
                for destination in destinations {
                    let mut fields = vec![format!("host: {}", destination.host)];
                    if !destination.subset.is_empty() {
                        fields.push(format!("subset: {}", destination.subset));
                    }
                    if let Some(port) = destination.port {
                        fields.push(format!("port: {{number: {port}}}"));
                    }
                    let weight = destination
                        .weight
                        .map(|weight| format!(", weight: {weight}"))
                        .unwrap_or_default();
                    let _ = writeln!(
                        out,
                        "    - {{destination: {{{}}}{weight}}}",
                        fields.join(", ")
                    );
                }
                if let Some(uri) = rewrite_uri {
                    let _ = writeln!(out, "    rewrite: {{uri: {uri}}}");
                }
            }
        }
    }
}

fn write_destination_rule(out: &mut String, rule: &DestinationRule) {
    let _ = write!(
        out,
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {}, namespace: {}, creationTimestamp: \"2024-01-01T00:00:{:02}Z\"}}\n\
         spec:\n  host: \"{}\"\n",
        rule.name, rule.namespace, rule.created, rule.host
    );
    if !rule.export_to.is_empty() {
        let _ = writeln!(out, "  exportTo: {}", list(&rule.export_to));
    }
    if !rule.subsets.is_empty() {
        out.push_str("  subsets:\n");
    }
    for (name, version) in &rule.subsets {
        let _ = writeln!(out, "  - {{name: {name}, labels: {{version: {version}}}}}");
    }
}

fn match_fields(element: &HttpMatch) -> Vec<String> {
    let mut fields = Vec::new();
    let named = |entries: &[(String, Text)]| {
        entries
            .iter()
            .map(|(name, value)| format!("{name}: {}", text(value)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    if let Some(uri) = &element.uri {
        fields.push(format!("uri: {}", text(uri)));
    }
    if element.ignore_uri_case {
        fields.push("ignoreUriCase: true".to_owned());
    }
    if let Some(method) = &element.method {
        fields.push(format!("method: {}", text(method)));
    }
    if let Some(authority) = &element.authority {
        fields.push(format!("authority: {}", text(authority)));
    }
    for (name, entries) in [
        ("headers", &element.headers),
        ("withoutHeaders", &element.without_headers),
        ("queryParams", &element.query_params),
    ] {
        if !entries.is_empty() {
            fields.push(format!("{name}: {{{}}}", named(entries)));
        }
    }
    if let Some(port) = element.port {
        fields.push(format!("port: {port}"));
    }
    if let Some(app) = &element.source_app {
        fields.push(format!("sourceLabels: {{app: {app}}}"));
    }
    if let Some(namespace) = &element.source_namespace {
        fields.push(format!("sourceNamespace: {namespace}"));
    }
    if !element.gateways.is_empty() {
        fields.push(format!("gateways: {}", list(&element.gateways)));
    }
    fields
}

fn text(text: &Text) -> String {
    match text {
        Text::Exact(value) => format!("{{exact: \"{value}\"}}"),
        Text::Prefix(value) => format!("{{prefix: \"{value}\"}}"),
        Text::Regex(value) => format!("{{regex: \"{value}\"}}"),
        Text::Present => "{}".to_owned(),
    }
}

fn list(values: &[String]) -> String {
    format!(
        "[{}]",
        values
            .iter()
            .map(|value| format!("\"{value}\""))
            .collect::<Vec<_>>()
            .join(", ")
    )
}
