//! Which DestinationRule applies to a service for a client, and how several merge.
//! Start at [`RuleIndex::find`].
//!
//! Source: Istio, pilot/pkg/model/push_context.go (`setDestinationRules`,
//! `destinationRule`), destination_rule.go (`mergeDestinationRule`) and sidecar.go.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::api::{DestinationRule, Object, ObjectKey, ObjectSet, Subset, in_creation_order};
use crate::finding::{Finding, Severity};
use crate::settings::CompileSettings;

use super::host;
use super::registry::{Labels, Service};
use super::scope::ClientView;
use super::visibility::ExportTo;

/// One or more DestinationRules that act as one.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Place in the index, an identity for memoising.
    pub(crate) index: usize,
    /// `namespace/name` of each, oldest first, joined by `+`.
    pub(crate) name: Arc<str>,
    /// The first of them, which decides namespace and selector.
    pub(crate) lead: Arc<Object<DestinationRule>>,
    /// The first that has a trafficPolicy: it is taken whole.
    pub(crate) policy: Option<Arc<Object<DestinationRule>>>,
    /// Subsets of all: the object and the place in its list.
    pub(crate) subsets: Vec<(Arc<Object<DestinationRule>>, usize)>,
}

impl Rule {
    /// The subset of this name, with its object and place.
    pub(crate) fn subset(&self, name: &str) -> Option<(usize, &Object<DestinationRule>, &Subset)> {
        self.subsets
            .iter()
            .enumerate()
            .find_map(|(at, (object, place))| {
                let subset = object.spec.subsets.get(*place)?;
                (subset.name == name).then_some((at, object.as_ref(), subset))
            })
    }

    /// The subset at a place that [`Self::subset`] gave: its object, its place there and itself.
    pub(crate) fn subset_at(
        &self,
        at: usize,
    ) -> Option<(&Object<DestinationRule>, usize, &Subset)> {
        let (object, place) = self.subsets.get(at)?;
        Some((object, *place, object.spec.subsets.get(*place)?))
    }

    /// Names of all subsets, in order.
    pub(crate) fn subset_names(&self) -> impl Iterator<Item = &str> {
        self.subsets
            .iter()
            .filter_map(|(object, place)| object.spec.subsets.get(*place))
            .map(|subset| subset.name.as_str())
    }

    fn selector(&self) -> Option<&Labels> {
        selector_of(&self.lead)
    }
}

fn selector_of(object: &Object<DestinationRule>) -> Option<&Labels> {
    let selector = object.spec.workload_selector.as_ref()?;
    Some(&selector.match_labels)
}

/// Rules of one namespace, by host. Candidates stand in order of processing.
#[derive(Debug, Default)]
struct Pool {
    exact: HashMap<Arc<str>, Vec<usize>>,
    /// Most specific first.
    wildcards: Vec<(Arc<str>, Vec<usize>)>,
}

impl Pool {
    /// Candidates of the most specific host that covers `name`; nothing is inherited
    /// from less specific ones.
    fn find(&self, name: &str) -> Option<&[usize]> {
        if let Some(found) = self.exact.get(name) {
            return Some(found);
        }
        let mut wildcards = self.wildcards.iter();
        let found = wildcards.find(|(wildcard, _)| host::is_subset_of(name, wildcard));
        found.map(|(_, candidates)| candidates.as_slice())
    }
}

/// All DestinationRules.
#[derive(Debug, Default)]
pub(crate) struct RuleIndex {
    /// By [`Rule::index`].
    pub(crate) rules: Vec<Rule>,
    export_to: Vec<ExportTo>,
    /// Rules that clients of their own namespace see.
    local: HashMap<String, Pool>,
    /// Rules that are not private.
    exported: HashMap<String, Pool>,
    /// Rules that are private to the root namespace.
    root_private: Pool,
    /// No rule is exported to some namespaces only.
    is_all_public: bool,
    root_namespace: String,
}

impl RuleIndex {
    /// Merges and indexes all rules; what is dropped by merging is a finding.
    pub(crate) fn build(
        objects: &ObjectSet,
        settings: &CompileSettings,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let mut ordered = in_creation_order(&objects.destination_rules);
        // Rules with a selector are processed first. The sort is stable.
        ordered.sort_by_key(|object| object.spec.workload_selector.is_none());
        let mut builder = Builder::default();
        let (mut local, mut exported) = (BTreeMap::new(), BTreeMap::new());
        let mut root_private = Drafts::default();
        for object in ordered {
            let namespace = object.meta.namespace.as_str();
            let export_to = export_to_of(object, settings);
            let name = host::expand(&object.spec.host, namespace, &settings.mesh.domain);
            let item = Item {
                object,
                host: name.to_ascii_lowercase(),
                export_to: &export_to,
            };
            let is_root = namespace == settings.mesh.root_namespace;
            let is_private = export_to == ExportTo::private(namespace);
            if export_to.includes(namespace) {
                let pool: &mut Drafts = local.entry(namespace.to_owned()).or_default();
                pool.add(&item, Some(findings));
            }
            if !is_private {
                let pool: &mut Drafts = exported.entry(namespace.to_owned()).or_default();
                pool.add(&item, None);
            } else if is_root {
                root_private.add(&item, None);
            }
        }
        let local = builder.pools(local);
        let exported = builder.pools(exported);
        let root_private = builder.pool(root_private);
        // A rule that is private to its namespace concerns that namespace alone, which
        // then has rules of its own.
        let is_foreign = |(rule, export_to): (&Rule, &ExportTo)| {
            !export_to.is_public() && *export_to != ExportTo::private(&rule.lead.meta.namespace)
        };
        let mut exports = builder.rules.iter().zip(&builder.export_to);
        Self {
            is_all_public: !exports.any(is_foreign),
            rules: builder.rules,
            export_to: builder.export_to,
            local,
            exported,
            root_private,
            root_namespace: settings.mesh.root_namespace.clone(),
        }
    }

    /// The rule for `service` as `client` sees it.
    ///
    /// The first of these that knows the host decides: the client's namespace, the
    /// service's, the root namespace. A client of the root namespace sees only what is private there first.
    pub(crate) fn find(&self, client: &ClientView, service: &Service) -> Option<&Rule> {
        let own = if *client.namespace == *self.root_namespace {
            self.root_private.find(&service.host)
        } else {
            let pool = self.local.get(&*client.namespace);
            pool.and_then(|pool| pool.find(&service.host))
        };
        if let Some(candidates) = own {
            return self.choose(client, candidates.iter().copied());
        }
        let foreign = [&*service.namespace, self.root_namespace.as_str()];
        for namespace in foreign {
            let pool = self.exported.get(namespace);
            let candidates = pool
                .and_then(|pool| pool.find(&service.host))
                .unwrap_or_default();
            // The most specific host is chosen before it is asked who may see it, as
            // in Istio: a rule for other namespaces hides a less specific one.
            let mut visible = candidates.iter().copied().filter(|&index| {
                let export_to = self.export_to.get(index);
                export_to.is_some_and(|export_to| export_to.includes(&client.namespace))
            });
            if let Some(first) = visible.next() {
                return self.choose(client, std::iter::once(first).chain(visible));
            }
        }
        None
    }

    /// Of `candidates`: the first with a selector for this client, else the last without one.
    fn choose(
        &self,
        client: &ClientView,
        candidates: impl Iterator<Item = usize>,
    ) -> Option<&Rule> {
        let mut without_selector = None;
        for rule in candidates.filter_map(|index| self.rules.get(index)) {
            match rule.selector() {
                None => without_selector = Some(rule),
                Some(selector) => {
                    let is_own = rule.lead.meta.namespace == *client.namespace;
                    if is_own && client.has_labels(selector) {
                        return Some(rule);
                    }
                }
            }
        }
        without_selector
    }

    /// Whether no client's namespace changes the answer for any service: then
    /// everybody gets what [`ClientView::shared`] gets.
    pub(crate) fn is_same_for(&self, client: &ClientView) -> bool {
        let has_own = if *client.namespace == *self.root_namespace {
            !self.root_private.exact.is_empty() || !self.root_private.wildcards.is_empty()
        } else {
            self.local.contains_key(&*client.namespace)
        };
        !has_own && self.is_all_public
    }

    /// Hosts for which alone `client` may get another rule than the shared client;
    /// `None` where that has to be asked for each.
    pub(crate) fn own_hosts(&self, client: &ClientView) -> Option<impl Iterator<Item = &str>> {
        let own = if *client.namespace == *self.root_namespace {
            Some(&self.root_private)
        } else {
            self.local.get(&*client.namespace)
        };
        let has_wildcards = own.is_some_and(|pool| !pool.wildcards.is_empty());
        if has_wildcards || !self.is_all_public {
            return None;
        }
        Some(
            own.into_iter()
                .flat_map(|pool| pool.exact.keys().map(|host| &**host)),
        )
    }
}

/// Effective `exportTo`; a rule with a selector is never exported.
pub(crate) fn export_to_of(
    object: &Object<DestinationRule>,
    settings: &CompileSettings,
) -> ExportTo {
    let namespace = object.meta.namespace.as_str();
    if object.spec.workload_selector.is_some() {
        return ExportTo::private(namespace);
    }
    let list = object.spec.export_to.iter().map(String::as_str);
    ExportTo::parse(
        list,
        namespace,
        &settings.mesh.default_destination_rule_export_to,
    )
}

struct Item<'a> {
    object: &'a Arc<Object<DestinationRule>>,
    host: String,
    export_to: &'a ExportTo,
}

/// A pool while rules merge.
#[derive(Debug, Default)]
struct Drafts(HashMap<String, Vec<Draft>>);

#[derive(Debug)]
struct Draft {
    from: Vec<Arc<Object<DestinationRule>>>,
    export_to: ExportTo,
}

impl Drafts {
    fn add(&mut self, item: &Item<'_>, findings: Option<&mut Vec<Finding>>) {
        let drafts = self.0.entry(item.host.clone()).or_default();
        let selector = selector_of(item.object);
        let mergeable = drafts.iter_mut().find(|draft| {
            let same_selector = draft
                .from
                .first()
                .is_some_and(|lead| selector_of(lead) == selector);
            same_selector && item.export_to.is_superset_of(&draft.export_to)
        });
        match mergeable {
            Some(draft) => {
                if let Some(findings) = findings {
                    report_dropped(draft, item.object, findings);
                }
                draft.from.push(Arc::clone(item.object));
            }
            None => drafts.push(Draft {
                from: vec![Arc::clone(item.object)],
                export_to: item.export_to.clone(),
            }),
        }
    }
}

/// What `later` loses when it joins `draft`.
fn report_dropped(draft: &Draft, later: &Object<DestinationRule>, findings: &mut Vec<Finding>) {
    for (at, subset) in later.spec.subsets.iter().enumerate() {
        let defines = |older: &&Arc<Object<DestinationRule>>| {
            older
                .spec
                .subsets
                .iter()
                .any(|known| known.name == subset.name)
        };
        if let Some(older) = draft.from.iter().find(defines) {
            let name = older.reference();
            findings.push(later.finding(
                Severity::Warning,
                "duplicate-subset",
                &format!("subsets[{at}]"),
                format!(
                    "subset {} is ignored: {name} defines it already",
                    subset.name
                ),
            ));
        }
    }
    let older = draft
        .from
        .iter()
        .find(|older| older.spec.traffic_policy.is_some());
    if let (Some(older), Some(_)) = (older, &later.spec.traffic_policy) {
        let name = older.reference();
        findings.push(later.finding(
            Severity::Warning,
            "duplicate-policy",
            "trafficPolicy",
            format!("is ignored: {name} sets the policy of this host already; nothing is merged"),
        ));
    }
}

/// Turns drafts into rules; equal merges of different pools become one rule.
#[derive(Debug, Default)]
struct Builder {
    rules: Vec<Rule>,
    export_to: Vec<ExportTo>,
    known: HashMap<Vec<ObjectKey>, usize>,
}

impl Builder {
    fn pools(&mut self, drafts: BTreeMap<String, Drafts>) -> HashMap<String, Pool> {
        let pools = drafts.into_iter();
        pools
            .map(|(namespace, drafts)| (namespace, self.pool(drafts)))
            .collect()
    }

    fn pool(&mut self, drafts: Drafts) -> Pool {
        let mut pool = Pool::default();
        let mut ordered: Vec<(String, Vec<Draft>)> = drafts.0.into_iter().collect();
        ordered.sort_by(|(a, _), (b, _)| host::by_specificity(a, b));
        for (name, drafts) in ordered {
            let candidates = drafts
                .into_iter()
                .filter_map(|draft| self.rule(draft))
                .collect();
            let name: Arc<str> = Arc::from(name);
            if host::is_wildcarded(&name) {
                pool.wildcards.push((name, candidates));
            } else {
                pool.exact.insert(name, candidates);
            }
        }
        pool
    }

    fn rule(&mut self, draft: Draft) -> Option<usize> {
        let keys: Vec<ObjectKey> = draft.from.iter().map(|object| object.key()).collect();
        if let Some(&index) = self.known.get(&keys) {
            return Some(index);
        }
        let index = self.rules.len();
        let names: Vec<String> = keys.iter().map(ObjectKey::to_string).collect();
        let mut subsets: Vec<(Arc<Object<DestinationRule>>, usize)> = Vec::new();
        for object in &draft.from {
            for (place, subset) in object.spec.subsets.iter().enumerate() {
                let is_known = subsets.iter().any(|(known, at)| {
                    let known = known.spec.subsets.get(*at);
                    known.is_some_and(|known| known.name == subset.name)
                });
                if !is_known {
                    subsets.push((Arc::clone(object), place));
                }
            }
        }
        let policy = draft
            .from
            .iter()
            .find(|object| object.spec.traffic_policy.is_some());
        self.rules.push(Rule {
            index,
            name: Arc::from(names.join("+")),
            lead: Arc::clone(draft.from.first()?),
            policy: policy.cloned(),
            subsets,
        });
        self.export_to.push(draft.export_to);
        self.known.insert(keys, index);
        Some(index)
    }
}
