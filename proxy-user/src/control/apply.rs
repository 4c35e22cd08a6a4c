//! What changes come to: a set of objects is compiled and put in force, endpoints alone and
//! answers of DNS swap endpoint sets. Start at [`Control::apply`].
//!
//! Workers see a change before the kernel's maps do.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use super::{Control, live, pods};
use crate::api::ObjectSet;
use crate::compile::{
    Compiled, EndpointIndex, WithinBudget, compile_endpoints, compile_within_budget,
};
use crate::dns::Answer;
use crate::finding::{Finding, Severity};
use crate::node::{WantedPod, memory};
use crate::settings::CompileSettings;
use crate::snapshot::endpoints::EndpointCell;
use crate::snapshot::{Capture, Snapshot};
use crate::source::mesh::mesh_config;
use crate::source::state::Loaded;

/// Answers of DNS that are taken in at one time.
const ANSWERS_MAX: usize = 1024;

/// What the present snapshot was compiled from, and what it can be changed by.
pub(super) struct InForce {
    objects: ObjectsInForce,
    settings: CompileSettings,
    endpoints: EndpointIndex,
}

/// The objects that the present snapshot was compiled from.
enum ObjectsInForce {
    /// All that were loaded.
    Whole(Arc<Loaded>),
    /// Not all, or older ones: some namespace is beyond its budget.
    Reduced(Box<ObjectSet>),
}

impl ObjectsInForce {
    fn get(&self) -> &ObjectSet {
        match self {
            Self::Whole(loaded) => &loaded.objects,
            Self::Reduced(objects) => objects,
        }
    }
}

/// A compiled set that is not in force yet.
struct Candidate {
    loaded: Arc<Loaded>,
    settings: CompileSettings,
    mesh_findings: Vec<Finding>,
    compiled: Compiled,
    objects: ObjectsInForce,
    compile_time: Duration,
}

impl Control {
    /// A complete set of objects: compile, publish to the workers, then the kernel.
    pub(super) fn apply(&mut self, loaded: &Arc<Loaded>) {
        let (settings, mesh_findings) = self.compile_settings(loaded);
        if !self.apply_endpoints(loaded, &settings, &mesh_findings) {
            let candidate = self.compile_candidate(loaded, settings, mesh_findings);
            self.names
                .follow(&candidate.compiled.snapshot, &candidate.settings.mesh);
            self.put_in_force(candidate);
        }
    }

    /// Like a later set, but waits for the addresses of names, for at most `limit`: what the
    /// kernel's maps still hold from an earlier daemon is better than no address.
    pub(crate) async fn apply_first(
        &mut self,
        loaded: &Arc<Loaded>,
        answers: &mut mpsc::Receiver<Answer>,
        limit: Duration,
    ) {
        let (settings, mesh_findings) = self.compile_settings(loaded);
        let candidate = self.compile_candidate(loaded, settings, mesh_findings);
        self.names
            .follow(&candidate.compiled.snapshot, &candidate.settings.mesh);
        let deadline = tokio::time::Instant::now() + limit;
        while !self.names.is_complete() {
            match tokio::time::timeout_at(deadline, answers.recv()).await {
                Ok(Some(answer)) => drop(self.names.note(vec![answer])),
                Ok(None) | Err(_) => break,
            }
        }
        self.put_in_force(candidate);
    }

    fn compile_settings(&self, loaded: &Loaded) -> (CompileSettings, Vec<Finding>) {
        let mut findings = Vec::new();
        let root_namespace = self.parts.settings.mesh(None).root_namespace;
        let mesh = mesh_config(&loaded.objects, &root_namespace, &mut findings);
        let settings = self.parts.settings.compile_settings(mesh.as_ref());
        let access_log = &self.parts.access_log;
        findings.extend(access_log.find_difference(&settings.mesh, &root_namespace));
        let unused = self.parts.settings.not_honoured();
        findings.extend(unused.into_iter().map(setting_finding));
        (settings, findings)
    }

    fn compile_candidate(
        &self,
        loaded: &Arc<Loaded>,
        settings: CompileSettings,
        mesh_findings: Vec<Finding>,
    ) -> Candidate {
        let started = Instant::now();
        let nothing = ObjectSet::default();
        let in_force = self.in_force.as_ref().map(|it| it.objects.get());
        let WithinBudget {
            compiled,
            objects,
            is_whole,
        } = compile_within_budget(&loaded.objects, in_force.unwrap_or(&nothing), &settings);
        Candidate {
            loaded: Arc::clone(loaded),
            settings,
            mesh_findings,
            compiled,
            objects: if is_whole {
                ObjectsInForce::Whole(Arc::clone(loaded))
            } else {
                ObjectsInForce::Reduced(Box::new(objects))
            },
            compile_time: started.elapsed(),
        }
    }

    /// The common change, endpoints alone, without compiling: `false` if there is more to it.
    fn apply_endpoints(
        &mut self,
        loaded: &Arc<Loaded>,
        settings: &CompileSettings,
        mesh_findings: &[Finding],
    ) -> bool {
        let started = Instant::now();
        let Some(in_force) = self.in_force.as_mut().filter(|it| it.settings == *settings) else {
            return false;
        };
        let ObjectsInForce::Whole(before) = &in_force.objects else {
            return false;
        };
        let change = compile_endpoints(
            &before.objects,
            &loaded.objects,
            settings,
            &in_force.endpoints,
            &self.compile_findings,
        );
        let Some(change) = change else {
            return false;
        };
        in_force.objects = ObjectsInForce::Whole(Arc::clone(loaded));
        let mut changed = HashSet::new();
        for (cell, set) in change.sets {
            changed.insert(Arc::as_ptr(&cell));
            cell.store(set);
        }
        self.sync_endpoints(&changed);
        self.source_findings = loaded.findings.clone();
        self.source_findings.extend_from_slice(mesh_findings);
        self.compile_findings = change.findings;
        self.report_findings();
        self.parts
            .metrics
            .endpoints_swapped
            .add(changed.len() as u64);
        tracing::info!(
            sets = changed.len(),
            ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "endpoints applied"
        );
        true
    }

    /// DNS says something else than before.
    pub(super) fn on_answers(&mut self, first: Answer, more: &mut mpsc::Receiver<Answer>) {
        let mut batch = vec![first];
        while batch.len() < ANSWERS_MAX
            && let Ok(answer) = more.try_recv()
        {
            batch.push(answer);
        }
        let changed = self.names.note(batch);
        self.sync_endpoints(&changed);
        self.report_findings();
        self.parts
            .metrics
            .endpoints_swapped
            .add(changed.len() as u64);
    }

    /// The kernel follows sets that the workers see already.
    fn sync_endpoints(&mut self, changed: &HashSet<*const EndpointCell>) {
        let view = &self.snapshot.kernel;
        let clusters = view.clusters.iter().enumerate();
        let indices: Vec<usize> = clusters
            .filter(|(_, cluster)| changed.contains(&Arc::as_ptr(&cluster.endpoints)))
            .map(|(index, _)| index)
            .collect();
        if indices.is_empty() {
            return;
        }
        if let Some(report) = self.parts.kernel.sync_endpoints(view, &indices) {
            self.kernel_findings = pods::kernel_findings(&report);
            let failed = report.problems.len() as u64;
            self.parts.metrics.kernel_sync_errors.add(failed);
        }
    }

    fn put_in_force(&mut self, candidate: Candidate) {
        let Candidate {
            loaded,
            settings,
            mesh_findings,
            compiled,
            objects,
            compile_time,
        } = candidate;
        self.names.fill(&compiled.snapshot, &self.snapshot);
        self.snapshot = self.parts.publisher.publish(compiled.snapshot);
        let report = self.parts.kernel.sync(&self.snapshot.kernel);
        self.source_findings = loaded.findings.clone();
        self.source_findings.extend(mesh_findings);
        self.compile_findings = compiled.findings;
        self.kernel_findings = pods::kernel_findings(&report);
        let failed = report.problems.len() as u64;
        self.parts.metrics.kernel_sync_errors.add(failed);
        let wanted = wanted_pods(&self.snapshot);
        self.parts.wanted.send_if_modified(|current| {
            let is_changed = **current != wanted;
            if is_changed {
                *current = Arc::new(wanted);
            }
            is_changed
        });
        self.pods
            .reconcile(&self.snapshot, &*self.parts.kernel, &self.parts.workers);
        self.report(&loaded, compile_time);
        self.in_force = Some(InForce {
            objects,
            settings,
            endpoints: compiled.endpoints,
        });
        // The last snapshot has gone, and so has what it was compiled from.
        memory::return_free_memory();
    }

    /// Shows what is wrong now and logs what has not been before; how many there are.
    pub(super) fn report_findings(&self) -> usize {
        let findings = self.findings();
        let before = self.parts.live.set_findings(findings.clone());
        let known: HashSet<&Finding> = before.iter().collect();
        for finding in findings.iter().filter(|finding| !known.contains(finding)) {
            tracing::warn!("{finding}");
        }
        self.parts
            .metrics
            .set_findings(live::count_by_severity(&findings));
        findings.len()
    }

    fn report(&mut self, loaded: &Loaded, compile_time: Duration) {
        let findings = self.report_findings();
        let objects = loaded.objects.len();
        let skipped = loaded.skipped.values().sum();
        self.parts.live.set_source(objects, skipped);
        self.show_pods();
        self.parts.metrics.snapshot_applied(
            self.snapshot.version.0,
            objects,
            compile_time,
            SystemTime::now(),
        );
        tracing::info!(
            version = self.snapshot.version.0,
            objects,
            skipped,
            findings,
            compile_ms = u64::try_from(compile_time.as_millis()).unwrap_or(u64::MAX),
            "snapshot applied"
        );
    }

    fn findings(&self) -> Vec<Finding> {
        let mut all = self.source_findings.clone();
        all.extend_from_slice(&self.compile_findings);
        all.extend_from_slice(&self.kernel_findings);
        all.extend_from_slice(&self.crowded_findings);
        all.extend(self.names.findings());
        all.sort();
        all.dedup();
        all
    }
}

/// A setting that is given and does nothing.
fn setting_finding((key, effect): (String, &'static str)) -> Finding {
    Finding::new(Severity::Warning, "setting-not-honoured", effect).with_field(key)
}

fn wanted_pods(snapshot: &Snapshot) -> Vec<WantedPod> {
    let mut wanted: Vec<WantedPod> = snapshot
        .pods
        .values()
        .filter(|pod| pod.capture == Capture::Captured)
        .map(|pod| WantedPod {
            uid: pod.uid.clone(),
            ips: pod.ips.clone(),
            config_hash: pod.config_hash.clone(),
            is_host_network: pod.is_host_network,
        })
        .collect();
    wanted.sort_by(|a, b| a.uid.cmp(&b.uid));
    wanted
}
