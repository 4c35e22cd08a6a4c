//! What a test asks for: pods and services, before they have addresses.

use std::collections::BTreeMap;

use super::cgroup::Qos;

/// The address families of a pod or a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// IPv4 alone: no IPv6 address and no IPv6 way out.
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Dual,
}

impl Families {
    /// Whether IPv4 is among them.
    pub fn has_v4(self) -> bool {
        matches!(self, Self::V4 | Self::Dual)
    }

    /// Whether IPv6 is among them.
    pub fn has_v6(self) -> bool {
        matches!(self, Self::V6 | Self::Dual)
    }
}

/// Where a pod stands in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// A namespace of its own on the node's bridge.
    Bridge,
    /// The node's own namespace.
    HostNetwork,
    /// A machine outside the node: no Pod object, no cgroup under the pods' root.
    External,
}

/// One pod to be.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name, unique in its namespace.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// Address families of the pod.
    pub families: Families,
    /// Its place in the network.
    pub attachment: Attachment,
    /// Its quality-of-service class.
    pub qos: Qos,
    /// Arguments of `mizzen-workload` for its main process; none for a pod that only waits.
    pub workload: Option<Vec<String>>,
    /// Whether a Pod object is written: a pod without one is unknown to the mesh.
    pub is_listed: bool,
    /// The endpoint's readiness.
    pub is_ready: bool,
}

impl PodSpec {
    /// A pod that only waits, IPv4 alone, labelled `app: NAME`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            annotations: BTreeMap::new(),
            families: Families::V4,
            attachment: Attachment::Bridge,
            qos: Qos::Burstable,
            workload: None,
            is_listed: true,
            is_ready: true,
        }
    }

    /// Sets one label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets one annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets the address families.
    #[must_use]
    pub fn families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    /// Sets the quality-of-service class.
    #[must_use]
    pub fn qos(mut self, qos: Qos) -> Self {
        self.qos = qos;
        self
    }

    /// Puts the pod into the node's own network namespace.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.attachment = Attachment::HostNetwork;
        self
    }

    /// Makes it a machine outside the node.
    #[must_use]
    pub fn external(mut self) -> Self {
        self.attachment = Attachment::External;
        self.is_listed = false;
        self
    }

    /// Leaves out its Pod object.
    #[must_use]
    pub fn unlisted(mut self) -> Self {
        self.is_listed = false;
        self
    }

    /// Marks its endpoints as not ready.
    #[must_use]
    pub fn not_ready(mut self) -> Self {
        self.is_ready = false;
        self
    }

    /// Runs `mizzen-workload` with these arguments as its main process.
    #[must_use]
    pub fn workload(mut self, args: &[&str]) -> Self {
        self.workload = Some(args.iter().map(|&arg| arg.to_owned()).collect());
        self
    }
}

/// One port of a service.
#[derive(Debug, Clone)]
pub struct PortSpec {
    /// Name; Istio reads the protocol from it.
    pub name: String,
    /// The service's port.
    pub port: u16,
    /// The port of the pods.
    pub target_port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// `appProtocol`, if set.
    pub app_protocol: Option<String>,
}

/// One service to be.
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name, unique in its namespace.
    pub name: String,
    /// Labels that its pods have.
    pub selector: BTreeMap<String, String>,
    /// Its ports.
    pub ports: Vec<PortSpec>,
    /// Families of its virtual addresses.
    pub families: Families,
}

impl ServiceSpec {
    /// An IPv4 service for the pods labelled `app: NAME`, without ports yet.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            selector: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            ports: Vec::new(),
            families: Families::V4,
        }
    }

    /// Adds a TCP port that the pods serve under the same number.
    #[must_use]
    pub fn port(self, name: &str, port: u16) -> Self {
        self.port_to(name, port, port)
    }

    /// Adds a TCP port that the pods serve under another number.
    #[must_use]
    pub fn port_to(self, name: &str, port: u16, target_port: u16) -> Self {
        self.port_with_protocol(name, port, target_port, "TCP")
    }

    /// Adds a UDP port.
    #[must_use]
    pub fn udp_port(self, name: &str, port: u16) -> Self {
        self.port_with_protocol(name, port, port, "UDP")
    }

    fn port_with_protocol(mut self, name: &str, port: u16, target: u16, protocol: &str) -> Self {
        self.ports.push(PortSpec {
            name: name.to_owned(),
            port,
            target_port: target,
            protocol: protocol.to_owned(),
            app_protocol: None,
        });
        self
    }

    /// Replaces the selector by one label.
    #[must_use]
    pub fn selects(mut self, key: &str, value: &str) -> Self {
        self.selector = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        self
    }

    /// Sets the families of its virtual addresses.
    #[must_use]
    pub fn families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }
}
