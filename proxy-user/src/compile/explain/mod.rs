//! Where a request would go and why: the lookup of both data planes, told step by step.
//! Start at [`explain`].
//!
//! Pure: it reads one snapshot, so the CLI answers offline as the daemon does online.

mod describe;
mod lookup;
mod request;
mod text;

use serde::{Deserialize, Serialize};

pub use lookup::explain;
pub use request::{BadRequest, ExplainRequest, Scheme};

/// The answer to one question.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The client, `namespace/name`.
    pub from: String,
    /// Key of the scope whose view it has.
    pub scope: String,
    /// Why the client is not captured, so that nothing of the below happens.
    pub untouched: Option<String>,
    /// The address that stands for the host, where a service has one.
    pub address: Option<String>,
    /// How the address was found: `exact`, `portWide` or `unknown`.
    pub found: String,
    /// Host of the service that owns the address.
    pub service: Option<String>,
    /// Protocol of the port, as declared.
    pub protocol: Option<String>,
    /// `kernel`, `proxy`, `untouched` or `refused`.
    pub path: String,
    /// Why this path.
    pub path_reason: String,
    /// `l4`, `pass` or `deny`: what happens while the proxy is gone.
    pub degraded: String,
    /// Why this form.
    pub degraded_reason: String,
    /// The virtual host that the Host value means.
    pub virtual_host: Option<String>,
    /// Rules that come before the one that acts, in order.
    pub passed_over: Vec<PassedOver>,
    /// The rule that acts.
    pub rule: Option<RuleView>,
    /// What happens.
    pub outcome: Outcome,
}

/// A rule that does not act.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PassedOver {
    /// The rule.
    pub rule: RuleView,
    /// For each of its alternatives, the first condition that does not hold.
    pub mismatches: Vec<String>,
}

/// A rule as the user wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleView {
    /// Effective name, empty for none.
    pub name: String,
    /// `kind/namespace/name`, empty for the service's own route.
    pub object: String,
    /// Path of the rule or of the alternative that matched.
    pub field: String,
    /// `file:line`.
    pub origin: String,
}

/// What happens to the request or connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Outcome {
    /// It goes to one of these.
    #[serde(rename_all = "camelCase")]
    Forward {
        /// In order.
        destinations: Vec<DestinationView>,
        /// Policies of the rule, in words.
        policies: Vec<String>,
    },
    /// A redirect is answered.
    Redirect {
        /// Status code.
        status: u16,
    },
    /// A fixed answer.
    DirectResponse {
        /// Status code.
        status: u16,
    },
    /// 503, since a field is not honoured.
    NotHonoured {
        /// The field.
        field: String,
    },
    /// The virtual host has no rule for the request: 404.
    NotFound,
    /// To the dialled address, by no rule.
    #[default]
    Passthrough,
    /// REGISTRY_ONLY: 502 for HTTP, a closed connection for anything else.
    BlackHole,
}

/// One weighted destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationView {
    /// `outbound|port|subset|host`.
    pub cluster: String,
    /// Relative weight.
    pub weight: u32,
    /// `ok`, `missing` (503 NC), `notHonoured` (503), `noEndpoints` (503 UH), or `unresolved`:
    /// no address of its names is known (503 UH in a running daemon).
    pub state: String,
    /// Endpoints that may be chosen.
    pub endpoints: Vec<EndpointView>,
    /// Names, `name:port`, whose addresses are endpoints; `*:port` is the name that the request
    /// asks for. They are resolved by a running daemon only.
    #[serde(default)]
    pub names: Vec<String>,
}

/// One endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// `address:port`.
    pub address: String,
    /// Pod or WorkloadEntry.
    pub workload: String,
    /// Load-balancing weight.
    pub weight: u32,
}
