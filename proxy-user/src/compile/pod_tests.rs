use serde_json::{Value, json};

use super::*;
use crate::api::{AuthorizationPolicy, Namespace, PeerAuthentication, Pod, Sidecar};
use crate::compile::testing::{add, lines, settings};
use crate::compile::{compile, security};

/// The state of the only pod: `captured` or the reason why not.
fn state(set: &ObjectSet, settings: &CompileSettings) -> String {
    let compiled = compile(set, settings);
    let mut views = compiled.snapshot.pods.into_values();
    match views.next() {
        Some(view) => match &view.capture {
            Capture::Captured => "captured".to_owned(),
            Capture::Untouched(reason) => reason.to_string(),
        },
        None => "no view".to_owned(),
    }
}

fn pod(extra: &Value) -> Value {
    let mut pod = json!({
        "metadata": { "uid": "u1", "labels": {}, "annotations": {} },
        "status": { "podIPs": [{ "ip": "10.1.0.1" }] },
    });
    for (name, value) in extra.as_object().expect("fields") {
        match (value.as_object(), pod.get_mut(name)) {
            (Some(fields), Some(known)) => {
                for (name, value) in fields {
                    known[name] = value.clone();
                }
            }
            _ => pod[name] = value.clone(),
        }
    }
    pod
}

#[test]
fn pods_of_the_mesh_are_captured_and_others_say_why_not() {
    let opt_in = json!({ "mizzen.io/mesh": "enabled" });
    let opt_out = json!({ "mizzen.io/mesh": "disabled" });
    for (namespace, extra, in_directory, labelled) in [
        (
            json!({}),
            json!({}),
            "captured",
            "neither it nor its namespace is labelled into the mesh",
        ),
        (
            json!({ "istio-injection": "enabled" }),
            json!({}),
            "captured",
            "captured",
        ),
        (
            json!({ "istio.io/rev": "stable" }),
            json!({}),
            "captured",
            "captured",
        ),
        (opt_in.clone(), json!({}), "captured", "captured"),
        (
            json!({}),
            json!({ "metadata": { "labels": opt_in } }),
            "captured",
            "captured",
        ),
        (
            opt_out.clone(),
            json!({}),
            "its labels opt out of the mesh",
            "its labels opt out of the mesh",
        ),
        // The pod's own word wins.
        (
            opt_out.clone(),
            json!({ "metadata": { "labels": opt_in } }),
            "captured",
            "captured",
        ),
        (
            opt_in.clone(),
            json!({ "metadata": { "labels": opt_out } }),
            "its labels opt out of the mesh",
            "its labels opt out of the mesh",
        ),
        (
            opt_in.clone(),
            json!({ "metadata": { "annotations": { "sidecar.istio.io/status": "{}" } } }),
            "it has a sidecar",
            "it has a sidecar",
        ),
        (
            opt_in.clone(),
            json!({ "metadata": { "labels": { "istio.io/dataplane-mode": "ambient" } } }),
            "it is in ambient mode",
            "it is in ambient mode",
        ),
        (
            opt_in.clone(),
            json!({ "metadata": { "annotations": { "ambient.istio.io/redirection": "enabled" } } }),
            "it is in ambient mode",
            "it is in ambient mode",
        ),
        (
            opt_in.clone(),
            json!({ "hostNetwork": true }),
            "it uses the host's network; captureHostNetwork is off",
            "it uses the host's network; captureHostNetwork is off",
        ),
        (
            opt_in.clone(),
            json!({ "status": { "phase": "Failed" } }),
            "its phase is Failed",
            "its phase is Failed",
        ),
        (
            opt_in.clone(),
            json!({ "status": { "podIPs": [] } }),
            "status.podIPs is missing",
            "status.podIPs is missing",
        ),
        (
            opt_in.clone(),
            json!({ "nodeName": "n2" }),
            "no view",
            "no view",
        ),
    ] {
        let mut set = ObjectSet::default();
        let text = format!("{namespace} {extra}");
        add::<Namespace>(
            &mut set,
            "/ns1",
            json!({ "metadata": { "labels": namespace } }),
        );
        add::<Pod>(&mut set, "ns1/p", pod(&extra));
        assert_eq!(state(&set, &settings()), in_directory, "directory: {text}");
        let on_kubernetes = CompileSettings {
            is_capture_labelled: true,
            ..settings()
        };
        assert_eq!(state(&set, &on_kubernetes), labelled, "labelled: {text}");
    }
}

#[test]
fn a_host_network_pod_is_captured_only_where_the_setting_asks_for_it() {
    for (asked, expected) in [
        (
            false,
            "it uses the host's network; captureHostNetwork is off",
        ),
        (true, "captured"),
    ] {
        let mut set = ObjectSet::default();
        add::<Pod>(&mut set, "ns1/p", pod(&json!({ "hostNetwork": true })));
        let settings = CompileSettings {
            capture_host_network: asked,
            ..settings()
        };
        assert_eq!(state(&set, &settings), expected);
    }
}

#[test]
fn what_a_pod_needs_to_be_found_is_a_finding_when_it_is_missing() {
    for (extra, expected) in [
        (
            json!({ "metadata": { "uid": "" } }),
            "Pod/ns1/p: error: metadata.uid: is not captured: metadata.uid is needed to find its cgroup",
        ),
        (
            json!({ "status": { "podIPs": [] } }),
            "Pod/ns1/p: error: status.podIPs: is not captured: status.podIPs is needed to know its \
          network namespace",
        ),
    ] {
        let mut set = ObjectSet::default();
        add::<Pod>(&mut set, "ns1/p", pod(&extra));
        assert_eq!(lines(&compile(&set, &settings()).findings), [expected]);
    }
    let mut set = ObjectSet::default();
    add::<Pod>(&mut set, "ns1/p", pod(&json!({})));
    add::<Pod>(&mut set, "ns1/q", pod(&json!({})));
    let twice =
        "Pod/ns1/q: error: metadata.uid: is not captured: Pod ns1/p has the same metadata.uid";
    assert_eq!(lines(&compile(&set, &settings()).findings), [twice]);
}

#[test]
fn annotations_exclude_ports_and_ranges() {
    let net = |text: &str| text.parse::<IpNet>().expect("a network");
    for (annotations, expected, findings) in [
        (json!({}), Exclusions::default(), 0),
        (
            json!({ EXCLUDE_PORTS: "80, 443", EXCLUDE_RANGES: "10.0.0.0/8,fd00::/8,10.9.9.9" }),
            Exclusions {
                exclude_ports: vec![80, 443],
                exclude_ranges: vec![net("10.0.0.0/8"), net("fd00::/8"), net("10.9.9.9/32")],
                ..Exclusions::default()
            },
            0,
        ),
        (
            json!({ INCLUDE_RANGES: "*", INCLUDE_PORTS: "8080" }),
            Exclusions {
                include_ports: vec![8080],
                ..Exclusions::default()
            },
            0,
        ),
        (
            json!({ INCLUDE_RANGES: "" }),
            Exclusions {
                include_ranges: Some(vec![]),
                ..Exclusions::default()
            },
            0,
        ),
        (
            json!({ INCLUDE_RANGES: "10.1.2.3/8" }),
            Exclusions {
                include_ranges: Some(vec![net("10.0.0.0/8")]),
                ..Exclusions::default()
            },
            0,
        ),
        (
            json!({ EXCLUDE_PORTS: "http", EXCLUDE_RANGES: "x" }),
            Exclusions::default(),
            2,
        ),
    ] {
        let mut set = ObjectSet::default();
        let text = annotations.to_string();
        add::<Pod>(
            &mut set,
            "ns1/p",
            pod(&json!({ "metadata": { "annotations": annotations } })),
        );
        let compiled = compile(&set, &settings());
        let view = compiled.snapshot.pods.values().next().expect("one pod");
        assert_eq!(view.exclusions, expected, "{text}");
        assert_eq!(compiled.findings.len(), findings, "{text}");
    }
}

#[test]
fn a_pod_may_say_what_happens_when_the_proxy_is_gone() {
    for (text, expected, findings) in [
        ("degrade", OnProxyDown::Degrade, 0),
        ("pass", OnProxyDown::Pass, 0),
        ("deny", OnProxyDown::Deny, 0),
        ("panic", OnProxyDown::Degrade, 1),
    ] {
        let mut set = ObjectSet::default();
        let annotations = json!({ ON_PROXY_DOWN: text });
        add::<Pod>(
            &mut set,
            "ns1/p",
            pod(&json!({ "metadata": { "annotations": annotations } })),
        );
        let compiled = compile(&set, &settings());
        let view = compiled.snapshot.pods.values().next().expect("one pod");
        assert_eq!(view.on_proxy_down, expected, "{text}");
        assert_eq!(compiled.findings.len(), findings, "{text}");
    }
}

#[test]
fn policies_that_nobody_enforces_are_named_with_their_pods_and_keep_these_uncaptured() {
    let mut set = ObjectSet::default();
    add::<Namespace>(
        &mut set,
        "/ns1",
        json!({ "metadata": { "labels": { "istio-injection": "enabled" } } }),
    );
    add::<Pod>(
        &mut set,
        "ns1/p",
        pod(&json!({ "metadata": { "labels": { "app": "a" } } })),
    );
    let selector = json!({ "selector": { "matchLabels": { "app": "a" } } });
    let other = json!({ "selector": { "matchLabels": { "app": "b" } } });
    let strict = json!({ "mtls": { "mode": "STRICT" } });
    add::<AuthorizationPolicy>(&mut set, "ns1/mine", selector);
    add::<AuthorizationPolicy>(&mut set, "ns1/other", other);
    add::<PeerAuthentication>(&mut set, "istio-system/mesh", strict);
    add::<PeerAuthentication>(
        &mut set,
        "ns1/soft",
        json!({ "mtls": { "mode": "PERMISSIVE" } }),
    );
    let ingress = json!([{ "port": { "number": 80 } }]);
    add::<Sidecar>(&mut set, "ns1/s", json!({ "ingress": ingress }));
    let mut findings = Vec::new();
    let unenforced = security::find_unenforced(&set, &settings(), &mut findings);
    let expected = [
        "AuthorizationPolicy/ns1/mine: error: authorization is not enforced; concerned: ns1/p",
        "AuthorizationPolicy/ns1/other: error: authorization is not enforced; no pod of this node \
         is concerned",
        "PeerAuthentication/istio-system/mesh: error: STRICT mutual TLS is not enforced: plain \
         connections are accepted; concerned: ns1/p",
        "Sidecar/ns1/s: error: ingress: inbound traffic is not handled yet: this field has no \
         effect; concerned: ns1/p",
    ];
    assert_eq!(lines(&findings), expected);
    assert_eq!(unenforced.len(), 1);
    let labelled = CompileSettings {
        is_capture_labelled: true,
        ..settings()
    };
    let accepting = CompileSettings {
        accept_unenforced_policies: true,
        ..labelled.clone()
    };
    let reason =
        "AuthorizationPolicy/ns1/mine would not be enforced; acceptUnenforcedPolicies is off";
    assert_eq!(state(&set, &labelled), reason);
    assert_eq!(state(&set, &accepting), "captured");
    assert_eq!(state(&set, &settings()), "captured"); // a directory lists pods on purpose
}
