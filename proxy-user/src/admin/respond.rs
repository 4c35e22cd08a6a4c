//! What is answered to a request; pure but for what [`Node`] looks up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Value, json};

use super::explain::explain_query;
use super::node::Node;
use super::view::{CountView, ExplainQuery, FindingView, StatusView};
use super::{route_views, walk};
use crate::finding::Severity;
use crate::telemetry::MetricsRegistry;
use crate::telemetry::exposition;

/// Which of the three servers was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Everything.
    Admin,
    /// `/metrics` only.
    Metrics,
    /// `/healthz/ready` only.
    Health,
}

/// What answers are made of.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) node: Arc<dyn Node>,
    pub(super) metrics: Arc<MetricsRegistry>,
}

/// Status, content type and body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

impl Answer {
    fn text(status: u16, body: impl Into<String>) -> Self {
        let mut body = body.into();
        body.push('\n');
        Self {
            status,
            content_type: TEXT,
            body,
        }
    }

    fn json(value: &impl Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(body) => Self {
                status: 200,
                content_type: JSON,
                body,
            },
            Err(error) => Self::text(500, format!("cannot write the answer: {error}")),
        }
    }
}

/// Paths of the admin API, for its front page and its 404.
const PATHS: &str = "GET /status /services /endpoints /clusters /routes /listeners /pods \
                     /connections /maps /findings /settings /config_dump /metrics \
                     /healthz/ready, POST /explain";

/// Answers one request. `body`: of a POST.
pub(super) fn respond(
    role: Role,
    method: &str,
    path: &str,
    body: &[u8],
    context: &Context,
) -> Answer {
    match (role, method, path) {
        (Role::Admin | Role::Metrics, "GET", "/metrics" | "/stats/prometheus") => Answer {
            status: 200,
            content_type: exposition::CONTENT_TYPE,
            body: context.metrics.render(SystemTime::now()),
        },
        (Role::Admin | Role::Health, "GET", "/healthz/ready") => match context.node.readiness() {
            Ok(()) => Answer::text(200, "ready"),
            Err(reason) => Answer::text(503, format!("not ready: {reason}")),
        },
        (Role::Admin, "GET", _) => view(path, context),
        (Role::Admin, "POST", "/explain") => explain(body, context),
        (Role::Admin | Role::Metrics | Role::Health, "GET" | "POST", _) => Answer::text(
            404,
            match role {
                Role::Admin => format!("no such path; there are: {PATHS}"),
                Role::Metrics => "no such path; there is: GET /metrics".to_owned(),
                Role::Health => "no such path; there is: GET /healthz/ready".to_owned(),
            },
        ),
        (_, _, _) => Answer::text(405, "only GET, and POST for /explain"),
    }
}

fn view(path: &str, context: &Context) -> Answer {
    let node = &context.node;
    let snapshot = || node.snapshot();
    match path {
        "/" => Answer::text(200, PATHS),
        "/status" => Answer::json(&status(context)),
        "/services" => Answer::json(&walk::services(&snapshot())),
        "/endpoints" => Answer::json(&walk::endpoints(&snapshot())),
        "/clusters" => Answer::json(&walk::clusters(&snapshot())),
        "/routes" => Answer::json(&route_views::routes(&snapshot())),
        "/listeners" => Answer::json(&walk::listeners(&snapshot())),
        "/pods" => Answer::json(&walk::pods(&snapshot(), &node.pods())),
        "/connections" => Answer::json(&node.connections()),
        "/maps" => Answer::json(&node.maps()),
        "/findings" => Answer::json(&findings(context)),
        "/settings" => Answer::json(&node.settings()),
        "/config_dump" => Answer::json(&dump(context)),
        _ => Answer::text(404, format!("no such path; there are: {PATHS}")),
    }
}

fn findings(context: &Context) -> Vec<FindingView> {
    context.node.findings().iter().map(walk::finding).collect()
}

fn explain(body: &[u8], context: &Context) -> Answer {
    match serde_json::from_slice::<ExplainQuery>(body) {
        Ok(query) => match explain_query(&context.node.snapshot(), &query) {
            Ok(explanation) => Answer::json(&explanation),
            Err(reason) => Answer::text(422, reason),
        },
        Err(error) => Answer::text(400, format!("the body is no explain query: {error}")),
    }
}

fn status(context: &Context) -> StatusView {
    let node = &context.node;
    let readiness = node.readiness();
    let snapshot = node.snapshot();
    let mut pods = BTreeMap::<String, u64>::new();
    for pod in walk::pods(&snapshot, &node.pods()) {
        *pods.entry(pod.state).or_default() += 1;
    }
    let mut findings = node.findings();
    findings.sort_by_key(|finding| finding.severity);
    let count = |severity: Severity| CountView {
        name: severity.to_string(),
        count: findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count() as u64,
    };
    StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        is_ready: readiness.is_ok(),
        not_ready_reason: readiness.err(),
        snapshot_version: snapshot.version.0,
        node: node.state(),
        pods: pods
            .into_iter()
            .map(|(name, count)| CountView { name, count })
            .collect(),
        findings: [Severity::Error, Severity::Warning, Severity::Info]
            .map(count)
            .to_vec(),
        finding_texts: findings
            .iter()
            .take(StatusView::FINDINGS_MAX)
            .map(ToString::to_string)
            .collect(),
    }
}

/// Everything in one document.
fn dump(context: &Context) -> Value {
    let node = &context.node;
    let snapshot = node.snapshot();
    json!({
        "status": status(context),
        "settings": node.settings(),
        "services": walk::services(&snapshot),
        "clusters": walk::clusters(&snapshot),
        "endpoints": walk::endpoints(&snapshot),
        "listeners": walk::listeners(&snapshot),
        "routes": route_views::routes(&snapshot),
        "pods": walk::pods(&snapshot, &node.pods()),
        "maps": node.maps(),
        "findings": findings(context),
    })
}
