//! TLS settings of servers as the snapshot has them.
//!
//! Source: Istio, pilot/pkg/networking/core/gateway.go (`buildGatewayListenerTLSContext`).

use std::sync::Arc;

use crate::api::{ServerTLSMode, ServerTLSSettings, TLSProtocol};
use crate::snapshot::gateways::{ClientCa, ClientCertificate, Credential, ServerTls, TlsVersion};

/// How TLS ends at the server; `None` where it does not. `namespace`: that of the gateway's
/// pods, where its secrets are.
pub(super) fn server_tls(tls: &ServerTLSSettings, namespace: &str) -> Option<ServerTls> {
    let client = match tls.mode {
        ServerTLSMode::Passthrough | ServerTLSMode::AutoPassthrough => return None,
        ServerTLSMode::Simple => ClientCertificate::None,
        ServerTLSMode::Mutual => ClientCertificate::Required(client_ca(tls, namespace)),
        ServerTLSMode::OptionalMutual => ClientCertificate::Optional(client_ca(tls, namespace)),
        ServerTLSMode::IstioMutual => ClientCertificate::Required(ClientCa::Mesh),
    };
    let texts = |list: &[String]| list.iter().map(|text| Arc::from(text.as_str())).collect();
    Some(ServerTls {
        client,
        credential: credential(tls, namespace),
        versions: (
            version(tls.min_protocol_version),
            version(tls.max_protocol_version),
        ),
        cipher_suites: texts(&tls.cipher_suites),
        subject_alt_names: texts(&tls.subject_alt_names),
        allowed_spki: texts(&tls.verify_certificate_spki),
        allowed_hashes: texts(&tls.verify_certificate_hash),
        skips_verification: tls.insecure_skip_verify == Some(true),
    })
}

/// Most certificates of one server: one for RSA, one for ECDSA.
const CERTIFICATES_MAX: usize = 2;

fn credential(tls: &ServerTLSSettings, namespace: &str) -> Credential {
    let secret = |name: &String| secret_name(name, namespace);
    let file = |path: &str| Arc::from(path);
    if tls.mode == ServerTLSMode::IstioMutual {
        Credential::Mesh
    } else if !tls.credential_name.is_empty() {
        Credential::Secrets(vec![secret(&tls.credential_name)])
    } else if !tls.credential_names.is_empty() {
        Credential::Secrets(tls.credential_names.iter().map(secret).collect())
    } else if !tls.tls_certificates.is_empty() {
        let pairs = tls.tls_certificates.iter().take(CERTIFICATES_MAX);
        let pairs = pairs.map(|pair| (file(&pair.server_certificate), file(&pair.private_key)));
        Credential::Files(pairs.collect())
    } else {
        Credential::Files(vec![(
            file(&tls.server_certificate),
            file(&tls.private_key),
        )])
    }
}

fn client_ca(tls: &ServerTLSSettings, namespace: &str) -> ClientCa {
    if !tls.ca_cert_credential_name.is_empty() {
        return ClientCa::Secret(secret_name(&tls.ca_cert_credential_name, namespace));
    }
    let of_pairs = tls
        .tls_certificates
        .iter()
        .map(|pair| &pair.ca_certificates);
    let mut files = std::iter::once(&tls.ca_certificates).chain(of_pairs);
    match files.find(|file| !file.is_empty()) {
        Some(file) => {
            let crl = Some(tls.ca_crl.as_str()).filter(|crl| !crl.is_empty());
            ClientCa::Files(Arc::from(file.as_str()), crl.map(Arc::from))
        }
        None => ClientCa::OfServerSecret,
    }
}

/// A name that says where it is, such as `kubernetes://NAME`, stays as it is written.
fn secret_name(name: &str, namespace: &str) -> Arc<str> {
    if name.contains("://") {
        return Arc::from(name);
    }
    Arc::from(format!("{namespace}/{name}"))
}

fn version(version: TLSProtocol) -> Option<TlsVersion> {
    match version {
        TLSProtocol::Auto => None,
        TLSProtocol::V1_0 => Some(TlsVersion::V1_0),
        TLSProtocol::V1_1 => Some(TlsVersion::V1_1),
        TLSProtocol::V1_2 => Some(TlsVersion::V1_2),
        TLSProtocol::V1_3 => Some(TlsVersion::V1_3),
    }
}
