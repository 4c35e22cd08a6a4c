//! A mesh from a few lines, and questions to it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use proxy_user::compile::compile;
use proxy_user::compile::explain::{ExplainRequest, Explanation, Outcome, explain};
use proxy_user::finding::{Finding, Severity};
use proxy_user::net::PodUid;
use proxy_user::settings::{
    CompileSettings, MeshConfig, MeshSettings, NamespaceBudget, OnProxyDown,
};
use proxy_user::snapshot::Snapshot;
use proxy_user::source::state::{DirectoryState, FileText};

/// A compiled configuration.
pub(crate) struct Mesh {
    pub(crate) snapshot: Snapshot,
    pub(crate) findings: Vec<Finding>,
}

/// Services that most tables use, and a client pod in `ns1` and in `ns2`: `a`, `b` (HTTP 80;
/// `b` with subsets in the DestinationRule, none selects v3), `multi` (80 and 8080), `auto`
/// (undeclared 7000), `tcp` (9000), `tls` (443), `other` in ns2 (80), `empty` without endpoints.
pub(crate) fn common() -> String {
    let mut text = String::new();
    for namespace in ["ns1", "ns2"] {
        text += &pod(namespace, "client", "10.9.0.1", "app: a");
    }
    for (index, (namespace, name, ports)) in [
        ("ns1", "a", "http:80"),
        ("ns1", "b", "http:80"),
        ("ns1", "multi", "http:80,http-alt:8080"),
        ("ns1", "auto", "web:7000"),
        ("ns1", "tcp", "tcp:9000"),
        ("ns1", "tls", "tls:443"),
        ("ns2", "other", "http:80"),
    ]
    .into_iter()
    .enumerate()
    {
        text += &service(namespace, name, &format!("10.0.0.{}", index + 1), ports);
    }
    text += &service_without_endpoints("ns1", "empty", "10.0.0.50", "http:80");
    text += "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: b, namespace: ns1}
spec:
  host: b
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: v3, labels: {version: v3}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: tcp, namespace: ns1}
spec:
  host: tcp
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
";
    text
}

/// A client pod of this node.
pub(crate) fn pod(namespace: &str, name: &str, ip: &str, labels: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, uid: {namespace}-{name}, labels: {{{labels}}}}}
status: {{podIP: {ip}, podIPs: [{{ip: {ip}}}]}}
---
"
    )
}

/// `ports`: `name:number`, comma separated. `ip`: clusterIP, or `None` for headless.
pub(crate) fn service_without_endpoints(
    namespace: &str,
    name: &str,
    ip: &str,
    ports: &str,
) -> String {
    let ports: Vec<String> = ports
        .split(',')
        .filter_map(|port| port.split_once(':'))
        .map(|(name, number)| format!("{{name: {name}, port: {number}}}"))
        .collect();
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{clusterIP: {ip}, ports: [{}]}}
---
",
        ports.join(", ")
    )
}

/// A service with one endpoint of version v1 and one of version v2.
pub(crate) fn service(namespace: &str, name: &str, ip: &str, ports: &str) -> String {
    let last = ip.rsplit('.').next().unwrap_or("9");
    let last = last.parse::<u8>().unwrap_or(9);
    let mut text = service_without_endpoints(namespace, name, ip, ports);
    let mut endpoints = String::new();
    for version in 1..=2 {
        let address = format!("10.1.{version}.{last}");
        let pod_name = format!("{name}-v{version}");
        text += &format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {pod_name}, namespace: {namespace}, uid: u-{namespace}-{pod_name}, labels: {{app: {name}, version: v{version}}}}}
spec: {{nodeName: elsewhere}}
status: {{podIP: {address}, podIPs: [{{ip: {address}}}]}}
---
"
        );
        write!(
            endpoints,
            "{{addresses: [{address}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {pod_name}, namespace: {namespace}}}}}, "
        )
        .expect("a String takes everything");
    }
    let ports: Vec<String> = ports
        .split(',')
        .filter_map(|port| port.split_once(':'))
        .map(|(name, number)| format!("{{name: {name}, port: {number}}}"))
        .collect();
    text += &format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
endpoints: [{endpoints}]
ports: [{}]
---
",
        ports.join(", ")
    );
    text
}

/// A VirtualService with `spec` in flow or block style, indented by two.
pub(crate) fn virtual_service(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}}}
spec:
{spec}
---
"
    )
}

impl Mesh {
    /// Compiles `text` under ALLOW_ANY.
    pub(crate) fn new(text: &str) -> Self {
        Self::with(text, MeshSettings::default())
    }

    /// Compiles `text` under REGISTRY_ONLY.
    pub(crate) fn registry_only(text: &str) -> Self {
        let mesh = MeshSettings {
            is_registry_only: true,
            ..MeshSettings::default()
        };
        Self::with(text, mesh)
    }

    /// Compiles `text` under a MeshConfig, as YAML.
    pub(crate) fn with_mesh(text: &str, mesh: &str) -> Self {
        let config = MeshConfig::parse("mesh", mesh).expect("a MeshConfig");
        Self::with(text, config.settings())
    }

    fn with(text: &str, mesh: MeshSettings) -> Self {
        let file: Arc<str> = Arc::from("mesh.yaml");
        let files = BTreeMap::from([(file, FileText::from(text))]);
        let loaded = DirectoryState::new().apply(&files);
        let errors: Vec<String> = loaded
            .findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error && finding.code != "not-honoured")
            .map(ToString::to_string)
            .collect();
        assert!(
            errors.is_empty(),
            "the configuration is refused: {errors:#?}"
        );
        let settings = CompileSettings {
            node: "node1".into(),
            mesh,
            on_proxy_down: OnProxyDown::Degrade,
            is_capture_labelled: false,
            capture_host_network: false,
            accept_unenforced_policies: false,
            namespace_budget: NamespaceBudget::default(),
        };
        let compiled = compile(&loaded.objects, &settings);
        Self {
            snapshot: compiled.snapshot,
            findings: compiled.findings,
        }
    }

    /// What `explain` says to a request of `pod` (`namespace/name`).
    pub(crate) fn explain(
        &self,
        pod: &str,
        method_and_url: &str,
        headers: &[(&str, &str)],
    ) -> Explanation {
        let (method, url) = method_and_url
            .split_once(' ')
            .unwrap_or(("GET", method_and_url));
        let request = ExplainRequest::parse(url, method, headers.iter().copied(), |target| {
            Ok(target.to_owned())
        })
        .expect("a valid request");
        let uid = PodUid(Arc::from(pod.replace('/', "-")));
        explain(&self.snapshot, &uid, &request).expect("the pod is listed")
    }

    /// The outcome in short: `80|v1|b.ns1*90 80|v2|b.ns1*10`, `404`, `pass`, ...
    pub(crate) fn ask(&self, pod: &str, url: &str, headers: &[(&str, &str)]) -> String {
        short(&self.explain(pod, url, headers).outcome)
    }

    /// Like [`Self::ask`] of `ns1/client` without headers.
    pub(crate) fn get(&self, url: &str) -> String {
        self.ask("ns1/client", url, &[])
    }

    /// Codes of all findings, in order of place.
    pub(crate) fn codes(&self) -> Vec<&'static str> {
        self.findings.iter().map(|finding| finding.code).collect()
    }
}

fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Forward { destinations, .. } => {
            let each: Vec<String> = destinations
                .iter()
                .map(|to| {
                    let name = to.cluster.strip_prefix("outbound|").unwrap_or(&to.cluster);
                    let name = name.replace(".svc.cluster.local", "");
                    let weight = if destinations.len() == 1 {
                        String::new()
                    } else {
                        format!("*{}", to.weight)
                    };
                    let state = match to.state.as_str() {
                        "missing" => " NC",
                        "noEndpoints" => " UH",
                        "notHonoured" => " NH",
                        _ => "",
                    };
                    format!("{name}{weight}{state}")
                })
                .collect();
            each.join(" ")
        }
        Outcome::Redirect { status } | Outcome::DirectResponse { status } => status.to_string(),
        Outcome::NotHonoured { field } => format!("503 {field}"),
        Outcome::NotFound => "404".to_owned(),
        Outcome::Passthrough => "pass".to_owned(),
        Outcome::BlackHole => "refused".to_owned(),
    }
}
