//! The rules for what several kinds have: durations, ports, hosts, visibility,
//! selectors, labels, headers.

use std::collections::BTreeSet;

use super::Report;
use super::names;
use crate::api::{Duration, Labels, Resource, StringMatch, WorkloadSelector};

impl<S: Resource> Report<'_, S> {
    /// At least 1 ms and whole milliseconds; an absent one is fine.
    pub(super) fn duration(&mut self, field: &str, duration: Option<Duration>) {
        let Some(duration) = duration else { return };
        let nanos = duration.get().as_nanos();
        if nanos == 0 || nanos % 1_000_000 != 0 {
            let message = format!("expected at least 1ms, in whole milliseconds, found {duration}");
            self.error(field, "duration", message);
        }
    }

    /// 1 to 65535.
    pub(super) fn port(&mut self, field: &str, port: u32) {
        if !(1..=65_535).contains(&port) {
            self.error(
                field,
                "port",
                format!("expected a port from 1 to 65535, found {port}"),
            );
        }
    }

    /// As [`Self::port`], where 0 means that there is none.
    pub(super) fn optional_port(&mut self, field: &str, port: u32) {
        if port != 0 {
            self.port(field, port);
        }
    }

    /// A domain name that may begin with a wildcard.
    pub(super) fn wildcard_domain(&mut self, field: &str, name: &str) {
        if let Some(problem) = names::find_wildcard_domain_problem(name) {
            self.error(field, "host", problem);
        }
    }

    /// A DNS label; an empty text is fine.
    pub(super) fn optional_label(&mut self, field: &str, label: &str) {
        if !label.is_empty() {
            self.label(field, label);
        }
    }

    /// A DNS label.
    pub(super) fn label(&mut self, field: &str, label: &str) {
        if !names::is_dns_label(label) {
            let message = format!(
                "expected a DNS label (at most 63 letters, digits and inner -), found {label:?}"
            );
            self.error(field, "dns-label", message);
        }
    }

    /// Addresses or networks.
    pub(super) fn subnets(&mut self, field: &str, subnets: &[String]) {
        for (index, subnet) in subnets.iter().enumerate() {
            if !names::is_subnet(subnet) {
                let message =
                    format!("expected an address or network such as 10.0.0.0/8, found {subnet:?}");
                self.error(&format!("{field}[{index}]"), "subnet", message);
            }
        }
    }

    /// Label keys and values.
    pub(super) fn labels(&mut self, field: &str, labels: &Labels) {
        for (key, value) in labels.iter() {
            if let Some(problem) = names::find_label_problem(key, value) {
                self.error(&format!("{field}.{key}"), "label", problem);
            }
        }
    }

    /// Labels that select: no wildcards; none at all selects everything, which is said.
    pub(super) fn workload_selector(&mut self, selector: Option<&WorkloadSelector>) {
        let Some(selector) = selector else { return };
        if selector.labels.is_empty() {
            let message = "no labels: it selects every workload of the namespace";
            self.warn("workloadSelector", "selector-empty", message);
        }
        self.selector_labels("workloadSelector.labels", &selector.labels);
    }

    /// Keys and values of a selector: neither an empty key nor a wildcard.
    pub(super) fn selector_labels(&mut self, field: &str, labels: &Labels) {
        const VALUE_LEN_MAX: usize = 63;
        const LABELS_MAX: usize = 256;
        if labels.len() > LABELS_MAX {
            self.error(field, "selector", format!("at most {LABELS_MAX} labels"));
        }
        for (key, value) in labels.iter() {
            let problem = match (key, value) {
                ("", _) => "expected a label key, found nothing",
                (key, value) if key.contains('*') || value.contains('*') => {
                    "wildcards are not supported in a selector"
                }
                (_, value) if value.len() > VALUE_LEN_MAX => {
                    "a value of a label has at most 63 characters"
                }
                _ => continue,
            };
            self.error(&format!("{field}.{key}"), "selector", problem);
        }
    }

    /// Namespaces that may use the object. `none_is_allowed`: whether `~` is, alone.
    pub(super) fn export_to(&mut self, export_to: &[String], none_is_allowed: bool) {
        const FIELD: &str = "exportTo";
        const CODE: &str = "export-to";
        let own_namespace = self.object.meta.namespace.clone();
        let mut seen = BTreeSet::new();
        for (index, entry) in export_to.iter().enumerate() {
            let namespace = match entry.as_str() {
                "." => own_namespace.as_str(),
                namespace => namespace,
            };
            let field = format!("{FIELD}[{index}]");
            if !seen.insert(namespace) {
                self.error(
                    &field,
                    CODE,
                    format!("{entry:?} is listed twice; remove one"),
                );
            }
            let is_special = matches!(namespace, "*" | "~");
            if !is_special && !names::is_dns_label(namespace) {
                let message = format!("expected \"*\", \".\" or a namespace, found {entry:?}");
                self.error(&field, CODE, message);
            }
        }
        let has = |what: &str| export_to.iter().any(|entry| entry == what);
        if has("*") && export_to.len() > 1 {
            self.error(FIELD, CODE, "\"*\" is everybody; remove the other entries");
        }
        if has("~") && !none_is_allowed {
            self.error(FIELD, CODE, "\"~\" is for ServiceEntries only");
        } else if has("~") && export_to.len() > 1 {
            self.error(FIELD, CODE, "\"~\" is nobody; remove the other entries");
        }
    }

    /// A text match whose expression must be one, and whose prefix must not be empty
    /// unless `empty_prefix_is_allowed`.
    pub(super) fn string_match(
        &mut self,
        field: &str,
        string_match: &StringMatch,
        empty_prefix_is_allowed: bool,
    ) {
        match string_match {
            StringMatch::Regex(regex) => self.regex(&format!("{field}.regex"), regex),
            StringMatch::Prefix(prefix) if prefix.is_empty() && !empty_prefix_is_allowed => {
                let message = "an empty prefix matches everything; leave the condition out";
                self.error(&format!("{field}.prefix"), "prefix-empty", message);
            }
            StringMatch::Present | StringMatch::Exact(_) | StringMatch::Prefix(_) => {}
        }
    }

    /// A regular expression.
    pub(super) fn regex(&mut self, field: &str, regex: &str) {
        if let Some(problem) = names::find_regex_problem(regex) {
            self.error(field, "regex", problem);
        }
    }

    /// The address of a socket: an IP, or `unix://` and a path. Empty is fine.
    pub(super) fn bind(&mut self, field: &str, bind: &str) {
        let problem = match bind.strip_prefix("unix://") {
            Some(path) => names::find_unix_path_problem(path).map(str::to_owned),
            None if bind.is_empty() || names::is_ip(bind) => None,
            None => Some(format!(
                "expected an IP address or unix:// and a path, found {bind:?}"
            )),
        };
        if let Some(problem) = problem {
            self.error(field, "bind", problem);
        }
    }
}
