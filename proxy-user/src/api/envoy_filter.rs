//! EnvoyFilter, as networking.istio.io defines it. The patches' values stay
//! as they are: what of them is honoured is decided by compile.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Kind, NoStatus, Resource, WorkloadSelector};

/// Patches of Envoy's configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EnvoyFilter {
    /// Workloads; absent means all.
    pub workload_selector: Option<WorkloadSelector>,
    /// Targets of the Gateway API.
    pub target_refs: Vec<PolicyTargetReference>,
    /// The patches, in order.
    pub config_patches: Vec<EnvoyConfigObjectPatch>,
    /// Smaller goes first.
    pub priority: i32,
}

impl Resource for EnvoyFilter {
    const KIND: Kind = Kind::EnvoyFilter;
    type Status = NoStatus;
}

/// A target of a policy.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PolicyTargetReference {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace; empty for the same.
    pub namespace: String,
}

/// One patch: where, on what condition, and how.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EnvoyConfigObjectPatch {
    /// Which part of the configuration.
    pub apply_to: ApplyTo,
    /// On what condition.
    #[serde(rename = "match")]
    pub condition: Option<EnvoyConfigObjectMatch>,
    /// How.
    pub patch: Option<Patch>,
}

/// Which part of the configuration a patch is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "Envoy's words for parts of its configuration")]
pub enum ApplyTo {
    #[default]
    Invalid,
    Listener,
    FilterChain,
    NetworkFilter,
    HttpFilter,
    RouteConfiguration,
    VirtualHost,
    HttpRoute,
    Cluster,
    ExtensionConfig,
    Bootstrap,
    ListenerFilter,
}

/// On what condition a patch acts; one of the three objects.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EnvoyConfigObjectMatch {
    /// Which side.
    pub context: PatchContext,
    /// Which proxies.
    pub proxy: Option<ProxyMatch>,
    /// Which listeners.
    pub listener: Option<ListenerMatch>,
    /// Which routes.
    pub route_configuration: Option<RouteConfigurationMatch>,
    /// Which clusters.
    pub cluster: Option<ClusterMatch>,
    /// Which part of a waypoint.
    pub waypoint: Option<WaypointMatch>,
}

/// Which side a patch is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "Istio's words for the sides of a proxy")]
pub enum PatchContext {
    #[default]
    Any,
    SidecarInbound,
    SidecarOutbound,
    Gateway,
    Waypoint,
}

/// Which proxies a patch is for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProxyMatch {
    /// RE2 expression for the version.
    pub proxy_version: String,
    /// Metadata that the proxy must have.
    pub metadata: BTreeMap<String, String>,
}

/// Which listeners a patch is for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ListenerMatch {
    /// Port.
    pub port_number: u32,
    /// Port by name.
    pub port_name: String,
    /// Which chain.
    pub filter_chain: Option<FilterChainMatch>,
    /// Which listener filter.
    pub listener_filter: String,
    /// Name.
    pub name: String,
}

/// Which filter chain a patch is for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FilterChainMatch {
    /// Name.
    pub name: String,
    /// Server name.
    pub sni: String,
    /// `raw_buffer` or `tls`.
    pub transport_protocol: String,
    /// ALPN names, comma separated.
    pub application_protocols: String,
    /// Which filter.
    pub filter: Option<FilterMatch>,
    /// Destination port.
    pub destination_port: u32,
}

/// Which network filter a patch is for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FilterMatch {
    /// Name.
    pub name: String,
    /// Which filter inside.
    pub sub_filter: Option<SubFilterMatch>,
}

/// Which HTTP filter a patch is for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SubFilterMatch {
    /// Name.
    pub name: String,
}

/// Which route tables a patch is for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RouteConfigurationMatch {
    /// Port.
    pub port_number: u32,
    /// Port by name.
    pub port_name: String,
    /// `namespace/name`.
    pub gateway: String,
    /// Which virtual host.
    pub vhost: Option<VirtualHostMatch>,
    /// Name.
    pub name: String,
}

/// Which virtual host a patch is for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct VirtualHostMatch {
    /// Name, `host:port`.
    pub name: String,
    /// One of its domains.
    pub domain_name: String,
    /// Which route.
    pub route: Option<RouteMatch>,
}

/// Which route a patch is for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RouteMatch {
    /// Name.
    pub name: String,
    /// What the route does.
    pub action: RouteAction,
}

/// What a route does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "Envoy's words for what a route does")]
pub enum RouteAction {
    #[default]
    Any,
    Route,
    Redirect,
    DirectResponse,
}

/// Which clusters a patch is for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClusterMatch {
    /// Port.
    pub port_number: u32,
    /// Service.
    pub service: String,
    /// Subset.
    pub subset: String,
    /// Name.
    pub name: String,
}

/// Which part of a waypoint a patch is for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WaypointMatch {
    /// Which filter.
    pub filter: Option<FilterMatch>,
    /// Port.
    pub port_number: u32,
    /// Which route.
    pub route: Option<RouteMatch>,
}

/// How a patch acts.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Patch {
    /// What is done.
    pub operation: PatchOperation,
    /// Envoy's configuration, as JSON.
    pub value: Option<serde_json::Value>,
    /// Where among the filters.
    pub filter_class: FilterClass,
}

/// What a patch does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "Istio's words for what a patch does")]
pub enum PatchOperation {
    #[default]
    Invalid,
    Merge,
    Add,
    Remove,
    InsertBefore,
    InsertAfter,
    InsertFirst,
    Replace,
    MergeAndReplaceList,
}

/// Where among the filters a patch inserts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "Istio's words for classes of filters")]
pub enum FilterClass {
    #[default]
    Unspecified,
    Authn,
    Authz,
    Stats,
}
