//! Route tables: which virtual host a Host value means, and which route a request takes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use ipnet::IpNet;
use regex::bytes::Regex;

use super::Provenance;
use super::clusters::ClusterRef;
use super::matchers::{HttpMatch, RequestFacts};
use super::policy::{
    CorsPolicy, FaultPolicy, HeaderOps, HeaderTemplate, MirrorPolicy, RetryPolicy,
};

/// Virtual hosts of one port as one group of clients sees them.
///
/// A table may stand on a `base` that many scopes share: what this one names
/// itself wins, `None` hides an entry of the base.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    /// Route configuration name, as Istio names it: the port, or `host:port` for one service.
    pub name: Arc<str>,
    /// Exact domains, lower case, without port.
    pub exact: DomainMap,
    /// Wildcard domains without their `*`, by suffix length, longest first.
    pub suffixes: Vec<(usize, DomainMap)>,
    /// The domain `*`.
    pub any: Option<Arc<VirtualHost>>,
    /// Looked up for what this table does not name.
    pub base: Option<Arc<RouteTable>>,
    /// What a Host that no domain covers means.
    pub unknown: UnknownHost,
}

/// Virtual hosts by domain; `None` hides what the base has under that domain.
pub type DomainMap = HashMap<Arc<str>, Option<Arc<VirtualHost>>>;

/// What happens to a request whose Host matches no virtual host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub enum UnknownHost {
    /// ALLOW_ANY: to the original destination.
    #[default]
    Passthrough,
    /// REGISTRY_ONLY: 502 from `block_all`.
    BlackHole,
}

impl RouteTable {
    /// The virtual host for a received Host or `:authority` value: exact, then the
    /// longest suffix, then `*`; case and port are ignored (Envoy `VirtualHost.domains`).
    #[must_use]
    pub fn find(&self, authority: &str) -> Option<&Arc<VirtualHost>> {
        let host = without_port(authority);
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.find_lower(&host.to_ascii_lowercase());
        }
        self.find_lower(host)
    }

    fn find_lower(&self, host: &str) -> Option<&Arc<VirtualHost>> {
        if !host.is_empty() {
            if let Some(entry) = self.find_exact(host) {
                return Some(entry);
            }
            if let Some(entry) = self.find_suffix(host, host.len()) {
                return Some(entry);
            }
        }
        self.find_any()
    }

    fn find_exact(&self, host: &str) -> Option<&Arc<VirtualHost>> {
        match self.exact.get(host) {
            Some(entry) => entry.as_ref(),
            None => self.base.as_ref()?.find_exact(host),
        }
    }

    /// Longest suffix of `host` shorter than `limit` bytes, over this table and its bases.
    fn find_suffix(&self, host: &str, limit: usize) -> Option<&Arc<VirtualHost>> {
        let mut limit = limit;
        while let Some(len) = self.longest_suffix_below(host.len().min(limit)) {
            let suffix = host.get(host.len() - len..);
            if let Some(entry) = suffix.and_then(|suffix| self.suffix_entry(len, suffix)) {
                return Some(entry);
            }
            limit = len;
        }
        None
    }

    fn longest_suffix_below(&self, limit: usize) -> Option<usize> {
        let own = self
            .suffixes
            .iter()
            .map(|(len, _)| *len)
            .find(|len| *len < limit);
        let base = self
            .base
            .as_ref()
            .and_then(|base| base.longest_suffix_below(limit));
        own.max(base)
    }

    fn suffix_entry(&self, len: usize, suffix: &str) -> Option<&Arc<VirtualHost>> {
        let own = self.suffixes.iter().find(|(own, _)| *own == len);
        match own.and_then(|(_, entries)| entries.get(suffix)) {
            Some(entry) => entry.as_ref(),
            None => self.base.as_ref()?.suffix_entry(len, suffix),
        }
    }

    fn find_any(&self) -> Option<&Arc<VirtualHost>> {
        match &self.any {
            Some(any) => Some(any),
            None => self.base.as_ref()?.find_any(),
        }
    }
}

/// The Host value without its port: what stands before the last colon, brackets kept.
#[must_use]
pub fn without_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        Some(_) | None => authority,
    }
}

/// One set of Host domains with its ordered route list.
#[derive(Debug, Default)]
pub struct VirtualHost {
    /// `host:port`, as Istio names it.
    pub name: Arc<str>,
    /// In evaluation order; the first match wins, none is a 404.
    pub routes: Vec<HttpRoute>,
    /// Before any route, plain HTTP is sent to https (a Gateway's `httpsRedirect`).
    pub redirects_to_https: bool,
    /// The VirtualService, or `None` for a service's default route.
    pub provenance: Option<Provenance>,
}

impl VirtualHost {
    /// The first route that the request matches, with the element of `match` that did
    /// (`None`: the route has no conditions).
    #[must_use]
    pub fn find(&self, request: &RequestFacts<'_>) -> Option<(&HttpRoute, Option<&HttpMatch>)> {
        self.routes.iter().find_map(|route| {
            if route.matches.is_empty() {
                return Some((route, None));
            }
            let hit = route
                .matches
                .iter()
                .find(|element| element.check(request).is_ok())?;
            Some((route, Some(hit)))
        })
    }
}

/// One compiled `http` route.
#[derive(Debug)]
pub struct HttpRoute {
    /// Effective name: `http.name`, or `default` for a service without VirtualService.
    /// The element's name is appended by [`HttpRoute::effective_name`].
    pub name: Arc<str>,
    /// Elements are alternatives; empty matches everything.
    pub matches: Vec<HttpMatch>,
    /// What is done.
    pub action: RouteAction,
    /// `timeout`; `None` never.
    pub timeout: Option<Duration>,
    /// `retries`; `None` only where nothing may be retried.
    pub retry: Option<Arc<RetryPolicy>>,
    /// `fault`.
    pub fault: Option<Arc<FaultPolicy>>,
    /// `mirror`, `mirrors`.
    pub mirrors: Vec<MirrorPolicy>,
    /// `corsPolicy`.
    pub cors: Option<Arc<CorsPolicy>>,
    /// Route-level request header operations.
    pub request_headers: HeaderOps,
    /// Route-level response header operations.
    pub response_headers: HeaderOps,
    /// The rule in the VirtualService, or `None` for a default route.
    pub provenance: Option<Provenance>,
}

impl HttpRoute {
    /// `http.name` plus `.` and `match.name` if set (Istio route naming).
    #[must_use]
    pub fn effective_name(&self, hit: Option<&HttpMatch>) -> Arc<str> {
        match hit.and_then(|hit| hit.name.as_ref()) {
            Some(element) => Arc::from(format!("{}.{element}", self.name)),
            None => Arc::clone(&self.name),
        }
    }
}

/// What a route does.
#[derive(Debug)]
pub enum RouteAction {
    /// Send it upstream.
    Forward(ForwardAction),
    /// Answer with a redirect.
    Redirect(RedirectAction),
    /// Answer directly.
    DirectResponse {
        /// Status.
        status: StatusCode,
        /// Body; empty sends no content-type.
        body: bytes::Bytes,
    },
    /// A field that turns the rule off until it is honoured: 503, detail `not_honoured`.
    NotHonoured(Arc<str>),
}

/// Weighted destinations and what is rewritten on the way.
#[derive(Debug)]
pub struct ForwardAction {
    /// At least one; zero-weight entries are dropped already, a single one has weight 1.
    pub destinations: Vec<WeightedDestination>,
    /// Sum of the weights, at least 1.
    pub total_weight: u32,
    /// `rewrite.authority` or the route's authority header operation.
    pub authority: Option<HeaderTemplate>,
    /// `rewrite.uri`, `rewrite.uriRegexRewrite`.
    pub path_rewrite: Option<PathRewrite>,
}

impl ForwardAction {
    /// The destination for a ticket uniform over `0..total_weight`.
    #[must_use]
    pub fn pick(&self, ticket: u32) -> Option<&WeightedDestination> {
        let mut rest = ticket;
        for destination in &self.destinations {
            if rest < destination.weight {
                return Some(destination);
            }
            rest -= destination.weight;
        }
        None
    }
}

/// One entry of `http[].route`.
#[derive(Debug)]
pub struct WeightedDestination {
    /// Relative weight, at least 1.
    pub weight: u32,
    /// Where to.
    pub cluster: ClusterRef,
    /// Destination-level request header operations (run before the route's).
    pub request_headers: HeaderOps,
    /// Destination-level response header operations.
    pub response_headers: HeaderOps,
    /// Authority set by this destination; used only if the route sets none.
    pub authority: Option<HeaderTemplate>,
    /// The entry in the VirtualService.
    pub provenance: Option<Provenance>,
}

/// How the path changes.
#[derive(Debug)]
pub enum PathRewrite {
    /// Replace the matched prefix bytes of the element that matched.
    Prefix(Arc<str>),
    /// Replace the whole path (exact and regex matches).
    Full(Arc<str>),
    /// RE2 search and replace of all matches; `\1` references are `${1}` already.
    Regex {
        /// Pattern, not anchored.
        pattern: Regex,
        /// Replacement in the regex crate's syntax.
        replacement: Arc<str>,
    },
}

/// VirtualService `redirect`.
#[derive(Debug)]
pub struct RedirectAction {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// New scheme.
    pub scheme: Option<Arc<str>>,
    /// New host, port included.
    pub authority: Option<Arc<str>>,
    /// How the port is made.
    pub port: RedirectPort,
    /// How the path is made.
    pub path: RedirectPath,
}

/// Port of a redirect's Location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectPort {
    /// Keep what the Host header has, except the old scheme's default.
    Keep,
    /// `FROM_PROTOCOL_DEFAULT`: none.
    ProtocolDefault,
    /// `port`, or `FROM_REQUEST_PORT` with the listener's.
    Explicit(u16),
}

/// Path of a redirect's Location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectPath {
    /// As requested.
    Keep,
    /// `uri`: replaces the whole path; the query is kept unless this contains `?`.
    Full(Arc<str>),
    /// `prefixRewrite`.
    Prefix(Arc<str>),
}

/// One compiled `tcp` rule.
#[derive(Debug, Clone)]
pub struct TcpRoute {
    /// Any must contain the original destination; empty matches all.
    pub destination_subnets: Vec<IpNet>,
    /// Per-connection choice.
    pub destinations: Vec<L4Destination>,
    /// Sum of the weights, at least 1.
    pub total_weight: u32,
    /// The rule in the VirtualService, or `None` for the service's default.
    pub provenance: Option<Provenance>,
}

/// One compiled `tls` rule.
#[derive(Debug, Clone)]
pub struct TlsRoute {
    /// Exact or `*.x`, lower case; empty matches any SNI and none.
    pub sni_hosts: Vec<Arc<str>>,
    /// Any must contain the original destination; empty matches all.
    pub destination_subnets: Vec<IpNet>,
    /// Per-connection choice.
    pub destinations: Vec<L4Destination>,
    /// Sum of the weights, at least 1.
    pub total_weight: u32,
    /// The rule in the VirtualService, or `None` for the service's default.
    pub provenance: Option<Provenance>,
}

/// One weighted destination of a tcp or tls rule.
#[derive(Debug, Clone)]
pub struct L4Destination {
    /// Relative weight, at least 1.
    pub weight: u32,
    /// Where to.
    pub cluster: ClusterRef,
}

/// The destination for a ticket uniform over the sum of all weights.
#[must_use]
pub fn pick_l4(destinations: &[L4Destination], ticket: u32) -> Option<&L4Destination> {
    let mut rest = ticket;
    for destination in destinations {
        if rest < destination.weight {
            return Some(destination);
        }
        rest -= destination.weight;
    }
    None
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
