//! VirtualServices with hosts expanded and delegates in place, and which one applies to a
//! host of the mesh. Start at [`VirtualServices::select`].
//!
//! Source: Istio pilot/pkg/model/push_context.go and virtualservice.go.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;

use crate::api::{
    Destination, HTTPMatchRequest, HTTPRoute, Object, ObjectSet, RouteDestination, VirtualService,
    by_creation, in_creation_order,
};
use crate::settings::MeshSettings;

use super::host;
use super::ledger::Ledger;
use super::matcher::MESH;
use super::rule::{Place, Problems};
use super::rule_reader::RuleReader;
use super::scope::ClientView;
use super::visibility::ExportTo;

/// All VirtualServices: of those that act for mesh clients also by host.
#[derive(Debug, Default)]
pub(crate) struct VirtualServices {
    /// Those for mesh clients in creation order; [`MeshRules::index`] is the place here.
    pub(crate) all: Vec<Arc<MeshRules>>,
    /// Those that name a gateway, in creation order; some of them are for the mesh too.
    pub(crate) at_gateways: Vec<Arc<MeshRules>>,
    exact: HashMap<Arc<str>, Vec<usize>>,
    wildcards: HashMap<Arc<str>, Vec<usize>>,
    /// Wildcards whose star stands before something other than a dot, which the lookup by
    /// suffix does not find.
    partial: Vec<Arc<str>>,
    /// Those that lead to a host, by [`MeshRules::destinations`].
    by_destination: HashMap<String, Vec<usize>>,
    /// Those that are not the same for everybody.
    special: Vec<usize>,
}

/// One VirtualService as clients see it.
#[derive(Debug)]
pub(crate) struct MeshRules {
    /// Identity: the place in [`VirtualServices::all`]; those that are for gateways alone are
    /// numbered behind them.
    pub(crate) index: usize,
    /// `mesh` and Gateways as `namespace/name`, as far as they are written.
    pub(crate) gateways: Vec<Arc<str>>,
    /// The object.
    pub(crate) object: Arc<Object<VirtualService>>,
    /// Expanded, lower case, in the order written.
    pub(crate) hosts: Vec<Arc<str>>,
    /// Who sees it.
    pub(crate) export_to: ExportTo,
    /// Delegates are in place already.
    pub(crate) http: Vec<HttpRule>,
    /// In order.
    pub(crate) tls: Vec<L4Rule>,
    /// In order.
    pub(crate) tcp: Vec<L4Rule>,
    /// About what one virtual host of `http` takes, bytes.
    pub(crate) cost_bytes: u64,
    /// Labels or namespace of the client decide about some rule.
    pub(crate) depends_on_client: bool,
    /// Hosts of all destinations and mirrors with their ports; 0 is a destination without
    /// port, which may be any.
    pub(crate) destinations: BTreeMap<String, BTreeSet<u16>>,
}

/// One rule of `http`.
#[derive(Debug, Clone)]
pub(crate) struct HttpRule {
    /// Without `match`; destinations have their full names.
    pub(crate) spec: HTTPRoute,
    /// Alternatives; empty matches everything.
    pub(crate) matches: Vec<MatchElement>,
    /// Where it is written: for a delegate's rule, in the delegate.
    pub(crate) place: Place,
}

/// One element of `match`.
#[derive(Debug, Clone)]
pub(crate) struct MatchElement {
    /// As written, or merged with that of the root.
    pub(crate) spec: HTTPMatchRequest,
    /// Where it is written.
    pub(crate) place: Place,
}

/// One rule of `tls` or `tcp`.
#[derive(Debug)]
pub(crate) struct L4Rule {
    /// Alternatives; empty matches everything.
    pub(crate) matches: Vec<L4Match>,
    /// Destinations have their full names.
    pub(crate) route: Vec<RouteDestination>,
    /// Where it is written.
    pub(crate) place: Place,
}

/// One element of a `tls` or `tcp` rule's `match`.
#[derive(Debug)]
pub(crate) struct L4Match {
    /// Lower case; empty for `tcp`.
    pub(crate) sni_hosts: Vec<Arc<str>>,
    /// Empty matches every address.
    pub(crate) destination_subnets: Vec<IpNet>,
    /// Conditions on client and port.
    pub(crate) statics: HTTPMatchRequest,
}

impl L4Match {
    /// Unlike for HTTP, gateways and the client's labels must both agree.
    pub(crate) fn applies_statically(&self, client: &ClientView, port: u16) -> bool {
        let statics = &self.statics;
        (statics.port == 0 || statics.port == u32::from(port))
            && (statics.gateways.is_empty()
                || statics
                    .gateways
                    .iter()
                    .any(|name| name == client.gateway_name()))
            && client.has_labels(&statics.source_labels)
            && (statics.source_namespace.is_empty()
                || *statics.source_namespace == *client.namespace)
    }

    /// Whether two clients may get different answers from [`Self::applies_statically`].
    pub(crate) fn depends_on_client(&self) -> bool {
        !(self.statics.source_labels.is_empty() && self.statics.source_namespace.is_empty())
    }
}

impl MeshRules {
    /// Clients of the mesh use it.
    pub(crate) fn is_for_mesh(&self) -> bool {
        self.gateways.is_empty() || self.gateways.iter().any(|name| &**name == MESH)
    }

    fn names_a_gateway(&self) -> bool {
        self.gateways.iter().any(|name| &**name != MESH)
    }

    /// In which of Istio's buckets it stands for `client` on `port` (with `None` on any port),
    /// lowest first; `None` is invisible.
    pub(crate) fn bucket(&self, client: &ClientView, port: Option<u16>) -> Option<u8> {
        let own = self.object.meta.namespace.as_str();
        let bucket = self.export_to.bucket(own, &client.namespace)?;
        let hosts = self.hosts.iter().map(|host| &**host);
        client
            .imports_virtual_service(own, hosts, port)
            .then_some(bucket)
    }
}

impl VirtualServices {
    /// Reads all VirtualServices; what is wrong with hosts, delegates and subnets is reported.
    pub(crate) fn new(
        objects: &ObjectSet,
        mesh: &MeshSettings,
        ledger: &Ledger,
        problems: &mut Problems,
    ) -> Self {
        let reader = RuleReader {
            objects,
            mesh,
            ledger,
        };
        let mut services = Self::default();
        let ordered = in_creation_order(&objects.virtual_services).into_iter();
        // Without hosts it is a delegate, which does nothing by itself.
        let ordered = ordered.filter(|object| !object.spec.hosts.is_empty());
        let is_for_mesh = |object: &&Arc<Object<VirtualService>>| {
            let gateways = &object.spec.gateways;
            gateways.is_empty() || gateways.iter().any(|gateway| gateway == MESH)
        };
        let (for_mesh, others): (Vec<_>, Vec<_>) = ordered.partition(is_for_mesh);
        for object in for_mesh {
            if !ledger.charge_regexes(&object.meta.namespace, &object.spec) {
                continue;
            }
            let rules = reader.read(object, services.all.len(), problems);
            services.insert(rules, problems);
        }
        let both = services.all.iter().filter(|rules| rules.names_a_gateway());
        let mut at_gateways: Vec<Arc<MeshRules>> = both.cloned().collect();
        for (at, object) in others.into_iter().enumerate() {
            if !ledger.charge_regexes(&object.meta.namespace, &object.spec) {
                continue;
            }
            let rules = reader.read(object, services.all.len() + at, problems);
            at_gateways.push(Arc::new(rules));
        }
        at_gateways.sort_by(|a, b| by_creation(&a.object, &b.object));
        services.at_gateways = at_gateways;
        services
    }

    fn insert(&mut self, rules: MeshRules, problems: &mut Problems) {
        for (at, host) in rules.hosts.iter().enumerate() {
            let place = Place::new(&rules.object, format!("hosts[{at}]"));
            let map = if host::is_wildcarded(host) {
                let is_partial = host.len() > 1 && !host.starts_with("*.");
                if is_partial && !self.partial.contains(host) {
                    self.partial.push(Arc::clone(host));
                }
                &mut self.wildcards
            } else {
                &mut self.exact
            };
            let same = map.entry(Arc::clone(host)).or_default();
            let older = same.iter().filter_map(|&index| self.all.get(index));
            if let Some(older) = older
                .into_iter()
                .find(|older| are_rivals(&older.export_to, &rules.export_to))
            {
                problems.error(
                    "duplicate-host",
                    &place,
                    format!("{} is older and has the host {host} too; this one is ignored for it, put the rules into one object", older.object.reference()),
                );
            }
            if same.last() != Some(&rules.index) {
                same.push(rules.index);
            }
        }
        for host in rules.destinations.keys() {
            let leading = self.by_destination.entry(host.clone()).or_default();
            leading.push(rules.index);
        }
        if rules.depends_on_client || !rules.export_to.is_public() {
            self.special.push(rules.index);
        }
        self.all.push(Arc::new(rules));
    }

    /// Places in [`Self::all`] of those that lead to `host`.
    pub(crate) fn leading_to(&self, host: &str) -> &[usize] {
        self.by_destination
            .get(host)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// Those that not everybody sees, or that do not do the same for everybody.
    pub(crate) fn special(&self) -> impl Iterator<Item = &Arc<MeshRules>> {
        self.special.iter().filter_map(|&index| self.all.get(index))
    }

    /// The VirtualService that applies to `name` for `client` on `port`: that of the most
    /// specific host; of several with one host the first by bucket, then by age. Never merged.
    /// `port` matters to clients whose Sidecar has a listener for it; `None` is any port.
    pub(crate) fn select(
        &self,
        client: &ClientView,
        name: &str,
        port: Option<u16>,
    ) -> Option<&Arc<MeshRules>> {
        if !host::is_wildcarded(name)
            && let Some(found) = self.first_visible(client, port, self.exact.get(name))
        {
            return Some(found);
        }
        if self.wildcards.is_empty() {
            return None;
        }
        let mut covering: Vec<String> = host::covering_wildcards(name).collect();
        let partial = self
            .partial
            .iter()
            .filter(|star| host::is_subset_of(name, star));
        covering.extend(partial.map(|star| star.to_string()));
        covering.sort_by(|a, b| host::by_specificity(a, b));
        covering
            .iter()
            .find_map(|star| self.first_visible(client, port, self.wildcards.get(star.as_str())))
    }

    /// Of the VirtualServices that have the very host `name`, the one that has it for `client`
    /// on `port` (see [`Self::select`]).
    pub(crate) fn owner_of(
        &self,
        client: &ClientView,
        name: &str,
        port: Option<u16>,
    ) -> Option<&Arc<MeshRules>> {
        let map = if host::is_wildcarded(name) {
            &self.wildcards
        } else {
            &self.exact
        };
        self.first_visible(client, port, map.get(name))
    }

    /// Wildcard hosts that cover `name` and that some VirtualService has.
    pub(crate) fn wildcards_over<'s>(
        &'s self,
        name: &'s str,
    ) -> impl Iterator<Item = Arc<str>> + 's {
        let partial = self
            .partial
            .iter()
            .filter(|star| host::is_subset_of(name, star));
        let dotted = host::covering_wildcards(name).filter_map(|star| {
            let (known, _) = self.wildcards.get_key_value(star.as_str())?;
            Some(Arc::clone(known))
        });
        dotted.chain(partial.cloned())
    }

    fn first_visible(
        &self,
        client: &ClientView,
        port: Option<u16>,
        indices: Option<&Vec<usize>>,
    ) -> Option<&Arc<MeshRules>> {
        indices?
            .iter()
            .filter_map(|&index| self.all.get(index))
            .filter_map(|rules| Some((rules.bucket(client, port)?, rules)))
            .min_by_key(|(bucket, rules)| (*bucket, rules.index))
            .map(|(_, rules)| rules)
    }
}

/// Whether some client sees both in one bucket, so that the younger never acts.
fn are_rivals(a: &ExportTo, b: &ExportTo) -> bool {
    match (a, b) {
        (ExportTo::Public, ExportTo::Public) => true,
        (ExportTo::Namespaces(a), ExportTo::Namespaces(b)) => a.intersection(b).next().is_some(),
        (ExportTo::Public, ExportTo::Namespaces(_))
        | (ExportTo::Namespaces(_), ExportTo::Public) => false,
    }
}

/// Every destination and mirror of one rule.
pub(crate) fn destinations_of(spec: &HTTPRoute) -> impl Iterator<Item = &Destination> {
    let routes = spec
        .route
        .iter()
        .filter_map(|entry| entry.destination.as_ref());
    let mirrors = spec
        .mirrors
        .iter()
        .filter_map(|entry| entry.destination.as_ref());
    routes.chain(mirrors).chain(spec.mirror.as_ref())
}

impl HttpRule {
    /// It forwards, redirects or answers.
    pub(crate) fn has_action(&self) -> bool {
        !self.spec.route.is_empty()
            || self.spec.redirect.is_some()
            || self.spec.direct_response.is_some()
    }
}
