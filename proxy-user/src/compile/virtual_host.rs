//! Domains of services and the route table of one port.
//!
//! Source: Istio pilot/pkg/networking/core/httproute.go (`generateVirtualHostDomains`,
//! `generateAltVirtualHosts`).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::snapshot::routes::{RouteTable, UnknownHost, VirtualHost};

/// A domain, and whether it is a short or expanded form, which never displaces a name that
/// some service really has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Domain {
    /// Lower case; may begin with `*`.
    pub(crate) name: String,
    /// Not the service's own host name.
    pub(crate) is_short_form: bool,
}

/// Domains under which clients of `client_namespace` reach `host`, addresses apart.
pub(crate) fn domains_of(
    host: &str,
    client_namespace: &str,
    mesh_domain: &str,
    is_headless: bool,
) -> Vec<Domain> {
    let own = |name: String| Domain {
        name,
        is_short_form: false,
    };
    let short = |name: String| Domain {
        name,
        is_short_form: true,
    };
    let mut domains = vec![own(host.to_owned()), own(format!("{host}."))];
    if let Some((name, namespace)) = kubernetes_name(host, mesh_domain) {
        domains.push(short(format!("{name}.{namespace}.svc")));
        domains.push(short(format!("{name}.{namespace}")));
        if namespace == client_namespace {
            domains.push(short(name.to_owned()));
        }
    }
    if is_headless {
        let below: Vec<Domain> = domains
            .iter()
            .map(|domain| short(format!("*.{}", domain.name)))
            .collect();
        domains.extend(below);
    }
    domains
}

/// An address as Host values write it.
pub(crate) fn address_domain(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// Name and namespace of `name.namespace.svc.domain`.
fn kubernetes_name<'h>(host: &'h str, mesh_domain: &str) -> Option<(&'h str, &'h str)> {
    let rest = host.strip_suffix(mesh_domain)?.strip_suffix(".svc.")?;
    let (name, namespace) = rest.rsplit_once('.')?;
    (!name.is_empty() && !name.contains('.') && !name.starts_with('*')).then_some((name, namespace))
}

/// The table of one port from its domains; `None` hides the base's entry.
pub(crate) fn route_table<'d>(
    name: &str,
    domains: impl IntoIterator<Item = (&'d str, Option<Arc<VirtualHost>>)>,
    base: Option<Arc<RouteTable>>,
    is_registry_only: bool,
) -> RouteTable {
    let mut table = RouteTable {
        name: Arc::from(name),
        base,
        unknown: if is_registry_only {
            UnknownHost::BlackHole
        } else {
            UnknownHost::Passthrough
        },
        ..RouteTable::default()
    };
    let mut suffixes: BTreeMap<usize, HashMap<Arc<str>, Option<Arc<VirtualHost>>>> =
        BTreeMap::new();
    for (domain, host) in domains {
        match domain.strip_prefix('*') {
            Some("") => table.any = host,
            Some(suffix) => {
                let of_len = suffixes.entry(suffix.len()).or_default();
                of_len.insert(Arc::from(suffix), host);
            }
            None => {
                table.exact.insert(Arc::from(domain), host);
            }
        }
    }
    table.suffixes = suffixes.into_iter().rev().collect();
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a040_a042_domains_of_a_service() {
        let names = |host, namespace, is_headless| -> Vec<String> {
            domains_of(host, namespace, "cluster.local", is_headless)
                .into_iter()
                .map(|domain| domain.name)
                .collect()
        };
        let a = "a.ns1.svc.cluster.local";
        let foreign = [a, "a.ns1.svc.cluster.local.", "a.ns1.svc", "a.ns1"];
        assert_eq!(names(a, "ns2", false), foreign); // A040: no short name from elsewhere
        assert_eq!(names(a, "ns1", false)[4..], ["a"]);
        assert_eq!(names("x.com", "ns1", false), ["x.com", "x.com."]);
        assert_eq!(names("*.x.com", "ns1", false), ["*.x.com", "*.x.com."]);
    }

    #[test]
    fn a025_names_below_a_headless_service_are_its_domains() {
        let domains = domains_of("h.ns1.svc.cluster.local", "ns1", "cluster.local", true);
        let names: Vec<&str> = domains.iter().map(|domain| domain.name.as_str()).collect();
        for expected in ["*.h.ns1.svc.cluster.local", "*.h.ns1", "*.h"] {
            assert!(names.contains(&expected), "{expected} in {names:?}");
        }
    }

    #[test]
    fn a041_addresses_as_hosts() {
        for (address, expected) in [("10.0.0.1", "10.0.0.1"), ("fd00::1", "[fd00::1]")] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(address_domain(address), expected);
        }
    }

    #[test]
    fn a_table_looks_up_exact_names_then_the_longest_suffix() {
        let host = |name: &str| {
            Some(Arc::new(VirtualHost {
                name: Arc::from(name),
                ..VirtualHost::default()
            }))
        };
        let domains = [
            ("a", host("a")),
            ("*.b.c", host("*.b.c")),
            ("*.c", host("*.c")),
            ("*", host("*")),
        ];
        let table = route_table("80", domains, None, true);
        for (authority, expected) in [
            ("a:80", "a"),
            ("x.b.c", "*.b.c"),
            ("x.c", "*.c"),
            ("q", "*"),
        ] {
            let found = table.find(authority).map(|found| &*found.name);
            assert_eq!(found, Some(expected), "{authority}");
        }
        assert_eq!(table.unknown, UnknownHost::BlackHole);
    }
}
