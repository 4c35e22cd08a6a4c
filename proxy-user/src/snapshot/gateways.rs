//! What gateway workloads listen on: listeners, certificates by name, and routes.
//!
//! A model that nothing serves yet; the views of people and the tests read it. Start at
//! [`GatewayView`].

use std::sync::Arc;

use super::Provenance;
use super::listeners::Protocol;
use super::routes::{RouteTable, TcpRoute, TlsRoute};

/// What one group of gateway pods listens on.
#[derive(Debug)]
pub struct GatewayView {
    /// Stable name: the same view has the same key in every snapshot.
    pub key: Arc<str>,
    /// Namespace of the pods: that of their DestinationRules, services and secrets.
    pub namespace: Arc<str>,
    /// Pods of this node, as `namespace/name`, in order.
    pub pods: Vec<Arc<str>>,
    /// Gateways that select them, as `namespace/name`, in conflict order.
    pub gateways: Vec<Arc<str>>,
    /// By address and port.
    pub listeners: Vec<GatewayListener>,
}

/// One socket that gateway pods listen on.
#[derive(Debug)]
pub struct GatewayListener {
    /// Port of the servers, which `port` of VirtualServices means; 0 for a unix socket.
    pub port: u16,
    /// Port to listen on: what the pods' Service leads `port` to.
    pub target_port: u16,
    /// Address or `unix://path`; empty is every address.
    pub bind: Arc<str>,
    /// Whether clients speak TLS here.
    pub is_tls: bool,
    /// Without TLS exactly one; with TLS the one with the most specific name that covers the
    /// client's, over all of them.
    pub chains: Vec<GatewayChain>,
}

/// What happens to connections of one server, or of all HTTP servers of a plain port.
#[derive(Debug)]
pub struct GatewayChain {
    /// `name` of the server, else of its port, for statistics and logs.
    pub name: Arc<str>,
    /// As declared.
    pub protocol: Protocol,
    /// Server names that lead here, lower case; `*` takes any and none. Empty without TLS.
    pub sni_hosts: Vec<Arc<str>>,
    /// How TLS ends here; `None` without TLS and where it passes through.
    pub tls: Option<Arc<ServerTls>>,
    /// Where the bytes go.
    pub routes: GatewayRoutes,
    /// The server; of several the first.
    pub provenance: Provenance,
}

/// Where the bytes of a chain go.
#[derive(Debug)]
pub enum GatewayRoutes {
    /// By Host. What no domain covers is answered 404: the table always has the domain `*`.
    Http(Arc<RouteTable>),
    /// As they are, after TLS has ended where there is any; none matches: closed.
    Tcp(Vec<TcpRoute>),
    /// Still encrypted, by server name; none matches: closed.
    Tls(Vec<TlsRoute>),
}

/// How TLS towards clients ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// What clients must show.
    pub client: ClientCertificate,
    /// What the server shows.
    pub credential: Credential,
    /// Oldest and newest version; `None` is TLS 1.2 and 1.3.
    pub versions: (Option<TlsVersion>, Option<TlsVersion>),
    /// By OpenSSL's names; empty is the default.
    pub cipher_suites: Vec<Arc<str>>,
    /// One of them must be in the client's certificate; empty asks for none.
    pub subject_alt_names: Vec<Arc<str>>,
    /// Hashes of allowed public keys; empty allows all.
    pub allowed_spki: Vec<Arc<str>>,
    /// Hashes of allowed certificates; empty allows all.
    pub allowed_hashes: Vec<Arc<str>>,
    /// Clients' chains are not verified.
    pub skips_verification: bool,
}

/// What a client must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Nothing.
    None,
    /// A certificate, verified if it is shown.
    Optional(ClientCa),
    /// A certificate.
    Required(ClientCa),
}

/// Who may sign clients' certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCa {
    /// The mesh.
    Mesh,
    /// `NAME-cacert`, else the authorities in the server's own secret.
    OfServerSecret,
    /// This secret, as `namespace/name`.
    Secret(Arc<str>),
    /// Files: authorities, and revoked certificates.
    Files(Arc<str>, Option<Arc<str>>),
}

/// What the server shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// The mesh's own certificate.
    Mesh,
    /// Secrets as `namespace/name`, such as one for RSA and one for ECDSA.
    Secrets(Vec<Arc<str>>),
    /// Files: certificate and key.
    Files(Vec<(Arc<str>, Arc<str>)>),
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "their own names")]
pub enum TlsVersion {
    V1_0,
    V1_1,
    V1_2,
    V1_3,
}
