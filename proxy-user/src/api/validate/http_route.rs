//! The rules of one HTTP route of a VirtualService: what it does.
//!
//! Source: pkg/config/validation/virtualservice.go and validation.go in istio/istio.

use super::virtual_service::Surroundings;
use super::{Report, names};
use crate::api::{Destination, HTTPRoute, HeaderOperations, Headers, VirtualService};

impl Report<'_, VirtualService> {
    /// One HTTP route at `path`.
    pub(super) fn http_route(&mut self, path: &str, route: &HTTPRoute, around: Surroundings<'_>) {
        for (index, condition) in route.matches.iter().enumerate() {
            self.http_match(&format!("{path}.match[{index}]"), condition, around);
        }
        if route.delegate.is_some() {
            return self.delegating(path, route, around);
        }
        self.actions(path, route);
        self.http_destinations(path, route);
        self.header_operations(&format!("{path}.headers"), route.headers.as_ref());
        self.one_authority(path, route);
        self.duration(&format!("{path}.timeout"), route.timeout);
        if let Some(retries) = &route.retries {
            self.retries(&format!("{path}.retries"), retries);
        }
        if let Some(fault) = &route.fault {
            self.fault(&format!("{path}.fault"), fault);
        }
        if let Some(cors) = &route.cors_policy {
            self.cors(&format!("{path}.corsPolicy"), cors);
        }
        if let Some(redirect) = &route.redirect {
            self.redirect(&format!("{path}.redirect"), redirect, route);
        }
        if let Some(response) = &route.direct_response {
            self.direct_response(&format!("{path}.directResponse"), response);
        }
        if let Some(rewrite) = &route.rewrite {
            self.rewrite(&format!("{path}.rewrite"), rewrite);
        }
        self.mirrors(path, route);
    }

    fn delegating(&mut self, path: &str, route: &HTTPRoute, around: Surroundings<'_>) {
        const CODE: &str = "delegate";
        if around.is_delegate {
            let message = "a delegate cannot delegate in its turn";
            self.error(&format!("{path}.delegate"), CODE, message);
        }
        for (field, is_there) in [
            ("route", !route.route.is_empty()),
            ("redirect", route.redirect.is_some()),
        ] {
            if is_there {
                let message = "not allowed beside delegate, whose rules take this one's place";
                self.error(&format!("{path}.{field}"), CODE, message);
            }
        }
    }

    /// Exactly one thing is done with a request.
    fn actions(&mut self, path: &str, route: &HTTPRoute) {
        let answers: Vec<&str> = [
            ("redirect", route.redirect.is_some()),
            ("directResponse", route.direct_response.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, is_there)| is_there.then_some(name))
        .collect();
        match (answers.as_slice(), route.route.is_empty()) {
            ([], true) => {
                let message = "expected route, redirect or directResponse, found none";
                self.error(path, "no-action", message);
            }
            ([], false) | ([_], true) => {}
            ([first, ..], _) => {
                let message = "only one of route, redirect and directResponse can be set";
                self.error(&format!("{path}.{first}"), "several-actions", message);
            }
        }
        for answer in answers {
            for (field, is_there) in [
                ("fault", route.fault.is_some()),
                ("rewrite", route.rewrite.is_some()),
            ] {
                if is_there {
                    let message = format!("not allowed together with {answer}");
                    self.error(&format!("{path}.{field}"), "answer-with-policy", message);
                }
            }
        }
    }

    fn http_destinations(&mut self, path: &str, route: &HTTPRoute) {
        let path = format!("{path}.route");
        for (index, destination) in route.route.iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.destination(
                &format!("{path}.destination"),
                destination.destination.as_ref(),
            );
            self.header_operations(&format!("{path}.headers"), destination.headers.as_ref());
        }
        self.weights(
            &path,
            route.route.iter().map(|destination| destination.weight),
        );
    }

    /// Weights are not negative, and of several not all are zero.
    pub(super) fn weights(
        &mut self,
        path: &str,
        weights: impl ExactSizeIterator<Item = i32> + Clone,
    ) {
        for (index, weight) in weights.clone().enumerate() {
            if weight < 0 {
                let message = format!("expected a weight of at least 0, found {weight}");
                self.error(&format!("{path}[{index}].weight"), "weight", message);
            }
        }
        if weights.len() > 1 && weights.map(i64::from).sum::<i64>() == 0 {
            let message = "the weights add up to 0, so that no destination gets traffic";
            self.error(path, "weight", message);
        }
    }

    /// A destination that must be there and name a host.
    pub(super) fn destination(&mut self, path: &str, destination: Option<&Destination>) {
        let Some(destination) = destination else {
            return self.error(path, "destination", "expected a destination, found none");
        };
        let host = destination.host.as_str();
        if host == "*" {
            self.error(
                &format!("{path}.host"),
                "destination",
                "\"*\" is no destination",
            );
        } else {
            self.wildcard_domain(&format!("{path}.host"), host);
        }
        self.optional_label(&format!("{path}.subset"), &destination.subset);
        if let Some(port) = destination.port {
            self.port(&format!("{path}.port.number"), port.number);
        }
    }

    fn header_operations(&mut self, path: &str, headers: Option<&Headers>) {
        let Some(headers) = headers else { return };
        for (side, operations, may_set_authority) in [
            ("request", &headers.request, true),
            ("response", &headers.response, false),
        ] {
            if let Some(operations) = operations {
                self.operations(&format!("{path}.{side}"), operations, may_set_authority);
            }
        }
    }

    fn operations(&mut self, path: &str, operations: &HeaderOperations, may_set_authority: bool) {
        for (verb, headers) in [("set", &operations.set), ("add", &operations.add)] {
            for (name, value) in headers {
                let field = format!("{path}.{verb}.{name}");
                if !(may_set_authority && is_authority(name)) {
                    self.header_name(&field, name);
                }
                if let Some(problem) = names::find_header_value_problem(value) {
                    self.error(&field, "header-value", problem);
                }
            }
        }
        for (index, name) in operations.remove.iter().enumerate() {
            self.header_name(&format!("{path}.remove[{index}]"), name);
        }
    }

    fn header_name(&mut self, field: &str, name: &str) {
        let problem = match name {
            "" => "expected the name of a header, found nothing".to_owned(),
            name if name.starts_with(':') || name.eq_ignore_ascii_case("host") => {
                format!("{name:?} cannot be changed here")
            }
            name if !names::is_token(name) => format!("{name:?} is no name of a header"),
            _ => return,
        };
        self.error(field, "header-name", problem);
    }

    fn one_authority(&mut self, path: &str, route: &HTTPRoute) {
        let request = route
            .headers
            .as_ref()
            .and_then(|headers| headers.request.as_ref());
        let has = |headers: &std::collections::BTreeMap<String, String>| {
            headers.keys().any(|name| is_authority(name))
        };
        let places = [
            route
                .rewrite
                .as_ref()
                .is_some_and(|rewrite| !rewrite.authority.is_empty()),
            request.is_some_and(|operations| has(&operations.set)),
            request.is_some_and(|operations| has(&operations.add)),
        ];
        if places.into_iter().filter(|is_set| *is_set).count() > 1 {
            let message = "the authority is set in more than one of rewrite.authority, \
                           headers.request.set and headers.request.add";
            self.error(path, "authority-twice", message);
        }
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}
