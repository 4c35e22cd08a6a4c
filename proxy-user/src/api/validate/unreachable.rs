//! Rules of a VirtualService that can never act, because earlier ones take
//! everything that they would match.
//!
//! Sound, not complete: what is reported is true. Source: the warnings of
//! pkg/config/validation/virtualservice.go in istio/istio.

use std::collections::BTreeMap;

use super::Report;
use crate::api::{
    HTTPMatchRequest, L4MatchAttributes, StringMatch, TLSMatchAttributes, VirtualService,
};

impl Report<'_, VirtualService> {
    /// Warns about rules and conditions behind earlier ones.
    pub(super) fn unreachable(&mut self, spec: &VirtualService) {
        let http: Vec<_> = spec
            .http
            .iter()
            .map(|route| route.matches.as_slice())
            .collect();
        self.section("http", &http, http_covers);
        let tls: Vec<_> = spec
            .tls
            .iter()
            .map(|route| route.matches.as_slice())
            .collect();
        self.section("tls", &tls, tls_covers);
        let tcp: Vec<_> = spec
            .tcp
            .iter()
            .map(|route| route.matches.as_slice())
            .collect();
        self.section("tcp", &tcp, tcp_covers);
    }

    /// `covers(a, b)`: whether `a` holds wherever `b` does.
    fn section<M>(&mut self, section: &str, rules: &[&[M]], covers: fn(&M, &M) -> bool) {
        const CODE: &str = "unreachable";
        let catch_all = rules.iter().position(|matches| matches.is_empty());
        for (rule, matches) in rules.iter().enumerate() {
            let path = format!("{section}[{rule}]");
            if let Some(earlier) = catch_all.filter(|earlier| *earlier < rule) {
                let message =
                    format!("never reached: {section}[{earlier}] already takes everything");
                self.warn(&path, CODE, message);
                continue;
            }
            let earlier_of: Vec<Option<String>> = (0..matches.len())
                .map(|index| find_earlier(rules, rule, index, covers))
                .map(|found| found.map(|(rule, index)| format!("{section}[{rule}].match[{index}]")))
                .collect();
            let is_whole_rule = !matches.is_empty() && earlier_of.iter().all(Option::is_some);
            for (index, earlier) in earlier_of.iter().enumerate() {
                let Some(earlier) = earlier else { continue };
                if is_whole_rule && index == 0 {
                    let message = format!("never reached: {earlier} already takes it");
                    self.warn(&path, CODE, message);
                } else if !is_whole_rule {
                    let message = format!("has no effect: {earlier} already takes it");
                    self.warn(&format!("{path}.match[{index}]"), "ineffective", message);
                }
            }
        }
    }
}

/// The first condition before `rules[rule][index]` that covers it.
fn find_earlier<M>(
    rules: &[&[M]],
    rule: usize,
    index: usize,
    covers: fn(&M, &M) -> bool,
) -> Option<(usize, usize)> {
    // A large VirtualService is compared with its nearest rules only, so that
    // validation stays linear.
    const RULES_BACK_MAX: usize = 100;
    let later = rules.get(rule)?.get(index)?;
    let first = rule.saturating_sub(RULES_BACK_MAX);
    let earlier_rules = (first..rule).flat_map(|rule| {
        rules.get(rule).into_iter().flat_map(move |matches| {
            matches
                .iter()
                .enumerate()
                .map(move |(index, earlier)| (rule, index, earlier))
        })
    });
    let same_rule = rules.get(rule)?.iter().enumerate().take(index);
    let same_rule = same_rule.map(|(index, earlier)| (rule, index, earlier));
    earlier_rules
        .chain(same_rule)
        .find(|(_, _, earlier)| covers(earlier, later))
        .map(|(rule, index, _)| (rule, index))
}

fn http_covers(earlier: &HTTPMatchRequest, later: &HTTPMatchRequest) -> bool {
    let same_or_absent = |a: &Option<StringMatch>, b: &Option<StringMatch>| a.is_none() || a == b;
    let uri_covers = match (&earlier.uri, &later.uri) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => earlier.ignore_uri_case == later.ignore_uri_case && text_covers(a, b),
    };
    uri_covers
        && same_or_absent(&earlier.scheme, &later.scheme)
        && same_or_absent(&earlier.method, &later.method)
        && same_or_absent(&earlier.authority, &later.authority)
        && is_part(&earlier.headers, &later.headers)
        && is_part(&earlier.query_params, &later.query_params)
        && is_part(&earlier.without_headers, &later.without_headers)
        && later.source_labels.contains_all(&earlier.source_labels)
        && (earlier.port == 0 || earlier.port == later.port)
        && (earlier.gateways.is_empty() || earlier.gateways == later.gateways)
        && (earlier.source_namespace.is_empty()
            || earlier.source_namespace == later.source_namespace)
}

/// Whether `a` holds for every text for which `b` does.
fn text_covers(a: &StringMatch, b: &StringMatch) -> bool {
    match (a, b) {
        (StringMatch::Prefix(prefix), StringMatch::Exact(text) | StringMatch::Prefix(text)) => {
            text.starts_with(prefix.as_str())
        }
        _ => a == b,
    }
}

fn is_part<V: PartialEq>(part: &BTreeMap<String, V>, whole: &BTreeMap<String, V>) -> bool {
    part.iter()
        .all(|(key, value)| whole.get(key) == Some(value))
}

fn tls_covers(earlier: &TLSMatchAttributes, later: &TLSMatchAttributes) -> bool {
    let lists_cover = |a: &[String], b: &[String]| a.is_empty() || a == b;
    later
        .sni_hosts
        .iter()
        .all(|sni| earlier.sni_hosts.contains(sni))
        && lists_cover(&earlier.destination_subnets, &later.destination_subnets)
        && lists_cover(&earlier.gateways, &later.gateways)
        && later.source_labels.contains_all(&earlier.source_labels)
        && (earlier.port == 0 || earlier.port == later.port)
        && (earlier.source_namespace.is_empty()
            || earlier.source_namespace == later.source_namespace)
}

fn tcp_covers(earlier: &L4MatchAttributes, later: &L4MatchAttributes) -> bool {
    let lists_cover = |a: &[String], b: &[String]| a.is_empty() || a == b;
    lists_cover(&earlier.destination_subnets, &later.destination_subnets)
        && lists_cover(&earlier.gateways, &later.gateways)
        && later.source_labels.contains_all(&earlier.source_labels)
        && (earlier.port == 0 || earlier.port == later.port)
        && (earlier.source_namespace.is_empty()
            || earlier.source_namespace == later.source_namespace)
}
