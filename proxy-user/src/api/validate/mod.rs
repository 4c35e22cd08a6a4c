//! What can be said about one object by itself: errors, for which the object is
//! refused, and warnings. Pure; nothing here looks at a second object.
//!
//! Start at [`check`]. The rules are Istio's admission rules
//! (pkg/config/validation in istio/istio, and the markers of its CRDs).

use super::{
    AuthorizationPolicy, ConfigMap, EndpointSlice, Namespace, Node, Object, PeerAuthentication,
    Pod, RequestAuthentication, Resource, Secret, Service,
};
use crate::finding::{Finding, Severity};

/// Findings about one object, and whether it is refused for them.
#[derive(Debug, Default)]
pub struct Checked {
    /// What was found, in the order of the fields.
    pub findings: Vec<Finding>,
    /// Whether one of them is an error for which the object must not act.
    pub is_refused: bool,
}

/// Checks one object.
pub fn check<S: Validate>(object: &Object<S>) -> Checked {
    let mut report = Report {
        object,
        checked: Checked::default(),
    };
    S::validate(&object.spec, &mut report);
    report.checked
}

/// A kind that can be checked by itself.
pub trait Validate: Resource {
    /// Reports what is wrong with `spec`, whose object `report` knows.
    fn validate(spec: &Self, report: &mut Report<'_, Self>);
}

/// Collects what is found about one object.
#[derive(Debug)]
pub struct Report<'a, S: Resource> {
    object: &'a Object<S>,
    checked: Checked,
}

impl<S: Resource> Report<'_, S> {
    /// Something for which the object is refused.
    pub fn error(&mut self, field: &str, code: &'static str, message: impl Into<String>) {
        self.checked.is_refused = true;
        self.add(Severity::Error, field, code, message.into());
    }

    /// Something that its author probably did not mean.
    pub fn warn(&mut self, field: &str, code: &'static str, message: impl Into<String>) {
        self.add(Severity::Warning, field, code, message.into());
    }

    fn add(&mut self, severity: Severity, field: &str, code: &'static str, message: String) {
        self.checked
            .findings
            .push(self.object.finding(severity, code, field, message));
    }
}

/// Kinds whose objects a cluster has checked before, and about which no rule of ours exists.
macro_rules! nothing_to_check {
    ($($kind:ty),*) => {$(
        impl Validate for $kind {
            fn validate(_spec: &Self, _report: &mut Report<'_, Self>) {}
        }
    )*};
}

nothing_to_check!(
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
nothing_to_check!(
    super::VirtualService,
    super::DestinationRule,
    super::ServiceEntry,
    super::WorkloadEntry,
    super::WorkloadGroup,
    super::Gateway,
    super::Sidecar,
    super::EnvoyFilter
);
