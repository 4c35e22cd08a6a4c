//! Proving the compiler on whole objects: documents of the repository, changed field by field.
//!
//! Unlike mutated bytes these nearly always parse, so that they reach what validation and
//! compiling do. An input that shows something no other showed (a finding at a field, a kind of
//! line of the snapshot's dump) becomes a seed of its own; with `--grow` it is kept, cut down to
//! what shows it, in `tests/corpus`, which a test replays. Start at [`prove`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proxy_user::compile::compile;
use proxy_user::settings::{CompileSettings, MeshSettings, NamespaceBudget, OnProxyDown};
use proxy_user::snapshot::dump::dump;
use proxy_user::source::state::{DirectoryState, FileText, Files, Loaded};
use serde_json::Value;

use super::change::Changer;
use super::{FAILURES_MAX, ProveArgs, Report, keep, try_run};

/// What the target is called.
pub(super) const NAME: &str = "objects";
/// Most seeds at a time; beyond, new ones replace old ones.
const SEEDS_MAX: usize = 4096;
/// Most files that a run adds to the corpus.
const GROWTH_MAX: usize = 200;
/// Larger inputs say little in a corpus.
const KEPT_MAX_BYTES: usize = 4096;
/// The least number of tries between two words on how far it is.
const PROGRESS: Duration = Duration::from_secs(60);

/// The documents of one input.
type Input = Vec<Value>;

/// What is known by all workers.
struct Shared {
    seeds: Vec<Arc<Input>>,
    /// Hashes of what was shown already.
    shown: BTreeSet<String>,
    kept: Vec<Input>,
    told: Instant,
}

/// Runs until a limit of `args`; the mutations come from `seed`.
pub(super) fn prove(args: &ProveArgs, seed: u64) -> anyhow::Result<Report> {
    let seeds = seeds()?;
    anyhow::ensure!(!seeds.is_empty(), "{NAME} has no seeds");
    let started = Instant::now();
    let until = args
        .minutes
        .map(|minutes| started + Duration::from_secs(minutes * 60));
    let mut shown = BTreeSet::new();
    for input in &seeds {
        shown.extend(try_run(|| features(&text(input))).unwrap_or_default());
    }
    let from_seeds = shown.len();
    let shared = Mutex::new(Shared {
        seeds: seeds.into_iter().map(Arc::new).collect(),
        shown,
        kept: Vec::new(),
        told: started,
    });
    let done = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failures = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|index| {
                let changer = Changer::new(seed.wrapping_add(index as u64));
                let (shared, done) = (&shared, &done);
                scope.spawn(move || work(args, until, changer, shared, done))
            })
            .collect();
        let mut failures = Vec::new();
        for worker in workers {
            let found = worker
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("a worker panicked")));
            failures.extend(found?);
        }
        anyhow::Ok(failures)
    })?;
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{NAME}: {} things shown, {from_seeds} of them by the seeds",
        shared.shown.len()
    );
    if args.grow {
        grow(&shared.kept)?;
    }
    Ok(Report {
        executions: done.load(Ordering::Relaxed).min(args.executions),
        took: started.elapsed(),
        failures,
    })
}

fn work(
    args: &ProveArgs,
    until: Option<Instant>,
    mut changer: Changer,
    shared: &Mutex<Shared>,
    done: &AtomicU64,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut failures = Vec::new();
    while done.fetch_add(1, Ordering::Relaxed) < args.executions
        && until.is_none_or(|until| Instant::now() < until)
        && failures.len() < FAILURES_MAX
    {
        let (first, second) = {
            let shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            (
                changer.pick(&shared.seeds).cloned(),
                changer.pick(&shared.seeds).cloned(),
            )
        };
        let (Some(first), Some(second)) = (first, second) else {
            break;
        };
        let input = changer.change(&first, &second);
        let bytes = text(&input);
        let started = Instant::now();
        match try_run(|| features(&bytes)) {
            None => failures.push(keep(&args.keep, NAME, "panic", bytes.as_bytes())?),
            Some(_) if started.elapsed() > super::SLOW => {
                failures.push(keep(&args.keep, NAME, "slow", bytes.as_bytes())?);
            }
            Some(found) => learn(shared, input, found, done),
        }
    }
    Ok(failures)
}

/// Remembers an input that shows something new.
fn learn(shared: &Mutex<Shared>, input: Input, found: BTreeSet<String>, done: &AtomicU64) {
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let count = shared.shown.len();
    shared.shown.extend(found);
    if shared.shown.len() > count {
        let seed = Arc::new(input);
        if shared.kept.len() < SEEDS_MAX {
            shared.kept.push((*seed).clone());
        }
        if shared.seeds.len() < SEEDS_MAX {
            shared.seeds.push(seed);
        } else if let Some(old) = shared.seeds.get_mut(count % SEEDS_MAX) {
            *old = seed;
        }
    }
    if shared.told.elapsed() > PROGRESS {
        shared.told = Instant::now();
        println!(
            "{NAME}: {} executions, {} things shown",
            done.load(Ordering::Relaxed),
            shared.shown.len()
        );
    }
}

/// Documents as text, one a line: JSON is YAML.
fn text(input: &[Value]) -> String {
    let documents: Vec<String> = input.iter().map(Value::to_string).collect();
    documents.join("\n---\n")
}

/// Where inputs of earlier runs are kept.
pub(crate) fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/objects")
}

/// The repository's objects, a file an input, and the corpus.
fn seeds() -> anyhow::Result<Vec<Input>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let base = read(&std::fs::read(root.join("golden/base/shop.yaml"))?);
    let mut files = Vec::new();
    for directory in ["golden", "../config", "corpus/objects"] {
        super::targets::read_tree(&root.join(directory), &mut files)?;
    }
    let inputs = files.iter().map(|file| read(file));
    let inputs = inputs.filter(|input| !input.is_empty());
    // Rules alone concern nothing: half of the seeds stand in a mesh.
    Ok(inputs
        .enumerate()
        .map(|(at, mut input)| {
            if at % 2 == 0 {
                input.extend(base.iter().cloned());
            }
            input
        })
        .collect())
}

/// The documents of a file that are mappings; nothing where it is no YAML.
fn read(bytes: &[u8]) -> Input {
    let text = String::from_utf8_lossy(bytes);
    let documents = text.split("\n---\n");
    documents
        .filter_map(|document| serde_yaml::from_str::<Value>(document).ok())
        .filter(Value::is_object)
        .collect()
}

fn settings() -> CompileSettings {
    CompileSettings {
        node: "node-1".to_owned(),
        mesh: MeshSettings::default(),
        on_proxy_down: OnProxyDown::Degrade,
        is_capture_labelled: false,
        capture_host_network: false,
        accept_unenforced_policies: false,
        namespace_budget: NamespaceBudget::default(),
    }
}

fn load(text: &str) -> Loaded {
    let files = Files::from([(Arc::from("objects.yaml"), FileText::from(text))]);
    DirectoryState::new().apply(&files)
}

/// Compiles a text and holds what must always hold: twice the same, and the same in any order
/// of documents. Returns what it shows, in words.
///
/// # Panics
/// If something does not hold, or the compiler panics.
pub fn features(text: &str) -> BTreeSet<String> {
    let loaded = load(text);
    let first = compile(&loaded.objects, &settings());
    let second = compile(&loaded.objects, &settings());
    let shown = dump(&first.snapshot);
    assert_eq!(first.findings, second.findings, "other findings");
    assert_eq!(shown, dump(&second.snapshot), "another snapshot");
    // Of an object that is written twice the first one counts, so there order matters.
    let is_twice = loaded.findings.iter().any(|it| it.code == "defined-twice");
    if !is_twice {
        let mut documents: Vec<&str> = text.split("\n---\n").collect();
        documents.reverse();
        let middle = documents.len() / 2;
        documents.rotate_left(middle);
        let other = compile(&load(&documents.join("\n---\n")).objects, &settings());
        assert_eq!(shown, dump(&other.snapshot), "order changes the snapshot");
    }
    let findings = loaded.findings.iter().chain(&first.findings);
    let mut found: BTreeSet<String> = findings
        .map(|finding| {
            let field = finding.field.as_deref().unwrap_or_default();
            format!("{} {}", finding.code, without_values(field))
        })
        .collect();
    found.extend(shown.lines().map(without_values));
    found
}

/// A line or path without numbers and names, so that equal things have equal words.
fn without_values(line: &str) -> String {
    let mut words = String::new();
    for word in line.split_whitespace().take(3) {
        let kind: String = word
            .chars()
            .take_while(|letter| !letter.is_ascii_digit() && !"./|:=[{(\"".contains(*letter))
            .take(16)
            .collect();
        words.push_str(&kind);
        words.push(' ');
    }
    words
}

/// Adds to the corpus what shows something that the corpus and the other seeds do not show.
fn grow(kept: &[Input]) -> anyhow::Result<()> {
    let mut shown = BTreeSet::new();
    for input in seeds()? {
        shown.extend(features(&text(&input)));
    }
    let directory = corpus();
    std::fs::create_dir_all(&directory)?;
    let mut count = 0;
    for input in kept {
        let found = features(&text(input));
        let fresh: BTreeSet<String> = found.difference(&shown).cloned().collect();
        if fresh.is_empty() || count == GROWTH_MAX {
            continue;
        }
        let small = reduced(input, &fresh);
        let text = text(&small);
        if text.len() > KEPT_MAX_BYTES {
            continue;
        }
        shown.extend(features(&text));
        std::fs::write(directory.join(format!("{:016x}.yaml", hash(&text))), text)?;
        count += 1;
    }
    println!("{NAME}: {count} inputs added to {}", directory.display());
    Ok(())
}

/// Leaves out documents, then fields, as long as something of `wanted` is still shown.
fn reduced(input: &[Value], wanted: &BTreeSet<String>) -> Input {
    let shows = |input: &[Value]| {
        let found = features(&text(input));
        wanted.iter().any(|word| found.contains(word))
    };
    let mut small = input.to_vec();
    let mut at = 0;
    while at < small.len() {
        let mut shorter = small.clone();
        shorter.remove(at);
        if shows(&shorter) {
            small = shorter;
        } else {
            at += 1;
        }
    }
    for at in 0..small.len() {
        let fields: Vec<String> = super::change::pointers(&small[at]);
        for pointer in fields.iter().rev() {
            let mut shorter = small.clone();
            if super::change::remove(&mut shorter[at], pointer) && shows(&shorter) {
                small = shorter;
            }
        }
    }
    small
}

/// FNV-1a, so that equal texts have equal names in every run.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
