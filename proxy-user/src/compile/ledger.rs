//! What each namespace's objects have cost so far, so that no namespace takes the node's
//! memory or time from the others. Start at [`Ledger::charge_bytes`].
//!
//! Every stage in which objects multiply asks before it builds: hosts by ports by endpoints,
//! hosts by rules, rules by delegates, Sidecars by services. A refusal leaves the part out; the
//! whole result is then not used for that namespace ([`super::within_budget`]).

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use crate::api::{HTTPMatchRequest, HTTPRoute, ObjectSet, StringMatch, VirtualService, re2};
use crate::settings::{CompileSettings, NamespaceBudget};

/// A namespace whose objects need more than its budget.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overspent {
    /// The namespace.
    pub namespace: String,
    /// Key of the setting below `namespaceBudget`.
    pub budget: &'static str,
    /// What the setting allows, in its unit.
    pub limit: u64,
}

/// Running sums of one namespace.
#[derive(Debug, Default, Clone, Copy)]
struct Spent {
    addresses: u64,
    regexes: u64,
    regex_bytes: u64,
    compiled_bytes: u64,
}

/// Sums by namespace, and who went beyond the budget.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    limits: NamespaceBudget,
    /// Without a budget: the operator's own namespace.
    exempt: String,
    spent: RefCell<HashMap<String, Spent>>,
    overspent: RefCell<BTreeMap<String, (&'static str, u64)>>,
}

impl Ledger {
    /// Nothing spent but what the number of `objects` is.
    pub(crate) fn open(objects: &ObjectSet, settings: &CompileSettings) -> Self {
        let ledger = Self {
            limits: settings.namespace_budget,
            exempt: settings.mesh.root_namespace.clone(),
            ..Self::default()
        };
        ledger.check_objects(objects);
        ledger
    }

    /// Nobody goes beyond it.
    pub(crate) fn unbounded() -> Self {
        Self {
            limits: NamespaceBudget {
                objects: u64::MAX,
                addresses: u64::MAX,
                regexes: u64::MAX,
                regex_bytes: u64::MAX,
                compiled_bytes: u64::MAX,
            },
            ..Self::default()
        }
    }

    /// Whether no namespace has more objects than it may.
    pub(crate) fn check_objects(&self, objects: &ObjectSet) -> bool {
        let limit = self.limits.objects;
        let counts = objects.count_by_namespace();
        counts
            .into_iter()
            .fold(true, |is_good, (namespace, count)| {
                self.check(namespace, "objects", count, limit, limit) && is_good
            })
    }

    /// Takes `bytes` of what will be compiled; `false`: beyond the budget, do not build it.
    pub(crate) fn charge_bytes(&self, namespace: &str, bytes: u64) -> bool {
        let limit = self.limits.compiled_bytes;
        self.charge(
            namespace,
            "compiledMebibytes",
            limit,
            limit >> 20,
            |spent| {
                spent.compiled_bytes = spent.compiled_bytes.saturating_add(bytes);
                spent.compiled_bytes
            },
        )
    }

    /// The same for `count` values of `T`.
    pub(crate) fn charge_values<T>(&self, namespace: &str, count: usize) -> bool {
        let bytes = count.saturating_mul(size_of::<T>());
        self.charge_bytes(namespace, bytes as u64)
    }

    /// Takes addresses with a port in the kernel's table of services.
    pub(crate) fn charge_addresses(&self, namespace: &str, count: u64) -> bool {
        let limit = self.limits.addresses;
        self.charge(namespace, "addresses", limit, limit, |spent| {
            spent.addresses = spent.addresses.saturating_add(count);
            spent.addresses
        })
    }

    /// Takes the expressions that `spec` writes.
    pub(crate) fn charge_regexes(&self, namespace: &str, spec: &VirtualService) -> bool {
        let patterns: Vec<&str> = spec.http.iter().flat_map(patterns_of).collect();
        if patterns.is_empty() {
            return true;
        }
        let limit = self.limits.regexes;
        let is_few = self.charge(namespace, "regexes", limit, limit, |spent| {
            spent.regexes = spent.regexes.saturating_add(patterns.len() as u64);
            spent.regexes
        });
        if !is_few {
            return false;
        }
        let bytes: u64 = patterns.iter().map(|pattern| re2::weight(pattern)).sum();
        let limit = self.limits.regex_bytes;
        self.charge(namespace, "regexMebibytes", limit, limit >> 20, |spent| {
            spent.regex_bytes = spent.regex_bytes.saturating_add(bytes);
            spent.regex_bytes
        })
    }

    /// In order of namespace.
    pub(crate) fn overspent(&self) -> Vec<Overspent> {
        let overspent = self.overspent.borrow();
        let entries = overspent.iter();
        entries
            .map(|(namespace, &(budget, limit))| Overspent {
                namespace: namespace.clone(),
                budget,
                limit,
            })
            .collect()
    }

    fn charge(
        &self,
        namespace: &str,
        budget: &'static str,
        limit: u64,
        shown: u64,
        add: impl FnOnce(&mut Spent) -> u64,
    ) -> bool {
        let mut spent = self.spent.borrow_mut();
        let total = match spent.get_mut(namespace) {
            Some(known) => add(known),
            None => add(spent.entry(namespace.to_owned()).or_default()),
        };
        self.check(namespace, budget, total, limit, shown)
    }

    fn check(
        &self,
        namespace: &str,
        budget: &'static str,
        total: u64,
        limit: u64,
        shown: u64,
    ) -> bool {
        if total <= limit || namespace.is_empty() || namespace == self.exempt {
            return true;
        }
        let mut overspent = self.overspent.borrow_mut();
        let first = (budget, shown);
        overspent.entry(namespace.to_owned()).or_insert(first);
        false
    }
}

/// All expressions of one rule.
pub(super) fn patterns_of(rule: &HTTPRoute) -> impl Iterator<Item = &str> {
    let origins = rule.cors_policy.iter().flat_map(|cors| &cors.allow_origins);
    let rewrite = rule.rewrite.iter();
    let rewrite = rewrite.filter_map(|rewrite| rewrite.uri_regex_rewrite.as_ref());
    let matches = rule.matches.iter().flat_map(patterns_in);
    matches
        .chain(origins.filter_map(pattern_of))
        .chain(rewrite.map(|rewrite| rewrite.pattern.as_str()))
}

/// All expressions of one element of `match`.
pub(super) fn patterns_in(element: &HTTPMatchRequest) -> impl Iterator<Item = &str> {
    let single = [
        &element.uri,
        &element.scheme,
        &element.method,
        &element.authority,
    ];
    (single.into_iter().flatten())
        .chain(element.headers.values())
        .chain(element.query_params.values())
        .chain(element.without_headers.values())
        .filter_map(pattern_of)
}

fn pattern_of(condition: &StringMatch) -> Option<&str> {
    match condition {
        StringMatch::Regex(pattern) => Some(pattern),
        StringMatch::Present | StringMatch::Exact(_) | StringMatch::Prefix(_) => None,
    }
}
