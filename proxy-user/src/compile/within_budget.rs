//! Compiling with a budget for each namespace: one that needs more keeps its last good state.
//! Start at [`compile_within_budget`].

use std::collections::BTreeMap;

use crate::api::ObjectSet;
use crate::finding::{Finding, ObjectRef, Severity};
use crate::settings::CompileSettings;

use super::ledger::Overspent;
use super::{Compiled, compile};

/// A namespace that stays beyond its budget is left out after so many attempts, whatever it
/// holds instead.
const ATTEMPTS_MAX: usize = 4;

/// What is used of a namespace that is beyond its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Instead {
    /// Its objects as they were in force before.
    LastGood,
    /// None of its objects but the Pods.
    Nothing,
}

/// What came into force.
#[derive(Debug, Default)]
pub struct WithinBudget {
    /// Of [`WithinBudget::objects`].
    pub compiled: Compiled,
    /// The objects that were compiled: all that were given, but for namespaces beyond their
    /// budget.
    pub objects: ObjectSet,
    /// They are all that were given.
    pub is_whole: bool,
}

/// Compiles `objects`. A namespace whose objects need more than its budget keeps those that
/// are `in_force`, or without any it has none; others do not notice. Each is a finding.
#[must_use]
pub fn compile_within_budget(
    objects: &ObjectSet,
    in_force: &ObjectSet,
    settings: &CompileSettings,
) -> WithinBudget {
    let mut candidate = objects.clone();
    let mut instead: BTreeMap<String, (Instead, Overspent)> = BTreeMap::new();
    for attempt in 1.. {
        let mut compiled = compile(&candidate, settings);
        if compiled.overspent.is_empty() || attempt > ATTEMPTS_MAX {
            compiled.findings.extend(instead.values().map(finding));
            compiled.findings.sort();
            return WithinBudget {
                compiled,
                objects: candidate,
                is_whole: instead.is_empty(),
            };
        }
        for overspent in std::mem::take(&mut compiled.overspent) {
            let namespace = overspent.namespace.clone();
            let is_first = !instead.contains_key(&namespace);
            let next = if is_first && attempt < ATTEMPTS_MAX && in_force.has_namespace(&namespace) {
                candidate.replace_namespace(&namespace, in_force);
                Instead::LastGood
            } else {
                candidate.replace_namespace(&namespace, &ObjectSet::default());
                Instead::Nothing
            };
            let cause = instead.remove(&namespace).map(|(_, first)| first);
            instead.insert(namespace, (next, cause.unwrap_or(overspent)));
        }
    }
    WithinBudget::default()
}

fn finding((instead, overspent): &(Instead, Overspent)) -> Finding {
    let Overspent {
        namespace,
        budget,
        limit,
    } = overspent;
    let consequence = match instead {
        Instead::LastGood => "its objects as they last were within it stay in force",
        Instead::Nothing => "none of its objects is in force",
    };
    let message = format!(
        "its objects need more than the namespace's budget ({budget}: {limit}); {consequence}. \
         Make them fewer or smaller, or raise namespaceBudget.{budget} in the settings file"
    );
    Finding::new(Severity::Error, "namespace-budget", message).with_object(ObjectRef::new(
        "Namespace",
        "",
        namespace.as_str(),
    ))
}

#[cfg(test)]
#[path = "within_budget_tests.rs"]
mod tests;
