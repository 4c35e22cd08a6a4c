//! Processes that a lab starts: where they run, what they print, their end.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use super::wait::{patience, wait_until};

/// How long a command may take that a test waits for.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// Where a process runs: its cgroup, network namespace and view of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The cgroup that it joins.
    pub cgroup: PathBuf,
    /// The network namespace that it joins, as a path; `None` stays in the caller's.
    pub net: Option<PathBuf>,
    /// The mount namespace that it joins, as a path; `None` stays in the caller's.
    pub mnt: Option<PathBuf>,
}

impl Place {
    /// A command that enters this place and then becomes `program`.
    ///
    /// The helper execs, so the process id of the child is the program's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
        let mut command = Command::new(workload_binary()?);
        command.arg("enter").arg("--cgroup").arg(&self.cgroup);
        if let Some(net) = &self.net {
            command.arg("--net").arg(net);
        }
        if let Some(mnt) = &self.mnt {
            command.arg("--mnt").arg(mnt);
        }
        command.arg("--").arg(program);
        // A group of its own: Ctrl-C ends the lab's owner, which then cleans up in order.
        command.stdin(Stdio::null()).process_group(0);
        Ok(command)
    }
}

/// What a command left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Finished {
    /// Its standard output, or an error that shows how it failed.
    pub fn ok(self) -> anyhow::Result<String> {
        anyhow::ensure!(
            self.status.success(),
            "{}: {}{}",
            self.status,
            self.stderr.trim(),
            self.stdout.trim()
        );
        Ok(self.stdout)
    }
}

/// Runs a command to its end, feeding it `input`, within a limit.
pub(super) fn run(mut command: Command, input: &str) -> anyhow::Result<Finished> {
    let what = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    let mut stdin = child.stdin.take().context("no pipe to the command")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait_for_exit(&mut child, patience(RUN_LIMIT));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    let status = status.with_context(|| {
        format!("{what} did not end within its limit; it wrote {stdout}{stderr}")
    })?;
    Ok(Finished {
        status,
        stdout,
        stderr,
    })
}

/// Reads a pipe to its end on a thread, so that a full pipe never stops the writer.
fn drain(pipe: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A pipe that breaks ends the text: what came so far is the answer.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Polls for the end of `child`; `None` when the limit is reached first.
fn wait_for_exit(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if started.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A process of the lab that runs by itself. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, both outputs into the file `log`.
    pub(super) fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open the log {}", log.display()))?;
        let errors = file.try_clone()?;
        let child = command
            .stdout(file)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far, both outputs.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line of JSON in what it writes, and reads the first one.
    pub fn wait_json<T: serde::de::DeserializeOwned>(&self) -> anyhow::Result<T> {
        wait_until("a line of JSON", Duration::from_secs(30), || {
            let text = self.output();
            let Some((line, _)) = text.split_once('\n') else {
                return Ok(None);
            };
            Ok(Some(
                serde_json::from_str(line).with_context(|| format!("not JSON: {text}"))?,
            ))
        })
    }

    /// Ends it by SIGTERM and reads the JSON on its last line.
    pub fn stop_json<T: serde::de::DeserializeOwned>(self) -> anyhow::Result<T> {
        let text = self.stop()?;
        let line = text.trim_end().lines().last().unwrap_or_default();
        serde_json::from_str(line).with_context(|| format!("not JSON: {text}"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("the process has no id")?;
        kill_process(pid, signal).context("cannot signal a process of the lab")
    }

    /// Whether it has ended, and how.
    pub fn exit_status(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("process {} to end", self.child.id());
        wait_until(&what, limit, || Ok(self.child.try_wait()?))
    }

    /// Ends it by SIGTERM and returns everything that it wrote.
    pub fn stop(mut self) -> anyhow::Result<String> {
        if self.exit_status()?.is_none() {
            self.signal(Signal::TERM)?;
            self.wait(Duration::from_secs(20))?;
        }
        Ok(self.output())
    }

    /// Waits for its end and returns everything that it wrote.
    pub fn finish(mut self, limit: Duration) -> anyhow::Result<String> {
        self.wait(limit)?;
        Ok(self.output())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already, which is the aim.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary of the lab's workloads, built beside the running one.
pub(super) fn workload_binary() -> anyhow::Result<PathBuf> {
    find_beside_this_binary("mizzen-workload")
        .context("mizzen-workload is not beside this binary (cargo build -p mizzen-tests --bins)")
}

/// A binary of this build: tests run from `deps/`, one level below.
pub(super) fn find_beside_this_binary(name: &str) -> Option<PathBuf> {
    let here = std::env::current_exe().ok()?;
    here.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}
