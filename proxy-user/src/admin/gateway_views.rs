//! What gateway pods listen on, as rows of `get listeners`.

use super::describe;
use super::view::{ListenerView, PlanView};
use crate::snapshot::Snapshot;
use crate::snapshot::gateways::{GatewayChain, GatewayListener, GatewayView};

/// One row for each chain of each listener.
pub(super) fn listeners(snapshot: &Snapshot) -> Vec<ListenerView> {
    let gateways = snapshot.gateways.iter();
    gateways
        .flat_map(|gateway| gateway.listeners.iter().map(move |it| (gateway, it)))
        .flat_map(|(gateway, it)| it.chains.iter().map(move |chain| row(gateway, it, chain)))
        .collect()
}

fn row(gateway: &GatewayView, listener: &GatewayListener, chain: &GatewayChain) -> ListenerView {
    let address = match &*listener.bind {
        "" => format!("*:{}", listener.target_port),
        bind if bind.starts_with("unix://") => bind.to_owned(),
        bind => format!("{bind}:{}", listener.target_port),
    };
    let service = if chain.sni_hosts.is_empty() {
        "*".to_owned()
    } else {
        chain.sni_hosts.join(" ")
    };
    ListenerView {
        scope: format!("gateway {}", gateway.key),
        address,
        service,
        protocol: describe::protocol(chain.protocol).to_owned(),
        is_hidden: false,
        plan: Some(PlanView {
            path: "none".to_owned(),
            reason: "gateways are not served yet".to_owned(),
            degraded: String::new(),
            degraded_reason: String::new(),
        }),
        origin: describe::origin(Some(&chain.provenance)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::finding::{ObjectRef, Origin};
    use crate::snapshot::Provenance;
    use crate::snapshot::gateways::GatewayRoutes;
    use crate::snapshot::listeners::Protocol;

    #[test]
    fn each_chain_is_a_row_with_its_names_and_its_place() {
        let chain = |names: &[&str]| GatewayChain {
            name: Arc::from("tls"),
            protocol: Protocol::Tls,
            sni_hosts: names.iter().map(|name| Arc::from(*name)).collect(),
            tls: None,
            routes: GatewayRoutes::Tls(Vec::new()),
            provenance: Provenance {
                object: ObjectRef::new("Gateway", "shop", "gw"),
                field: Arc::from("spec.servers[0]"),
                origin: Origin {
                    file: Arc::from("gw.yaml"),
                    line: 7,
                },
            },
        };
        let listener = |bind: &str, names: &[&str]| GatewayListener {
            port: 443,
            target_port: 8443,
            bind: Arc::from(bind),
            is_tls: true,
            chains: vec![chain(names)],
        };
        let snapshot = Snapshot {
            gateways: vec![Arc::new(GatewayView {
                key: Arc::from("edge for shop/gw"),
                namespace: Arc::from("edge"),
                pods: Vec::new(),
                gateways: Vec::new(),
                listeners: vec![
                    listener("", &["a.com", "b.com"]),
                    listener("10.0.0.1", &[]),
                    listener("unix:///run/gw", &[]),
                ],
            })],
            ..Snapshot::default()
        };
        let rows = listeners(&snapshot);
        let found: Vec<(&str, &str)> = rows.iter().map(|r| (&*r.address, &*r.service)).collect();
        let expected = [
            ("*:8443", "a.com b.com"),
            ("10.0.0.1:8443", "*"),
            ("unix:///run/gw", "*"),
        ];
        assert_eq!(found, expected);
        assert_eq!(rows[0].scope, "gateway edge for shop/gw");
        assert_eq!(rows[0].origin.as_deref(), Some("gw.yaml:7"));
    }
}
