//! Route tables and L4 routes as text.

use std::sync::Arc;

use super::Dump;
use super::values::{conditions, from, reference, retry, share, subnets, template, text_match};
use crate::snapshot::policy::{AbortWith, HeaderOps};
use crate::snapshot::routes::{
    HttpRoute, L4Destination, PathRewrite, RedirectAction, RouteAction, RouteTable, TcpRoute,
    TlsRoute, UnknownHost, VirtualHost,
};

impl Dump {
    pub(super) fn table(&mut self, depth: usize, table: &Arc<RouteTable>) {
        if !self.is_first(table) {
            self.line(depth, format_args!("routes {} as above", table.name));
            return;
        }
        let unknown = match table.unknown {
            UnknownHost::Passthrough => "",
            UnknownHost::BlackHole => " unknown=502",
        };
        let base = if table.base.is_some() { " on base" } else { "" };
        self.line(depth, format_args!("routes {}{unknown}{base}", table.name));
        let mut hosts: Vec<(String, Option<&Arc<VirtualHost>>)> = table
            .exact
            .iter()
            .map(|(domain, entry)| (domain.to_string(), entry.as_ref()))
            .collect();
        for (_, entries) in &table.suffixes {
            let entries = entries.iter();
            hosts.extend(entries.map(|(domain, entry)| (format!("*{domain}"), entry.as_ref())));
        }
        hosts.extend(table.any.as_ref().map(|any| ("*".to_owned(), Some(any))));
        hosts.sort_by(|(a, _), (b, _)| a.cmp(b));
        let hidden: Vec<&str> = hosts
            .iter()
            .filter(|(_, entry)| entry.is_none())
            .map(|(domain, _)| domain.as_str())
            .collect();
        if !hidden.is_empty() {
            self.line(depth + 1, format_args!("hides {}", hidden.join(" ")));
        }
        // One virtual host has many domains: it is printed once, with all of them.
        let mut printed: Vec<&Arc<VirtualHost>> = Vec::new();
        for (_, host) in &hosts {
            let Some(host) = host else { continue };
            if printed.iter().any(|known| Arc::ptr_eq(known, host)) {
                continue;
            }
            printed.push(host);
            let domains: Vec<&str> = hosts
                .iter()
                .filter(|(_, other)| other.is_some_and(|other| Arc::ptr_eq(other, host)))
                .map(|(domain, _)| domain.as_str())
                .collect();
            if !self.is_first(host) {
                let name = &host.name;
                self.line(
                    depth + 1,
                    format_args!("vhost {name} [{}] as above", domains.join(" ")),
                );
                continue;
            }
            let by = from(host.provenance.as_ref());
            let https = if host.redirects_to_https {
                " to-https"
            } else {
                ""
            };
            self.line(
                depth + 1,
                format_args!("vhost {} [{}]{https}{by}", host.name, domains.join(" ")),
            );
            for route in &host.routes {
                self.route(depth + 2, route);
            }
        }
    }

    fn route(&mut self, depth: usize, route: &HttpRoute) {
        let name = if route.name.is_empty() {
            "-"
        } else {
            &*route.name
        };
        let timeout = route
            .timeout
            .map(|timeout| format!(" timeout={timeout:?}"))
            .unwrap_or_default();
        let retry = route.retry.as_deref().map(retry).unwrap_or_default();
        let by = from(route.provenance.as_ref());
        self.line(depth, format_args!("route {name}{timeout}{retry}{by}"));
        for element in &route.matches {
            self.line(depth + 1, format_args!("match {}", conditions(element)));
        }
        if let Some(fault) = &route.fault {
            let delay = fault
                .delay
                .map(|(ppm, length)| format!(" delay {ppm}ppm {length:?}"));
            let abort = fault.abort.map(|(ppm, with)| match with {
                AbortWith::Http(status) => format!(" abort {ppm}ppm {}", status.as_u16()),
                AbortWith::Grpc(status) => format!(" abort {ppm}ppm grpc {status}"),
            });
            let (delay, abort) = (delay.unwrap_or_default(), abort.unwrap_or_default());
            self.line(depth + 1, format_args!("fault{delay}{abort}"));
        }
        for mirror in &route.mirrors {
            self.line(
                depth + 1,
                format_args!("mirror {}ppm {}", mirror.share, reference(&mirror.cluster)),
            );
        }
        if let Some(cors) = &route.cors {
            let origins: Vec<String> = cors.allow_origins.iter().map(text_match).collect();
            self.line(depth + 1, format_args!(
                "cors origins=[{}] methods={} headers={} expose={} maxAge={:?} credentials={} ignore={}",
                origins.join(" "), cors.allow_methods, cors.allow_headers, cors.expose_headers,
                cors.max_age_secs, cors.allow_credentials, cors.ignore_unmatched_preflights
            ));
        }
        self.headers(depth + 1, "request", &route.request_headers);
        self.headers(depth + 1, "response", &route.response_headers);
        self.action(depth + 1, &route.action);
    }

    fn action(&mut self, depth: usize, action: &RouteAction) {
        match action {
            RouteAction::Forward(forward) => {
                if let Some(authority) = &forward.authority {
                    self.line(depth, format_args!("authority {}", template(authority)));
                }
                match &forward.path_rewrite {
                    None => {}
                    Some(PathRewrite::Prefix(text)) => {
                        self.line(depth, format_args!("rewrite prefix {text}"))
                    }
                    Some(PathRewrite::Full(text)) => {
                        self.line(depth, format_args!("rewrite path {text}"))
                    }
                    Some(PathRewrite::Regex {
                        pattern,
                        replacement,
                    }) => {
                        self.line(
                            depth,
                            format_args!("rewrite {} -> {replacement}", pattern.as_str()),
                        );
                    }
                }
                for destination in &forward.destinations {
                    let share = share(destination.weight, forward.total_weight);
                    self.line(
                        depth,
                        format_args!("to {share}{}", reference(&destination.cluster)),
                    );
                    if let Some(authority) = &destination.authority {
                        self.line(depth + 1, format_args!("authority {}", template(authority)));
                    }
                    self.headers(depth + 1, "request", &destination.request_headers);
                    self.headers(depth + 1, "response", &destination.response_headers);
                }
            }
            RouteAction::Redirect(redirect) => self.redirect(depth, redirect),
            RouteAction::DirectResponse { status, body } => {
                let body = String::from_utf8_lossy(body);
                self.line(depth, format_args!("answer {} {body:?}", status.as_u16()));
            }
            RouteAction::NotHonoured(what) => {
                self.line(depth, format_args!("not honoured: {what}"))
            }
        }
    }

    fn redirect(&mut self, depth: usize, redirect: &RedirectAction) {
        self.line(
            depth,
            format_args!(
                "redirect {} scheme={} authority={} port={:?} path={:?}",
                redirect.status.as_u16(),
                redirect.scheme.as_deref().unwrap_or("-"),
                redirect.authority.as_deref().unwrap_or("-"),
                redirect.port,
                redirect.path
            ),
        );
    }

    fn headers(&mut self, depth: usize, what: &str, ops: &HeaderOps) {
        for name in &ops.remove {
            self.line(depth, format_args!("{what} remove {name}"));
        }
        for (name, value) in &ops.set {
            self.line(
                depth,
                format_args!("{what} set {name}: {}", template(value)),
            );
        }
        for (name, value) in &ops.add {
            self.line(
                depth,
                format_args!("{what} add {name}: {}", template(value)),
            );
        }
    }

    pub(super) fn tls(&mut self, depth: usize, route: &TlsRoute) {
        let by = from(route.provenance.as_ref());
        let subnets = subnets(&route.destination_subnets);
        self.line(
            depth,
            format_args!("tls [{}]{subnets}{by}", route.sni_hosts.join(" ")),
        );
        self.l4(depth + 1, &route.destinations, route.total_weight);
    }

    pub(super) fn tcp(&mut self, depth: usize, route: &TcpRoute) {
        let by = from(route.provenance.as_ref());
        let subnets = subnets(&route.destination_subnets);
        self.line(depth, format_args!("tcp{subnets}{by}"));
        self.l4(depth + 1, &route.destinations, route.total_weight);
    }

    fn l4(&mut self, depth: usize, destinations: &[L4Destination], total: u32) {
        for destination in destinations {
            let share = share(destination.weight, total);
            self.line(
                depth,
                format_args!("to {share}{}", reference(&destination.cluster)),
            );
        }
    }
}
