//! A node that is made up, for the tests of admin and of the CLI.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::node::PodState;
use super::view::{ConnectionView, MapView, NodeView};
use super::{Node, ServerAddresses, Servers};
use crate::finding::{Finding, ObjectRef, Origin, Severity};
use crate::net::{PodUid, ScopeId};
use crate::settings::AdminAddress;
use crate::snapshot::clusters::{Discovery, UpstreamProtocol};
use crate::snapshot::endpoints::{EndpointCell, Health};
use crate::snapshot::listeners::{DegradedForm, PathPlan, Protocol, TrafficPath};
use crate::snapshot::policy::ClusterPolicy;
use crate::snapshot::routes::{L4Destination, TcpRoute};
use crate::snapshot::{
    Capture, Cluster, ClusterRef, Destination, Endpoint, EndpointSet, OnProxyDown, PodView,
    ScopeView, Snapshot, Workload,
};

/// A node with one pod, and a reason why it is not ready.
pub(crate) struct MadeUp {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) not_ready: Option<String>,
}

impl Node for MadeUp {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    fn findings(&self) -> Vec<Finding> {
        let origin = Origin {
            file: "a.yaml".into(),
            line: 3,
        };
        vec![
            Finding::new(Severity::Warning, "later", "odd"),
            Finding::new(Severity::Error, "code", "wrong")
                .with_origin(origin)
                .with_object(ObjectRef::new("VirtualService", "shop", "v")),
        ]
    }

    fn state(&self) -> NodeView {
        NodeView {
            node: "n1".to_owned(),
            ..NodeView::default()
        }
    }

    fn pods(&self) -> HashMap<PodUid, PodState> {
        HashMap::new()
    }

    fn connections(&self) -> Vec<ConnectionView> {
        Vec::new()
    }

    fn maps(&self) -> Vec<MapView> {
        vec![MapView {
            name: "PODS".to_owned(),
            entries: Some(1),
            capacity: 1024,
        }]
    }

    fn settings(&self) -> Value {
        json!({ "node": "n1" })
    }

    fn readiness(&self) -> Result<(), String> {
        match &self.not_ready {
            None => Ok(()),
            Some(reason) => Err(reason.clone()),
        }
    }
}

/// One pod in one scope that sees one TCP service, 80/20 over a cluster and a missing one.
pub(crate) fn snapshot() -> Snapshot {
    let workload = Arc::new(Workload {
        name: "web-1".into(),
        namespace: "shop".into(),
        ..Workload::default()
    });
    let endpoint = |address: &str, health| Endpoint {
        address: address.parse().expect("a literal address"),
        weight: 1,
        health,
        priority: 0,
        workload: Arc::clone(&workload),
    };
    let endpoints = vec![
        endpoint("10.0.0.1:9000", Health::Healthy),
        endpoint("10.0.0.2:9000", Health::Unhealthy),
    ];
    let cluster = Arc::new(Cluster {
        name: "outbound|9000|v1|echo.shop.svc.cluster.local".into(),
        variant: "shop/echo".into(),
        host: "echo.shop.svc.cluster.local".into(),
        service_namespace: "shop".into(),
        service_name: "echo".into(),
        port: 9000,
        subset: "v1".into(),
        protocol: UpstreamProtocol::Tcp,
        discovery: Discovery::Endpoints,
        policy: ClusterPolicy::default(),
        endpoints: Arc::new(EndpointCell::new(EndpointSet { endpoints })),
        dns: None,
        provenance: None,
    });
    let entry = |weight, cluster| L4Destination { weight, cluster };
    let destination = Destination {
        service: Some("echo.shop.svc.cluster.local".into()),
        port: 9000,
        protocol: Protocol::Tcp,
        http: None,
        tls: Vec::new(),
        tcp: vec![TcpRoute {
            destination_subnets: Vec::new(),
            destinations: vec![
                entry(80, ClusterRef::Known(Arc::clone(&cluster))),
                entry(20, ClusterRef::Missing("outbound|9000|v2|echo".into())),
            ],
            total_weight: 100,
            provenance: None,
        }],
        plan: PathPlan {
            path: TrafficPath::Kernel,
            reason: "weights only".into(),
            degraded: DegradedForm::L4,
            degraded_reason: "the same".into(),
        },
        provenance: None,
    };
    let address = "10.96.0.1".parse().expect("a literal address");
    let base = ScopeView {
        key: "base".into(),
        exact: HashMap::from([((address, 9000), Some(Arc::new(destination)))]),
        ..ScopeView::default()
    };
    let scope = ScopeView {
        key: "shop".into(),
        base: Some(Arc::new(base)),
        ..ScopeView::default()
    };
    let uid = PodUid("u-1".into());
    let pod = PodView {
        uid: uid.clone(),
        workload,
        scope: ScopeId(0),
        ips: Vec::new(),
        is_host_network: false,
        capture: Capture::Captured,
        on_proxy_down: OnProxyDown::Degrade,
        exclusions: Default::default(),
        config_hash: None,
    };
    Snapshot {
        pods: HashMap::from([(uid, Arc::new(pod))]),
        scopes: vec![Arc::new(scope)],
        clusters: vec![cluster],
        ..Snapshot::default()
    }
}

/// Serves it on this socket and on free ports.
pub(crate) fn spawn(socket: &Path, not_ready: Option<&str>) -> Servers {
    let port_zero = "127.0.0.1:0".parse().ok();
    let addresses = ServerAddresses {
        admin: Some(AdminAddress::Unix(socket.to_owned())),
        metrics: port_zero,
        health: port_zero,
    };
    let node = MadeUp {
        snapshot: Arc::new(snapshot()),
        not_ready: not_ready.map(ToOwned::to_owned),
    };
    Servers::spawn(&addresses, Arc::new(node), Arc::default()).expect("free ports and a directory")
}
