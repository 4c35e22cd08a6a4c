//! Small meshes and requests by chance, from a seed: short alphabets, so that rules
//! collide, shadow each other and miss.

use fastrand::Rng;

use super::model::{
    Action, Client, Destination, DestinationRule, Endpoint, HttpMatch, HttpRule, Mesh, Request,
    Service, ServicePort, Text, VirtualService,
};

const NAMESPACES: [&str; 2] = ["ns1", "ns2"];
const NAMES: [&str; 3] = ["a", "b", "c"];
const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];
const HEADERS: [&str; 3] = ["x-a", "x-b", "end-user"];
const VALUES: [&str; 4] = ["a", "b", "ab", "jason"];
const PATHS: [&str; 8] = ["/", "/a", "/a/b", "/ab", "/A/b", "/b", "/b/a/b", "/a/"];
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];

/// The ports that a generated mesh uses; something must listen on them at every address.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Most services'.
    pub first: u16,
    /// Some services'.
    pub second: u16,
}

/// A mesh of a few services, rules and subsets.
pub fn mesh(rng: &mut Rng, ports: Ports) -> Mesh {
    let mut mesh = Mesh {
        is_registry_only: rng.u8(0..5) == 0,
        ..Mesh::default()
    };
    for (at, namespace) in NAMESPACES.iter().enumerate() {
        for (index, name) in NAMES.iter().enumerate() {
            if rng.u8(0..5) > 0 {
                mesh.services.push(service(
                    rng,
                    ports,
                    namespace,
                    name,
                    at * NAMES.len() + index,
                ));
            }
        }
    }
    for index in 0..rng.u32(0..4) {
        mesh.virtual_services
            .push(virtual_service(rng, ports, index));
    }
    for index in 0..rng.u32(0..4) {
        let rule = destination_rule(rng, index);
        // One rule per host and namespace: merging has tests of its own.
        if !mesh
            .destination_rules
            .iter()
            .any(|other| other.host == rule.host && other.namespace == rule.namespace)
        {
            mesh.destination_rules.push(rule);
        }
    }
    mesh
}

/// A client of either namespace.
pub fn client(rng: &mut Rng) -> Client {
    Client {
        namespace: pick(rng, &NAMESPACES),
        app: pick(rng, &["c1", "c2"]),
    }
}

/// A request to some service's address, mostly with a Host that somebody knows.
pub fn request(rng: &mut Rng, mesh: &Mesh, ports: Ports) -> Option<Request> {
    let service = mesh
        .services
        .get(rng.usize(0..mesh.services.len().max(1)))?;
    let port = service
        .ports
        .get(rng.usize(0..service.ports.len().max(1)))?;
    let host = match rng.u8(0..8) {
        0..=2 => service.name.clone(),
        3 => format!("{}.{}", service.name, service.namespace),
        4 => format!("{}.{}.svc.cluster.local", service.name, service.namespace),
        5 => pick(
            rng,
            &[
                "A.ns1.svc.cluster.local",
                "ext.example.com",
                "deep.ext.example.com",
                "nobody",
            ],
        ),
        6 => format!("{}:{}", pick(rng, &NAMES), ports.first),
        _ => service.vip.clone(),
    };
    let mut target = pick(rng, &PATHS);
    if rng.bool() {
        target.push_str(&pick(rng, &["?k=a", "?k=b&k=a", "?q=ab", "?k"]));
    }
    let headers = (0..rng.u8(0..3))
        .map(|_| (pick(rng, &HEADERS), pick(rng, &VALUES)))
        .collect();
    Some(Request {
        dst_ip: service.vip.clone(),
        dst_port: port.number,
        host,
        method: pick(rng, &METHODS),
        target,
        headers,
    })
}

fn pick(rng: &mut Rng, of: &[&str]) -> String {
    of.get(rng.usize(0..of.len().max(1)))
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn service(rng: &mut Rng, ports: Ports, namespace: &str, name: &str, index: usize) -> Service {
    let mut numbers = vec![ports.first];
    if rng.u8(0..3) == 0 {
        numbers.push(ports.second);
    }
    let endpoints = (0..rng.u8(0..5))
        .map(|at| Endpoint {
            ip: format!("127.20.{index}.{}", at + 1),
            version: pick(rng, &VERSIONS),
            is_ready: rng.u8(0..6) > 0,
        })
        .collect();
    Service {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        vip: format!("127.10.0.{}", index + 1),
        ports: numbers
            .into_iter()
            .map(|number| ServicePort {
                number,
                is_http: rng.u8(0..4) > 0,
            })
            .collect(),
        endpoints,
    }
}

fn virtual_service(rng: &mut Rng, ports: Ports, index: u32) -> VirtualService {
    let namespace = pick(rng, &NAMESPACES);
    let host = match rng.u8(0..6) {
        0..=2 => pick(rng, &NAMES),
        3 => format!(
            "{}.{}.svc.cluster.local",
            pick(rng, &NAMES),
            pick(rng, &NAMESPACES)
        ),
        4 => format!("*.{}.svc.cluster.local", pick(rng, &NAMESPACES)),
        _ => pick(rng, &["ext.example.com", "*.example.com"]),
    };
    let mut hosts = vec![host];
    if rng.u8(0..3) == 0 && !hosts.iter().any(|host| host.contains("example")) {
        hosts.push(pick(rng, &["ext.example.com", "*.ext.example.com"]));
    }
    VirtualService {
        name: format!("vs{index}"),
        namespace,
        created: rng.u32(0..3),
        hosts,
        gateways: pick_list(rng, &[&[], &[], &["mesh"], &["gw"], &["gw", "mesh"]]),
        export_to: pick_list(rng, &[&[], &[], &["*"], &["."], &["ns1"], &["ns2"]]),
        http: (0..rng.u8(1..5)).map(|_| http_rule(rng, ports)).collect(),
    }
}

fn pick_list(rng: &mut Rng, of: &[&[&str]]) -> Vec<String> {
    of.get(rng.usize(0..of.len().max(1)))
        .map(|list| list.iter().map(ToString::to_string).collect())
        .unwrap_or_default()
}

fn http_rule(rng: &mut Rng, ports: Ports) -> HttpRule {
    let matches: Vec<HttpMatch> = (0..rng.u8(0..3)).map(|_| http_match(rng, ports)).collect();
    let action = match rng.u8(0..10) {
        0 => Action::Redirect(pick(rng, &["/moved", "/b"])),
        1 => Action::Direct(*[418_u16, 503, 200].get(rng.usize(0..3)).unwrap_or(&418)),
        _ => route(rng, ports),
    };
    HttpRule { matches, action }
}

fn route(rng: &mut Rng, ports: Ports) -> Action {
    let count = rng.u8(1..4);
    let mut destinations: Vec<Destination> = (0..count)
        .map(|_| Destination {
            host: match rng.u8(0..4) {
                0 => format!(
                    "{}.{}.svc.cluster.local",
                    pick(rng, &NAMES),
                    pick(rng, &NAMESPACES)
                ),
                _ => pick(rng, &NAMES),
            },
            subset: if rng.bool() {
                pick(rng, &VERSIONS)
            } else {
                String::new()
            },
            port: (rng.u8(0..4) == 0).then_some(ports.second),
            weight: Some(rng.u32(0..4) * 10),
        })
        .collect();
    // Several destinations need a weight somewhere, or the object is refused.
    if let Some(first) = destinations.first_mut().filter(|_| count > 1) {
        first.weight = Some(10);
    }
    Action::Route {
        destinations,
        rewrite_uri: (rng.u8(0..4) == 0).then(|| pick(rng, &["/bar", "/bar/", "/"])),
    }
}

fn http_match(rng: &mut Rng, ports: Ports) -> HttpMatch {
    let mut element = HttpMatch {
        gateways: pick_list(rng, &[&[], &[], &[], &["mesh"], &["gw"]]),
        ..HttpMatch::default()
    };
    if rng.u8(0..3) > 0 {
        element.uri = Some(match rng.u8(0..5) {
            0 => Text::Exact(pick(rng, &PATHS)),
            1..=3 => Text::Prefix(pick(rng, &["/a", "/a/", "/b", "/", "/A", ""])),
            _ => Text::Regex(pick(rng, &["/a.*", "/[ab]", ".*", "/a/?b?"])),
        });
        element.ignore_uri_case = rng.u8(0..4) == 0;
    }
    if rng.u8(0..5) == 0 {
        element.method = Some(Text::Exact(pick(rng, &METHODS)));
    }
    if rng.u8(0..8) == 0 {
        element.authority = Some(Text::Prefix(pick(rng, &NAMES)));
    }
    if rng.u8(0..3) == 0 {
        element.headers.push((pick(rng, &HEADERS), text(rng)));
    }
    if rng.u8(0..4) == 0 {
        element
            .without_headers
            .push((pick(rng, &HEADERS), text(rng)));
    }
    if rng.u8(0..5) == 0 {
        element
            .query_params
            .push((pick(rng, &["k", "q"]), text(rng)));
    }
    if rng.u8(0..6) == 0 {
        element.port = Some(if rng.bool() {
            ports.first
        } else {
            ports.second
        });
    }
    if rng.u8(0..5) == 0 {
        element.source_app = Some(pick(rng, &["c1", "c2"]));
    }
    if rng.u8(0..6) == 0 {
        element.source_namespace = Some(pick(rng, &NAMESPACES));
    }
    element
}

fn text(rng: &mut Rng) -> Text {
    match rng.u8(0..5) {
        0 | 1 => Text::Exact(pick(rng, &VALUES)),
        2 => Text::Prefix(pick(rng, &["a", "j"])),
        3 => Text::Regex(pick(rng, &["a|b", "a.*", "[a-j]+"])),
        _ => Text::Present,
    }
}

fn destination_rule(rng: &mut Rng, index: u32) -> DestinationRule {
    let namespace = pick(rng, &["ns1", "ns2", "ns1", "ns2", "istio-system"]);
    let host = match rng.u8(0..6) {
        0..=3 => format!(
            "{}.{}.svc.cluster.local",
            pick(rng, &NAMES),
            pick(rng, &NAMESPACES)
        ),
        4 => format!("*.{}.svc.cluster.local", pick(rng, &NAMESPACES)),
        _ => "*.local".to_owned(),
    };
    let mut subsets: Vec<(String, String)> = Vec::new();
    for version in VERSIONS {
        if rng.u8(0..4) > 0 {
            subsets.push((version.to_owned(), version.to_owned()));
        }
    }
    DestinationRule {
        name: format!("dr{index}"),
        namespace,
        created: rng.u32(0..3),
        host,
        export_to: pick_list(rng, &[&[], &[], &["*"], &["."]]),
        subsets,
    }
}
