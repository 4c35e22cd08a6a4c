//! Which fields this version reads and does not act upon, and what happens instead.
//!
//! One table per kind. A field that is honoured loses its row; nothing else
//! changes here. Start at [`find_not_honoured`].

use super::{CaptureMode, ClientTLSMode, Kind, Object, Resource};
use crate::finding::{Finding, Severity};

/// A field and what happens instead of it.
///
/// The path is that of findings with `[]` for any index; an empty path is the
/// whole object. `POLICY` stands for every place that a traffic policy has in a
/// DestinationRule.
type Row = (&'static str, &'static str);

/// Where a rule acts, without the field.
const WITHOUT: &str = "the rule acts without it";
/// Where traffic must not go out as written nor otherwise.
const REFUSED: &str = "HTTP to these endpoints is answered 503, TCP is refused";
/// Where an identity would be expected of the endpoint.
const NO_IDENTITY: &str = "it is dialled in plain text, nobody checks who it is";
/// Where the object does nothing.
const ABSENT: &str = "it acts as if the object were absent";

const VIRTUAL_SERVICE: &[Row] = &[
    ("http[].match[].statPrefix", WITHOUT),
    ("http[].retries.retryRemoteLocalities", WITHOUT),
];

const DESTINATION_RULE: &[Row] = &[
    ("POLICY.tunnel", REFUSED),
    ("POLICY.proxyProtocol", REFUSED),
    ("POLICY.loadBalancer.localityLbSetting", WITHOUT),
    ("POLICY.loadBalancer.zoneAwareLbSetting", WITHOUT),
    ("POLICY.loadBalancer.warmup", WITHOUT),
    ("POLICY.loadBalancer.warmupDurationSecs", WITHOUT),
];

const SERVICE_ENTRY: &[Row] = &[
    ("subjectAltNames", WITHOUT),
    ("endpoints[].network", WITHOUT),
    ("endpoints[].locality", WITHOUT),
    ("endpoints[].serviceAccount", NO_IDENTITY),
];

/// Its inbound fields get findings that name the pods concerned.
const SIDECAR: &[Row] = &[
    (
        "egress[].bind",
        "the listener is not opened, connections are captured all the same",
    ),
    (
        "outboundTrafficPolicy.egressProxy",
        "unknown destinations are dialled directly",
    ),
];

const WORKLOAD_ENTRY: &[Row] = &[
    ("network", WITHOUT),
    ("locality", WITHOUT),
    ("serviceAccount", NO_IDENTITY),
];

/// Of Kubernetes' kinds, the fields that only matter to traffic.
const SERVICE: &[Row] = &[(
    "trafficDistribution",
    "endpoints of all zones and nodes are used alike",
)];

const WHOLE_OBJECT: &[Row] = &[("", ABSENT)];

const GATEWAY: &[Row] = &[(
    "",
    "its listeners are not opened, nobody is served at its ports",
)];

/// Where a DestinationRule has a traffic policy.
const POLICIES: [&str; 4] = [
    "trafficPolicy",
    "trafficPolicy.portLevelSettings[]",
    "subsets[].trafficPolicy",
    "subsets[].trafficPolicy.portLevelSettings[]",
];

/// The rows of a kind. Kubernetes' kinds are read for what traffic needs and
/// hardly have any; EnvoyFilters and the security kinds get findings that name the pods concerned.
fn rows(kind: Kind) -> &'static [Row] {
    match kind {
        Kind::VirtualService => VIRTUAL_SERVICE,
        Kind::DestinationRule => DESTINATION_RULE,
        Kind::ServiceEntry => SERVICE_ENTRY,
        Kind::Sidecar => SIDECAR,
        Kind::WorkloadEntry => WORKLOAD_ENTRY,
        Kind::Gateway => GATEWAY,
        Kind::WorkloadGroup => WHOLE_OBJECT,
        Kind::Service => SERVICE,
        Kind::EnvoyFilter
        | Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::RequestAuthentication
        | Kind::EndpointSlice
        | Kind::Pod
        | Kind::Namespace
        | Kind::Node
        | Kind::Secret
        | Kind::ConfigMap => &[],
    }
}

/// An error finding for each field of `object` that was written and is not honoured.
pub fn find_not_honoured<S: Resource + HonouredValues>(object: &Object<S>) -> Vec<Finding> {
    let report = |field: &str, effect: &str| {
        let message = format!("not yet honoured; {effect}");
        object.finding(Severity::Error, "not-honoured", field, message)
    };
    let rows = rows(S::KIND);
    if rows.is_empty() {
        return Vec::new();
    }
    let effect_of = |path: &str| {
        rows.iter()
            .find(|(row, _)| is_at(row, path))
            .map(|(_, effect)| *effect)
    };
    let whole = effect_of("").map(|effect| report("", effect));
    let fields = object.source.paths().filter_map(|(path, _)| {
        effect_of(&without_indices(path)).map(|effect| report(path, effect))
    });
    let values = object.spec.values_not_honoured();
    let values = values
        .into_iter()
        .map(|(field, effect)| report(&field, effect));
    whole.into_iter().chain(fields).chain(values).collect()
}

/// Kinds of which a field is honoured with some values only.
pub trait HonouredValues {
    /// Path of each field whose value is not honoured, and what happens instead.
    fn values_not_honoured(&self) -> Vec<(String, &'static str)> {
        Vec::new()
    }
}

impl HonouredValues for super::DestinationRule {
    fn values_not_honoured(&self) -> Vec<(String, &'static str)> {
        let mut found = Vec::new();
        let mut look = |path: String, policy: &Option<super::TrafficPolicy>| {
            let Some(policy) = policy else { return };
            let ports = policy.port_level_settings.iter().enumerate();
            let ports = ports
                .map(|(index, port)| (format!("{path}.portLevelSettings[{index}].tls"), &port.tls));
            for (field, tls) in std::iter::once((format!("{path}.tls"), &policy.tls)).chain(ports) {
                if tls
                    .as_ref()
                    .is_some_and(|tls| tls.mode != ClientTLSMode::Disable)
                {
                    found.push((field, REFUSED));
                }
            }
        };
        look("trafficPolicy".to_owned(), &self.traffic_policy);
        for (index, subset) in self.subsets.iter().enumerate() {
            look(
                format!("subsets[{index}].trafficPolicy"),
                &subset.traffic_policy,
            );
        }
        found
    }
}

impl HonouredValues for super::Sidecar {
    fn values_not_honoured(&self) -> Vec<(String, &'static str)> {
        let mut found = Vec::new();
        for (index, listener) in self.egress.iter().enumerate() {
            if listener.capture_mode == CaptureMode::None {
                found.push((
                    format!("egress[{index}].captureMode"),
                    "connections are captured all the same",
                ));
            }
            let is_proxy = |port: &super::Port| port.protocol.eq_ignore_ascii_case("http_proxy");
            if listener.port.as_ref().is_some_and(is_proxy) {
                found.push((
                    format!("egress[{index}].port.protocol"),
                    "the port is plain HTTP, hosts of other ports are unknown there",
                ));
            }
        }
        found
    }
}

/// Kinds of which no field depends on its value.
macro_rules! all_values_honoured {
    ($($kind:ident),*) => {$(impl HonouredValues for super::$kind {})*};
}

all_values_honoured!(
    VirtualService,
    ServiceEntry,
    WorkloadEntry,
    WorkloadGroup,
    Gateway,
    EnvoyFilter,
    AuthorizationPolicy,
    PeerAuthentication,
    RequestAuthentication,
    Service,
    EndpointSlice,
    Pod,
    Namespace,
    Node,
    Secret,
    ConfigMap
);

/// Whether a row is about the path, which has `[]` for its indices.
fn is_at(row: &str, path: &str) -> bool {
    let Some(field) = row.strip_prefix("POLICY") else {
        return row == path;
    };
    POLICIES
        .iter()
        .any(|policy| path.strip_prefix(policy) == Some(field))
}

/// `http[12].match[0]` to `http[].match[]`.
fn without_indices(path: &str) -> String {
    let mut general = String::with_capacity(path.len());
    let mut is_index = false;
    for c in path.chars() {
        is_index = match c {
            '[' => {
                general.push('[');
                true
            }
            ']' => {
                general.push(']');
                false
            }
            _ => is_index,
        };
        if !is_index && c != ']' {
            general.push(c);
        }
    }
    general
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::field_paths;
    use crate::api::{
        DestinationRule, Service, ServiceEntry, Sidecar, VirtualService, WorkloadEntry,
    };

    #[test]
    fn every_row_is_about_a_field_that_exists() {
        for (kind, paths) in [
            (Kind::VirtualService, field_paths::<VirtualService>()),
            (Kind::DestinationRule, field_paths::<DestinationRule>()),
            (Kind::ServiceEntry, field_paths::<ServiceEntry>()),
            (Kind::Sidecar, field_paths::<Sidecar>()),
            (Kind::WorkloadEntry, field_paths::<WorkloadEntry>()),
            (Kind::Service, field_paths::<Service>()),
        ] {
            for (row, _) in rows(kind) {
                assert!(paths.iter().any(|path| is_at(row, path)), "{kind}: {row}");
            }
        }
    }

    #[test]
    fn indices_are_left_out() {
        assert_eq!(
            without_indices("http[12].match[0].uri"),
            "http[].match[].uri"
        );
        assert_eq!(without_indices(""), "");
    }
}
