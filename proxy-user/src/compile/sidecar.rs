//! Sidecars: which one applies to a workload, and what it lets the workload see.
//! Start at [`SidecarIndex::find`], then [`SidecarView`].
//!
//! Source: Istio, pilot/pkg/model/sidecar.go and push_context.go (`getSidecarScope`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::{self, Object, ObjectSet, OutboundTrafficPolicyMode, Sidecar, in_creation_order};
use crate::finding::{Finding, Severity};
use crate::settings::CompileSettings;
use crate::snapshot::Provenance;
use crate::snapshot::listeners::Protocol;

use super::host;
use super::provenance;
use super::registry::{Labels, Service, protocol};
use super::scope::is_subset;

/// The egress side of one Sidecar.
#[derive(Debug)]
pub(crate) struct SidecarView {
    /// `namespace/name`.
    pub(crate) name: Arc<str>,
    /// `outboundTrafficPolicy.mode`, if it is set.
    pub(crate) is_registry_only: Option<bool>,
    /// The object.
    pub(crate) provenance: Provenance,
    listeners: Vec<EgressListener>,
}

/// One entry of `egress`.
#[derive(Debug)]
struct EgressListener {
    /// Of a dedicated listener, with its protocol; `None` covers all ports that no other
    /// one names.
    port: Option<(u16, Protocol)>,
    imports: Vec<HostPattern>,
    /// Removes what `imports` selected.
    exclusions: Vec<HostPattern>,
}

/// `namespace/dns`.
#[derive(Debug)]
struct HostPattern {
    namespace: NamespacePattern,
    /// Lower case.
    host: String,
}

#[derive(Debug)]
enum NamespacePattern {
    Any,
    /// `.`: the client's, also for a Sidecar of the root namespace.
    Own,
    Named(String),
}

impl NamespacePattern {
    fn parse(text: &str) -> Self {
        match text {
            "*" | "" => Self::Any,
            "." => Self::Own,
            name => Self::Named(name.to_owned()),
        }
    }

    fn is_match(&self, client_namespace: &str, namespace: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Own => namespace == client_namespace,
            Self::Named(name) => namespace == name,
        }
    }
}

impl EgressListener {
    /// `None` for a unix socket: nothing that dials a service comes there.
    fn read(listener: &api::IstioEgressListener) -> Option<Self> {
        if listener.bind.starts_with("unix://") {
            return None;
        }
        let port = listener.port.as_ref().and_then(|port| {
            let number = u16::try_from(port.number).ok().filter(|port| *port != 0)?;
            Some((number, protocol::of_declared_port(&port.protocol)))
        });
        let mut read = Self {
            port,
            imports: Vec::new(),
            exclusions: Vec::new(),
        };
        for text in &listener.hosts {
            let (namespace, name) = text.split_once('/').unwrap_or(("*", text));
            let host = name.to_ascii_lowercase();
            // `~/x`, `~*/x`, `~./x` and `~ns/x` exclude; `~/*` alone leaves nothing.
            match namespace.strip_prefix('~') {
                Some(namespace) => read.exclusions.push(HostPattern {
                    namespace: NamespacePattern::parse(namespace),
                    host,
                }),
                None => read.imports.push(HostPattern {
                    namespace: NamespacePattern::parse(namespace),
                    host,
                }),
            }
        }
        Some(read)
    }

    /// An absent `egress`: everything.
    fn everything() -> Self {
        Self {
            port: None,
            imports: vec![HostPattern {
                namespace: NamespacePattern::Any,
                host: "*".to_owned(),
            }],
            exclusions: Vec::new(),
        }
    }

    /// A service is imported by a name that covers all of it.
    fn imports_service(&self, client_namespace: &str, service: &Service) -> bool {
        let covers = |pattern: &HostPattern| {
            pattern
                .namespace
                .is_match(client_namespace, &service.namespace)
                && host::is_subset_of(&service.host, &pattern.host)
        };
        self.imports.iter().any(covers) && !self.exclusions.iter().any(covers)
    }

    /// A VirtualService is imported whole by any overlap.
    fn imports_virtual_service(&self, client_namespace: &str, own: &str, hosts: &[&str]) -> bool {
        let in_namespace =
            |pattern: &&HostPattern| pattern.namespace.is_match(client_namespace, own);
        let is_imported = self
            .imports
            .iter()
            .filter(in_namespace)
            .any(|pattern| hosts.iter().any(|name| host::overlaps(name, &pattern.host)));
        let is_excluded = self.exclusions.iter().filter(in_namespace).any(|pattern| {
            hosts
                .iter()
                .any(|name| host::is_subset_of(name, &pattern.host))
        });
        is_imported && !is_excluded
    }
}

impl SidecarView {
    fn read(object: &Object<Sidecar>) -> Self {
        let mut listeners: Vec<EgressListener> = object
            .spec
            .egress
            .iter()
            .filter_map(EgressListener::read)
            .collect();
        if object.spec.egress.is_empty() {
            listeners.push(EgressListener::everything());
        }
        let policy = object.spec.outbound_traffic_policy.as_ref();
        Self {
            name: Arc::from(object.key().to_string()),
            is_registry_only: policy.map(|policy| match policy.mode {
                OutboundTrafficPolicyMode::RegistryOnly => true,
                OutboundTrafficPolicyMode::AllowAny
                | OutboundTrafficPolicyMode::AllowAnyDynamicDns => false,
            }),
            provenance: provenance(object, ""),
            listeners,
        }
    }

    /// Whether a client in `client_namespace` imports `service` on any port.
    pub(crate) fn imports_service(&self, client_namespace: &str, service: &Service) -> bool {
        if service.ports.is_empty() {
            let mut listeners = self.listeners.iter();
            return listeners.any(|listener| listener.imports_service(client_namespace, service));
        }
        let mut ports = service.ports.iter();
        ports.any(|port| self.imports_port(client_namespace, service, port.number))
    }

    /// Whether a client in `client_namespace` imports this port of `service`: by the
    /// listener of that port if there is one, else by the one for all other ports.
    pub(crate) fn imports_port(
        &self,
        client_namespace: &str,
        service: &Service,
        port: u16,
    ) -> bool {
        self.listeners_of(port)
            .any(|listener| listener.imports_service(client_namespace, service))
    }

    /// Whether a client in `client_namespace` imports a VirtualService of `namespace`
    /// with these hosts on `port`, or with `None` on any port: each listener has its own.
    pub(crate) fn imports_virtual_service<'a, I>(
        &self,
        client_namespace: &str,
        namespace: &str,
        hosts: I,
        port: Option<u16>,
    ) -> bool
    where
        I: IntoIterator<Item = &'a str>,
    {
        let hosts: Vec<&str> = hosts.into_iter().collect();
        let imports = |listener: &EgressListener| {
            listener.imports_virtual_service(client_namespace, namespace, &hosts)
        };
        match port {
            Some(port) => self.listeners_of(port).any(imports),
            None => self.listeners.iter().any(imports),
        }
    }

    /// What the listener of `port` says that is spoken there; `None` without such a
    /// listener: each service says so itself.
    pub(crate) fn protocol_of(&self, port: u16) -> Option<Protocol> {
        let mut dedicated = self.listeners.iter().filter_map(|listener| listener.port);
        let (_, protocol) = dedicated.find(|(number, _)| *number == port)?;
        Some(protocol)
    }

    fn listeners_of(&self, port: u16) -> impl Iterator<Item = &EgressListener> {
        let is_dedicated = self.protocol_of(port).is_some();
        self.listeners
            .iter()
            .filter(move |listener| match listener.port {
                Some((own, _)) => own == port,
                None => !is_dedicated,
            })
    }
}

/// All Sidecars.
#[derive(Debug, Default)]
pub(crate) struct SidecarIndex {
    /// By namespace, oldest first, those with a selector before the others.
    by_namespace: BTreeMap<String, Vec<Entry>>,
    root_namespace: String,
}

#[derive(Debug)]
struct Entry {
    selector: Option<Labels>,
    view: Arc<SidecarView>,
}

impl SidecarIndex {
    /// Reads all Sidecars; conflicts are findings.
    pub(crate) fn build(
        objects: &ObjectSet,
        settings: &CompileSettings,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let mut by_namespace: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        let mut first_for_all: BTreeMap<&str, &Arc<Object<Sidecar>>> = BTreeMap::new();
        for object in in_creation_order(&objects.sidecars) {
            let namespace = object.meta.namespace.as_str();
            let selector = object.spec.workload_selector.as_ref();
            if selector.is_none() {
                let first = *first_for_all.entry(namespace).or_insert(object);
                if !Arc::ptr_eq(first, object) {
                    findings.push(object.finding(
                        Severity::Error,
                        "sidecar-conflict",
                        "",
                        format!(
                            "is ignored: {} is older and has no workloadSelector either",
                            first.reference()
                        ),
                    ));
                }
            }
            by_namespace
                .entry(namespace.to_owned())
                .or_default()
                .push(Entry {
                    selector: selector.map(|selector| selector.labels.clone()),
                    view: Arc::new(SidecarView::read(object)),
                });
        }
        for entries in by_namespace.values_mut() {
            entries.sort_by_key(|entry| entry.selector.is_none());
        }
        Self {
            by_namespace,
            root_namespace: settings.mesh.root_namespace.clone(),
        }
    }

    /// The one Sidecar of a workload: with a selector for it, without one, or the
    /// root namespace's without one.
    pub(crate) fn find(&self, namespace: &str, labels: &Labels) -> Option<&Arc<SidecarView>> {
        let own = self
            .by_namespace
            .get(namespace)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let root = self.by_namespace.get(&self.root_namespace);
        let own = own.iter().find(|entry| match &entry.selector {
            Some(selector) => is_subset(selector, labels),
            None => true,
        });
        let root = || root?.iter().find(|entry| entry.selector.is_none());
        own.or_else(root).map(|entry| &entry.view)
    }

    /// All Sidecars whose selector selects the workload, oldest first: more than one
    /// is a conflict.
    pub(crate) fn selecting(&self, namespace: &str, labels: &Labels) -> Vec<&Arc<SidecarView>> {
        let own = self
            .by_namespace
            .get(namespace)
            .map(Vec::as_slice)
            .unwrap_or_default();
        own.iter()
            .filter(|entry| {
                entry
                    .selector
                    .as_ref()
                    .is_some_and(|s| is_subset(s, labels))
            })
            .map(|entry| &entry.view)
            .collect()
    }
}
