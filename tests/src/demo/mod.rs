//! The demo: the classic traffic tasks on a small mesh, by changing YAML only.
//!
//! In: the mesh and the steps' documents in `config/demo`. Out: for each step what
//! was asked, what was observed and whether the two agree. Start at [`run`].

mod http_steps;
mod kill_step;
mod tcp_steps;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::harness::{Needs, find_missing};
use crate::lab::{Daemon, DaemonOptions, Lab, Mesh, Pod, sweep_leftovers, wait_until};

/// How the demo is run.
#[derive(Debug, clap::Parser)]
#[command(
    about = "Walks a Bookinfo mesh through Istio's classic traffic tasks, by changing YAML only"
)]
pub struct DemoArgs {
    /// Leave everything running at the end, and say how to look around
    #[arg(long)]
    keep: bool,
    /// Remove what earlier runs with --keep left running, and end
    #[arg(long)]
    clean: bool,
    /// Run these steps only, by number; all by default
    #[arg(long, value_delimiter = ',')]
    steps: Vec<usize>,
}

/// What the steps work with.
pub(crate) struct Stage {
    /// The node.
    pub(crate) lab: Lab,
    /// The daemon on it.
    pub(crate) daemon: Daemon,
    /// The pod that asks.
    pub(crate) client: Arc<Pod>,
}

/// What one step saw.
#[derive(Debug, Default)]
pub(crate) struct Report {
    lines: Vec<String>,
    disagreements: usize,
}

impl Report {
    /// Notes one observation, and whether it is what was asked.
    pub(crate) fn observe(&mut self, text: &str, agrees: bool) {
        let mark = if agrees {
            ""
        } else {
            "   <-- not what was asked"
        };
        self.lines.push(format!("{text}{mark}"));
        self.disagreements += usize::from(!agrees);
    }
}

/// One step: what is asked in words, and the function that tries it.
struct Step {
    title: &'static str,
    asked: &'static str,
    run: fn(&mut Stage, &mut Report) -> anyhow::Result<()>,
}

/// The steps, in order.
const STEPS: [Step; 8] = [
    Step {
        title: "everything to v1",
        asked: "60 requests to productpage; it, details, reviews and ratings answer as v1 only",
        run: http_steps::everything_to_v1,
    },
    Step {
        title: "routing by user",
        asked: "the user jason sees reviews v2, everybody else v3",
        run: http_steps::jason_to_v2,
    },
    Step {
        title: "HTTP traffic shifting",
        asked: "reviews v1/v2 by weight 90/10, 50/50 and 0/100, 1,000 requests each",
        run: http_steps::weights,
    },
    Step {
        title: "TCP traffic shifting in the kernel",
        asked: "tcp-echo v1/v2 by weight 100/0, 80/20 and 0/100, 1,000 connections each, no proxy",
        run: tcp_steps::shifting,
    },
    Step {
        title: "request timeout",
        asked: "reviews answers within 0.5 s, or the client gets 504",
        run: http_steps::timeout,
    },
    Step {
        title: "circuit breaking",
        asked: "one connection and one waiting request: of 3 at once some overflow every time, of 2 none",
        run: http_steps::circuit_breaking,
    },
    Step {
        title: "subsets with a policy each",
        asked: "my-svc RANDOM at the top, ROUND_ROBIN in subset v2",
        run: http_steps::subset_policies,
    },
    Step {
        title: "SIGKILL of the proxy under load, and its return",
        asked: "no connection fails that starts once the listener is gone, none in the kernel's care",
        run: kill_step::kill_and_return,
    },
];

/// Runs the demo. Returns whether every step agreed.
pub fn run(args: &DemoArgs) -> anyhow::Result<bool> {
    if let Some(missing) = find_missing(Needs::Daemon) {
        anyhow::bail!("the demo cannot run: {missing}");
    }
    for name in sweep_leftovers(args.clean)? {
        println!("removed what the run {name} had left");
    }
    if args.clean {
        return Ok(true);
    }
    let mut stage = set_up()?;
    let mut agreed = 0;
    let mut tried = 0;
    for (index, step) in STEPS.iter().enumerate() {
        let number = index + 1;
        if !args.steps.is_empty() && !args.steps.contains(&number) {
            continue;
        }
        tried += 1;
        println!("\n{number}. {}", step.title);
        println!("   asked:    {}", step.asked);
        let mut report = Report::default();
        if let Err(error) = (step.run)(&mut stage, &mut report) {
            report.observe(&format!("{error:#}"), false);
        }
        for line in &report.lines {
            println!("   observed: {line}");
        }
        let agrees = report.disagreements == 0;
        println!("   {}", if agrees { "agrees" } else { "DOES NOT AGREE" });
        agreed += usize::from(agrees);
    }
    println!("\n{agreed} of {tried} agree");
    if args.keep {
        keep(stage)?;
    }
    Ok(agreed == tried)
}

fn set_up() -> anyhow::Result<Stage> {
    let started = Instant::now();
    let lab = Lab::builder().build()?;
    println!(
        "lab {}: a node with its bridge and service proxy",
        lab.name()
    );
    Mesh::read(&demo_file("mesh.yaml"))?.start(&lab)?;
    println!("mesh: Bookinfo, tcp-echo, slow and my-svc, and a client pod");
    lab.write_config("destination-rules.yaml", &read("destination-rules.yaml")?)?;
    let daemon = lab.start_daemon(&DaemonOptions::default())?;
    let client = lab.pod("default", "client")?;
    println!(
        "mizzen: ready, as a pod of the node ({:.1} s)",
        started.elapsed().as_secs_f64()
    );
    Ok(Stage {
        lab,
        daemon,
        client,
    })
}

/// A file of `config/demo`, in the source tree that this binary was built from.
fn demo_file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/demo")).join(name)
}

fn read(name: &str) -> anyhow::Result<String> {
    let path = demo_file(name);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

impl Stage {
    /// Puts a step's document into the watched directory, under the name of what it is about.
    pub(crate) fn apply(&self, topic: &str, document: &str) -> anyhow::Result<()> {
        self.lab
            .write_config(&format!("{topic}.yaml"), &read(document)?)
    }

    /// Removes what steps have applied about a topic; nothing there is fine.
    pub(crate) fn withdraw(&self, topic: &str) -> anyhow::Result<()> {
        let name = format!("{topic}.yaml");
        if self.lab.config_dir().join(&name).exists() {
            self.lab.remove_config(&name)?;
        }
        Ok(())
    }
}

/// Waits until `probe` sees the new rules at work.
pub(crate) fn wait_in_force(
    document: &str,
    mut probe: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let what = format!("{document} to be in force");
    wait_until(
        &what,
        Duration::from_secs(10),
        || Ok(probe()?.then_some(())),
    )
}

/// Leaves everything running and says how to look around.
fn keep(stage: Stage) -> anyhow::Result<()> {
    let place = stage.client.place();
    let (Some(net), Some(mnt)) = (&place.net, &place.mnt) else {
        anyhow::bail!("the client pod has no namespaces");
    };
    let workload = std::env::current_exe()?.with_file_name("mizzen-workload");
    println!("\nEverything is left running. To look around:");
    println!("  export MIZZEN_ADMIN={}", stage.daemon.admin());
    println!("  {} status", stage.daemon.mizzen().display());
    println!("  {} get routes", stage.daemon.mizzen().display());
    println!("To ask from the client pod:");
    println!(
        "  {} enter --cgroup {} --net {} --mnt {} -- curl -s http://productpage:9080/",
        workload.display(),
        place.cgroup.display(),
        net.display(),
        mnt.display()
    );
    println!(
        "The watched directory: {}",
        stage.lab.config_dir().display()
    );
    println!("To remove it all: cargo xtask demo --clean");
    let Stage {
        lab,
        daemon,
        client: _,
    } = stage;
    daemon.keep();
    lab.keep()
}
