//! Findings about Gateways that need more than one object.
//!
//! Source: Istio's analysers, pkg/config/analysis/msg/messages.yaml
//! (`ReferencedResourceNotFound`, `VirtualServiceHostNotFoundInGateway`,
//! `GatewayPortNotDefinedOnService`, `InvalidGatewayCredential`).

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::{Object, ObjectKey, ObjectSet, Secret};
use crate::compile::host;
use crate::compile::matcher::MESH;
use crate::compile::rule::{Place, Problems};
use crate::compile::scope::is_subset;
use crate::compile::virtual_service::MeshRules;
use crate::finding::{Finding, Severity};
use crate::snapshot::gateways::{ClientCa, ClientCertificate, Credential};

use super::merge::{Listener, admitted_hosts};
use super::tls::server_tls;
use super::{Gateway, GatewayContext, Workload};

/// Pairs of keys of which a secret needs one. Source: Istio,
/// pilot/pkg/credentials/kube/secrets.go.
const CERTIFICATE_KEYS: [(&str, &str); 2] = [("cert", "key"), ("tls.crt", "tls.key")];
/// Keys of which a secret with authorities needs one.
const CA_KEYS: [&str; 2] = ["cacert", "ca.crt"];

/// Reports Gateways whose selector selects no pod at all.
pub(super) fn check_selectors(objects: &ObjectSet, findings: &mut Vec<Finding>) {
    for gateway in objects.gateways.values() {
        let selector = &gateway.spec.selector;
        let mut pods = objects.pods.values();
        let is_served = pods.any(|pod| is_subset(selector, &pod.meta.labels));
        if !selector.is_empty() && !is_served && !objects.pods.is_empty() {
            findings.push(gateway.finding(
                Severity::Warning,
                "empty-selector",
                "selector",
                "no pod has these labels: nothing serves the Gateway",
            ));
        }
    }
}

/// Reports Gateways that VirtualServices name and that are not there, and hosts that no server
/// of the named ones admits.
pub(super) fn check_references(context: &GatewayContext<'_>, problems: &mut Problems) {
    for rules in &context.virtual_services.at_gateways {
        let mut named: Vec<&Gateway> = Vec::new();
        for (at, name) in rules.gateways.iter().enumerate() {
            if &**name == MESH {
                continue;
            }
            let key = name.split_once('/');
            let key = key.map(|(namespace, name)| ObjectKey::new(namespace, name));
            match key.and_then(|key| context.objects.gateways.get(&key)) {
                Some(gateway) => named.push(gateway),
                None => problems.warning(
                    "unknown-gateway",
                    &Place::new(&rules.object, format!("gateways[{at}]")),
                    format!("there is no Gateway {name}: nothing is bound to it"),
                ),
            }
        }
        if !named.is_empty() {
            check_hosts(rules, &named, problems);
        }
    }
}

fn check_hosts(rules: &MeshRules, gateways: &[&Gateway], problems: &mut Problems) {
    let namespace = rules.object.meta.namespace.as_str();
    let mut admitted: BTreeSet<String> = BTreeSet::new();
    for gateway in gateways {
        for server in &gateway.spec.servers {
            admitted.extend(admitted_hosts(gateway, server, namespace));
        }
    }
    for (at, name) in rules.hosts.iter().enumerate() {
        if admitted.iter().any(|known| host::overlaps(name, known)) {
            continue;
        }
        let names: Vec<String> = gateways.iter().map(|g| g.key().to_string()).collect();
        problems.warning(
            "unbound-host",
            &Place::new(&rules.object, format!("hosts[{at}]")),
            format!(
                "no server of {} admits the host {name} for namespace {namespace}: it is not \
                 routed there",
                names.join(", ")
            ),
        );
    }
}

/// Reports ports that Services of the pods do not lead to, where they have any.
pub(super) fn check_ports(
    workload: &Workload<'_>,
    listeners: &[Listener<'_>],
    findings: &mut Vec<Finding>,
) {
    if workload.target_ports.is_empty() {
        return;
    }
    for server in listeners.iter().flat_map(|listener| &listener.servers) {
        let is_unix = server.server.bind.starts_with("unix://");
        if is_unix || workload.target_ports.contains_key(&server.port) {
            continue;
        }
        findings.push(server.gateway.finding(
            Severity::Warning,
            "gateway-port",
            &format!("{}.port.number", server.field()),
            format!(
                "no Service of the pods in {} has port {}: clients come there by the pods' own \
                 addresses only",
                workload.client.namespace, server.port
            ),
        ));
    }
}

/// Reports secrets that are not there, or that hold no certificate.
pub(super) fn check_credentials(
    objects: &ObjectSet,
    workload: &Workload<'_>,
    listeners: &[Listener<'_>],
    findings: &mut Vec<Finding>,
) {
    for server in listeners.iter().flat_map(|listener| &listener.servers) {
        let tls = server.server.tls.as_ref();
        let Some(tls) = tls.and_then(|tls| server_tls(tls, &workload.client.namespace)) else {
            continue;
        };
        let mut look = |name: &Arc<str>, is_usable: fn(&Object<Secret>) -> bool, keys: &str| {
            let Some((namespace, name)) = name.split_once('/').filter(|_| !name.contains("://"))
            else {
                return;
            };
            let (severity, code, cause) =
                match objects.secrets.get(&ObjectKey::new(namespace, name)) {
                    None => (
                        Severity::Warning,
                        "unknown-secret",
                        "is not there".to_owned(),
                    ),
                    Some(secret) if !is_usable(secret) => {
                        (Severity::Error, "secret", format!("has neither {keys}"))
                    }
                    Some(_) => return,
                };
            findings.push(server.gateway.finding(
                severity,
                code,
                &format!("{}.tls", server.field()),
                format!("Secret {namespace}/{name} {cause}: the server cannot serve"),
            ));
        };
        if let Credential::Secrets(names) = &tls.credential {
            for name in names {
                look(
                    name,
                    has_certificate,
                    "cert and key nor tls.crt and tls.key",
                );
            }
        }
        let ca = match &tls.client {
            ClientCertificate::None => None,
            ClientCertificate::Optional(ca) | ClientCertificate::Required(ca) => Some(ca),
        };
        if let Some(ClientCa::Secret(name)) = ca {
            look(name, has_authorities, "cacert nor ca.crt");
        }
    }
}

fn has_key(secret: &Object<Secret>, key: &str) -> bool {
    let data = secret.spec.data.get(key);
    let text = secret.spec.string_data.get(key);
    data.or(text).is_some_and(|value| !value.is_empty())
}

fn has_certificate(secret: &Object<Secret>) -> bool {
    let mut pairs = CERTIFICATE_KEYS.iter();
    pairs.any(|(certificate, key)| has_key(secret, certificate) && has_key(secret, key))
}

fn has_authorities(secret: &Object<Secret>) -> bool {
    CA_KEYS.iter().any(|key| has_key(secret, key))
}
