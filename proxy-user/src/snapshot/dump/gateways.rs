//! What gateway pods listen on as text.

use std::sync::Arc;

use super::Dump;
use super::values::from;
use crate::snapshot::Snapshot;
use crate::snapshot::gateways::{
    ClientCa, ClientCertificate, Credential, GatewayChain, GatewayListener, GatewayRoutes,
    ServerTls,
};

impl Dump {
    pub(super) fn gateways(&mut self, snapshot: &Snapshot) {
        for gateway in &snapshot.gateways {
            let pods = gateway.pods.join(" ");
            self.line(0, format_args!("gateway {} pods={pods}", gateway.key));
            for listener in &gateway.listeners {
                self.listener(listener);
            }
        }
    }

    fn listener(&mut self, listener: &GatewayListener) {
        let bind = match &*listener.bind {
            "" => "*",
            bind => bind,
        };
        let target = if listener.target_port == listener.port {
            String::new()
        } else {
            format!(" at {}", listener.target_port)
        };
        let tls = if listener.is_tls { " tls" } else { "" };
        let port = listener.port;
        self.line(1, format_args!("listener {bind}:{port}{target}{tls}"));
        for chain in &listener.chains {
            self.chain(chain);
        }
    }

    fn chain(&mut self, chain: &GatewayChain) {
        let sni = if chain.sni_hosts.is_empty() {
            String::new()
        } else {
            format!(" sni=[{}]", chain.sni_hosts.join(" "))
        };
        let by = from(Some(&chain.provenance));
        self.line(
            2,
            format_args!("chain {} {:?}{sni}{by}", chain.name, chain.protocol),
        );
        if let Some(tls) = &chain.tls {
            self.line(3, format_args!("{}", server_tls(tls)));
        }
        match &chain.routes {
            GatewayRoutes::Http(table) => self.table(3, table),
            GatewayRoutes::Tcp(routes) => {
                for route in routes {
                    self.tcp(3, route);
                }
            }
            GatewayRoutes::Tls(routes) => {
                for route in routes {
                    self.tls(3, route);
                }
            }
        }
    }
}

fn server_tls(tls: &ServerTls) -> String {
    let mut text = match &tls.credential {
        Credential::Mesh => "tls mesh".to_owned(),
        Credential::Secrets(names) => format!("tls secrets={}", names.join(",")),
        Credential::Files(pairs) => {
            let pairs = pairs.iter();
            let pairs: Vec<String> = pairs.map(|(cert, key)| format!("{cert}+{key}")).collect();
            format!("tls files={}", pairs.join(","))
        }
    };
    match &tls.client {
        ClientCertificate::None => {}
        ClientCertificate::Optional(by) => text.push_str(&format!(" optional by {}", ca(by))),
        ClientCertificate::Required(by) => text.push_str(&format!(" required by {}", ca(by))),
    }
    if let (Some(oldest), _) = tls.versions {
        text.push_str(&format!(" from {oldest:?}"));
    }
    if let (_, Some(newest)) = tls.versions {
        text.push_str(&format!(" to {newest:?}"));
    }
    for (what, list) in [
        ("ciphers", &tls.cipher_suites),
        ("sans", &tls.subject_alt_names),
        ("spki", &tls.allowed_spki),
        ("hashes", &tls.allowed_hashes),
    ] {
        if !list.is_empty() {
            let list: Vec<&str> = list.iter().map(Arc::as_ref).collect();
            text.push_str(&format!(" {what}={}", list.join(",")));
        }
    }
    if tls.skips_verification {
        text.push_str(" unverified");
    }
    text
}

fn ca(by: &ClientCa) -> String {
    match by {
        ClientCa::Mesh => "the mesh".to_owned(),
        ClientCa::OfServerSecret => "the server's secret".to_owned(),
        ClientCa::Secret(name) => format!("secret {name}"),
        ClientCa::Files(file, None) => file.to_string(),
        ClientCa::Files(file, Some(crl)) => format!("{file} but {crl}"),
    }
}
