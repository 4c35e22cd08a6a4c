//! Order and conditions of http rules, destinations and delegates.

use super::mesh::{Mesh, common, pod, virtual_service};

fn rules(spec: &str) -> String {
    virtual_service("ns1", "v", &format!("  hosts: [a]\n{spec}"))
}

fn ask(objects: &str, url: &str, headers: &[(&str, &str)]) -> String {
    Mesh::new(&(common() + objects)).ask("ns1/client", url, headers)
}

#[test]
fn a044_to_a046_a055_a074_order_of_rules() {
    let only_x =
        rules("  http: [{match: [{uri: {prefix: /x}}], route: [{destination: {host: b}}]}]");
    let only_labelled =
        rules("  http: [{match: [{sourceLabels: {app: z}}], route: [{destination: {host: b}}]}]");
    let labelled_and_x = rules(
        "  http:
  - {match: [{sourceLabels: {app: z}}], route: [{destination: {host: multi}}]}
  - {match: [{uri: {prefix: /x}}], route: [{destination: {host: b}}]}",
    );
    let two = rules(
        "  http:
  - {match: [{uri: {prefix: /a}}], route: [{destination: {host: b}}]}
  - {match: [{uri: {exact: /a/b}}], route: [{destination: {host: multi}}]}",
    );
    let shadowed = rules(
        "  http:
  - {route: [{destination: {host: b}}]}
  - {match: [{uri: {exact: /a}}], route: [{destination: {host: multi}}]}",
    );
    let alternatives = rules(
        "  http:
  - match: [{uri: {prefix: /q}}, {headers: {x: {exact: \"1\"}}}]
    route: [{destination: {host: b}}]",
    );
    for (objects, path, headers, expected, why) in [
        (&only_x, "/x1", &[][..], "80||b.ns1", "prefix"),
        (&only_x, "/y", &[], "404", "A044"),
        (
            &only_labelled,
            "/",
            &[],
            "80||a.ns1",
            "A045: the service keeps its own route",
        ),
        (&labelled_and_x, "/y", &[], "404", "A046"),
        (&two, "/a/b", &[], "80||b.ns1", "A055: order, not length"),
        (&shadowed, "/a", &[], "80||b.ns1", "A074"),
        (&alternatives, "/q", &[], "80||b.ns1", "A060"),
        (&alternatives, "/", &[("x", "1")], "80||b.ns1", "A060"),
        (&alternatives, "/", &[("x", "2")], "404", "A060"),
    ] {
        let found = ask(objects, &format!("http://a{path}"), headers);
        assert_eq!(found, expected, "{why}");
    }
}

#[test]
fn explain_says_why_the_earlier_rules_did_not_act() {
    let objects = rules(
        "  http:
  - {name: first, match: [{uri: {prefix: /x}}, {headers: {end-user: {exact: jason}}}], route: [{destination: {host: multi}}]}
  - {name: second, route: [{destination: {host: b, subset: v1}, weight: 90}, {destination: {host: b, subset: v2}, weight: 10}]}",
    );
    let mesh = Mesh::new(&(common() + &objects));
    let found = mesh.explain("ns1/client", "http://a/y", &[("end-user", "anna")]);
    assert_eq!(found.passed_over.len(), 1);
    assert_eq!(found.passed_over[0].rule.name, "first");
    assert_eq!(found.passed_over[0].mismatches, ["uri", "header end-user"]);
    let rule = found.rule.clone().expect("the second rule acts");
    assert_eq!(
        (rule.name.as_str(), rule.field.as_str()),
        ("second", "spec.http[1]")
    );
    assert!(rule.origin.starts_with("mesh.yaml:"), "{}", rule.origin);
    let text = found.to_string();
    assert!(text.contains(" 90 %        outbound|80|v1|b.ns1"), "{text}");
    assert!(text.contains("10.1.1.2:80 b-v1"), "{text}");
}

#[test]
fn a050_a051_a075_to_a080_destinations() {
    let route = |destinations: &str| rules(&format!("  http: [{{route: [{destinations}]}}]"));
    for (objects, expected, why) in [
        (
            route("{destination: {host: b, subset: nope}}"),
            "80|nope|b.ns1 NC",
            "A050",
        ),
        (
            route("{destination: {host: b, subset: v3}}"),
            "80|v3|b.ns1 UH",
            "A051",
        ),
        (
            route("{destination: {host: b}, weight: 0}"),
            "80||b.ns1",
            "A075",
        ),
        (
            route("{destination: {host: b}, weight: 0}, {destination: {host: multi}, weight: 100}"),
            "80||multi.ns1",
            "A076",
        ),
        (
            route(
                "{destination: {host: b, subset: v1}, weight: 1}, {destination: {host: b, subset: v2}, weight: 3}",
            ),
            "80|v1|b.ns1*1 80|v2|b.ns1*3",
            "A077",
        ),
        (
            route("{destination: {host: auto}}"),
            "80||auto.ns1 NC",
            "A078: the only port is not inferred",
        ),
        (
            route("{destination: {host: auto, port: {number: 7000}}}"),
            "7000||auto.ns1",
            "A079",
        ),
        (
            route("{destination: {host: nobody}}"),
            "80||nobody.ns1 NC",
            "V-48",
        ),
        (route("{destination: {host: b}}"), "80||b.ns1", "A080"),
    ] {
        assert_eq!(ask(&objects, "http://a/", &[]), expected, "{why}");
    }
}

#[test]
fn a069_a070_a072_conditions_on_the_client() {
    let first = |condition: &str| {
        rules(&format!(
            "  http:
  - {{match: [{{{condition}}}], route: [{{destination: {{host: b}}}}]}}
  - {{route: [{{destination: {{host: multi}}}}]}}"
        ))
    };
    for (condition, expected, why) in [
        ("port: 80", "80||b.ns1", "the port"),
        ("port: 8080", "80||multi.ns1", "A069"),
        ("sourceLabels: {app: a}", "80||b.ns1", "its label"),
        ("sourceLabels: {app: z}", "80||multi.ns1", "not its label"),
        (
            "gateways: [mesh], sourceLabels: {app: z}",
            "80||b.ns1",
            "A070",
        ),
        ("gateways: [gw]", "80||multi.ns1", "another gateway"),
        ("sourceNamespace: ns2", "80||multi.ns1", "A072"),
    ] {
        assert_eq!(ask(&first(condition), "http://a/", &[]), expected, "{why}");
    }
}

#[test]
fn answers_without_an_upstream() {
    for (action, expected) in [
        ("redirect: {uri: /n, redirectCode: 308}", "308"), // A108
        ("directResponse: {status: 503, body: {string: x}}", "503"), // A110
    ] {
        let objects = rules(&format!("  http: [{{{action}}}]"));
        assert_eq!(ask(&objects, "http://a/", &[]), expected, "{action}");
    }
}

#[test]
fn a147_to_a150_delegates() {
    let root = |matches: &str, rest: &str| {
        rules(&format!(
            "  http:
  - {{match: [{matches}], delegate: {{name: d}}{rest}}}
  - {{match: [{{uri: {{prefix: /other}}}}], route: [{{destination: {{host: a}}}}]}}"
        ))
    };
    let delegate = |spec: &str| virtual_service("ns1", "d", spec);
    let two = delegate(
        "  http:
  - {match: [{uri: {prefix: /a/x}}], route: [{destination: {host: b}}]}
  - {match: [{uri: {prefix: /b}}], route: [{destination: {host: multi}}]}",
    );
    let prefix_a = root("{uri: {prefix: /a}}", "");
    let hidden = delegate(
        "  exportTo: [ns2]
  http: [{route: [{destination: {host: b}}]}]",
    );
    let regex = root("{headers: {x: {regex: \"a.*\"}}}", "");
    let exact = delegate(
        "  http: [{match: [{headers: {x: {exact: a}}}], route: [{destination: {host: b}}]}]",
    );
    for (objects, path, headers, expected, why) in [
        (
            prefix_a.clone() + &two,
            "/a/x/1",
            &[][..],
            "80||b.ns1",
            "A147",
        ),
        (
            prefix_a.clone() + &two,
            "/b",
            &[],
            "404",
            "A147: excluded by the root",
        ),
        (prefix_a.clone() + &hidden, "/a", &[], "404", "A148"),
        (
            prefix_a + &hidden,
            "/other",
            &[],
            "80||a.ns1",
            "A148: other rules stay",
        ),
        (regex + &exact, "/", &[("x", "a")], "404", "A150"),
    ] {
        let found = ask(&objects, &format!("http://a{path}"), headers);
        assert_eq!(found, expected, "{why}");
    }
    for (delegates_timeout, expected) in [(", timeout: 1s", "timeout 1s"), ("", "timeout 5s")] {
        let root = root("{uri: {prefix: /a}}", ", timeout: 5s");
        let spec =
            format!("  http: [{{route: [{{destination: {{host: b}}}}]{delegates_timeout}}}]");
        let mesh = Mesh::new(&(common() + &root + &delegate(&spec)));
        let found = mesh.explain("ns1/client", "http://a/a", &[]).to_string();
        assert!(found.contains(expected), "A149 {expected}: {found}");
    }
}

#[test]
fn destinations_that_lead_nowhere_are_reported_with_their_place() {
    let objects = rules(
        "  http:
  - route:
    - {destination: {host: nobody}, weight: 1}
    - {destination: {host: b, subset: nope}, weight: 1}
    - {destination: {host: a, subset: v1}, weight: 1}
    - {destination: {host: b, port: {number: 81}}, weight: 1}
    - {destination: {host: multi}, weight: 1}
    - {destination: {host: b.ns1}, weight: 1}",
    );
    let mesh = Mesh::new(&(common() + &objects));
    let found: Vec<String> = mesh
        .findings
        .iter()
        .filter(|finding| {
            finding
                .object
                .as_ref()
                .is_some_and(|object| object.kind == "VirtualService")
        })
        .map(|finding| {
            let field = finding.field.as_deref().unwrap_or_default();
            format!("{} {field} {}", finding.severity, finding.code)
        })
        .collect();
    let expected = [
        "warning http[0].route[0].destination.host unknown-host",
        "error http[0].route[1].destination.subset unknown-subset",
        "warning http[0].route[2].destination.subset unknown-subset", // no rule was given at all
        "error http[0].route[3].destination.port unknown-port",
        "error http[0].route[4].destination port-required",
        "warning http[0].route[5].destination.host unknown-host",
    ];
    assert_eq!(found, expected, "{:#?}", mesh.findings);
}

#[test]
fn pods_with_other_labels_have_other_routes() {
    let objects = rules(
        "  http:
  - {match: [{sourceLabels: {app: z}}], route: [{destination: {host: b}}]}
  - {route: [{destination: {host: multi}}]}",
    );
    let mesh = Mesh::new(&(common() + &pod("ns1", "zed", "10.9.0.7", "app: z") + &objects));
    assert_eq!(mesh.ask("ns1/client", "http://a/", &[]), "80||multi.ns1");
    assert_eq!(mesh.ask("ns1/zed", "http://a/", &[]), "80||b.ns1");
}
