//! Pods that are about to run out of captured connections.
//!
//! All captured connections of a pod go to one listener of a family, so that the local ports of
//! its namespace bound them, and the worker's own limit does.

use std::collections::{HashMap, HashSet};

use crate::admin::node::PodState;
use crate::finding::{Finding, ObjectRef, Severity};
use crate::net::PodUid;
use crate::snapshot::Snapshot;

/// Share of its connections, in percent, from which on a pod is named.
const CROWDED_FROM: u64 = 80;
/// Below this it is named no more: lower, so that a pod at the edge does not come and go.
const CROWDED_UNTIL: u64 = 70;

/// Which pods are crowded now.
#[derive(Default)]
pub(super) struct CrowdedPods(HashSet<PodUid>);

impl CrowdedPods {
    /// A warning for each pod that has used up most of what it may have.
    pub(super) fn findings(
        &mut self,
        snapshot: &Snapshot,
        states: &HashMap<PodUid, PodState>,
    ) -> Vec<Finding> {
        let before = std::mem::take(&mut self.0);
        let mut findings = Vec::new();
        for (uid, state) in states {
            let Some(max) = state.connections_max else {
                continue;
            };
            if !is_crowded(before.contains(uid), state.connections, max) {
                continue;
            }
            self.0.insert(uid.clone());
            if let Some(view) = snapshot.pods.get(uid) {
                findings.push(finding(&view.workload.namespace, &view.workload.name, max));
            }
        }
        findings
    }
}

fn is_crowded(was: bool, open: u64, max: u64) -> bool {
    let share = if was { CROWDED_UNTIL } else { CROWDED_FROM };
    open.saturating_mul(100) >= max.saturating_mul(share)
}

fn finding(namespace: &str, name: &str, max: u64) -> Finding {
    let message = format!(
        "{CROWDED_FROM} % of the {max} captured connections that it may have at a time are open; \
         beyond them its connections to what the proxy serves fail (metric \
         mizzen_captured_connections): let it reuse connections, or exclude ports that need no rules"
    );
    Finding::new(Severity::Warning, "captured-connections", message)
        .with_object(ObjectRef::new("Pod", namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_crowded_from_80_percent_until_it_falls_below_70() {
        for (was, open, expected) in [
            (false, 79, false),
            (false, 80, true),
            (true, 70, true),
            (true, 69, false),
            (false, 0, false),
        ] {
            assert_eq!(is_crowded(was, open, 100), expected, "{was} {open}");
        }
    }
}
