//! The rules of an EnvoyFilter's form. Which patches are honoured is no matter
//! of form and decided where they would be applied.
//!
//! Source: pkg/config/validation/envoyfilter/envoyfilter.go in istio/istio.

use serde_json::Value;

use super::{Report, Validate, envoy_types, names};
use crate::api::{
    ApplyTo, EnvoyConfigObjectMatch, EnvoyConfigObjectPatch, EnvoyFilter, ListenerMatch, Patch,
    PatchOperation,
};

/// Most targets of the Gateway API (the CRD's limit).
const TARGETS_MAX: usize = 16;

/// Longest expression for a proxy's version; longer ones never match.
const PROXY_VERSION_LEN_MAX: usize = 1024;

impl Validate for EnvoyFilter {
    fn validate(spec: &Self, report: &mut Report<'_, Self>) {
        let message = "patches of Envoy's configuration depend on its inner workings; prefer \
                       Istio's own fields where they exist";
        report.warn("", "envoy-filter", message);
        report.workload_selector(spec.workload_selector.as_ref());
        if spec.workload_selector.is_some() && !spec.target_refs.is_empty() {
            let message = "only one of workloadSelector and targetRefs can be set";
            report.error("targetRefs", "targets", message);
        }
        if spec.target_refs.len() > TARGETS_MAX {
            report.error(
                "targetRefs",
                "too-many",
                format!("at most {TARGETS_MAX} targets"),
            );
        }
        for (index, patch) in spec.config_patches.iter().enumerate() {
            report.config_patch(&format!("configPatches[{index}]"), patch);
        }
    }
}

impl Report<'_, EnvoyFilter> {
    fn config_patch(&mut self, path: &str, patch: &EnvoyConfigObjectPatch) {
        const CODE: &str = "patch";
        if patch.apply_to == ApplyTo::Invalid {
            self.error(
                &format!("{path}.applyTo"),
                CODE,
                "expected applyTo, found none",
            );
        }
        match &patch.patch {
            None => self.error(
                &format!("{path}.patch"),
                CODE,
                "expected a patch, found none",
            ),
            Some(change) => self.change(&format!("{path}.patch"), change, patch.apply_to),
        }
        if let Some(condition) = &patch.condition {
            self.condition(&format!("{path}.match"), condition, patch.apply_to);
        }
    }

    fn change(&mut self, path: &str, patch: &Patch, apply_to: ApplyTo) {
        const CODE: &str = "patch";
        if patch.operation == PatchOperation::Invalid {
            self.error(
                &format!("{path}.operation"),
                CODE,
                "expected an operation, found none",
            );
        }
        let field = format!("{path}.value");
        let Some(value) = &patch.value else {
            if patch.operation != PatchOperation::Remove {
                self.error(&field, CODE, "expected a value, found none");
            }
            return;
        };
        self.types(&field, value);
        let Some(value) = value.as_object() else {
            return self.error(&field, CODE, "expected a mapping");
        };
        let is_filter = matches!(
            apply_to,
            ApplyTo::NetworkFilter | ApplyTo::HttpFilter | ApplyTo::ListenerFilter
        );
        if !is_filter || patch.operation == PatchOperation::Remove {
            return;
        }
        match value
            .get("typed_config")
            .or_else(|| value.get("typedConfig"))
        {
            None => self.warn(&field, CODE, "a filter without typed_config does nothing"),
            Some(config) if config.get("@type").is_none() => {
                let message = "expected @type, the name of the configuration's type";
                self.error(&format!("{field}.typed_config"), CODE, message);
            }
            Some(_) => {}
        }
        if let Some(name) = value.get("name").and_then(|name| name.as_str()) {
            self.filter_name(&format!("{field}.name"), name);
        }
    }

    /// Every `@type` in a value, however deep.
    fn types(&mut self, path: &str, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let field = format!("{path}.{name}");
                    if name != "@type" {
                        self.types(&field, value);
                        continue;
                    }
                    let problem = match value.as_str() {
                        Some(url) => envoy_types::find_type_problem(url),
                        None => Some("expected the name of a type".to_owned()),
                    };
                    if let Some(problem) = problem {
                        self.error(&field, "unknown-type", problem);
                    }
                }
            }
            Value::Array(entries) => {
                for (at, entry) in entries.iter().enumerate() {
                    self.types(&format!("{path}[{at}]"), entry);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn filter_name(&mut self, field: &str, name: &str) {
        if name.starts_with("envoy.") && !name.starts_with("envoy.filters.") {
            let message = format!("{name:?} is an old name; Envoy has removed it");
            self.warn(field, "deprecated", message);
        }
    }

    fn condition(&mut self, path: &str, condition: &EnvoyConfigObjectMatch, apply_to: ApplyTo) {
        const CODE: &str = "patch-match";
        if let Some(proxy) = &condition.proxy {
            let field = format!("{path}.proxy.proxyVersion");
            if proxy.proxy_version.len() > PROXY_VERSION_LEN_MAX {
                let message = format!("longer than {PROXY_VERSION_LEN_MAX} bytes: never matches");
                self.warn(&field, CODE, message);
            } else if !proxy.proxy_version.is_empty()
                && let Some(problem) = names::find_regex_problem(&proxy.proxy_version)
            {
                self.error(&field, "regex", problem);
            }
        }
        let expected = match apply_to {
            ApplyTo::Listener
            | ApplyTo::FilterChain
            | ApplyTo::NetworkFilter
            | ApplyTo::HttpFilter
            | ApplyTo::ListenerFilter => "listener",
            ApplyTo::RouteConfiguration | ApplyTo::VirtualHost | ApplyTo::HttpRoute => {
                "routeConfiguration"
            }
            ApplyTo::Cluster => "cluster",
            ApplyTo::ExtensionConfig | ApplyTo::Bootstrap | ApplyTo::Invalid => return,
        };
        for (field, is_there) in [
            ("listener", condition.listener.is_some()),
            (
                "routeConfiguration",
                condition.route_configuration.is_some(),
            ),
            ("cluster", condition.cluster.is_some()),
        ] {
            // A waypoint's match stands beside the others.
            if is_there && field != expected {
                let message = format!("applyTo asks for a match by {expected}");
                self.error(&format!("{path}.{field}"), CODE, message);
            }
        }
        if let Some(listener) = &condition.listener {
            self.listener_match(&format!("{path}.listener"), listener, apply_to);
        }
    }

    fn listener_match(&mut self, path: &str, listener: &ListenerMatch, apply_to: ApplyTo) {
        const CODE: &str = "patch-match";
        let filter = listener
            .filter_chain
            .as_ref()
            .and_then(|chain| chain.filter.as_ref());
        let Some(filter) = filter else { return };
        let path = format!("{path}.filterChain.filter");
        if filter.name.is_empty() {
            self.error(
                &format!("{path}.name"),
                CODE,
                "expected the name of a filter, found none",
            );
        }
        self.filter_name(&format!("{path}.name"), &filter.name);
        if matches!(apply_to, ApplyTo::Listener | ApplyTo::FilterChain) {
            self.warn(
                &path,
                CODE,
                "has no effect on a patch of listeners and chains",
            );
        }
        let Some(sub_filter) = &filter.sub_filter else {
            return;
        };
        let path = format!("{path}.subFilter");
        if apply_to != ApplyTo::HttpFilter {
            self.error(&path, CODE, "is for applyTo HTTP_FILTER only");
        }
        if sub_filter.name.is_empty() {
            self.error(
                &format!("{path}.name"),
                CODE,
                "expected the name of a filter, found none",
            );
        }
        const CONNECTION_MANAGER: [&str; 2] = [
            "envoy.filters.network.http_connection_manager",
            "envoy.http_connection_manager",
        ];
        if !CONNECTION_MANAGER.contains(&filter.name.as_str()) {
            let message =
                "needs the filter envoy.filters.network.http_connection_manager around it";
            self.error(&path, CODE, message);
        }
    }
}
