//! Which route a request takes: one pure lookup in the table of its destination.

use std::sync::Arc;

use crate::net::OriginalDst;
use crate::snapshot::listeners::Found;
use crate::snapshot::matchers::{HttpMatch, RequestFacts};
use crate::snapshot::routes::UnknownHost;
use crate::snapshot::{HttpRoute, RouteTable, ScopeView};

/// What the configuration says about one request.
#[derive(Debug)]
pub(crate) enum Decision<'a> {
    /// This route, by this element of its `match` (`None`: it has no conditions).
    Route(&'a HttpRoute, Option<&'a HttpMatch>),
    /// A virtual host without a route for it: 404.
    NoRoute,
    /// A host that nobody knows, under ALLOW_ANY: to the original destination.
    Passthrough,
    /// A host that nobody knows, under REGISTRY_ONLY: 502.
    BlackHole,
}

/// The table for connections to `dst`, and the service that owns the address. Asked for
/// each request, so that changes act on connections that are kept alive.
pub(crate) fn find_table(
    scope: &ScopeView,
    dst: OriginalDst,
) -> Option<(&Arc<RouteTable>, Option<&Arc<str>>)> {
    let (Found::Exact(destination) | Found::PortWide(destination)) = scope.find(dst.0) else {
        return None;
    };
    let table = scope.route_table(destination)?;
    Some((table, destination.service.as_ref()))
}

/// Virtual host by authority, then the first route that matches.
pub(crate) fn decide<'a>(table: &'a RouteTable, request: &RequestFacts<'_>) -> Decision<'a> {
    let Some(host) = table.find(request.authority) else {
        return match table.unknown {
            UnknownHost::Passthrough => Decision::Passthrough,
            UnknownHost::BlackHole => Decision::BlackHole,
        };
    };
    match host.find(request) {
        Some((route, hit)) => Decision::Route(route, hit),
        None => Decision::NoRoute,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::snapshot::VirtualHost;
    use crate::snapshot::matchers::StringMatcher;
    use crate::snapshot::policy::HeaderOps;
    use crate::snapshot::routes::RouteAction;

    fn route(name: &str, uri: Option<StringMatcher>) -> HttpRoute {
        HttpRoute {
            name: name.into(),
            matches: uri
                .into_iter()
                .map(|uri| HttpMatch {
                    uri: Some(uri),
                    ..HttpMatch::default()
                })
                .collect(),
            action: RouteAction::DirectResponse {
                status: StatusCode::OK,
                body: bytes::Bytes::new(),
            },
            timeout: None,
            retry: None,
            fault: None,
            mirrors: Vec::new(),
            cors: None,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            provenance: None,
        }
    }

    fn table(unknown: UnknownHost) -> RouteTable {
        let host = VirtualHost {
            name: "a.ns1:80".into(),
            routes: vec![
                route("prefix-a", Some(StringMatcher::Prefix("/a".into()))),
                route("exact-a-b", Some(StringMatcher::Exact("/a/b".into()))),
            ],
            redirects_to_https: false,
            provenance: None,
        };
        RouteTable {
            exact: HashMap::from([("a.ns1".into(), Some(Arc::new(host)))]),
            unknown,
            ..RouteTable::default()
        }
    }

    fn answer(unknown: UnknownHost, authority: &str, path: &str) -> String {
        let facts = RequestFacts {
            path,
            query: None,
            method: "GET",
            scheme: "http",
            authority,
            headers: &HeaderMap::new(),
        };
        match decide(&table(unknown), &facts) {
            Decision::Route(route, hit) => format!("{} {}", route.name, hit.is_some()),
            Decision::NoRoute => "404".to_owned(),
            Decision::Passthrough => "passthrough".to_owned(),
            Decision::BlackHole => "502".to_owned(),
        }
    }

    /// Checklist ids A039, A044, A047, A048 and A055.
    #[test]
    fn a039_a044_a047_a048_a055_the_first_match_of_the_virtual_host_decides() {
        use UnknownHost as U;
        for (unknown, authority, path, expected) in [
            (U::Passthrough, "A.NS1", "/a/b", "prefix-a true"), // A039, A055: order, not length
            (U::Passthrough, "a.ns1:80", "/a", "prefix-a true"),
            (U::Passthrough, "a.ns1", "/y", "404"), // A044
            (U::Passthrough, "other", "/a", "passthrough"), // A047
            (U::BlackHole, "other", "/a", "502"),   // A048
            (U::BlackHole, "", "/a", "502"),        // an empty Host matches only `*`
        ] {
            assert_eq!(
                answer(unknown, authority, path),
                expected,
                "{authority} {path}"
            );
        }
    }
}
