//! The rules of a Gateway, and of the TLS settings of servers.
//!
//! Source: pkg/config/validation/validation.go in istio/istio.

use std::collections::BTreeSet;

use super::{Report, Validate, names};
use crate::api::{Gateway, Port, Resource, Server, ServerTLSMode, ServerTLSSettings, TLSProtocol};

impl Validate for Gateway {
    fn validate(spec: &Self, report: &mut Report<'_, Self>) {
        let name = report.object.meta.name.clone();
        report.label("metadata.name", &name);
        if spec.servers.is_empty() {
            report.error(
                "servers",
                "no-servers",
                "expected at least one server, found none",
            );
        }
        let mut names = BTreeSet::new();
        for (index, server) in spec.servers.iter().enumerate() {
            let path = format!("servers[{index}]");
            report.server(&path, server);
            let Some(port) = &server.port else { continue };
            if !port.name.is_empty() && !names.insert(&port.name) {
                let message = format!("{:?} is the name of an earlier port", port.name);
                report.error(&format!("{path}.port.name"), "port-name", message);
            }
        }
    }
}

impl Report<'_, Gateway> {
    fn server(&mut self, path: &str, server: &Server) {
        if !server.default_endpoint.is_empty() {
            let message = "ignored, as by Istio; say by a VirtualService where requests go";
            self.warn(&format!("{path}.defaultEndpoint"), "ignored", message);
        }
        if server.hosts.is_empty() {
            self.error(
                &format!("{path}.hosts"),
                "no-hosts",
                "expected hosts, found none",
            );
        }
        for (index, host) in server.hosts.iter().enumerate() {
            self.server_host(&format!("{path}.hosts[{index}]"), host);
        }
        self.bind(&format!("{path}.bind"), &server.bind);
        let Some(port) = &server.port else {
            return self.error(
                &format!("{path}.port"),
                "port",
                "expected a port, found none",
            );
        };
        let port_path = format!("{path}.port");
        if port.name.is_empty() {
            let message = "expected the name of the port, found none";
            self.error(&format!("{port_path}.name"), "port-name", message);
        }
        if port.protocol.is_empty() {
            let message = "expected a protocol such as HTTP, found none";
            self.error(&format!("{port_path}.protocol"), "protocol", message);
        }
        self.listener_port(&port_path, port, server.bind.starts_with("unix://"));
        self.server_protocol(path, server, port);
        if let Some(tls) = &server.tls {
            self.server_tls(&format!("{path}.tls"), tls);
        }
    }

    fn server_host(&mut self, field: &str, host: &str) {
        const CODE: &str = "host";
        let (namespace, name) = match host.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, host),
        };
        if namespace.is_some_and(|ns| !matches!(ns, "*" | ".") && !names::is_dns_label(ns)) {
            let message = format!("expected \"*\", \".\" or a namespace before /, found {host:?}");
            self.error(field, CODE, message);
        }
        if name == "*" || names::is_ip(name) {
            return;
        }
        if names::is_partial_wildcard(name) {
            let message = format!("{name:?}: a wildcard stands for whole labels, as *.example.com");
            self.error(field, CODE, message);
        } else if let Some(problem) = names::find_wildcard_domain_problem(name) {
            self.error(field, CODE, problem);
        } else if !name.contains('.') {
            let message = format!("{name:?} is a short name; write the whole name, or *");
            self.error(field, CODE, message);
        }
    }

    fn server_protocol(&mut self, path: &str, server: &Server, port: &Port) {
        const CODE: &str = "server-tls";
        let (is_http, is_tls) = (
            names::is_http(&port.protocol),
            names::is_tls(&port.protocol),
        );
        let field = format!("{path}.tls");
        match &server.tls {
            None if is_tls => {
                let message = format!("protocol {} needs tls", port.protocol);
                self.error(&field, CODE, message);
            }
            Some(tls) if !is_tls && is_http => {
                let has_more_than_redirect =
                    has_certificate(tls) || tls.mode != ServerTLSMode::Passthrough;
                if has_more_than_redirect {
                    let message = "plain HTTP: only httpsRedirect is allowed here; for TLS use \
                                   protocol HTTPS";
                    self.error(&field, CODE, message);
                }
            }
            Some(_) if !is_tls => {
                let message = format!("protocol {:?} has no TLS; use TLS or HTTPS", port.protocol);
                self.error(&field, CODE, message);
            }
            Some(_) | None => {}
        }
        if server.tls.as_ref().is_some_and(|tls| tls.https_redirect) && !is_http {
            let message = "has no effect: only plain HTTP is redirected";
            self.warn(&format!("{path}.tls.httpsRedirect"), CODE, message);
        }
    }
}

impl<S: Resource> Report<'_, S> {
    /// A port that is listened on, of a Gateway or Sidecar.
    pub(super) fn listener_port(&mut self, path: &str, port: &Port, is_unix: bool) {
        let field = format!("{path}.number");
        match (port.number, is_unix) {
            (0, true) => {}
            (_, true) => self.error(&field, "port", "a unix socket has no port; write 0"),
            (number, false) => self.port(&field, number),
        }
        if !port.protocol.is_empty() && !names::is_protocol(&port.protocol) {
            let message = format!("unknown protocol {:?}", port.protocol);
            self.error(&format!("{path}.protocol"), "protocol", message);
        }
        if port.target_port != 0 {
            let message = "not allowed here";
            self.error(&format!("{path}.targetPort"), "port", message);
        }
    }

    /// TLS towards clients.
    pub(super) fn server_tls(&mut self, path: &str, tls: &ServerTLSSettings) {
        self.certificate_source(path, tls);
        self.certificate_completeness(path, tls);
        self.cipher_suites(path, tls);
    }

    fn certificate_source(&mut self, path: &str, tls: &ServerTLSSettings) {
        const CODE: &str = "certificate";
        const CERTIFICATES_MAX: usize = 2; // one for RSA, one for ECDSA
        let has_file = !tls.server_certificate.is_empty() || !tls.private_key.is_empty();
        let sources = [
            has_file,
            !tls.credential_name.is_empty(),
            !tls.credential_names.is_empty(),
            !tls.tls_certificates.is_empty(),
        ];
        let source_count = sources.into_iter().filter(|is_set| *is_set).count();
        match tls.mode {
            ServerTLSMode::IstioMutual if has_certificate(tls) => {
                let message = "mode ISTIO_MUTUAL uses the mesh's certificates; remove the others";
                self.error(path, CODE, message);
            }
            ServerTLSMode::Passthrough | ServerTLSMode::AutoPassthrough if has_certificate(tls) => {
                let message = "TLS passes through, so that certificates have no effect";
                self.warn(path, CODE, message);
            }
            ServerTLSMode::Passthrough
            | ServerTLSMode::AutoPassthrough
            | ServerTLSMode::IstioMutual
            | ServerTLSMode::Simple
            | ServerTLSMode::Mutual
            | ServerTLSMode::OptionalMutual => {}
        }
        if source_count > 1 {
            let message = "only one of serverCertificate, credentialName, credentialNames and \
                           tlsCertificates can be set";
            self.error(path, CODE, message);
        }
        if tls.credential_names.len() > CERTIFICATES_MAX {
            let message = "at most 2 names, as for RSA and ECDSA";
            self.error(&format!("{path}.credentialNames"), CODE, message);
        }
        if tls.tls_certificates.len() > CERTIFICATES_MAX {
            let message = "only the first 2 are used, as for RSA and ECDSA";
            self.warn(&format!("{path}.tlsCertificates"), CODE, message);
        }
        let is_simple = tls.mode == ServerTLSMode::Simple;
        if !tls.ca_crl.is_empty() && (is_simple || !tls.credential_name.is_empty()) {
            let message = "allowed for MUTUAL and OPTIONAL_MUTUAL without credentialName only";
            self.error(&format!("{path}.caCrl"), CODE, message);
        }
    }

    /// Files that a mode needs when no secret holds them.
    fn certificate_completeness(&mut self, path: &str, tls: &ServerTLSSettings) {
        const CODE: &str = "certificate";
        let verifies_clients = matches!(
            tls.mode,
            ServerTLSMode::Mutual | ServerTLSMode::OptionalMutual
        );
        let terminates = verifies_clients || tls.mode == ServerTLSMode::Simple;
        let has_secret = !tls.credential_name.is_empty() || !tls.credential_names.is_empty();
        if !terminates || has_secret {
            return;
        }
        if tls.tls_certificates.is_empty() {
            for (field, file) in [
                ("serverCertificate", &tls.server_certificate),
                ("privateKey", &tls.private_key),
            ] {
                if file.is_empty() {
                    let message = "needed without credentialName";
                    self.error(&format!("{path}.{field}"), CODE, message);
                }
            }
        }
        for (index, pair) in tls.tls_certificates.iter().enumerate() {
            if !pair.ca_certificates.is_empty() {
                let field = format!("{path}.tlsCertificates[{index}].caCertificates");
                let message = "ignored: the caCertificates beside tlsCertificates count";
                self.warn(&field, "ignored", message);
            }
            if pair.server_certificate.is_empty() || pair.private_key.is_empty() {
                let message = "expected serverCertificate and privateKey";
                self.error(&format!("{path}.tlsCertificates[{index}]"), CODE, message);
            }
        }
        if verifies_clients
            && tls.ca_certificates.is_empty()
            && tls.ca_cert_credential_name.is_empty()
        {
            let message = "needed to verify clients";
            self.error(&format!("{path}.caCertificates"), CODE, message);
        }
    }

    fn cipher_suites(&mut self, path: &str, tls: &ServerTLSSettings) {
        const CODE: &str = "cipher-suite";
        let mut seen = BTreeSet::new();
        for (index, suite) in tls.cipher_suites.iter().enumerate() {
            let field = format!("{path}.cipherSuites[{index}]");
            if !CIPHER_SUITES.contains(&suite.as_str()) {
                self.warn(
                    &field,
                    CODE,
                    format!("unknown cipher suite {suite:?} is left out"),
                );
            }
            if !seen.insert(suite) {
                self.warn(&field, CODE, format!("{suite:?} is there twice"));
            }
        }
        let is_old = matches!(
            tls.min_protocol_version,
            TLSProtocol::V1_0 | TLSProtocol::V1_1
        );
        if is_old && tls.cipher_suites.is_empty() {
            let message = "versions before TLS 1.2 need explicit cipherSuites";
            self.warn(&format!("{path}.minProtocolVersion"), CODE, message);
        }
    }
}

/// Whether anything names a certificate.
fn has_certificate(tls: &ServerTLSSettings) -> bool {
    let texts = [
        &tls.server_certificate,
        &tls.private_key,
        &tls.ca_certificates,
        &tls.credential_name,
        &tls.ca_cert_credential_name,
    ];
    texts.into_iter().any(|text| !text.is_empty())
        || !tls.credential_names.is_empty()
        || !tls.tls_certificates.is_empty()
}

/// What Envoy's TLS library knows, by OpenSSL's names.
const CIPHER_SUITES: [&str; 15] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];
