//! One thread: runtime, pods with their listeners and pools, heartbeat.
//!
//! A worker shares nothing on the request path. The daemon speaks to it by
//! [`WorkerHandle::send`] and hears from it by the reply channel inside a command.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use proxy_common::pod::PodId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::context::WorkerLimits;
use super::live::{ConnectionView, WorkerStatus};
use super::pod::{Pod, PodEnvironment, PodHandle};
use crate::net::{Heartbeat, NameResolver, OriginalDstSource};
use crate::snapshot::SnapshotReader;
use crate::telemetry::record::Recorder;

/// Commands that may wait: pods come and go by the hundred at most; beyond,
/// [`WorkerHandle::send`] says so.
const COMMANDS_MAX: usize = 1024;
/// The connect program takes a worker for dead after 3 s without a beat.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

/// What a worker needs to start.
pub struct WorkerConfig {
    /// Its number, from 0.
    pub id: u32,
    /// Where the newest snapshot is.
    pub snapshot: SnapshotReader,
    /// Where original destinations are.
    pub original_dsts: Arc<dyn OriginalDstSource>,
    /// Where addresses of names that requests bring are.
    pub names: Arc<dyn NameResolver>,
    /// Where records go.
    pub recorder: Arc<dyn Recorder>,
    /// Its sign of life.
    pub heartbeat: Box<dyn Heartbeat>,
    /// Its bounds.
    pub limits: WorkerLimits,
}

impl fmt::Debug for WorkerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerConfig")
            .field("id", &self.id)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What a worker may be told.
#[derive(Debug)]
pub enum WorkerCommand {
    /// Serve this pod from now on; a pod with the same id is replaced.
    AddPod(PodHandle),
    /// The pod is gone: close its listeners, connections and pools at once.
    RemovePod(PodId),
    /// Accept nothing more, let connections end at their next boundary, close what is
    /// left after `deadline`, then end the worker.
    Drain {
        /// From now on.
        deadline: Duration,
    },
    /// Live numbers of all pods.
    Status(oneshot::Sender<WorkerStatus>),
    /// All open connections.
    Connections(oneshot::Sender<Vec<ConnectionView>>),
}

/// Why a command was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Too many commands wait; the worker is hung or overwhelmed.
    #[error("the worker has {COMMANDS_MAX} commands waiting; it may be hung")]
    Full,
    /// The worker has ended.
    #[error("the worker has ended")]
    Ended,
}

/// Starts workers.
#[derive(Debug)]
pub struct Worker;

/// The daemon's end of a worker. Dropping it drains the worker at once.
#[derive(Debug)]
pub struct WorkerHandle {
    id: u32,
    commands: mpsc::Sender<WorkerCommand>,
    thread: thread::JoinHandle<()>,
}

impl Worker {
    /// Starts a thread that serves the pods it will be given.
    ///
    /// # Errors
    /// No thread or no runtime: descriptors or memory are exhausted.
    pub fn spawn(config: WorkerConfig) -> io::Result<WorkerHandle> {
        let id = config.id;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let thread = thread::Builder::new()
            .name(format!("mizzen-worker-{id}"))
            .spawn(move || {
                let tasks = LocalSet::new();
                runtime.block_on(tasks.run_until(run(config, receiver)));
            })?;
        Ok(WorkerHandle {
            id,
            commands,
            thread,
        })
    }
}

impl WorkerHandle {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Hands a command over without waiting.
    ///
    /// # Errors
    /// The worker has ended, or too many commands wait.
    pub fn send(&self, command: WorkerCommand) -> Result<(), SendError> {
        self.commands
            .try_send(command)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => SendError::Full,
                mpsc::error::TrySendError::Closed(_) => SendError::Ended,
            })
    }

    /// Live numbers; `None` if the worker has ended or does not answer. Asks at once; the
    /// answer may be waited for elsewhere.
    pub fn status(&self) -> impl Future<Output = Option<WorkerStatus>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let asked = self.send(WorkerCommand::Status(reply));
        within_answer_time(asked, answer)
    }

    /// All open connections; otherwise like [`WorkerHandle::status`].
    pub fn connections(&self) -> impl Future<Output = Option<Vec<ConnectionView>>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let asked = self.send(WorkerCommand::Connections(reply));
        within_answer_time(asked, answer)
    }

    /// Waits for the end of the worker, which [`WorkerCommand::Drain`] brings about.
    ///
    /// # Errors
    /// The worker's own loop panicked.
    pub fn join(self) -> thread::Result<()> {
        drop(self.commands);
        self.thread.join()
    }
}

/// A worker that hangs must not hang who asks.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

async fn within_answer_time<T>(
    asked: Result<(), SendError>,
    answer: oneshot::Receiver<T>,
) -> Option<T> {
    asked.ok()?;
    tokio::time::timeout(ANSWER_TIME_MAX, answer)
        .await
        .ok()?
        .ok()
}

async fn run(config: WorkerConfig, mut commands: mpsc::Receiver<WorkerCommand>) {
    let heartbeat = config.heartbeat;
    let beating = spawn_local(async move {
        loop {
            heartbeat.beat();
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        }
    });
    let (drain, draining) = watch::channel(false);
    let mut pods = Pods {
        by_id: HashMap::new(),
        id: config.id,
        snapshot: config.snapshot,
        original_dsts: config.original_dsts,
        names: config.names,
        recorder: config.recorder,
        limits: config.limits,
        draining,
        connections: Rc::default(),
    };
    let deadline = loop {
        match commands.recv().await {
            Some(WorkerCommand::Drain { deadline }) => break deadline,
            Some(command) => pods.apply(command),
            None => break Duration::ZERO,
        }
    };
    // Receivers may all be gone; then nobody needs to be told.
    let _ = drain.send(true);
    pods.finish(deadline, &mut commands).await;
    beating.abort();
}

struct Pods {
    by_id: HashMap<PodId, (Pod, JoinHandle<()>)>,
    id: u32,
    snapshot: SnapshotReader,
    original_dsts: Arc<dyn OriginalDstSource>,
    names: Arc<dyn NameResolver>,
    recorder: Arc<dyn Recorder>,
    limits: WorkerLimits,
    draining: watch::Receiver<bool>,
    connections: Rc<Cell<usize>>,
}

impl Pods {
    fn apply(&mut self, command: WorkerCommand) {
        match command {
            WorkerCommand::AddPod(handle) => self.add(handle),
            WorkerCommand::RemovePod(id) => self.remove(id),
            WorkerCommand::Status(reply) => {
                // Whoever asked may have gone.
                let _ = reply.send(self.status());
            }
            WorkerCommand::Connections(reply) => {
                let views = self.by_id.values().flat_map(|(pod, _)| pod.connections());
                let _ = reply.send(views.collect());
            }
            WorkerCommand::Drain { .. } => {}
        }
    }

    fn add(&mut self, handle: PodHandle) {
        let (id, uid) = (handle.id, handle.uid.clone());
        self.remove(id);
        let environment = PodEnvironment {
            snapshot: self.snapshot.clone(),
            original_dsts: Arc::clone(&self.original_dsts),
            names: Arc::clone(&self.names),
            recorder: Arc::clone(&self.recorder),
            limits: self.limits.clone(),
            draining: self.draining.clone(),
            worker_connections: Rc::clone(&self.connections),
        };
        match Pod::start(handle, environment) {
            Ok((pod, work)) => {
                self.by_id.insert(id, (pod, spawn_local(work)));
            }
            Err(error) => tracing::error!(%uid, %error, "cannot serve the pod's listeners"),
        }
    }

    fn remove(&mut self, id: PodId) {
        if let Some((_, work)) = self.by_id.remove(&id) {
            work.abort();
        }
    }

    fn status(&self) -> WorkerStatus {
        WorkerStatus {
            id: self.id,
            pods: self.by_id.values().map(|(pod, _)| pod.status()).collect(),
        }
    }

    /// Serves what is open until it ends or time is over; still answers questions.
    async fn finish(&mut self, deadline: Duration, commands: &mut mpsc::Receiver<WorkerCommand>) {
        let over = tokio::time::sleep(deadline);
        let mut over = std::pin::pin!(over);
        loop {
            self.by_id.retain(|_, (_, work)| !work.is_finished());
            let Some((_, work)) = self.by_id.values_mut().next() else {
                return;
            };
            tokio::select! {
                biased;
                () = &mut over => break,
                _ = work => {}
                Some(command) = commands.recv() => match command {
                    WorkerCommand::AddPod(_) | WorkerCommand::Drain { .. } => {}
                    WorkerCommand::RemovePod(_)
                    | WorkerCommand::Status(_)
                    | WorkerCommand::Connections(_) => self.apply(command),
                },
            }
        }
        for (_, (_, work)) in self.by_id.drain() {
            work.abort();
        }
        // Aborted tasks are dropped when the runtime polls them next.
        tokio::task::yield_now().await;
    }
}
