//! The documents that every Istio user has: they apply unchanged, in each version of the
//! API, and in the form in which `kubectl get -o yaml` prints them.

use std::collections::BTreeMap;
use std::sync::Arc;

use proxy_user::source::state::{DirectoryState, FileText};

use super::mesh::{Mesh, pod, service, service_without_endpoints};

/// VirtualService `reviews` by user, `my-svc` with a policy each, TCP by weight, and hosts
/// in every form. `VERSION` stands for the version of the API.
const DOCUMENTS: &str = r"
apiVersion: networking.istio.io/VERSION
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts:
  - reviews
  http:
  - match:
    - headers:
        end-user:
          exact: jason
    route:
    - destination:
        host: reviews
        subset: v2
  - route:
    - destination:
        host: reviews
        subset: v3
---
apiVersion: networking.istio.io/VERSION
kind: DestinationRule
metadata:
  name: reviews
spec:
  host: reviews.default.svc.cluster.local
  subsets:
  - name: v2
    labels:
      version: v2
  - name: v3
    labels:
      version: v3
---
apiVersion: networking.istio.io/VERSION
kind: DestinationRule
metadata:
  name: my-destination-rule
spec:
  host: my-svc
  trafficPolicy:
    loadBalancer:
      simple: RANDOM
  subsets:
  - name: v1
    labels:
      version: v1
  - name: v2
    labels:
      version: v2
    trafficPolicy:
      loadBalancer:
        simple: ROUND_ROBIN
  - name: v3
    labels:
      version: v3
---
apiVersion: networking.istio.io/VERSION
kind: VirtualService
metadata:
  name: my-svc
spec:
  hosts:
  - my-svc.default.svc.cluster.local
  http:
  - route:
    - {destination: {host: my-svc, subset: v1}, weight: 50}
    - {destination: {host: my-svc, subset: v2}, weight: 30}
    - {destination: {host: my-svc, subset: v3}, weight: 20}
---
apiVersion: networking.istio.io/VERSION
kind: DestinationRule
metadata:
  name: tcp-echo-destination
spec:
  host: tcp-echo
  subsets:
  - name: v1
    labels: {version: v1}
  - name: v2
    labels: {version: v2}
---
apiVersion: networking.istio.io/VERSION
kind: VirtualService
metadata:
  name: tcp-echo
spec:
  hosts:
  - tcp-echo
  tcp:
  - match:
    - port: 9000
    route:
    - destination:
        host: tcp-echo
        port:
          number: 9000
        subset: v1
      weight: 80
    - destination:
        host: tcp-echo
        port:
          number: 9000
        subset: v2
      weight: 20
---
apiVersion: networking.istio.io/VERSION
kind: VirtualService
metadata:
  name: wildcard
spec:
  hosts:
  - '*.example.com'
  http:
  - route:
    - destination:
        host: web
        subset: v1
---
apiVersion: networking.istio.io/VERSION
kind: VirtualService
metadata:
  name: by-address
spec:
  hosts:
  - 10.7.7.7
  http:
  - route:
    - destination:
        host: reviews.default.svc.cluster.local
        port:
          number: 9080
        subset: v3
---
apiVersion: networking.istio.io/VERSION
kind: DestinationRule
metadata:
  name: web
spec:
  host: web
  subsets:
  - name: v1
    labels: {version: v1}
---
";

fn documents(version: &str) -> String {
    DOCUMENTS.replace("VERSION", version)
}

/// The services that they name, with pods of v1, v2 and v3.
fn services() -> String {
    let mut text = pod("default", "client", "10.9.0.1", "app: client");
    text += &service("default", "tcp-echo", "10.0.1.3", "tcp:9000");
    // Hosts that no service has are known on port 80, where a service must listen.
    text += &service("default", "web", "10.0.1.4", "http:80");
    for (last, name) in [(1, "reviews"), (2, "my-svc")] {
        text += &service_without_endpoints("default", name, &format!("10.0.1.{last}"), "http:9080");
        let mut endpoints = Vec::new();
        for version in 1..=3 {
            let ip = format!("10.1.{version}.{last}");
            let labels = format!("app: {name}, version: v{version}");
            text += &pod("default", &format!("{name}-v{version}"), &ip, &labels);
            endpoints.push(format!(
                "{{addresses: [{ip}], targetRef: {{kind: Pod, name: {name}-v{version}}}}}"
            ));
        }
        text += &format!(
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
endpoints: [{}]
ports: [{{name: http, port: 9080}}]
---
",
            endpoints.join(", ")
        );
    }
    text
}

/// What the documents say, as answers to a client.
fn check(mesh: &Mesh, why: &str) {
    let findings: Vec<String> = mesh.findings.iter().map(ToString::to_string).collect();
    assert_eq!(findings, [""; 0], "{why}");
    let thirds = "9080|v1|my-svc.default*50 9080|v2|my-svc.default*30 9080|v3|my-svc.default*20";
    for (url, headers, expected) in [
        (
            "http://reviews:9080/",
            &[("end-user", "jason")][..],
            "9080|v2|reviews.default",
        ),
        (
            "http://reviews:9080/",
            &[("end-user", "jasonx")],
            "9080|v3|reviews.default",
        ),
        (
            "http://reviews.default:9080/",
            &[],
            "9080|v3|reviews.default",
        ),
        ("http://my-svc:9080/", &[], thirds),
        (
            "tcp://tcp-echo:9000",
            &[],
            "9000|v1|tcp-echo.default*80 9000|v2|tcp-echo.default*20",
        ),
        ("http://www.example.com/", &[], "80|v1|web.default"),
        ("http://10.7.7.7/", &[], "9080|v3|reviews.default"),
    ] {
        let found = mesh.ask("default/client", url, headers);
        assert_eq!(found, expected, "{why}: {url} {headers:?}");
    }
    for (cluster, balancer) in [
        (
            "outbound|9080|v1|my-svc.default.svc.cluster.local",
            "Random",
        ),
        (
            "outbound|9080|v2|my-svc.default.svc.cluster.local",
            "RoundRobin",
        ),
        (
            "outbound|9080|v3|my-svc.default.svc.cluster.local",
            "Random",
        ),
    ] {
        let found = mesh
            .snapshot
            .clusters
            .iter()
            .find(|it| *it.name == *cluster);
        let policy = found.map(|it| format!("{:?}", it.policy.load_balancer));
        assert_eq!(policy.as_deref(), Some(balancer), "{why}: {cluster}");
    }
}

#[test]
fn the_classic_documents_mean_the_same_in_every_version_of_the_api() {
    for version in ["v1alpha3", "v1beta1", "v1"] {
        check(&Mesh::new(&(services() + &documents(version))), version);
    }
}

/// One document as an entry of a List, with what a server adds.
fn as_listed(document: &str, at: usize) -> String {
    let server_side = format!(
        "metadata:
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {{\"kind\":\"anything\",\"spec\":{{\"hosts\":[\"elsewhere\"]}}}}
  creationTimestamp: \"2026-01-01T00:00:{at:02}Z\"
  generation: {at}
  resourceVersion: \"{at}42\"
  selfLink: /somewhere
  uid: 0c6a5f4e-0000-4000-8000-0000000000{at:02}
  finalizers: [example.com/keep]
  managedFields:
  - apiVersion: networking.istio.io/v1
    fieldsType: FieldsV1
    fieldsV1: {{\"f:spec\": {{\".\": {{}}, \"f:hosts\": {{}}}}}}
    manager: kubectl-client-side-apply
    operation: Update
    time: \"2026-01-01T00:00:00Z\"
"
    );
    let with_metadata = document.trim().replacen("metadata:\n", &server_side, 1)
        + "\nstatus:\n  observedGeneration: \"1\"\n  conditions:\n  - type: Reconciled\n    status: \"True\"\n  validationMessages: []\n";
    let mut entry = String::new();
    for (line, text) in with_metadata.lines().enumerate() {
        entry += if line == 0 { "- " } else { "  " };
        entry += text;
        entry += "\n";
    }
    entry
}

#[test]
fn lists_as_kubectl_prints_them_apply_as_they_are() {
    let text = documents("v1beta1");
    let entries = text.split("\n---\n").filter(|text| !text.trim().is_empty());
    let entries: Vec<String> = entries
        .enumerate()
        .map(|(at, document)| as_listed(document, at))
        .collect();
    let list = format!(
        "apiVersion: v1\nitems:\n{}kind: List\nmetadata:\n  resourceVersion: \"\"\n",
        entries.concat()
    );
    check(&Mesh::new(&(services() + &list)), "a List");
    // A typed list, as the API server answers.
    let typed = list
        .replace("\nkind: List\n", "\nkind: VirtualServiceList\n")
        .replacen(
            "apiVersion: v1\n",
            "apiVersion: networking.istio.io/v1\n",
            1,
        );
    let crlf = format!("\u{feff}{}", list.replace('\n', "\r\n"));
    let separate = |list: &str| {
        let files = BTreeMap::from([
            (Arc::from("services.yaml"), FileText::from(&*services())),
            (Arc::from("list.yaml"), FileText::from(list)),
        ]);
        let loaded = DirectoryState::new().apply(&files);
        let findings: Vec<String> = loaded.findings.iter().map(ToString::to_string).collect();
        (loaded.objects.len(), findings)
    };
    let plain = separate(&list);
    assert_eq!(plain.1, [""; 0]);
    assert_eq!(separate(&crlf), plain, "BOM and CRLF");
    let (count, _) = separate(&typed);
    assert_eq!(count, plain.0, "a typed list");
}

#[test]
fn a_neighbour_of_the_wrong_shape_takes_nothing_along() {
    let wrong = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: wrong, namespace: default}
spec: {hosts: [my-svc], http: [{timeout: 5, route: [{destination: {host: my-svc}}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: skipped}
spec: {replicas: 1}
---
";
    let files = BTreeMap::from([(
        Arc::from("all.yaml"),
        FileText::from(&*(services() + wrong + &documents("v1"))),
    )]);
    let loaded = DirectoryState::new().apply(&files);
    let findings: Vec<String> = loaded.findings.iter().map(ToString::to_string).collect();
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert!(
        findings[0].contains("VirtualService/default/wrong: error: http[0].timeout"),
        "{findings:#?}"
    );
    assert_eq!(loaded.skipped.values().sum::<usize>(), 1);
    assert_eq!(loaded.objects.virtual_services.len(), 5);
}

#[test]
fn a_subset_whose_pods_were_not_given_is_a_warning() {
    let all = services() + &documents("v1");
    let without = |name: &str| {
        let documents = all.split("\n---\n");
        let kept = documents.filter(|text| !text.contains(&format!("{{name: {name}, ")));
        kept.collect::<Vec<_>>().join("\n---\n")
    };
    for (text, expected, why) in [
        (without("my-svc-v3"), "warning", "its pod was not given"),
        (
            all.replace("app: my-svc, version: v3", "app: my-svc, version: v4"),
            "error",
            "all pods are there and none has the label",
        ),
    ] {
        let mesh = Mesh::new(&text);
        let found = mesh.findings.iter().find(|it| it.code == "empty-subset");
        let severity = found.map(|it| it.severity.as_str());
        assert_eq!(severity, Some(expected), "{why}");
    }
}
