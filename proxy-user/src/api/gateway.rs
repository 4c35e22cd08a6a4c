//! Gateway, as networking.istio.io defines it.

use serde::Deserialize;

use super::{Kind, Labels, NoStatus, Resource};

/// Servers at the edge of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Gateway {
    /// Servers.
    pub servers: Vec<Server>,
    /// Labels of the pods that serve it; empty means all gateway pods.
    pub selector: Labels,
}

impl Resource for Gateway {
    const KIND: Kind = Kind::Gateway;
    type Status = NoStatus;
}

/// One server: port, hosts, certificates.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Server {
    /// Where it listens.
    pub port: Option<Port>,
    /// Address; empty means all.
    pub bind: String,
    /// `dns`, `namespace/dns`, `./dns` or `*/dns`.
    pub hosts: Vec<String>,
    /// TLS.
    pub tls: Option<ServerTLSSettings>,
    /// Not acted on.
    pub default_endpoint: String,
    /// Name for statistics and logs.
    pub name: String,
}

/// A port of a Gateway or Sidecar.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Port {
    /// Number.
    pub number: u32,
    /// Protocol.
    pub protocol: String,
    /// Name.
    pub name: String,
    /// Not allowed here.
    pub target_port: u32,
}

/// TLS towards clients.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ServerTLSSettings {
    /// Send plain HTTP to https.
    pub https_redirect: bool,
    /// Whether TLS ends here, and what the client must show.
    pub mode: ServerTLSMode,
    /// File of the certificate.
    pub server_certificate: String,
    /// File of its key.
    pub private_key: String,
    /// File of the authorities that may sign clients' certificates.
    pub ca_certificates: String,
    /// File of revoked certificates.
    pub ca_crl: String,
    /// Secret that holds all of them.
    pub credential_name: String,
    /// Several secrets, such as RSA and ECDSA.
    pub credential_names: Vec<String>,
    /// Secret that holds the authorities only.
    pub ca_cert_credential_name: String,
    /// Several pairs of files.
    pub tls_certificates: Vec<TLSCertificate>,
    /// Names, one of which the client's certificate must carry.
    pub subject_alt_names: Vec<String>,
    /// Hashes of allowed public keys.
    pub verify_certificate_spki: Vec<String>,
    /// Hashes of allowed certificates.
    pub verify_certificate_hash: Vec<String>,
    /// Oldest version of TLS.
    pub min_protocol_version: TLSProtocol,
    /// Newest version of TLS.
    pub max_protocol_version: TLSProtocol,
    /// Cipher suites, by OpenSSL's names.
    pub cipher_suites: Vec<String>,
    /// Do not verify clients' chains.
    pub insecure_skip_verify: Option<bool>,
}

/// A pair of files.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TLSCertificate {
    /// File of the certificate.
    pub server_certificate: String,
    /// File of its key.
    pub private_key: String,
    /// File of authorities.
    pub ca_certificates: String,
}

/// Whether TLS ends here, and what the client must show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerTLSMode {
    /// It does not; routed by SNI.
    #[default]
    Passthrough,
    /// It does.
    Simple,
    /// A certificate is required.
    Mutual,
    /// It does not; the SNI names the cluster.
    AutoPassthrough,
    /// With the mesh's certificates, required.
    IstioMutual,
    /// A certificate is verified if shown.
    OptionalMutual,
}

/// Version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TLSProtocol {
    /// Choose.
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    /// 1.0
    #[serde(rename = "TLSV1_0")]
    V1_0,
    /// 1.1
    #[serde(rename = "TLSV1_1")]
    V1_1,
    /// 1.2
    #[serde(rename = "TLSV1_2")]
    V1_2,
    /// 1.3
    #[serde(rename = "TLSV1_3")]
    V1_3,
}
