//! Mesh documents: Services and Pods as YAML, turned into a lab's.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

use super::node::Lab;
use super::spec::{Families, PodSpec, PortSpec, ServiceSpec};

/// What a mesh file asks for.
#[derive(Debug, Default)]
pub struct Mesh {
    /// Its services.
    pub services: Vec<ServiceSpec>,
    /// Its pods.
    pub pods: Vec<PodSpec>,
}

#[derive(Deserialize)]
struct Document {
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    selector: BTreeMap<String, String>,
    #[serde(default)]
    ports: Vec<Port>,
    #[serde(default)]
    ip_families: Vec<String>,
    #[serde(default)]
    containers: Vec<Container>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: String,
    port: u16,
    #[serde(default)]
    target_port: Option<u16>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    app_protocol: Option<String>,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default)]
    args: Option<Vec<String>>,
}

impl Mesh {
    /// Reads a mesh from a file such as `config/demo/mesh.yaml`.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let documents: Vec<Document> = serde_yaml::from_multiple(&text)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        let mut mesh = Self::default();
        for document in documents {
            let namespace = document
                .metadata
                .namespace
                .unwrap_or_else(|| "default".to_owned());
            match document.kind.as_str() {
                "Service" => {
                    let mut service = ServiceSpec::new(&namespace, &document.metadata.name);
                    service.selector = document.spec.selector;
                    service.families = families(&document.spec.ip_families);
                    service.ports = document.spec.ports.into_iter().map(port).collect();
                    mesh.services.push(service);
                }
                "Pod" => {
                    let mut pod = PodSpec::new(&namespace, &document.metadata.name);
                    pod.labels = document.metadata.labels;
                    pod.annotations = document.metadata.annotations;
                    pod.workload = document.spec.containers.into_iter().find_map(|it| it.args);
                    mesh.pods.push(pod);
                }
                "Namespace" => {}
                other => anyhow::bail!("{}: a lab cannot run a {other}", path.display()),
            }
        }
        Ok(mesh)
    }

    /// Gives every pod these address families.
    #[must_use]
    pub fn with_families(mut self, families: Families) -> Self {
        for pod in &mut self.pods {
            pod.families = families;
        }
        self
    }

    /// Brings the mesh up and waits until every workload listens where its service expects it.
    pub fn start(self, lab: &Lab) -> anyhow::Result<()> {
        for service in &self.services {
            lab.add_service(service.clone())?;
        }
        let mut pods = Vec::new();
        for pod in self.pods {
            pods.push(lab.add_pod(pod)?);
        }
        for pod in pods {
            for service in &self.services {
                let spec = pod.spec();
                let is_selected = service.namespace == spec.namespace
                    && service
                        .selector
                        .iter()
                        .all(|(key, value)| spec.labels.get(key) == Some(value));
                for port in service
                    .ports
                    .iter()
                    .filter(|port| is_selected && port.protocol == "TCP")
                {
                    pod.wait_listening(port.target_port)?;
                }
            }
        }
        Ok(())
    }
}

fn families(names: &[String]) -> Families {
    match (
        names.iter().any(|it| it == "IPv4"),
        names.iter().any(|it| it == "IPv6"),
    ) {
        (true, true) => Families::Dual,
        (false, true) => Families::V6,
        (true | false, false) => Families::V4,
    }
}

fn port(port: Port) -> PortSpec {
    PortSpec {
        target_port: port.target_port.unwrap_or(port.port),
        name: port.name,
        port: port.port,
        protocol: port.protocol.unwrap_or_else(|| "TCP".to_owned()),
        app_protocol: port.app_protocol,
    }
}
