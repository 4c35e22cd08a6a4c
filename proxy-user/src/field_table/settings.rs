//! Settings that compile reads: each alone changes the snapshot.

use std::path::Path;
use std::sync::Arc;

use crate::compile::compile;
use crate::settings::{CompileSettings, OnProxyDown};
use crate::snapshot::dump::dump;
use crate::source::state::{DirectoryState, FileText, Files};

use super::case;

/// A pod in the mesh that a policy concerns, and one in the host's network.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: { name: labelled, namespace: shop, uid: u-l, labels: { mizzen.io/mesh: enabled, app: l } }
spec: { nodeName: node-1 }
status: { podIPs: [{ ip: 10.1.1.8 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: host, namespace: shop, uid: u-h, labels: { mizzen.io/mesh: enabled } }
spec: { nodeName: node-1, hostNetwork: true }
status: { podIPs: [{ ip: 10.1.1.9 }] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: p, namespace: shop }
spec: { selector: { matchLabels: { app: l } } }
";

#[test]
fn each_setting_that_compile_reads_changes_the_snapshot_alone() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/base/shop.yaml");
    let base = std::fs::read_to_string(base).expect("the base mesh is there");
    let files = Files::from([
        (Arc::from("base.yaml"), FileText::from(base.as_str())),
        (Arc::from("pods.yaml"), FileText::from(PODS)),
    ]);
    let objects = DirectoryState::new().apply(&files).objects;
    let shown = |settings: &CompileSettings| dump(&compile(&objects, settings).snapshot);
    let labelled = CompileSettings {
        is_capture_labelled: true,
        ..case::settings()
    };
    for (what, before, after) in [
        (
            "node",
            case::settings(),
            CompileSettings {
                node: "node-2".to_owned(),
                ..case::settings()
            },
        ),
        ("capture", case::settings(), labelled.clone()),
        (
            "onProxyDown",
            case::settings(),
            CompileSettings {
                on_proxy_down: OnProxyDown::Deny,
                ..case::settings()
            },
        ),
        (
            "captureHostNetwork",
            case::settings(),
            CompileSettings {
                capture_host_network: true,
                ..case::settings()
            },
        ),
        (
            "acceptUnenforcedPolicies",
            labelled.clone(),
            CompileSettings {
                accept_unenforced_policies: true,
                ..labelled
            },
        ),
    ] {
        assert_ne!(shown(&before), shown(&after), "{what}");
    }
}
