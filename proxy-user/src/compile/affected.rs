//! Which services and VirtualServices one client may see otherwise than the client that all
//! scopes share. Everything else is taken over from the base as it is.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::claims::Owner;
use super::facet::Collector;
use super::registry::Service;
use super::scope::ClientView;
use super::virtual_service::MeshRules;

/// What has to be compiled anew for a client.
#[derive(Debug, Default)]
pub(crate) struct Affected {
    /// Definitions that the client sees, in creation order.
    pub(crate) services: Vec<Arc<Service>>,
    /// In creation order.
    pub(crate) rules: Vec<Arc<MeshRules>>,
    /// Whose claims of the base do not count: also those that the client does not see.
    pub(crate) owners: HashSet<Owner>,
}

/// Finds what `client` sees otherwise than `shared`.
pub(crate) fn find_affected(
    collector: &Collector<'_, '_>,
    client: &ClientView,
    shared: &ClientView,
) -> Affected {
    let registry = collector.registry;
    let mut hosts: BTreeSet<Arc<str>> = BTreeSet::new();
    for host in registry.namespace_dependent_hosts() {
        let own = registry.find(client, host).map(|service| service.index);
        let base = registry.find(shared, host).map(|service| service.index);
        if own != base {
            hosts.insert(Arc::clone(host));
        }
    }
    // Short names are seen in the own namespace only.
    let own = registry.in_namespace(&client.namespace);
    let aliased = registry.aliased().filter(|service| {
        let mut aliases = service.aliases.iter();
        aliases.any(|alias| alias.namespace == client.namespace || !alias.export_to.is_public())
    });
    hosts.extend(own.chain(aliased).map(|service| Arc::clone(&service.host)));
    hosts.extend(collector.router.clusters.hosts_that_differ(client));
    let mut rules: BTreeSet<usize> = BTreeSet::new();
    for candidate in collector.virtual_services.special() {
        let is_private =
            !candidate.export_to.is_public() && candidate.bucket(client, None).is_some();
        if is_private || candidate.depends_on_client {
            rules.insert(candidate.index);
        }
    }
    for host in &hosts {
        rules.extend(collector.virtual_services.leading_to(host));
    }
    for &index in &rules {
        if let Some(rules) = collector.virtual_services.all.get(index) {
            add_governed_hosts(collector, rules, &mut hosts);
        }
    }
    // What hosts without a service do depends on the services beside them.
    for host in &hosts {
        for client in [client, shared] {
            let governing = collector.virtual_services.select(client, host, None);
            rules.extend(governing.map(|rules| rules.index));
        }
    }
    // A private host hides the public ones of the same name.
    let hidden: Vec<usize> = rules
        .iter()
        .filter_map(|&index| collector.virtual_services.all.get(index))
        .flat_map(|rules| &rules.hosts)
        .filter_map(|host| collector.virtual_services.owner_of(shared, host, None))
        .map(|rules| rules.index)
        .collect();
    rules.extend(hidden);
    affected(collector, client, &hosts, &rules)
}

/// Hosts of services that some host of `rules` covers.
fn add_governed_hosts(
    collector: &Collector<'_, '_>,
    rules: &MeshRules,
    hosts: &mut BTreeSet<Arc<str>>,
) {
    for host in &rules.hosts {
        hosts.insert(Arc::clone(host));
        let below = collector
            .by_wildcard
            .get(host)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let below = below
            .iter()
            .filter_map(|&index| collector.registry.services.get(index));
        hosts.extend(below.map(|service| Arc::clone(&service.host)));
        // An alias acts within the virtual hosts of what it stands for.
        if let Some(alias) = collector.registry.aliases.get(host) {
            hosts.insert(Arc::clone(&alias.target));
        }
    }
}

fn affected(
    collector: &Collector<'_, '_>,
    client: &ClientView,
    hosts: &BTreeSet<Arc<str>>,
    rules: &BTreeSet<usize>,
) -> Affected {
    let mut affected = Affected::default();
    for host in hosts {
        let candidates = collector.registry.candidates(host);
        affected
            .owners
            .extend(candidates.map(|service| Owner::Service(service.index)));
        affected
            .services
            .extend(collector.registry.find_imported(client, host).cloned());
    }
    affected.services.sort_by_key(|service| service.index);
    affected
        .owners
        .extend(rules.iter().copied().map(Owner::Rules));
    affected.rules = rules
        .iter()
        .filter_map(|&index| collector.virtual_services.all.get(index))
        .cloned()
        .collect();
    affected
}
