//! What only a route to an upstream has: weighted destinations, mirrors, retries, rewrites.
//! Start at [`Router::forward`].

use std::sync::Arc;

use crate::api::{HTTPRoute, HTTPRouteDestination};
use crate::snapshot::ClusterRef;
use crate::snapshot::policy::{LoadBalancer, MirrorPolicy};
use crate::snapshot::routes::{ForwardAction, HttpRoute, RouteAction, WeightedDestination};

use super::action::{UriKind, compile_path_rewrite};
use super::header_ops::{self, compile_request_ops, compile_response_ops};
use super::http_policy::{compile_cors, compile_retry, mirror_share, mirrors_share, timeout};
use super::route::Router;
use super::rule::Place;
use super::scope::ClientView;
use super::template::literal;
use super::virtual_service::HttpRule;

impl Router<'_, '_> {
    /// Fills in what only a route to an upstream has.
    pub(super) fn forward(
        &mut self,
        client: &ClientView,
        rule: &HttpRule,
        kind: UriKind,
        port: u16,
        route_authority: Option<String>,
        route: &mut HttpRoute,
    ) {
        let (spec, place) = (&rule.spec, &rule.place);
        let rewrite = spec.rewrite.as_ref();
        let mut destinations = self.destinations(client, &spec.route, port, place);
        let mut authority = rewrite
            .map(|rewrite| rewrite.authority.clone())
            .filter(|authority| !authority.is_empty())
            .or(route_authority)
            .map(|text| literal(&text));
        if let [only] = destinations.as_mut_slice() {
            header_ops::append(
                &mut route.request_headers,
                std::mem::take(&mut only.request_headers),
            );
            header_ops::append(
                &mut route.response_headers,
                std::mem::take(&mut only.response_headers),
            );
            authority = authority.or(only.authority.take());
        }
        let is_hashed = matches!(destinations.as_slice(), [only] if is_hashed(&only.cluster));
        route.timeout = timeout(spec.timeout);
        route.retry = Some(Arc::new(compile_retry(
            spec.retries.as_ref(),
            self.policies.retry(is_hashed),
            place,
            self.problems,
        )));
        route.mirrors = self.mirrors(client, spec, port);
        route.cors = spec
            .cors_policy
            .as_ref()
            .map(|cors| Arc::new(compile_cors(cors, place, self.problems)));
        let total_weight = destinations.iter().map(|entry| entry.weight).sum();
        if total_weight == 0 {
            self.problems.error(
                "weights",
                &place.field("route"),
                "all weights are 0; the rule answers 503",
            );
            return;
        }
        let path_rewrite =
            rewrite.and_then(|rewrite| compile_path_rewrite(rewrite, kind, place, self.problems));
        route.action = RouteAction::Forward(ForwardAction {
            destinations,
            total_weight,
            authority,
            path_rewrite,
        });
    }

    fn destinations(
        &mut self,
        client: &ClientView,
        written: &[HTTPRouteDestination],
        port: u16,
        place: &Place,
    ) -> Vec<WeightedDestination> {
        let weights = relative_weights(written.iter().map(|entry| entry.weight));
        let mut destinations = Vec::with_capacity(written.len());
        for (at, (entry, weight)) in written.iter().zip(weights).enumerate() {
            let Some(destination) = entry.destination.as_ref().filter(|_| weight > 0) else {
                continue;
            };
            let place = place.entry("route", at);
            let headers = entry.headers.as_ref();
            let request = compile_request_ops(
                headers.and_then(|headers| headers.request.as_ref()),
                &place.field("headers.request"),
                self.problems,
            );
            destinations.push(WeightedDestination {
                weight,
                cluster: self.resolve(client, destination, port),
                request_headers: request.ops,
                response_headers: compile_response_ops(
                    headers.and_then(|headers| headers.response.as_ref()),
                    &place.field("headers.response"),
                    self.problems,
                ),
                authority: request.authority.map(|text| literal(&text)),
                provenance: Some(place.provenance()),
            });
        }
        destinations
    }

    fn mirrors(&mut self, client: &ClientView, spec: &HTTPRoute, port: u16) -> Vec<MirrorPolicy> {
        let single = spec.mirror.iter().map(|to| (to, mirror_share(spec)));
        let several = spec
            .mirrors
            .iter()
            .filter_map(|mirror| Some((mirror.destination.as_ref()?, mirrors_share(mirror))));
        single
            .chain(several)
            .filter(|(_, share)| *share > 0)
            .map(|(to, share)| MirrorPolicy {
                cluster: self.resolve(client, to, port),
                share,
            })
            .collect()
    }
}

/// Weights as they act: a single entry gets everything, negative ones nothing. Sums beyond
/// `u32` are scaled down, every positive weight staying positive.
pub(crate) fn relative_weights(written: impl ExactSizeIterator<Item = i32>) -> Vec<u32> {
    if written.len() == 1 {
        return vec![1];
    }
    let mut weights: Vec<u32> = written
        .map(|weight| u32::try_from(weight).unwrap_or(0))
        .collect();
    while weights.iter().map(|weight| u64::from(*weight)).sum::<u64>() > u64::from(u32::MAX) {
        for weight in &mut weights {
            *weight = weight.div_ceil(2);
        }
    }
    weights
}

/// Whether a consistent hash picks the endpoint.
pub(super) fn is_hashed(cluster: &ClusterRef) -> bool {
    match cluster {
        ClusterRef::Known(cluster) => matches!(
            cluster.policy.load_balancer,
            LoadBalancer::ConsistentHash(_)
        ),
        ClusterRef::Missing(_) | ClusterRef::NotHonoured(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a075_a076_a077_weights() {
        for (written, expected) in [
            (vec![0], vec![1]), // A075: a single one gets everything
            (vec![0, 100], vec![0, 100]),
            (vec![1, 3], vec![1, 3]),
            (vec![-5, 1], vec![0, 1]),
            (vec![i32::MAX, i32::MAX, i32::MAX], vec![1 << 30; 3]),
        ] {
            assert_eq!(
                relative_weights(written.clone().into_iter()),
                expected,
                "{written:?}"
            );
        }
    }
}
