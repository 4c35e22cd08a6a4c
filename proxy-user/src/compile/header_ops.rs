//! Header operations of routes and destinations.
//!
//! Within one level: removes, then sets, then adds, each by name. Source: Istio
//! pilot/pkg/networking/core/route/route.go (`TranslateHeadersOperations`).

use std::collections::BTreeMap;

use http::HeaderName;

use crate::api::HeaderOperations;
use crate::snapshot::policy::{HeaderOps, HeaderTemplate};

use super::rule::{Place, Problems};
use super::template::parse_template;

/// Compiled operations on the request of one level, and the authority that they set.
#[derive(Debug, Default)]
pub(crate) struct RequestOps {
    /// Without anything about the authority.
    pub(crate) ops: HeaderOps,
    /// `set` of `:authority` or `host`, else `add` of it. Taken literally.
    pub(crate) authority: Option<String>,
}

/// Compiles the request operations written at `place`.
pub(crate) fn compile_request_ops(
    operations: Option<&HeaderOperations>,
    place: &Place,
    problems: &mut Problems,
) -> RequestOps {
    let Some(operations) = operations else {
        return RequestOps::default();
    };
    RequestOps {
        ops: compile_ops(operations, place, problems),
        authority: find_authority(&operations.set).or_else(|| find_authority(&operations.add)),
    }
}

/// Compiles the response operations written at `place`.
pub(crate) fn compile_response_ops(
    operations: Option<&HeaderOperations>,
    place: &Place,
    problems: &mut Problems,
) -> HeaderOps {
    operations.map_or_else(HeaderOps::default, |operations| {
        compile_ops(operations, place, problems)
    })
}

fn find_authority(entries: &BTreeMap<String, String>) -> Option<String> {
    entries
        .iter()
        .find(|(name, _)| is_authority(name))
        .map(|(_, value)| value.clone())
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

fn compile_ops(operations: &HeaderOperations, place: &Place, problems: &mut Problems) -> HeaderOps {
    let mut remove: Vec<HeaderName> = operations
        .remove
        .iter()
        .filter_map(|name| compile_name(name, &place.field("remove"), problems))
        .collect();
    remove.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    HeaderOps {
        remove,
        set: compile_entries(&operations.set, &place.field("set"), problems),
        add: compile_entries(&operations.add, &place.field("add"), problems),
    }
}

fn compile_entries(
    entries: &BTreeMap<String, String>,
    place: &Place,
    problems: &mut Problems,
) -> Vec<(HeaderName, HeaderTemplate)> {
    let mut compiled = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        let place = place.field(name);
        let Some(name) = compile_name(name, &place, problems) else {
            continue;
        };
        match parse_template(value) {
            Ok(template) => compiled.push((name, template)),
            Err(bad) => problems.error(
                "header-value",
                &place,
                format!("{bad}; the rule acts without this header"),
            ),
        }
    }
    sort(&mut compiled);
    compiled
}

/// `None` for pseudo headers and `host`, which Istio leaves out, and for what is no name.
fn compile_name(name: &str, place: &Place, problems: &mut Problems) -> Option<HeaderName> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return None;
    }
    let compiled = HeaderName::from_bytes(name.as_bytes());
    if compiled.is_err() {
        problems.error(
            "header-name",
            place,
            format!("{name:?} is no header name; the rule acts without this header"),
        );
    }
    compiled.ok()
}

/// By name; equal names keep their order, so that the later of two sets wins.
fn sort(entries: &mut [(HeaderName, HeaderTemplate)]) {
    entries.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
}

/// The union of a route's operations and those of its only destination: one level, in which
/// the destination's entries stand behind the route's.
pub(crate) fn append(route: &mut HeaderOps, destination: HeaderOps) {
    route.remove.extend(destination.remove);
    route.remove.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    route.remove.dedup();
    route.set.extend(destination.set);
    sort(&mut route.set);
    route.add.extend(destination.add);
    sort(&mut route.add);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::template::literal;

    fn operations(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderOperations {
        let map = |entries: &[(&str, &str)]| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            entries.iter().map(owned).collect()
        };
        HeaderOperations {
            set: map(set),
            add: map(add),
            remove: remove.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn name(text: &'static str) -> HeaderName {
        HeaderName::from_static(text)
    }

    #[test]
    fn a094_a096_authority_is_apart_and_pseudo_headers_are_left_out() {
        let mut problems = Problems::default();
        let place = Place::for_test("http[0].headers.request");
        let written = operations(
            &[("X", "1"), (":path", "/no"), ("Host", "h")],
            &[("x", "2"), (":authority", "other")],
            &["b", "a", "host"],
        );
        let found = compile_request_ops(Some(&written), &place, &mut problems);
        assert_eq!(found.authority.as_deref(), Some("h")); // set before add
        assert_eq!(found.ops.remove, [name("a"), name("b")]);
        assert_eq!(found.ops.set, [(name("x"), literal("1"))]);
        assert_eq!(found.ops.add, [(name("x"), literal("2"))]);
        assert!(problems.is_empty());
    }

    #[test]
    fn a098_a_single_destinations_set_stands_behind_the_routes() {
        let mut problems = Problems::default();
        let place = Place::for_test("http[0].headers.request");
        let compile = |value, problems: &mut Problems| {
            let written = operations(&[("x", value)], &[], &["y"]);
            compile_request_ops(Some(&written), &place, problems).ops
        };
        let mut route = compile("r", &mut problems);
        append(&mut route, compile("d", &mut problems));
        assert_eq!(
            route.set,
            [(name("x"), literal("r")), (name("x"), literal("d"))]
        );
        assert_eq!(route.remove, [name("y")]);
    }

    #[test]
    fn an_unknown_command_drops_that_header_and_is_reported() {
        let mut problems = Problems::default();
        let place = Place::for_test("http[0].headers.request");
        let written = operations(&[("x", "%NOPE%"), ("y", "1")], &[], &[]);
        let found = compile_request_ops(Some(&written), &place, &mut problems);
        assert_eq!(found.ops.set, [(name("y"), literal("1"))]);
        let findings = problems.into_findings();
        assert_eq!(findings.len(), 1);
        assert_eq!(
            findings[0].field.as_deref(),
            Some("http[0].headers.request.set.x")
        );
    }
}
