//! The rules of a DestinationRule: host, subsets, and the blocks of its policies
//! other than load balancing.
//!
//! Source: pkg/config/validation/validation.go and agent/validation.go in istio/istio.

use std::collections::BTreeSet;

use super::{Report, Validate, names};
use crate::api::{
    ClientTLSMode, ClientTLSSettings, ConnectionPoolSettings, DestinationRule, Duration,
    H2UpgradePolicy, HTTPSettings, OutlierDetection, PortTrafficPolicy, Resource, Subset,
    TCPSettings, TrafficPolicy, TunnelSettings,
};

impl Validate for DestinationRule {
    fn validate(spec: &Self, report: &mut Report<'_, Self>) {
        report.wildcard_domain("host", &spec.host);
        report.export_to(&spec.export_to, false);
        if let Some(selector) = &spec.workload_selector {
            report.selector_labels("workloadSelector.matchLabels", &selector.match_labels);
            let own = report.object.meta.namespace.clone();
            if spec
                .export_to
                .iter()
                .any(|entry| entry != "." && *entry != own)
            {
                let message = "a rule with workloadSelector acts in its own namespace only; \
                               write \".\" or leave exportTo out";
                report.error("exportTo", "export-to", message);
            }
        }
        if let Some(policy) = &spec.traffic_policy {
            report.traffic_policy("trafficPolicy", policy);
        }
        let mut names = BTreeSet::new();
        for (index, subset) in spec.subsets.iter().enumerate() {
            let path = format!("subsets[{index}]");
            if !names.insert(&subset.name) {
                let message = format!("{:?} is the name of an earlier subset", subset.name);
                report.error(&format!("{path}.name"), "subset-twice", message);
            }
            report.subset(&path, subset);
        }
    }
}

impl Report<'_, DestinationRule> {
    fn subset(&mut self, path: &str, subset: &Subset) {
        self.label(&format!("{path}.name"), &subset.name);
        self.labels(&format!("{path}.labels"), &subset.labels);
        if let Some(policy) = &subset.traffic_policy {
            self.traffic_policy(&format!("{path}.trafficPolicy"), policy);
        }
    }

    fn traffic_policy(&mut self, path: &str, policy: &TrafficPolicy) {
        if *policy == TrafficPolicy::default() {
            return self.error(
                path,
                "policy-empty",
                "expected at least one setting, found none",
            );
        }
        if let Some(balancer) = &policy.load_balancer {
            let has_outlier_detection = policy.outlier_detection.is_some();
            self.load_balancer(
                &format!("{path}.loadBalancer"),
                balancer,
                has_outlier_detection,
            );
        }
        self.shared_blocks(
            path,
            policy.connection_pool.as_ref(),
            policy.outlier_detection.as_ref(),
            policy.tls.as_ref(),
        );
        const PORTS_MAX: usize = 4096;
        if policy.port_level_settings.len() > PORTS_MAX {
            let message = format!("at most {PORTS_MAX} entries");
            self.error(&format!("{path}.portLevelSettings"), "too-many", message);
        }
        for (index, port) in policy.port_level_settings.iter().enumerate() {
            self.port_policy(&format!("{path}.portLevelSettings[{index}]"), port);
        }
        if let Some(tunnel) = &policy.tunnel {
            self.tunnel(&format!("{path}.tunnel"), tunnel);
            if policy.proxy_protocol.is_some() {
                let message = "only one of tunnel and proxyProtocol can be set";
                self.error(&format!("{path}.proxyProtocol"), "tunnel", message);
            }
        }
        let percent = policy
            .retry_budget
            .as_ref()
            .and_then(|budget| budget.percent);
        if percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
            let message = "expected a percentage from 0 to 100";
            self.error(
                &format!("{path}.retryBudget.percent"),
                "percentage",
                message,
            );
        }
    }

    fn port_policy(&mut self, path: &str, policy: &PortTrafficPolicy) {
        match policy.port {
            None => self.error(path, "port", "expected a port, found none"),
            Some(port) => self.port(&format!("{path}.port.number"), port.number),
        }
        let is_empty = policy.load_balancer.is_none()
            && policy.connection_pool.is_none()
            && policy.outlier_detection.is_none()
            && policy.tls.is_none();
        if is_empty {
            let message = "expected loadBalancer, connectionPool, outlierDetection or tls";
            self.error(path, "policy-empty", message);
        }
        if let Some(balancer) = &policy.load_balancer {
            let has_outlier_detection = policy.outlier_detection.is_some();
            self.load_balancer(
                &format!("{path}.loadBalancer"),
                balancer,
                has_outlier_detection,
            );
        }
        self.shared_blocks(
            path,
            policy.connection_pool.as_ref(),
            policy.outlier_detection.as_ref(),
            policy.tls.as_ref(),
        );
    }

    fn shared_blocks(
        &mut self,
        path: &str,
        pool: Option<&ConnectionPoolSettings>,
        outlier: Option<&OutlierDetection>,
        tls: Option<&ClientTLSSettings>,
    ) {
        if let Some(pool) = pool {
            self.connection_pool(&format!("{path}.connectionPool"), pool);
        }
        if let Some(outlier) = outlier {
            self.outlier_detection(&format!("{path}.outlierDetection"), outlier);
        }
        if let Some(tls) = tls {
            self.client_tls(&format!("{path}.tls"), tls);
        }
    }

    fn outlier_detection(&mut self, path: &str, outlier: &OutlierDetection) {
        const CODE: &str = "outlier-detection";
        if outlier.consecutive_errors.is_some() {
            let message = "deprecated and ignored; use consecutive5xxErrors or \
                           consecutiveGatewayErrors";
            self.warn(&format!("{path}.consecutiveErrors"), "deprecated", message);
        }
        let local_failures = outlier.consecutive_local_origin_failures.unwrap_or(0);
        if local_failures > 0 && !outlier.split_external_local_origin_errors {
            let message = "needs splitExternalLocalOriginErrors: true";
            self.error(
                &format!("{path}.consecutiveLocalOriginFailures"),
                CODE,
                message,
            );
        }
        for (field, percent) in [
            ("maxEjectionPercent", outlier.max_ejection_percent),
            ("minHealthPercent", outlier.min_health_percent),
        ] {
            if !(0..=100).contains(&percent) {
                let message = format!("expected a percentage from 0 to 100, found {percent}");
                self.error(&format!("{path}.{field}"), CODE, message);
            }
        }
        self.duration(&format!("{path}.interval"), outlier.interval);
        self.duration(
            &format!("{path}.baseEjectionTime"),
            outlier.base_ejection_time,
        );
        for (index, code) in outlier
            .outlier_detection_http_error_codes
            .iter()
            .enumerate()
        {
            if !(100..=599).contains(code) {
                let field = format!("{path}.outlierDetectionHttpErrorCodes[{index}]");
                self.error(
                    &field,
                    CODE,
                    format!("expected a code from 100 to 599, found {code}"),
                );
            }
        }
    }

    fn client_tls(&mut self, path: &str, tls: &ClientTLSSettings) {
        const CODE: &str = "client-tls";
        let has_files = [
            &tls.client_certificate,
            &tls.private_key,
            &tls.ca_certificates,
            &tls.ca_crl,
        ]
        .into_iter()
        .any(|file| !file.is_empty());
        let has_authorities = !tls.ca_certificates.is_empty();
        let has_names = !tls.subject_alt_names.is_empty();
        let has_credential = !tls.credential_name.is_empty();
        let has_own_certificates =
            matches!(tls.mode, ClientTLSMode::Simple | ClientTLSMode::Mutual);
        let is_unverified = tls.insecure_skip_verify == Some(true);
        let contradiction = match tls.mode {
            ClientTLSMode::Simple => has_authorities || has_names || has_credential,
            ClientTLSMode::Mutual => has_authorities || has_names,
            ClientTLSMode::Disable | ClientTLSMode::IstioMutual => false,
        };
        if is_unverified && contradiction {
            let message = "nothing is verified, so that there can be no authorities and names";
            self.error(&format!("{path}.insecureSkipVerify"), CODE, message);
        } else if is_unverified && has_own_certificates {
            let message = "whoever answers is taken for the server; give caCertificates instead";
            self.warn(&format!("{path}.insecureSkipVerify"), CODE, message);
        }
        if has_own_certificates && has_credential {
            if has_files {
                let message = "not allowed beside files: the secret holds all of them";
                self.error(&format!("{path}.credentialName"), CODE, message);
            }
            self.credential_namespace(&format!("{path}.credentialName"), &tls.credential_name);
            return;
        }
        if tls.mode == ClientTLSMode::Mutual {
            for (field, file) in [
                ("clientCertificate", &tls.client_certificate),
                ("privateKey", &tls.private_key),
            ] {
                if file.is_empty() {
                    let message = "needed for mode MUTUAL without credentialName";
                    self.error(&format!("{path}.{field}"), CODE, message);
                }
            }
        }
        if tls.mode == ClientTLSMode::IstioMutual && (has_files || has_credential) {
            let message = "the mesh's certificates are used; files and credentialName are ignored";
            self.warn(path, CODE, message);
        }
    }

    /// A ConfigMap is read in the rule's own namespace only.
    fn credential_namespace(&mut self, field: &str, credential: &str) {
        let Some(reference) = credential.strip_prefix("configmap://") else {
            return;
        };
        let namespace = reference.split_once('/').map(|(namespace, _)| namespace);
        if namespace.is_some_and(|namespace| namespace != self.object.meta.namespace) {
            let message = "a ConfigMap must be in the namespace of the rule";
            self.error(field, "client-tls", message);
        }
    }

    fn tunnel(&mut self, path: &str, tunnel: &TunnelSettings) {
        const CODE: &str = "tunnel";
        if !matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST") {
            let message = format!("expected CONNECT or POST, found {:?}", tunnel.protocol);
            self.error(&format!("{path}.protocol"), CODE, message);
        }
        let host = &tunnel.target_host;
        if !names::is_ip(host) && names::find_domain_problem(host).is_some() {
            let message = format!("expected a domain name or an address, found {host:?}");
            self.error(&format!("{path}.targetHost"), CODE, message);
        }
        self.port(&format!("{path}.targetPort"), tunnel.target_port);
    }
}

impl<S: Resource> Report<'_, S> {
    /// Limits of connections, also of a Sidecar.
    pub(super) fn connection_pool(&mut self, path: &str, pool: &ConnectionPoolSettings) {
        if pool.tcp.is_none() && pool.http.is_none() {
            self.error(path, "connection-pool", "expected tcp or http, found none");
        }
        if let Some(tcp) = &pool.tcp {
            self.tcp_settings(&format!("{path}.tcp"), tcp);
        }
        if let Some(http) = &pool.http {
            self.http_settings(&format!("{path}.http"), http);
        }
    }

    fn tcp_settings(&mut self, path: &str, tcp: &TCPSettings) {
        self.not_negative(path, "maxConnections", tcp.max_connections);
        self.duration(&format!("{path}.connectTimeout"), tcp.connect_timeout);
        self.duration(
            &format!("{path}.maxConnectionDuration"),
            tcp.max_connection_duration,
        );
        let limit = tcp
            .idle_timeout
            .filter(|limit| *limit != Duration::default());
        self.duration(&format!("{path}.idleTimeout"), limit); // 0s: no limit
        if let Some(keepalive) = &tcp.tcp_keepalive {
            self.duration(&format!("{path}.tcpKeepalive.time"), keepalive.time);
            self.duration(&format!("{path}.tcpKeepalive.interval"), keepalive.interval);
        }
    }

    fn http_settings(&mut self, path: &str, http: &HTTPSettings) {
        const CODE: &str = "connection-pool";
        for (field, number) in [
            ("http1MaxPendingRequests", http.http1_max_pending_requests),
            ("http2MaxRequests", http.http2_max_requests),
            ("maxRequestsPerConnection", http.max_requests_per_connection),
            ("maxRetries", http.max_retries),
            ("maxConcurrentStreams", http.max_concurrent_streams),
        ] {
            self.not_negative(path, field, number);
        }
        self.duration(&format!("{path}.idleTimeout"), http.idle_timeout);
        if http.h2_upgrade_policy == H2UpgradePolicy::Upgrade && http.use_client_protocol {
            let message = "not allowed together with h2UpgradePolicy UPGRADE";
            self.error(&format!("{path}.useClientProtocol"), CODE, message);
        }
        if let Some(ping) = &http.http2_keep_alive {
            let path = format!("{path}.http2KeepAlive");
            for (field, duration) in [("interval", ping.interval), ("timeout", ping.timeout)] {
                if duration.is_none() {
                    let message = format!("expected {field}, found none");
                    self.error(&format!("{path}.{field}"), CODE, message);
                }
                self.duration(&format!("{path}.{field}"), duration);
            }
        }
    }

    fn not_negative(&mut self, path: &str, field: &str, number: i32) {
        if number < 0 {
            let message = format!("expected at least 0, found {number}");
            self.error(&format!("{path}.{field}"), "negative", message);
        }
    }
}
