//! A small mesh in plain data, as a test writes it down.

/// Everything in one configuration.
#[derive(Debug, Clone, Default)]
pub struct Mesh {
    /// Kubernetes services.
    pub services: Vec<Service>,
    /// VirtualServices.
    pub virtual_services: Vec<VirtualService>,
    /// DestinationRules.
    pub destination_rules: Vec<DestinationRule>,
    /// REGISTRY_ONLY.
    pub is_registry_only: bool,
}

/// A Kubernetes service with its endpoints.
#[derive(Debug, Clone)]
pub struct Service {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// clusterIP.
    pub vip: String,
    /// Service ports, all named `http-…` or unnamed.
    pub ports: Vec<ServicePort>,
    /// Endpoints, all on the port's target.
    pub endpoints: Vec<Endpoint>,
}

/// One service port; its target port is the same number.
#[derive(Debug, Clone)]
pub struct ServicePort {
    /// Number.
    pub number: u16,
    /// Declared HTTP, else auto-detected.
    pub is_http: bool,
}

/// One endpoint.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// IPv4 address.
    pub ip: String,
    /// Label `version`.
    pub version: String,
    /// Ready condition.
    pub is_ready: bool,
}

/// A VirtualService with http rules only.
#[derive(Debug, Clone)]
pub struct VirtualService {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Seconds of `creationTimestamp`.
    pub created: u32,
    /// As written.
    pub hosts: Vec<String>,
    /// As written; empty means mesh.
    pub gateways: Vec<String>,
    /// As written; empty means everybody.
    pub export_to: Vec<String>,
    /// In order.
    pub http: Vec<HttpRule>,
}

/// One entry of `http`.
#[derive(Debug, Clone, Default)]
pub struct HttpRule {
    /// Alternatives; empty is always.
    pub matches: Vec<HttpMatch>,
    /// What it does.
    pub action: Action,
}

/// What a rule does.
#[derive(Debug, Clone)]
pub enum Action {
    /// `route`, with an optional `rewrite.uri`.
    Route {
        /// Weighted destinations.
        destinations: Vec<Destination>,
        /// `rewrite.uri`.
        rewrite_uri: Option<String>,
    },
    /// `redirect.uri`.
    Redirect(String),
    /// `directResponse` with this status.
    Direct(u16),
}

impl Default for Action {
    fn default() -> Self {
        Self::Direct(200)
    }
}

/// One entry of `http[].route`.
#[derive(Debug, Clone)]
pub struct Destination {
    /// As written.
    pub host: String,
    /// Empty for none.
    pub subset: String,
    /// `port.number`.
    pub port: Option<u16>,
    /// As written; `None` leaves the field out.
    pub weight: Option<u32>,
}

/// `StringMatch`.
#[derive(Debug, Clone)]
pub enum Text {
    /// `exact`.
    Exact(String),
    /// `prefix`.
    Prefix(String),
    /// `regex`.
    Regex(String),
    /// `{}`.
    Present,
}

/// One entry of `http[].match`.
#[derive(Debug, Clone, Default)]
pub struct HttpMatch {
    /// `uri`.
    pub uri: Option<Text>,
    /// `ignoreUriCase`.
    pub ignore_uri_case: bool,
    /// `method`.
    pub method: Option<Text>,
    /// `authority`.
    pub authority: Option<Text>,
    /// `headers`.
    pub headers: Vec<(String, Text)>,
    /// `withoutHeaders`.
    pub without_headers: Vec<(String, Text)>,
    /// `queryParams`.
    pub query_params: Vec<(String, Text)>,
    /// `port`.
    pub port: Option<u16>,
    /// `sourceLabels: {app: …}`.
    pub source_app: Option<String>,
    /// `sourceNamespace`.
    pub source_namespace: Option<String>,
    /// `gateways`.
    pub gateways: Vec<String>,
}

/// A DestinationRule that defines subsets.
#[derive(Debug, Clone)]
pub struct DestinationRule {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Seconds of `creationTimestamp`.
    pub created: u32,
    /// As written.
    pub host: String,
    /// As written; empty means everybody.
    pub export_to: Vec<String>,
    /// Subset name and the `version` label that it selects.
    pub subsets: Vec<(String, String)>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Client {
    /// Namespace of the pod.
    pub namespace: String,
    /// Label `app`.
    pub app: String,
}

/// One request, as the client sends it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The address dialled.
    pub dst_ip: String,
    /// The port dialled.
    pub dst_port: u16,
    /// Host header.
    pub host: String,
    /// Method.
    pub method: String,
    /// Path with query.
    pub target: String,
    /// Header lines beside Host.
    pub headers: Vec<(String, String)>,
}
