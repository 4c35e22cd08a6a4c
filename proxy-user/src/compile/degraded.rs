//! What is left of a proxied destination's rules while the proxy is gone: their L4 part, a pass
//! or a refusal. Start at [`degrade_http`] and [`degrade_l4`].

use std::sync::Arc;

use crate::snapshot::ClusterRef;
use crate::snapshot::kernel_view::{KernelAction, SplitEntry};
use crate::snapshot::listeners::DegradedForm;
use crate::snapshot::policy::UpstreamTls;
use crate::snapshot::routes::{ForwardAction, HttpRoute, L4Destination, RouteAction, VirtualHost};

use super::kernel_view::KernelClusters;
use super::path_plan::{Strictness, split, untouched_reason};
use super::registry::{Service, ServiceKind};
use super::route::is_catch_all;

/// All requests, in parts per million.
const ALWAYS: u32 = 1_000_000;

/// What becomes of a proxied destination while the proxy is gone.
pub(super) struct Degraded {
    pub(super) form: DegradedForm,
    pub(super) reason: &'static str,
    pub(super) action: KernelAction,
}

impl Degraded {
    pub(super) fn pass(reason: &'static str) -> Self {
        Self {
            form: DegradedForm::Pass,
            reason,
            action: KernelAction::Pass,
        }
    }

    pub(super) fn deny(reason: &'static str) -> Self {
        Self {
            form: DegradedForm::Deny,
            reason,
            action: KernelAction::Refuse,
        }
    }

    fn split(reason: &'static str, entries: Arc<[SplitEntry]>) -> Self {
        Self {
            form: DegradedForm::L4,
            reason,
            action: KernelAction::Split(entries),
        }
    }
}

/// The form of a destination whose rules the kernel cannot follow at all.
pub(super) fn degrade_to_pass<'d>(
    service: Option<&Service>,
    destinations: impl IntoIterator<Item = &'d L4Destination>,
) -> Degraded {
    let clusters = destinations.into_iter().map(|entry| &entry.cluster);
    match deny_reason(service, clusters) {
        Some(reason) => Degraded::deny(reason),
        None => Degraded::pass("its rules need the connection's bytes"),
    }
}

/// The weights and subsets of one L4 route, without limits and timeouts.
pub(super) fn degrade_l4(
    service: Option<&Service>,
    destinations: &[L4Destination],
    clusters: &mut KernelClusters,
) -> Degraded {
    let refs = destinations.iter().map(|entry| &entry.cluster);
    if let Some(reason) = deny_reason(service, refs) {
        return Degraded::deny(reason);
    }
    let is_plain = untouched_reason(service, destinations).is_some();
    if is_plain {
        return Degraded::pass("no Istio object names it");
    }
    match split(destinations, clusters, Strictness::L4Part) {
        Ok(entries) => Degraded::split("weights and subsets without limits and timeouts", entries),
        Err(reason) => Degraded::pass(reason),
    }
}

/// The catch-all route of a virtual host, if all of it stays with the dialled service.
pub(super) fn degrade_http(
    service: &Service,
    port: u16,
    host: &VirtualHost,
    clusters: &mut KernelClusters,
) -> Degraded {
    let all = host.routes.iter().filter_map(forward).flat_map(refs);
    if let Some(reason) = deny_reason(Some(service), all) {
        return Degraded::deny(reason);
    }
    let is_aborted = |route: &HttpRoute| {
        let abort = route.fault.as_ref().and_then(|fault| fault.abort);
        abort.is_some_and(|(share, _)| share >= ALWAYS)
    };
    if !host.routes.is_empty() && host.routes.iter().all(is_aborted) {
        return Degraded::deny("every route aborts all requests");
    }
    let catch_all = host.routes.iter().find(|route| is_catch_all(route));
    let Some(forward) = catch_all.and_then(forward) else {
        return Degraded::pass("no catch-all route that forwards");
    };
    let stays = forward
        .destinations
        .iter()
        .all(|entry| match &entry.cluster {
            ClusterRef::Known(cluster) => cluster.host == service.host && cluster.port == port,
            ClusterRef::Missing(name) => is_cluster_of(name, service, port),
            ClusterRef::NotHonoured(_) => false,
        });
    if !stays {
        return Degraded::pass("the catch-all route leads to another service");
    }
    let destinations: Vec<L4Destination> = forward
        .destinations
        .iter()
        .map(|entry| L4Destination {
            weight: entry.weight,
            cluster: entry.cluster.clone(),
        })
        .collect();
    let is_whole = matches!(destinations.as_slice(), [only] if is_whole_service(&only.cluster));
    if is_whole && service.kind == ServiceKind::Kubernetes {
        return Degraded::pass("the catch-all route is the service itself");
    }
    match split(&destinations, clusters, Strictness::L4Part) {
        Ok(entries) => Degraded::split("weights and subsets of the catch-all route", entries),
        Err(reason) => Degraded::pass(reason),
    }
}

fn is_cluster_of(name: &str, service: &Service, port: u16) -> bool {
    let host_and_port = name.strip_prefix("outbound|").and_then(|rest| {
        let (number, rest) = rest.split_once('|')?;
        let (_, host) = rest.split_once('|')?;
        Some((host, number.parse::<u16>().ok()?))
    });
    host_and_port == Some((&*service.host, port))
}

fn is_whole_service(cluster: &ClusterRef) -> bool {
    match cluster {
        ClusterRef::Known(cluster) => cluster.subset.is_empty(),
        ClusterRef::Missing(_) | ClusterRef::NotHonoured(_) => false,
    }
}

fn forward(route: &HttpRoute) -> Option<&ForwardAction> {
    match &route.action {
        RouteAction::Forward(forward) => Some(forward),
        RouteAction::Redirect(_)
        | RouteAction::DirectResponse { .. }
        | RouteAction::NotHonoured(_) => None,
    }
}

fn refs(forward: &ForwardAction) -> impl Iterator<Item = &ClusterRef> {
    forward.destinations.iter().map(|entry| &entry.cluster)
}

/// Why passing or splitting would leak or bypass something, if so.
fn deny_reason<'c>(
    service: Option<&Service>,
    clusters: impl IntoIterator<Item = &'c ClusterRef>,
) -> Option<&'static str> {
    let is_external = service.is_some_and(|service| service.is_external);
    clusters.into_iter().find_map(|cluster| match cluster {
        ClusterRef::Known(cluster) if cluster.policy.tls == UpstreamTls::NotHonoured => {
            Some("TLS origination")
        }
        ClusterRef::NotHonoured(_) => Some("a destination needs what is not honoured yet"),
        // What is meant to leave by a gateway of the mesh must not leave by itself.
        ClusterRef::Known(cluster)
            if is_external && service.is_some_and(|service| service.host != cluster.host) =>
        {
            Some("egress gateway")
        }
        ClusterRef::Known(_) | ClusterRef::Missing(_) => None,
    })
}
